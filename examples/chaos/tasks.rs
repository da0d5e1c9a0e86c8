//! What the workers do. Every task notes its start before anything else, so
//! that the books can be checked against what happened.

use std::fs::{File, OpenOptions};
use std::hint::{black_box, spin_loop};
use std::io::Write;
use std::process;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use procession::worker;
use serde::{Deserialize, Serialize};

/// What a task is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Manner {
    Quick,
    Busy {
        micros: u64,
    },
    Slow {
        millis: u64,
    },
    /// Like `Slow`, and async; ends when it is asked to.
    Async {
        millis: u64,
    },
    /// Like `Slow`, and ends when it is asked to.
    Polite {
        millis: u64,
    },
    /// Like `Slow`, and ignores SIGTERM.
    Stubborn {
        millis: u64,
    },
    /// Stops its own process.
    Stopped,
    /// Keeps memory, until the worker is replaced for it.
    Hoard,
    /// Leaves a process behind.
    Fork,
    Panic,
    Exit,
    Abort,
    Segfault,
    /// Overflows the stack.
    Overflow,
}

impl Manner {
    /// Python's exit code of the worker that has run this, if it ends its worker.
    pub(crate) fn exitcode(self) -> Option<i32> {
        match self {
            Manner::Exit => Some(3),
            Manner::Abort | Manner::Overflow => Some(-(Signal::SIGABRT as i32)),
            Manner::Segfault => Some(-(Signal::SIGSEGV as i32)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) number: u64,
    pub(crate) manner: Manner,
    pub(crate) ballast: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) value: u64,
    pub(crate) ballast: Bytes,
}

/// The right answer to job `number`.
pub(crate) fn value(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9) ^ 0xc4a0_5000
}

/// The items of a stream.
pub(crate) fn items(number: u64) -> std::ops::Range<u64> {
    let first = value(number);
    first..first + number % 200
}

static JOURNAL: OnceLock<File> = OnceLock::new();

/// The workers' initializer.
pub(crate) fn open_journal(path: String) -> Result<(), String> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    let file = file.map_err(|error| error.to_string())?;
    JOURNAL.get_or_init(|| file);
    Ok(())
}

/// Appends a line, in one write: what several processes write stays whole.
fn note_start(number: u64) {
    let line = format!("{number} {}\n", process::id());
    let mut journal = JOURNAL.get().expect("opened by the initializer");
    let written = journal.write(line.as_bytes()).expect("the journal can be written");
    assert_eq!(written, line.len());
}

pub(crate) fn perform(job: Job) -> Reply {
    note_start(job.number);
    behave(job.manner);
    Reply { value: value(job.number), ballast: job.ballast }
}

pub(crate) async fn perform_async(job: Job) -> Reply {
    note_start(job.number);
    if let Manner::Async { millis } = job.manner {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(millis)) => {}
            () = worker::cancelled() => {}
        }
    }
    Reply { value: value(job.number), ballast: job.ballast }
}

pub(crate) fn count(job: Job) -> impl Iterator<Item = u64> {
    note_start(job.number);
    behave(job.manner);
    items(job.number)
}

fn behave(manner: Manner) {
    match manner {
        Manner::Quick | Manner::Async { .. } => {}
        Manner::Busy { micros } => {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(micros) {
                spin_loop();
            }
        }
        Manner::Slow { millis } => thread::sleep(Duration::from_millis(millis)),
        Manner::Polite { millis } => {
            let until = Instant::now() + Duration::from_millis(millis);
            while Instant::now() < until && !worker::is_cancelled() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Manner::Stubborn { millis } => {
            // SAFETY: ignoring a signal runs no code.
            unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.expect("SIGTERM can be ignored");
            thread::sleep(Duration::from_millis(millis));
        }
        Manner::Stopped => raise(Signal::SIGSTOP).expect("a process can stop itself"),
        Manner::Hoard => std::mem::forget(black_box(vec![1u8; 16 << 20])),
        Manner::Fork => {
            let mut sleep = process::Command::new("sleep");
            sleep.arg("1000").stdout(process::Stdio::null());
            drop(sleep.spawn().expect("there is a `sleep`"));
        }
        Manner::Panic => panic!("as it was told to"),
        Manner::Exit => process::exit(3),
        Manner::Abort => process::abort(),
        Manner::Segfault => {
            // SAFETY: none: the first page is never mapped, and this is a crash.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }
        }
        Manner::Overflow => {
            black_box(overflow(&[0; 1024]));
        }
    }
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn overflow(below: &[u8; 1024]) -> u8 {
    let here = black_box([below[0].wrapping_add(1); 1024]);
    overflow(&here).wrapping_add(here[1])
}
