//! The tasks, the same for all, and what their answers must be.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A no-op with 0 steps, and steady work of some nanoseconds per step otherwise.
/// Work is counted in steps, not by a clock: a task that was kept from running
/// must not be done sooner for it.
pub fn work(seed: u64, steps: u64) -> u64 {
    let mut x = black_box(seed);
    for _ in 0..steps {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    x
}

/// What task number `i` of a series is given.
pub fn seed(i: u64) -> u64 {
    i % 16 + 1
}

/// The wrapped sum of the answers of `tasks` tasks.
pub fn expected(tasks: u64, steps: u64) -> u64 {
    let answers: Vec<u64> = (0..16).map(|i| work(seed(i), steps)).collect();
    (0..tasks).fold(0, |sum: u64, i| sum.wrapping_add(answers[(i % 16) as usize]))
}

pub fn square(n: u64) -> u64 {
    n * n
}

pub fn squares(numbers: Vec<u64>) -> Vec<u64> {
    numbers.into_iter().map(square).collect()
}

/// How many steps take 100 µs here and now.
pub fn steps_of_100_us() -> u64 {
    let steps = 1_000_000;
    let fastest = (0..5).map(|_| timed(|| black_box(work(1, steps)))).min().expect("five");
    (100e-6 * steps as f64 / fastest.as_secs_f64()) as u64
}

/// What a task of so many steps takes in a plain loop.
pub fn serial(steps: u64) -> Duration {
    let loops = 1_000;
    timed(|| (0..loops).fold(0, |sum: u64, i| sum.wrapping_add(work(seed(i), steps))))
        / loops as u32
}

pub fn timed<T>(f: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(f());
    start.elapsed()
}

/// Says that it runs, then computes for ever.
pub fn hang<T>(running: PathBuf) -> T {
    fs::write(&running, "").expect("write");
    loop {
        black_box(work(1, 1_000));
    }
}

/// Says that it runs, then keeps its worker until the gate is opened.
pub fn hold(gate: PathBuf) {
    fs::write(gate.with_extension("running"), "").expect("write");
    while !gate.exists() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Files by which a task and its parent tell each other where they are: every
/// contestant has those.
pub struct Gate(PathBuf);

impl Gate {
    pub fn new(name: &str) -> Gate {
        let name = format!("procession-peers-{}-{name}", std::process::id());
        let gate = Gate(std::env::temp_dir().join(name));
        gate.remove();
        gate
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until the [`hold`] that was given this has begun.
    pub fn wait_held(&self) {
        wait_for(&self.0.with_extension("running"));
    }

    pub fn open(&self) {
        fs::write(&self.0, "").expect("write");
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_file(self.0.with_extension("running"));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Waits until a [`hang`] that was given this path has begun; makes the path
/// ready for the next.
pub fn wait_for(running: &Path) {
    while !running.exists() {
        std::thread::sleep(Duration::from_micros(200));
    }
    fs::remove_file(running).expect("remove");
}
