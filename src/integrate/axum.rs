//! Errors of a pool as responses of an axum handler. A pool itself needs
//! nothing: it is cloned from the state, as `State<Pool>`.

use axum_core::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use crate::error::TaskError;
use crate::pool::TryApplyError;

/// Seconds after which to try again what there was no place for. Short: a queue
/// moves as soon as one call ends.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Feature `axum`: with this a handler can return `Result<_, TaskError>`, and use
/// `?`. The body is the error's text, without what a lost worker printed last: that
/// is for logs, not for clients.
///
/// | Error | Status |
/// |---|---|
/// | [`TimedOut`](TaskError::TimedOut) | 504 Gateway Timeout |
/// | [`Cancelled`](TaskError::Cancelled), [`Closed`](TaskError::Closed), [`Terminated`](TaskError::Terminated), [`Broken`](TaskError::Broken) | 503 Service Unavailable |
/// | a panic, a lost worker, and all others | 500 Internal Server Error |
impl IntoResponse for TaskError {
    fn into_response(mut self) -> Response {
        if let TaskError::WorkerLost { stderr, .. } = &mut self {
            stderr.clear();
        }
        let status = match &self {
            TaskError::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            TaskError::Cancelled { .. }
            | TaskError::Closed
            | TaskError::Terminated
            | TaskError::Broken(_) => StatusCode::SERVICE_UNAVAILABLE,
            TaskError::Panicked(_)
            | TaskError::WorkerLost { .. }
            | TaskError::Encode(_)
            | TaskError::Decode(_)
            | TaskError::TooLarge { .. }
            | TaskError::Protocol(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

/// Feature `axum`: 503 Service Unavailable, and `Retry-After: 1` where the queue
/// is full.
impl<Args> IntoResponse for TryApplyError<Args> {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, self.to_string()).into_response();
        if self.is_full() {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}
