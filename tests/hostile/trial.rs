//! One villain among honest workers, and everything that must hold whatever
//! it does: its task gets an error, it is killed and replaced, memory stays
//! bounded, and whoever works beside it notices nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::future::{Either, select};
use procession::{PoolBuilder, TaskError};

use crate::attack::echo;
use crate::scripted::Cast;
use crate::support::{Scratch, is_alive};

/// What a parent with a frame limit of 1 MiB may need for a moment, generously.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// Works until the file is there. Tells who did it.
pub(crate) fn held(gate: String) -> u32 {
    while !Path::new(&gate).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::id()
}

/// Gives the script's worker a task while another one works, and returns what
/// became of that task.
pub(crate) async fn trial(script: &str) -> TaskError {
    trial_in(script, |pool| pool).await
}

/// The same in a pool with other options.
pub(crate) async fn trial_in(
    script: &str,
    options: impl FnOnce(PoolBuilder) -> PoolBuilder,
) -> TaskError {
    let peak = Peak::new();
    let scratch = Scratch::new();
    let gate = scratch.path("gate");
    let cast = Cast::new(script, 1);
    let pool = options(cast.builder().workers(2)).build().unwrap();
    pool.ready().await.unwrap();
    let villain = cast.villain().await;
    let before: Vec<_> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    let one = pool.apply_async(held, gate.clone());
    let other = pool.apply_async(held, gate.clone());
    let (ended, bystander) = match select(one, other).await {
        Either::Left(ended) | Either::Right(ended) => ended,
    };
    let error = match ended {
        Err(error) => error,
        Ok(pid) => panic!("{script}: {pid} has ended without being let go"),
    };
    assert!(!is_alive(villain as i32), "{script}: the villain outlives its verdict, {error:?}");
    // The bystander's worker is busy, so these are its successor's.
    for n in 0..5 {
        assert_eq!(pool.apply(echo, n).await.unwrap(), n, "{script}");
    }
    assert!(!bystander.is_finished(), "{script}: the bystander was disturbed");
    fs::write(&gate, "").unwrap();
    let pid = bystander.await.unwrap_or_else(|error| panic!("{script}: the bystander: {error:?}"));
    assert_ne!(pid, villain, "{script}");
    assert!(before.contains(&pid), "{script}: the bystander's worker was replaced");
    assert_eq!(pool.stats().workers_started, 3, "{script}: one was replaced, once");
    assert_eq!(cast.villains(), [villain], "{script}");
    pool.terminate().await;
    peak.assert_below(MEMORY_BYTES_MAX);
    error
}

#[track_caller]
pub(crate) fn assert_protocol(error: &TaskError, sentence: &str) {
    assert!(matches!(error, TaskError::Protocol(_)), "{error:?}");
    assert!(error.is_worker_lost());
    assert!(error.to_string().contains(sentence), "{error}");
}

/// How much more memory this process takes than when this was made.
#[derive(Debug)]
pub(crate) struct Peak {
    before: u64,
}

impl Peak {
    pub(crate) fn new() -> Self {
        // Forgets the highest so far.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Peak { before: status("VmRSS:") }
    }

    #[track_caller]
    pub(crate) fn assert_below(&self, bytes: u64) {
        let grown = status("VmHWM:").saturating_sub(self.before);
        assert!(grown < bytes, "took {grown} bytes more");
    }
}

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kilobytes: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kilobytes << 10
}
