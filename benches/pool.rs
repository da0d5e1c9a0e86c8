//! What a call costs, beside tokio's `spawn_blocking` in the same run.
//!
//! ```text
//! $ cargo bench
//! $ cargo bench -- round_trip
//! ```
//!
//! Whole run: about two minutes. Both sides get two workers or threads, and the
//! runtime that a program would have. Threads share memory, so what they win
//! here is the price of being able to kill a task.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use procession::Pool;
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

const WORKERS: usize = 2;
const BURST: u64 = 10_000;
const MILLION: u64 = 1_000_000;

fn nothing() {}

fn increment(n: u64) -> u64 {
    black_box(n) + 1
}

fn main() {
    // Workers execute this benchmark again, and must not run it.
    procession::init();
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(WORKERS)
        .enable_all()
        .build()
        .expect("a runtime");
    let pool = runtime.block_on(async {
        let pool = Pool::builder().workers(WORKERS).build().expect("a pool");
        pool.ready().await.expect("workers");
        pool
    });
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    round_trip(&mut criterion, &runtime, &pool);
    no_ops_in_flight(&mut criterion, &runtime, &pool);
    map_a_million(&mut criterion, &runtime, &pool);
    after_a_cancel(&mut criterion, &runtime);
    criterion.final_summary();
    runtime.block_on(pool.terminate());
}

/// One call, awaited before the next.
fn round_trip(criterion: &mut Criterion, runtime: &Runtime, pool: &Pool) {
    let mut group = criterion.benchmark_group("round_trip");
    group.bench_function("pool", |b| {
        b.iter(|| runtime.block_on(pool.apply(nothing, ())).unwrap());
    });
    group.bench_function("spawn_blocking", |b| {
        b.iter(|| runtime.block_on(async { spawn_blocking(nothing).await.unwrap() }));
    });
    group.finish();
}

/// Calls that do nothing, all queued at once.
fn no_ops_in_flight(criterion: &mut Criterion, runtime: &Runtime, pool: &Pool) {
    let mut group = criterion.benchmark_group("no_ops_in_flight");
    group.throughput(Throughput::Elements(BURST)).sample_size(20);
    group.bench_function("pool_apply_async", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let calls: FuturesUnordered<_> =
                    (0..BURST).map(|_| pool.apply_async(nothing, ())).collect();
                assert_eq!(calls.count().await as u64, BURST);
            });
        });
    });
    group.bench_function("pool_imap_unordered", |b| {
        b.iter(|| {
            let answers = pool.imap_unordered(increment, 0..BURST);
            assert_eq!(runtime.block_on(answers.count()) as u64, BURST);
        });
    });
    group.bench_function("spawn_blocking", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let calls: FuturesUnordered<_> =
                    (0..BURST).map(|_| spawn_blocking(nothing)).collect();
                assert_eq!(calls.count().await as u64, BURST);
            });
        });
    });
    group.finish();
}

/// Every number of a million, plus one. Threads get chunks that are cut by
/// hand; the pool finds its own.
fn map_a_million(criterion: &mut Criterion, runtime: &Runtime, pool: &Pool) {
    let mut group = criterion.benchmark_group("map_a_million");
    group.throughput(Throughput::Elements(MILLION)).sample_size(10);
    group.bench_function("pool", |b| {
        b.iter(|| {
            let answers = runtime.block_on(pool.map(increment, 0..MILLION)).unwrap();
            assert_eq!(answers.len() as u64, MILLION);
        });
    });
    group.bench_function("spawn_blocking_chunks_of_10000", |b| {
        b.iter(|| {
            let chunks = (0..MILLION).step_by(10_000).map(|first| {
                spawn_blocking(move || (first..first + 10_000).map(increment).collect::<Vec<_>>())
            });
            let answers = runtime.block_on(async { futures::future::join_all(chunks).await });
            let answers: Vec<u64> = answers.into_iter().flat_map(Result::unwrap).collect();
            assert_eq!(answers.len() as u64, MILLION);
        });
    });
    group.bench_function("spawn_blocking_each", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let calls: Vec<_> =
                    (0..MILLION).map(|n| spawn_blocking(move || increment(n))).collect();
                let answers = futures::future::join_all(calls).await;
                assert_eq!(answers.len() as u64, MILLION);
            });
        });
    });
    group.finish();
}

/// Says that it runs, then never returns.
fn hang(running: PathBuf) {
    fs::write(running, "").expect("a file");
    loop {
        std::thread::park();
    }
}

/// From dropping the handle of a running task to the next task's answer, on one
/// worker. Threads cannot be stopped.
fn after_a_cancel(criterion: &mut Criterion, runtime: &Runtime) {
    let mut group = criterion.benchmark_group("after_a_cancel");
    group.sample_size(20);
    let running = std::env::temp_dir().join(format!("procession-bench-{}", std::process::id()));
    for (name, spares) in [("without_a_spare", 0), ("with_a_spare", 1)] {
        let pool = runtime.block_on(async {
            Pool::builder().workers(1).spare_workers(spares).build().expect("a pool")
        });
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                // As a task of the runtime, where a service's code would be.
                let round = || runtime.spawn(next_answer(pool.clone(), running.clone()));
                (0..rounds).map(|_| runtime.block_on(round()).expect("no panic")).sum()
            });
        });
        runtime.block_on(pool.terminate());
    }
    group.finish();
}

async fn next_answer(pool: Pool, running: PathBuf) -> Duration {
    pool.ready().await.expect("workers");
    let task = pool.apply_async(hang, running.clone());
    while !running.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fs::remove_file(&running).expect("it is there");
    let start = Instant::now();
    drop(task);
    pool.apply(nothing, ()).await.expect("an answer");
    start.elapsed()
}
