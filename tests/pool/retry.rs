//! `retry(n)`: again after a worker's death, and after nothing else.

use std::time::Duration;

use procession::{Pool, TaskError};

use crate::support::{Scratch, checked, note, noted, notes};
use crate::tasks::{never, pid, pool_of};

/// Dies in its first `deaths` attempts.
fn dies(journal: String, deaths: usize) -> u32 {
    note(&journal, &pid().to_string());
    if notes(&journal).len() <= deaths {
        std::process::abort();
    }
    pid()
}

fn panics(journal: String) {
    note(&journal, "attempt");
    panic!("on purpose");
}

#[test]
fn a_call_whose_worker_died_is_made_again() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let last = pool.apply(dies, (journal.clone(), 2)).retry(2).await.unwrap();
        let pids = notes(&journal);
        assert_eq!(pids.len(), 3);
        assert_eq!(pids[2], last.to_string());
        assert_ne!(pids[0], pids[1], "each attempt has a new worker");
        let stats = pool.stats();
        assert_eq!((stats.submitted, stats.completed, stats.lost), (1, 1, 0));
        assert_eq!(stats.workers_lost, 2);
    });
}

#[test]
fn attempts_end_when_they_are_used_up() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let error = pool.apply(dies, (journal.clone(), 100)).retry(3).await.unwrap_err();
        assert!(error.is_worker_lost(), "{error:?}");
        assert_eq!(notes(&journal).len(), 4);
    });
}

#[test]
fn nothing_is_made_again_unasked() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let error = pool.apply(dies, (journal.clone(), 1)).await.unwrap_err();
        assert!(error.is_worker_lost(), "{error:?}");
        assert_eq!(pool.apply(pid, ()).await.unwrap(), pool.workers()[0].pid.unwrap());
        assert_eq!(notes(&journal).len(), 1);
    });
}

#[test]
fn panics_and_timeouts_and_cancelled_calls_are_not_retried() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();

        let journal = scratch.path("panic");
        let error = pool.apply(panics, journal.clone()).retry(5).await.unwrap_err();
        assert!(error.is_panic());
        assert_eq!(notes(&journal).len(), 1);

        let journal = scratch.path("timeout");
        let call = pool.apply(never, journal.clone()).retry(5).timeout(Duration::from_millis(50));
        assert!(call.await.unwrap_err().is_timeout());
        // It may be stopped before it has noted anything.
        assert!(notes(&journal).len() <= 1);

        let journal = scratch.path("cancel");
        let handle = pool.apply(never, journal.clone()).retry(5).start();
        noted(&journal).await;
        let canceller = handle.cancel_handle();
        canceller.cancel();
        let error = handle.await.unwrap_err();
        assert!(matches!(error, TaskError::Cancelled { exit: Some(_) }), "{error:?}");
        pool.apply(pid, ()).await.unwrap();
        assert_eq!(notes(&journal).len(), 1);
    });
}
