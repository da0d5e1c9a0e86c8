//! A task that returns an iterator is a stream of its items: each arrives as
//! it is made, and a worker whose items nobody reads waits.
//!
//! ```text
//! $ cargo run --example stream_results
//! 2
//! 3
//! 5
//! 7
//! enough
//! ```

use futures::StreamExt;
use procession::Pool;

/// All of them, so it never ends by itself.
fn primes() -> impl Iterator<Item = u64> {
    (2..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(1).build()?;

    let mut stream = pool.stream(primes, ());
    while let Some(prime) = stream.next().await {
        let prime = prime?;
        if prime > 10 {
            break;
        }
        println!("{prime}");
    }
    // Stops the task; its worker would otherwise wait for a reader for ever.
    drop(stream);
    println!("enough");
    Ok(())
}
