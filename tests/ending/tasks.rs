//! What the tests let workers do, and how they keep account of it.

use std::collections::HashMap;
use std::path::Path;
use std::process::id;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, kill, raise, signal};
use nix::unistd::Pid;
use procession::{Pool, TaskError};

use crate::support::{note, notes, until};

// Tasks ---------------------------------------------------------------------

/// Notes its number when it starts, and answers with [`answer`].
pub(crate) fn quick(journal: String, number: u64) -> u64 {
    note(journal, &number.to_string());
    answer(number)
}

/// What [`quick`] and its like answer.
pub(crate) fn answer(number: u64) -> u64 {
    number * 3 + 1
}

/// Like `quick`, and takes so many microseconds of work.
pub(crate) fn working(journal: String, number: u64, micros: u64) -> u64 {
    note(journal, &number.to_string());
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_micros(micros) {
        std::hint::spin_loop();
    }
    answer(number)
}

/// Notes its pid, and goes on once the gate's file is there.
pub(crate) fn held(started: String, gate: String) -> u32 {
    note(started, &id().to_string());
    while !Path::new(&gate).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    id()
}

/// Notes its pid, and sleeps for ever.
pub(crate) fn forever(started: String) {
    note(started, &id().to_string());
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Notes its pid, and works for ever.
pub(crate) fn spin(started: String) {
    note(started, &id().to_string());
    loop {
        std::hint::spin_loop();
    }
}

/// Is not impressed by SIGTERM.
pub(crate) fn stubborn(started: String) {
    ignore_term();
    forever(started);
}

pub(crate) fn ignore_term() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
}

/// Notes its pid and its child's, and waits for that one for ever.
pub(crate) fn parent_of_sleep(started: String) {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    note(started, &format!("{}\n{}", id(), child.id()));
    child.wait().unwrap();
}

/// Notes its pid, and stops; should somebody continue it, it sleeps for ever.
pub(crate) fn stopped(started: String) {
    note(started, &id().to_string());
    raise(Signal::SIGSTOP).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

pub(crate) fn pid() -> u32 {
    id()
}

// What tests do with them ----------------------------------------------------

/// Makes the gate's file.
pub(crate) fn open(gate: &str) {
    note(gate, "open");
}

/// Waits for the `n` pids that tasks note.
pub(crate) async fn pids(started: &str, n: usize) -> Vec<i32> {
    until(&format!("{n} pids in {started}"), || notes(started).len() >= n).await;
    notes(started).iter().map(|pid| pid.parse().unwrap()).collect()
}

/// Sends a signal to one process.
pub(crate) fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Waits until a process has been stopped, with all its threads.
pub(crate) async fn has_stopped(pid: i32) {
    until("all threads of the process stop", || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        // One that has yet to do so would let a SIGTERM end them all.
        threads.all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
        })
    })
    .await;
}

/// Teaches the pool that tasks are short, so that it sends several ahead.
pub(crate) async fn make_hasty(pool: &Pool) {
    pool.ready().await.unwrap();
    for _ in 0..8 {
        let handles: Vec<_> = (0..64).map(|_| pool.apply_async(pid, ())).collect();
        for handle in handles {
            handle.await.unwrap();
        }
    }
}

/// Once nothing is left, every call has been counted once.
pub(crate) fn assert_all_counted(pool: &Pool) {
    let stats = pool.stats();
    let ended = stats.completed
        + stats.panicked
        + stats.cancelled
        + stats.timed_out
        + stats.lost
        + stats.failed;
    assert_eq!(stats.submitted, ended, "{stats:?}");
}

/// Pseudorandom numbers (xorshift): the same for the same seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What tasks noted of their starts, and what their callers were told.
pub(crate) struct Ledger {
    pub(crate) journal: String,
    told: HashMap<u64, Told>,
}

/// What the caller knows of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// It ran, once.
    Answered,
    /// It did not run.
    NotStarted,
    /// It may have run, once.
    Perhaps,
}

impl Ledger {
    pub(crate) fn new(journal: String) -> Self {
        Ledger { journal, told: HashMap::new() }
    }

    pub(crate) fn tell(&mut self, number: u64, told: Told) {
        assert_eq!(self.told.insert(number, told), None, "{number} was told twice");
    }

    /// A task that nobody wanted to end: it must have been answered.
    #[track_caller]
    pub(crate) fn answered(&mut self, number: u64, result: Result<u64, TaskError>) {
        assert_eq!(result.unwrap_or_else(|error| panic!("{number}: {error}")), answer(number));
        self.tell(number, Told::Answered);
    }

    /// Compares both sides, once nothing runs any more.
    pub(crate) fn check(&self) {
        let mut starts: HashMap<u64, u32> = HashMap::new();
        for line in notes(&self.journal) {
            *starts.entry(line.parse().unwrap()).or_default() += 1;
        }
        for (number, count) in &starts {
            assert_eq!(*count, 1, "{number} ran {count} times: {:?}", self.told.get(number));
        }
        for (number, told) in &self.told {
            let ran = starts.contains_key(number);
            match told {
                Told::Answered => assert!(ran, "{number} was answered and never ran"),
                Told::NotStarted => assert!(!ran, "{number} ran and is said not to have started"),
                Told::Perhaps => {}
            }
        }
        for number in starts.keys() {
            assert!(self.told.contains_key(number), "{number} ran, and nobody asked for it");
        }
    }
}
