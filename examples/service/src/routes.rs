//! What is where, and the handlers that call one task. Each is about one line:
//! a call, and `?` for everything that can become of it.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response, Result};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::service::Service;
use crate::{metrics, page, primes, tasks, workers};

const UPLOAD_BYTES_MAX: usize = 16 << 20;

pub fn routes(service: Service, deadline: Duration) -> Router {
    let calls = Router::new()
        .route("/thumbnail", post(thumbnail))
        .route("/password", post(password))
        .route("/crash", post(crash))
        .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX))
        .layer(middleware::from_fn_with_state(deadline, in_time));
    Router::new()
        .merge(calls)
        .merge(page::routes())
        .route("/primes", get(primes::primes))
        .route("/workers", get(workers::workers))
        .route("/metrics", get(metrics::metrics))
        .route("/health", get(health))
        .with_state(service)
}

/// Answers 504 after the deadline, and drops the handler. That stops its work,
/// as it does when the client hangs up and axum drops it.
async fn in_time(State(deadline): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let text = format!("not done after {deadline:?}, and stopped");
            (StatusCode::GATEWAY_TIMEOUT, text).into_response()
        }
    }
}

async fn password(State(service): State<Service>, password: String) -> Result<String> {
    let hash = service.requests.try_apply(tasks::hash, password)?.await?;
    Ok(hash.map_err(|problem| (StatusCode::UNPROCESSABLE_ENTITY, problem))?)
}

#[derive(Deserialize)]
struct Size {
    #[serde(default = "size_default")]
    size: u32,
}

fn size_default() -> u32 {
    160
}

const SIZE_MAX: u32 = 1024;

async fn thumbnail(
    State(service): State<Service>,
    Query(Size { size }): Query<Size>,
    image: Bytes,
) -> Result<impl IntoResponse> {
    let size = size.clamp(1, SIZE_MAX);
    let png = match service.requests.try_apply(tasks::thumbnail, (image, size))?.await {
        Ok(decoded) => decoded,
        // Not our fault but the image's: it wanted too much memory, or worse.
        Err(error) if error.is_worker_lost() => Err(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let png = png.map_err(|problem| (StatusCode::UNPROCESSABLE_ENTITY, problem))?;
    Ok(([(CONTENT_TYPE, "image/png")], png))
}

async fn crash(State(service): State<Service>) -> Result<()> {
    Ok(service.requests.try_apply(tasks::crash, ())?.await?)
}

async fn health(State(service): State<Service>) -> (StatusCode, &'static str) {
    if service.is_healthy() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a pool takes no calls")
    }
}
