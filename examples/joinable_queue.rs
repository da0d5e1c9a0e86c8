//! Four workers take jobs from one queue until each finds a sentinel. Whoever put
//! the jobs hears when all are done, and would hear of one that died with its worker.
//!
//! ```text
//! $ cargo run --example joinable_queue
//! all jobs are done
//! 0 * 0 = 0
//! 1 * 1 = 1
//! 2 * 2 = 4
//! 3 * 3 = 9
//! 4 * 4 = 16
//! 5 * 5 = 25
//! 6 * 6 = 36
//! 7 * 7 = 49
//! jobs: 8, workers: 4
//! ```

use futures::StreamExt;
use futures::future::try_join_all;
use procession::{JoinableQueue, Pool, Producer, Queue};

/// `None` is the sentinel.
type Jobs = JoinableQueue<Option<u32>>;

fn work(jobs: Jobs, results: Producer<(u32, u32)>) -> u32 {
    let mut done = 0;
    loop {
        // Done when it is dropped. If this process dies before, that is seen.
        let job = jobs.blocking_take().expect("the queue is open");
        let Some(n) = *job else { return done };
        results.blocking_put((n, n * n)).expect("somebody reads");
        done += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(4).build()?;
    let jobs = Jobs::new(0)?;
    let (producer, results) = Queue::new(0)?.split();
    let calls = (0..4).map(|_| pool.apply_async(work, (jobs.clone(), producer.clone())));
    let workers: Vec<_> = calls.collect();
    drop(producer);
    for job in (0..8).map(Some).chain([None; 4]) {
        jobs.put(job).await?;
    }
    jobs.join().await?;
    println!("all jobs are done");
    // Ends when the last worker's end is gone.
    let mut results: Vec<_> = results.map(Result::unwrap).collect().await;
    results.sort();
    for (n, square) in results {
        println!("{n} * {n} = {square}");
    }
    let done = try_join_all(workers).await?;
    println!("jobs: {}, workers: {}", done.iter().sum::<u32>(), done.len());
    Ok(())
}
