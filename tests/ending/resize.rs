//! The number of workers changes under load, and nobody notices.

use std::time::Duration;

use procession::{Pool, TaskHandle};

use crate::support::{Scratch, checked, noted, until};
use crate::tasks::*;

#[test]
fn up_and_down_under_load() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(2).build().unwrap();
        let mut ledger = Ledger::new(journal.clone());
        let mut rng = Rng::new(19);
        let mut number = 0;
        for _ in 0..60 {
            let mut handles = Vec::new();
            for _ in 0..40 {
                number += 1;
                let args = (journal.clone(), number, rng.below(200));
                handles.push((number, pool.apply_async(working, args)));
                if rng.one_in(20) {
                    pool.resize(1 + rng.below(6) as usize);
                }
            }
            for (number, handle) in handles {
                ledger.answered(number, handle.await);
            }
        }
        ledger.check();
        pool.resize(3);
        until("three workers are there", || {
            let status = pool.status();
            pool.workers().len() == 3 && status.idle == 3
        })
        .await;
        assert_eq!(pool.stats().workers_lost, 0);
        assert_all_counted(&pool);
    });
}

#[test]
fn a_worker_too_many_finishes_what_it_has() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate) = (scratch.path("started"), scratch.path("gate"));
        let pool = Pool::builder().workers(2).build().unwrap();
        let handles: Vec<_> =
            (0..2).map(|_| pool.apply_async(held, (started.clone(), gate.clone()))).collect();
        pids(&started, 2).await;
        pool.resize(1);
        pool.resize(1);
        assert_eq!(pool.status().workers, 1);
        open(&gate);
        for handle in handles {
            handle.await.unwrap();
        }
        until("one worker is left", || pool.workers().len() == 1).await;
        assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
    });
}

/// Workers that are not wanted any more before they have started did not fail
/// to start.
#[test]
fn a_worker_taken_back_before_it_started_is_no_failure() {
    checked(async {
        let pool = Pool::builder().workers(1).restart_limit(1).build().unwrap();
        for _ in 0..20 {
            pool.resize(30);
            pool.resize(1);
            assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
        }
    });
}

/// The same while no worker is ready that could tell otherwise.
#[test]
fn taking_workers_back_breaks_no_pool_that_starts() {
    fn wait_for(gate: String) {
        while !std::path::Path::new(&gate).exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let builder = Pool::builder().workers(1).restart_limit(1);
        let pool = builder.initializer(wait_for, gate.clone()).build().unwrap();
        for _ in 0..4 {
            pool.resize(30);
            pool.resize(1);
            until("the others are gone", || pool.workers().len() == 1).await;
            // Longer than what a failed start would cost.
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        open(&gate);
        pool.ready().await.unwrap();
        assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
    });
}

async fn cancel_all<R>(handles: Vec<TaskHandle<R>>) {
    for cancelling in handles.into_iter().map(TaskHandle::cancel).collect::<Vec<_>>() {
        cancelling.await;
    }
}

#[test]
fn the_queue_keeps_its_bound() {
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let pool = Pool::builder().workers(1).queue_limit(2).build().unwrap();
        let room = |pool: &Pool, name: &str| {
            let mut taken = Vec::new();
            while let Ok(handle) = pool.try_apply(held, (scratch.path(name), gate.clone())) {
                taken.push(handle);
                assert!(taken.len() < 100, "no bound at all");
            }
            taken
        };
        let first = room(&pool, "first");
        assert_eq!(first.len(), 3, "one for the worker, two that wait");
        noted(&scratch.path("first")).await;
        // Down while all places are taken, and up again.
        for _ in 0..5 {
            pool.resize(4);
            pool.resize(1);
        }
        cancel_all(first).await;
        let second = room(&pool, "second");
        assert_eq!(second.len(), 3);
        pool.resize(2);
        let third = room(&pool, "third");
        assert_eq!(third.len(), 1, "one for the worker more");
        for _ in 0..5 {
            pool.resize(1);
            pool.resize(2);
        }
        cancel_all(second).await;
        cancel_all(third).await;
        assert_eq!(room(&pool, "fourth").len(), 4);
        pool.shutdown(Duration::ZERO).await;
    });
}
