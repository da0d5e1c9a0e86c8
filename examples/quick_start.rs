//! Calls a function in worker processes: once, for many inputs, and as a
//! stream.
//!
//! ```text
//! $ cargo run --example quick_start
//! 9
//! [0, 1, 4, 9, 16]
//! 1
//! 2
//! 3
//! ```

use futures::StreamExt;
use procession::Pool;

fn square(n: u64) -> u64 {
    n * n
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init(); // a worker starts its work here and never returns
    tokio::runtime::Runtime::new()?.block_on(async {
        let pool = Pool::new()?; // one worker for each processor
        println!("{}", pool.apply(square, 3).await?);
        println!("{:?}", pool.map(square, 0..5).await?);
        let mut stream = pool.imap(|n: u64| n + 1, 0..3);
        while let Some(n) = stream.next().await {
            println!("{}", n?);
        }
        pool.close();
        pool.join().await;
        Ok(())
    })
}
