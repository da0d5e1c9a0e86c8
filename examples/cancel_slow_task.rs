//! Stops a task that would run for ever: with a timeout, by dropping its
//! future, and by asking for its end and how it came.
//!
//! ```text
//! $ cargo run --example cancel_slow_task
//! the task ran for more than 100ms (its worker was killed by signal 15 (SIGTERM))
//! dropped
//! started: true, worker killed by signal 15 (SIGTERM)
//! 25
//! ```

use std::time::Duration;

use procession::{Pool, TaskStatus};

/// Knows nothing of being cancelled, and need not.
fn spin() -> u64 {
    let mut rounds = 0;
    loop {
        rounds = std::hint::black_box(rounds + 1);
    }
}

fn square(n: u64) -> u64 {
    n * n
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(2).build()?;
    let limit = Duration::from_millis(100);

    // The clock starts with the task, not while it waits in the queue.
    let error = pool.apply(spin, ()).timeout(limit).await.unwrap_err();
    println!("{error}");

    // A timeout, a `select!`, a client that hangs up: all drop the future.
    tokio::time::timeout(limit, pool.apply(spin, ())).await.unwrap_err();
    println!("dropped");

    let task = pool.apply_async(spin, ());
    while !matches!(task.status(), TaskStatus::Running { .. }) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let cancelled = task.cancel().await;
    let exit = cancelled.exit.ok_or("the worker lives on")?;
    println!("started: {}, worker {exit}", cancelled.started);

    // New workers have taken the places of those that were stopped.
    println!("{}", pool.apply(square, 5).await?);
    Ok(())
}
