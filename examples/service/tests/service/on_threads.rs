//! Two routes of the service without procession, for comparison: passwords are
//! hashed by `spawn_blocking`.

use std::error::Error;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[path = "../../src/tasks.rs"]
#[expect(dead_code, reason = "only passwords are hashed here")]
mod tasks;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let routes =
        Router::new().route("/password", post(password)).route("/health", get(async || "ok"));
    tokio::select! {
        served = axum::serve(listener, routes) => served?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn password(password: String) -> Result<String, (StatusCode, String)> {
    let hash = tokio::task::spawn_blocking(move || tasks::hash(password)).await;
    let hash = hash.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    hash.map_err(|problem| (StatusCode::UNPROCESSABLE_ENTITY, problem))
}
