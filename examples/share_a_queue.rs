//! Hundred squares over a queue with three consumers. The ends of queues are
//! arguments like any other; each side hears when the other is gone.
//!
//! ```text
//! $ cargo run --example share_a_queue
//! three consumers got 100 numbers
//! the sum of their squares is 328350
//! nobody puts anything any more: true
//! ```

use futures::StreamExt;
use futures::future::try_join_all;
use procession::{Consumer, Pool, Producer, Queue};

/// Squares what it gets until nobody puts anything any more.
fn square(numbers: Consumer<u64>, squares: Producer<u64>) -> usize {
    let mut count = 0;
    while let Ok(n) = numbers.blocking_get() {
        squares.blocking_put(n * n).expect("somebody reads");
        count += 1;
    }
    count
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(3).build()?;
    // Whoever puts waits while ten numbers wait to be taken.
    let (producer, numbers) = Queue::new(10)?.split();
    let (squared, squares) = Queue::new(0)?.split();
    let calls = (0..3).map(|_| pool.apply_async(square, (numbers.clone(), squared.clone())));
    let consumers: Vec<_> = calls.collect();
    drop((numbers, squared));
    for n in 0..100 {
        producer.put(n).await?;
    }
    drop(producer);
    let counts = try_join_all(consumers).await?;
    println!("three consumers got {} numbers", counts.iter().sum::<usize>());
    let sum = squares.clone().fold(0, |sum, n| async move { sum + n.unwrap() }).await;
    println!("the sum of their squares is {sum}");
    println!("nobody puts anything any more: {}", squares.get().await.unwrap_err().is_closed());
    Ok(())
}
