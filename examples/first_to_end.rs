//! Waits for the first of many processes to end, then for the rest of them, by
//! their sentinels.
//!
//! ```text
//! $ cargo run --example first_to_end
//! 1 ended first, exited with code 7
//! 3 others are stopped: killed by signal 9 (SIGKILL)
//! ```

use std::process::exit;
use std::thread;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use procession::Process;

fn work(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
    exit(7);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let mut processes = Vec::new();
    for seconds in [1000.0, 0.1, 1000.0, 1000.0] {
        processes.push(Process::spawn(work, seconds)?);
    }
    let mut ends = FuturesUnordered::new();
    for (number, process) in processes.iter().enumerate() {
        // Does not borrow the process.
        let exited = process.exited();
        ends.push(async move { (number, exited.await) });
    }
    let (first, exit) = ends.next().await.expect("there are four");
    println!("{first} ended first, {exit}");
    processes.iter().for_each(Process::kill);
    let rest: Vec<_> = ends.map(|(_, exit)| exit).collect().await;
    println!("{} others are stopped: {}", rest.len(), rest[0]);
    Ok(())
}
