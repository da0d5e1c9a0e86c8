//! What it costs to pass items between processes through a queue, with one and two
//! producers and consumers, beside a bare pipe.
//!
//! ```text
//! $ cargo bench --bench queue
//! ```
//!
//! Whole run: half a minute. A pipe has one reader and one writer here, and no
//! items but bytes; what it takes less is the price of a bound, of any number of
//! producers and consumers, and of losing nothing with those that die.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures::future::join_all;
use nix::unistd::pipe;
use procession::{Consumer, Fd, Pool, Producer, Queue};
use tokio::runtime::{Builder, Runtime};

const ITEMS: u64 = 20_000;
const LENGTHS: [(&str, usize); 2] = [("8 bytes", 8), ("4 KiB", 4096)];

fn produce(producer: Producer<Bytes>, len: usize, count: u64) {
    let item = Bytes::from(vec![7; len]);
    for _ in 0..count {
        producer.blocking_put(item.clone()).expect("somebody gets it");
    }
}

fn consume(consumer: Consumer<Bytes>) -> u64 {
    let mut count = 0;
    while consumer.blocking_get().is_ok() {
        count += 1;
    }
    count
}

/// From the first item to the last, so many times.
async fn through_a_queue(
    pool: &Pool,
    len: usize,
    (producers, consumers): (u64, u64),
    maxsize: usize,
) -> Duration {
    let (producer, consumer) = Queue::new(maxsize).expect("a queue").split();
    let started = Instant::now();
    let gets: Vec<_> =
        (0..consumers).map(|_| pool.apply_async(consume, consumer.clone())).collect();
    drop(consumer);
    let puts: Vec<_> = (0..producers)
        .map(|_| pool.apply_async(produce, (producer.clone(), len, ITEMS / producers)))
        .collect();
    drop(producer);
    join_all(puts).await.into_iter().for_each(|put| put.expect("it was put"));
    let got: u64 = join_all(gets).await.into_iter().map(|got| got.expect("it was got")).sum();
    assert_eq!(got, ITEMS);
    started.elapsed()
}

/// In one thread: what the operations cost themselves.
fn by_one(len: usize) -> Duration {
    let queue = Queue::new(0).expect("a queue");
    let item = Bytes::from(vec![7; len]);
    let started = Instant::now();
    for _ in 0..ITEMS {
        queue.blocking_put(item.clone()).expect("it is open");
        queue.blocking_get().expect("there is one");
    }
    started.elapsed()
}

fn write(pipe: Fd<File>, len: usize, count: u64) {
    let item = vec![7; len];
    for _ in 0..count {
        (&*pipe).write_all(&item).expect("somebody reads");
    }
}

fn read(pipe: Fd<File>, len: usize) -> u64 {
    let mut item = vec![0; len];
    let mut count = 0;
    while (&*pipe).read_exact(&mut item).is_ok() {
        count += 1;
    }
    count
}

async fn through_a_pipe(pool: &Pool, len: usize) -> Duration {
    let (from, to) = pipe().expect("a pipe");
    let (from, to) = (File::from(from), File::from(to));
    let started = Instant::now();
    let got = pool.apply_async(read, (Fd::from(from), len));
    pool.apply(write, (Fd::from(to), len, ITEMS)).await.expect("it was written");
    assert_eq!(got.await.expect("it was read"), ITEMS);
    started.elapsed()
}

fn echo(from: Consumer<u64>, to: Producer<u64>) {
    while let Ok(n) = from.blocking_get() {
        to.blocking_put(n).expect("somebody gets it");
    }
}

/// One item there and back, so many times.
async fn round_trips(pool: &Pool, count: u64) -> Duration {
    let (forth, theirs) = Queue::new(1).expect("a queue").split();
    let (ours, back) = Queue::new(1).expect("a queue").split();
    let echo = pool.apply_async(echo, (theirs, ours));
    forth.put(0).await.expect("somebody gets it");
    back.get().await.expect("it comes back");
    let started = Instant::now();
    for n in 0..count {
        forth.put(n).await.expect("somebody gets it");
        assert_eq!(back.get().await.expect("it comes back"), n);
    }
    let took = started.elapsed();
    drop(forth);
    echo.await.expect("it has ended");
    took
}

fn main() {
    procession::init();
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let pool = runtime.block_on(async {
        let pool = Pool::builder().workers(4).build().expect("a pool");
        pool.ready().await.expect("workers");
        pool
    });
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    throughput(&mut criterion, &runtime, &pool);
    criterion.bench_function("queue/round_trip", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(round_trips(&pool, count)));
    });
    criterion.final_summary();
    runtime.block_on(pool.terminate());
}

fn throughput(criterion: &mut Criterion, runtime: &Runtime, pool: &Pool) {
    for (name, len) in LENGTHS {
        let mut group = criterion.benchmark_group(format!("queue/{name}"));
        group.throughput(Throughput::Elements(ITEMS));
        group.bench_function("pipe", |bencher| {
            bencher.iter_custom(|count| {
                let one = || runtime.block_on(through_a_pipe(pool, len));
                (0..count).map(|_| one()).sum()
            });
        });
        group.bench_function("put and get by one", |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| by_one(len)).sum());
        });
        for (ends, maxsize) in [((1, 1), 0), ((1, 1), 100), ((2, 2), 0), ((2, 2), 100)] {
            let bound = if maxsize == 0 { "" } else { ", at most 100" };
            group.bench_function(format!("{} to {}{bound}", ends.0, ends.1), |bencher| {
                bencher.iter_custom(|count| {
                    let one = || runtime.block_on(through_a_queue(pool, len, ends, maxsize));
                    (0..count).map(|_| one()).sum()
                });
            });
        }
        group.finish();
    }
}
