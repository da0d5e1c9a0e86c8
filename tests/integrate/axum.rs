//! What a handler answers when its call has no answer.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use futures::TryStreamExt;
use procession::{Pool, Stdio, TaskError};
use tower::ServiceExt;

use crate::support::checked;

fn square(n: u64) -> u64 {
    n * n
}

/// Prints what no client should see.
fn die_in_secret() {
    eprintln!("the password is secret");
    std::process::abort()
}

fn hang() {
    loop {
        std::thread::park();
    }
}

async fn text(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let pieces: Vec<Bytes> = response.into_body().into_data_stream().try_collect().await.unwrap();
    (status, String::from_utf8(pieces.concat()).unwrap())
}

#[test]
fn handlers_answer_with_what_became_of_the_call() {
    checked(async {
        let pool = Pool::builder().workers(1).stderr(Stdio::piped()).build().unwrap();
        let app = Router::new()
            .route(
                "/square",
                post(async |State(pool): State<Pool>| -> Result<String, TaskError> {
                    Ok(pool.apply(square, 7).await?.to_string())
                }),
            )
            .route(
                "/crash",
                post(async |State(pool): State<Pool>| pool.apply(die_in_secret, ()).await),
            )
            .route(
                "/panic",
                post(async |State(pool): State<Pool>| {
                    pool.apply(|| -> () { panic!("no way") }, ()).await
                }),
            )
            .route(
                "/slow",
                post(async |State(pool): State<Pool>| {
                    pool.apply(hang, ()).timeout(Duration::from_millis(50)).await
                }),
            )
            .with_state(pool.clone());
        let ask = async |path: &str| {
            let request = Request::post(path).body(Body::empty()).unwrap();
            text(app.clone().oneshot(request).await.unwrap()).await
        };
        assert_eq!(ask("/square").await, (StatusCode::OK, "49".into()));
        let (status, said) = ask("/crash").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(said.contains("killed by signal 6 (SIGABRT)"), "{said}");
        assert!(!said.contains("password"), "{said}");
        let (status, said) = ask("/panic").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(said.contains("no way"), "{said}");
        assert_eq!(ask("/slow").await.0, StatusCode::GATEWAY_TIMEOUT);
        pool.terminate().await;
        assert_eq!(ask("/square").await.0, StatusCode::SERVICE_UNAVAILABLE);
    });
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    checked(async {
        let pool = Pool::builder().workers(1).queue_limit(0).build().unwrap();
        let busy = pool.try_apply(hang, ()).unwrap();
        let full = pool.try_apply(square, 3).unwrap_err().into_response();
        assert_eq!(full.headers()[RETRY_AFTER], "1");
        assert_eq!(text(full).await, (StatusCode::SERVICE_UNAVAILABLE, "the queue is full".into()));
        pool.close();
        let closed = pool.try_apply(square, 3).unwrap_err().into_response();
        assert!(!closed.headers().contains_key(RETRY_AFTER), "it will not open again");
        assert_eq!(text(closed).await.0, StatusCode::SERVICE_UNAVAILABLE);
        drop(busy);
    });
}

#[test]
fn the_program_in_the_readme_is_one_that_compiles() {
    let readme = include_str!("../../README.md");
    let program = include_str!("in_a_service.rs");
    assert!(readme.contains(&format!("```rust,ignore\n{program}```")));
}
