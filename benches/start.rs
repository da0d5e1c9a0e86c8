//! What it costs to start a process: by each method, from a small parent and from one
//! with much memory, beside `std::process::Command`.
//!
//! ```text
//! $ cargo bench --bench start
//! ```
//!
//! A process has answered when it has ended, a pool when its first result is there.
//! Prints medians and minima, of rounds that alternate between all, so that they meet the same
//! weather. Whole run: some minutes, as a fork takes a copy of the tables of all memory, and
//! 4 GiB.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use procession::process::fork_server;
use procession::{Pool, Process, StartMethod};
use tokio::runtime::{Builder, Runtime};

const LARGE_BYTES: usize = 4 << 30;

/// As much as the program itself has to start.
const MODEL_BYTES: usize = 256 << 20;

fn answer(n: u64) -> u64 {
    n + 1
}

/// One start: until the process is there, and until it has answered and ended.
fn ours(method: StartMethod) -> (Duration, Duration) {
    let began = Instant::now();
    let process = Process::builder().start_method(method).spawn(answer, 1).unwrap();
    let there = began.elapsed();
    assert_eq!(futures::executor::block_on(process).unwrap(), 2);
    (there, began.elapsed())
}

/// A pool with one worker: until it is made, and until it has its first result.
fn pool(method: StartMethod) -> (Duration, Duration) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());
    RUNTIME.block_on(async {
        let began = Instant::now();
        let pool = Pool::builder().workers(1).start_method(method).build().unwrap();
        let made = began.elapsed();
        assert_eq!(pool.apply(answer, 1).await.unwrap(), 2);
        let answered = began.elapsed();
        pool.terminate().await;
        (made, answered)
    })
}

/// A program that does nothing, and says nothing.
fn std_process() -> (Duration, Duration) {
    let began = Instant::now();
    let mut child = Command::new("/bin/true").stdin(Stdio::null()).spawn().unwrap();
    let there = began.elapsed();
    assert!(child.wait().unwrap().success());
    (there, began.elapsed())
}

type Contestant = (&'static str, fn() -> (Duration, Duration));

const CONTESTANTS: [Contestant; 7] = [
    ("a process, Spawn", || ours(StartMethod::Spawn)),
    ("a process, ForkServer", || ours(StartMethod::ForkServer)),
    ("a process, Fork", || ours(StartMethod::Fork)),
    ("a pool, Spawn", || pool(StartMethod::Spawn)),
    ("a pool, ForkServer", || pool(StartMethod::ForkServer)),
    ("a pool, Fork", || pool(StartMethod::Fork)),
    ("std::process, /bin/true", std_process),
];

/// The median, and the least: what it takes where nobody else wants the processor.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("{:.2?} (least {:.2?})", times[times.len() / 2], times[0])
}

fn compare(parent: &str, rounds: usize) {
    let mut times = [const { (Vec::new(), Vec::new()) }; CONTESTANTS.len()];
    for _ in 0..rounds {
        for ((_, start), (there, ended)) in CONTESTANTS.iter().zip(&mut times) {
            let (until_there, until_ended) = start();
            there.push(until_there);
            ended.push(until_ended);
        }
    }
    println!("\nfrom a parent of {parent}");
    for ((name, _), (there, ended)) in CONTESTANTS.iter().zip(times) {
        let (there, ended) = (summary(there), summary(ended));
        println!("{name:24} there after {there:26} answered after {ended}");
    }
}

fn main() {
    procession::init();
    // `cargo test` only wants to see that it runs.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let (rounds, large) = if is_bench { (300, LARGE_BYTES) } else { (2, 1 << 20) };
    ours(StartMethod::ForkServer);
    compare("few MiB", rounds);
    let memory = black_box(vec![1_u8; large]);
    compare(&format!("{} MiB", large >> 20), rounds);
    drop(black_box(memory));

    if is_bench {
        fork_server().stop();
        fork_server().preload(|| black_box(vec![1_u8; MODEL_BYTES]).leak().len(), ()).unwrap();
        ours(StartMethod::ForkServer);
        compare(&format!("few MiB, with {} MiB preloaded", MODEL_BYTES >> 20), rounds);
    }
}
