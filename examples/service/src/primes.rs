//! `GET /primes?limit=…`: the items of a task as Server-Sent Events, or as NDJSON.
//!
//! One chain from the worker to the client: the body pulls from the pool's stream
//! as the connection takes it. A client that reads slowly makes the worker wait,
//! one that is gone stops it.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response, Result};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::service::Service;
use crate::tasks;

const LIMIT_MAX: u64 = 100_000_000;

/// What has come meanwhile is sent together, up to so many: a browser takes as
/// long for an event with one as for one with all of these.
const PRIMES_AT_ONCE: usize = 64;

#[derive(Deserialize)]
pub struct Range {
    limit: u64,
}

/// A line of NDJSON, or the data of an event. The last one says how it ended:
/// by then it is too late for a status.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Primes(Vec<u64>),
    Done { primes: usize },
    Error(String),
}

pub async fn primes(
    State(service): State<Service>,
    Query(Range { limit }): Query<Range>,
    headers: HeaderMap,
) -> Result<Response> {
    if limit > LIMIT_MAX {
        let text = format!("limit: at most {LIMIT_MAX}");
        return Err((StatusCode::BAD_REQUEST, text).into());
    }
    let place = service.places.try_acquire_owned().map_err(|_| {
        let text = "as many streams as there are workers are running";
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text)
    })?;
    let primes =
        service.streams.stream(tasks::primes, limit).label(format!("primes up to {limit}"));

    let format = Format::accepted(&headers);
    let (mut found, mut failed) = (0, false);
    let batches = primes.map(Some).chain(stream::iter([None])).ready_chunks(PRIMES_AT_ONCE);
    let pieces = batches.map(move |batch| {
        // Given back when the client has everything, or is gone.
        let _place = &place;
        let (mut primes, mut end) = (Vec::new(), None);
        for next in batch {
            match next {
                Some(Ok(prime)) => primes.push(prime),
                Some(Err(error)) => {
                    failed = true;
                    end = Some(Line::Error(error.to_string()));
                }
                None if failed => {}
                None => end = Some(Line::Done { primes: found + primes.len() }),
            }
        }
        found += primes.len();
        let primes = (!primes.is_empty()).then_some(Line::Primes(primes));
        let text = primes.iter().chain(&end).map(|line| format.write(line)).collect::<String>();
        Ok::<_, Infallible>(text)
    });
    let headers = [(CONTENT_TYPE, format.content_type()), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[derive(Clone, Copy)]
enum Format {
    Events,
    Ndjson,
}

impl Format {
    fn accepted(headers: &HeaderMap) -> Format {
        let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        if accepted.any(|value| value.contains(Format::Ndjson.content_type())) {
            Format::Ndjson
        } else {
            Format::Events
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Events => "text/event-stream",
            Format::Ndjson => "application/x-ndjson",
        }
    }

    fn write(self, line: &Line) -> String {
        let json = serde_json::to_string(line).expect("numbers and texts are JSON");
        match self {
            Format::Events => format!("data: {json}\n\n"),
            Format::Ndjson => format!("{json}\n"),
        }
    }
}
