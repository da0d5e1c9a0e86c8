use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use procession::{Pool, worker};

fn primes_below(limit: u64) -> usize {
    tracing::info!(limit, "counting"); // heard here, in the request's span if it has one
    (2..limit).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
}

/// 503 if the queue is full, 504 after ten seconds, 500 with the reason if the worker
/// dies or the task panics. A client that hangs up stops the work.
async fn primes(
    State(pool): State<Pool>,
    Path(limit): Path<u64>,
) -> axum::response::Result<String> {
    let count = pool.try_apply(primes_below, limit)?.await?;
    Ok(format!("{count}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    tracing_subscriber::fmt::init();
    let pool = Pool::builder()
        .queue_limit(256)
        .task_timeout(Duration::from_secs(10))
        .memory_limit(512 << 20)
        .initializer(|| worker::forward_tracing(tracing::Level::INFO), ())
        .build()?;
    let app = Router::new().route("/primes/{limit}", get(primes)).with_state(pool.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = tokio::signal::ctrl_c().await;
            // While requests are answered yet: what takes longer is stopped.
            tokio::spawn(async move { pool.shutdown(Duration::from_secs(5)).await });
        })
        .await?;
    Ok(())
}
