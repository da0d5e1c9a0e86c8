//! Whether a process lives, and how it ended, around `terminate`.
//!
//! ```text
//! $ cargo run --example terminate_a_process
//! alive: true, exit: None
//! alive: false, exit: killed by signal 15 (SIGTERM)
//! Python would say -15
//! its result: the task was cancelled (its worker was killed by signal 15 (SIGTERM))
//! ```

use std::thread;
use std::time::Duration;

use procession::Process;

fn sleep() {
    thread::sleep(Duration::from_secs(1000));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let process = Process::spawn(sleep, ())?;
    println!("alive: {}, exit: {:?}", process.is_alive(), process.exit());
    process.terminate();
    let exit = process.join().await;
    println!("alive: {}, exit: {exit}", process.is_alive());
    println!("Python would say {}", exit.exitcode().expect("it is known"));
    println!("its result: {}", process.await.unwrap_err());
    Ok(())
}
