//! A task that takes its process down is one error; everything else goes on.
//!
//! ```text
//! $ cargo run --example survive_a_crash 2>/dev/null
//! crash: killed by signal 6 (SIGABRT)…
//! leave: exited with code 3
//! panic: survive_a_crash::divide panicked at …: attempt to divide by zero
//! the others: [0, 1, 2, 3, 4, 5, 6, 7]
//! workers lost: 2
//! ```

use procession::{Pool, TaskError};

/// Stands in for a C library with a bug.
fn crash() {
    std::process::abort();
}

fn leave(code: i32) {
    std::process::exit(code);
}

fn divide(a: u32, b: u32) -> u32 {
    a / b
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(2).build()?;
    let others: Vec<_> = (0..8).map(|n| pool.apply_async(divide, (n, 1))).collect();

    match pool.apply(crash, ()).await {
        Err(TaskError::WorkerLost { exit, .. }) => println!("crash: {exit}"),
        other => println!("crash: {other:?}"),
    }
    match pool.apply(leave, 3).await {
        Err(error) if error.is_worker_lost() => println!("leave: {}", error.exit().unwrap()),
        other => println!("leave: {other:?}"),
    }
    match pool.apply(divide, (1, 0)).await {
        Err(error) => println!("panic: {error}"),
        Ok(answer) => println!("panic: {answer}"),
    }

    println!("the others: {:?}", futures::future::try_join_all(others).await?);
    println!("workers lost: {}", pool.stats().workers_lost);
    Ok(())
}
