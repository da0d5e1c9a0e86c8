//! Ends a pool in good order: takes no more calls, lets those it has finish for
//! a while, then stops what is left, and says what that was.
//!
//! ```text
//! $ cargo run --example graceful_shutdown
//! stopping; press Ctrl-C earlier next time
//! short: Ok(25)
//! late: Err(Terminated)
//! ended by force: 1 running, 0 queued
//! endless: the pool was terminated
//! ```

use std::time::Duration;

use procession::{Pool, worker};

fn square(n: u64) -> u64 {
    n * n
}

/// Returns soon after it is asked to, so that its worker need not be killed.
fn watch_for_work() -> u64 {
    let mut rounds = 0;
    while !worker::is_cancelled() {
        std::thread::sleep(Duration::from_millis(10));
        rounds += 1;
    }
    rounds
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(2).grace_period(Duration::from_secs(1)).build()?;
    let endless = pool.apply_async(watch_for_work, ());
    pool.ready().await?;

    tokio::select! {
        _ = tokio::signal::ctrl_c() => println!("stopping"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {
            println!("stopping; press Ctrl-C earlier next time");
        }
    }
    let short = pool.apply_async(square, 5);
    let left = pool.shutdown(Duration::from_secs(1)).await;
    println!("short: {:?}", short.await);
    println!("late: {:?}", pool.apply(square, 6).await);
    println!("ended by force: {} running, {} queued", left.running, left.queued);
    println!("endless: {}", endless.await.unwrap_err());
    Ok(())
}
