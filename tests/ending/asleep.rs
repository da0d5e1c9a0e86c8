//! Workers that are stopped when they have not begun what they were given: it
//! waits for them only where nobody else can do it, and not for ever.

use std::time::Duration;

use futures::future::{join, join_all};
use nix::sys::signal::Signal;
use procession::{Pool, TaskError};

use crate::support::{Scratch, checked, is_alive, until};
use crate::tasks::*;

fn pids_of(pool: &Pool) -> Vec<i32> {
    pool.workers().iter().map(|worker| worker.pid.unwrap() as i32).collect()
}

#[test]
fn what_a_stopped_worker_was_given_is_done_by_another() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(2).build().unwrap();
        pool.ready().await.unwrap();
        let [asleep, awake] = pids_of(&pool)[..] else { panic!("two workers") };
        send(asleep, Signal::SIGSTOP);
        has_stopped(asleep).await;
        // One goes to each, and more behind them.
        let calls = (0..20).map(|_| pool.apply(pid, ()).timeout(Duration::from_secs(1)));
        for done_by in join_all(calls).await {
            assert_eq!(done_by.unwrap(), awake as u32);
        }
        let squares = pool.map(|n: u64| n * n, 0..1000).await.unwrap();
        assert!(squares.into_iter().eq((0..1000).map(|n| n * n)));
        // It is given nothing more until it moves, and then as before.
        send(asleep, Signal::SIGCONT);
        let (started, gate) = (scratch.path("started"), scratch.path("gate"));
        let both = (0..2).map(|_| pool.apply_async(held, (started.clone(), gate.clone())));
        let both: Vec<_> = both.collect();
        let mut seen = pids(&started, 2).await;
        seen.sort_unstable();
        let mut all = vec![asleep, awake];
        all.sort_unstable();
        assert_eq!(seen, all);
        open(&gate);
        join_all(both).await;
        assert_eq!(pool.stats().workers_started, 2);
        pool.terminate().await;
    });
}

/// Where there is no other, or only the worker's word that it has not begun,
/// the worker is replaced after ten seconds.
#[test]
fn a_worker_that_stays_stopped_is_replaced() {
    checked(async {
        let alone = async {
            let pool = Pool::builder().workers(1).build().unwrap();
            pool.ready().await.unwrap();
            let asleep = pids_of(&pool)[0];
            send(asleep, Signal::SIGSTOP);
            has_stopped(asleep).await;
            // A timeout counts from the start, which has yet to come.
            let call = pool.apply(pid, ()).timeout(Duration::from_secs(5));
            let done_by = call.await.unwrap();
            assert_ne!(done_by, asleep as u32);
            assert!(!is_alive(asleep));
            pool.terminate().await;
        };
        let untrusted = async {
            let pool = Pool::builder().workers(1).untrusted().build().unwrap();
            pool.ready().await.unwrap();
            let asleep = pids_of(&pool)[0];
            send(asleep, Signal::SIGSTOP);
            has_stopped(asleep).await;
            let error = pool.apply(pid, ()).await.unwrap_err();
            assert!(matches!(error, TaskError::Protocol(_)), "{error:?}");
            assert_eq!(error.started(), Some(true), "for all that we know");
            until("it is gone", || !is_alive(asleep)).await;
            pool.apply(pid, ()).await.unwrap();
            pool.terminate().await;
        };
        join(alone, untrusted).await;
    });
}
