//! A hundred messages to another process and back, and how long that took.
//!
//! ```text
//! $ cargo run --example ping_pong
//! 100 ping-pongs, … each
//! ```

use std::time::Instant;

use procession::{Connection, Process, pipe};

fn pong(mut end: Connection<u32>) {
    while let Ok(Some(n)) = end.blocking_recv() {
        end.blocking_send(n + 1).unwrap();
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let (mut ours, theirs) = pipe()?;
    let ponging = Process::spawn(pong, theirs)?;
    // The process has to start first.
    ours.send(0).await?;
    assert_eq!(ours.recv().await?, Some(1));
    let began = Instant::now();
    let mut n = 0;
    for _ in 0..100 {
        ours.send(n).await?;
        n = ours.recv().await?.expect("it answers");
    }
    assert_eq!(n, 100);
    println!("{n} ping-pongs, {:?} each", began.elapsed() / n);
    drop(ours);
    ponging.await?;
    Ok(())
}
