//! What it costs to send large byte strings to a worker and back, beside a bare
//! socket whose two ends read into buffers that they use again; and memory that
//! both look into, which is not sent at all.
//!
//! ```text
//! $ cargo bench --bench bulk
//! ```
//!
//! Prints ratios first, from rounds that alternate between them, so that all meet
//! the same weather. Whole run: a minute.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use procession::{Pool, SharedBytes, SharedBytesMut};
use tokio::runtime::{Builder, Runtime};

const SIZES: [(&str, usize, usize); 3] =
    [("64 KiB", 64 << 10, 2000), ("1 MiB", 1 << 20, 400), ("64 MiB", 64 << 20, 20)];

fn echo(bytes: Bytes) -> Bytes {
    bytes
}

fn echo_shared(bytes: SharedBytes) -> SharedBytes {
    bytes
}

fn make(len: usize) -> Bytes {
    vec![7; len].into()
}

fn make_shared(len: usize) -> SharedBytes {
    let mut bytes = SharedBytesMut::zeroed(len).expect("memory");
    bytes.fill(7);
    bytes.freeze().expect("nobody else writes")
}

/// Looks at all of it.
fn read(bytes: &[u8]) {
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(sum, 7 * bytes.len() as u64);
}

/// A thread that sends back what it is sent, so many bytes at a time.
struct Raw {
    socket: UnixStream,
    buffer: Vec<u8>,
}

impl Raw {
    fn new(size: usize) -> Self {
        let (socket, mut theirs) = UnixStream::pair().expect("a socket pair");
        thread::spawn(move || {
            let mut buffer = vec![1; size];
            while theirs.read_exact(&mut buffer).is_ok() {
                theirs.write_all(&buffer).expect("somebody reads");
            }
        });
        Raw { socket, buffer: vec![1; size] }
    }

    fn echo(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("somebody reads");
        self.socket.read_exact(&mut self.buffer).expect("somebody writes");
    }
}

fn pool_echo(runtime: &Runtime, pool: &Pool, bytes: &Bytes) {
    let answer = runtime.block_on(pool.apply(echo, bytes.clone())).expect("an answer");
    assert_eq!(answer.len(), bytes.len());
}

fn shared_echo(runtime: &Runtime, pool: &Pool, bytes: &SharedBytes) {
    let answer = runtime.block_on(pool.apply(echo_shared, bytes.clone())).expect("an answer");
    assert_eq!(answer.len(), bytes.len());
}

fn main() {
    // Workers execute this benchmark again, and must not run it.
    procession::init();
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let pool = runtime.block_on(async {
        let pool = Pool::builder().workers(1).build().expect("a pool");
        pool.ready().await.expect("a worker");
        pool
    });
    if std::env::args().any(|arg| arg == "--bench") {
        ratios(&runtime, &pool);
        made(&runtime, &pool);
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for (name, size, _) in SIZES {
        let (bytes, mut raw) = (Bytes::from(vec![7; size]), Raw::new(size));
        let shared = make_shared(size);
        let mut group = criterion.benchmark_group(format!("echo_{}", name.replace(' ', "_")));
        group.throughput(Throughput::Bytes(size as u64)).sample_size(10);
        group.bench_function("raw", |b| b.iter(|| raw.echo(&bytes)));
        group.bench_function("pool", |b| b.iter(|| pool_echo(&runtime, &pool, &bytes)));
        group.bench_function("shared", |b| b.iter(|| shared_echo(&runtime, &pool, &shared)));
        group.finish();
    }
    criterion.final_summary();
    runtime.block_on(pool.terminate());
}

/// All ways in turn, and how their medians compare.
fn ratios(runtime: &Runtime, pool: &Pool) {
    for (name, size, rounds) in SIZES {
        let (bytes, mut raw) = (Bytes::from(vec![7; size]), Raw::new(size));
        let held = make_shared(size);
        let (mut bare, mut pooled, mut shared) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            bare.push(timed(|| raw.echo(&bytes)));
            pooled.push(timed(|| pool_echo(runtime, pool, &bytes)));
            shared.push(timed(|| shared_echo(runtime, pool, &held)));
        }
        let (bare, pooled, shared) = (median(bare), median(pooled), median(shared));
        let ratio = |time: Duration| time.as_secs_f64() / bare.as_secs_f64();
        println!(
            "echo of {name}: raw {bare:?}, Bytes {pooled:?}: {:.2} times, \
             SharedBytes {shared:?}: {:.3} times",
            ratio(pooled),
            ratio(shared),
        );
    }
}

/// The same where the worker makes the bytes and the parent looks at them all.
fn made(runtime: &Runtime, pool: &Pool) {
    for (name, size, rounds) in SIZES {
        let (mut pooled, mut shared) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            pooled.push(timed(|| read(&runtime.block_on(pool.apply(make, size)).expect("bytes"))));
            shared.push(timed(|| {
                read(&runtime.block_on(pool.apply(make_shared, size)).expect("bytes"));
            }));
        }
        let (pooled, shared) = (median(pooled), median(shared));
        let ratio = shared.as_secs_f64() / pooled.as_secs_f64();
        println!(
            "{name} made and read: Bytes {pooled:?}, SharedBytes {shared:?}: {ratio:.2} times"
        );
    }
}

fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
