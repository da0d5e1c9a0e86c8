//! Nothing waits behind a long task that need not.

use futures::future::join_all;
use procession::Pool;

use crate::support::{LIMIT, Scratch, checked, noted, notes, within};
use crate::tasks::*;

#[test]
fn an_answer_does_not_wait_behind_a_long_task() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        for round in 0..10 {
            make_hasty(&pool).await;
            let (started, gate, journal) = (
                scratch.path(&format!("started-{round}")),
                scratch.path(&format!("gate-{round}")),
                scratch.path(&format!("journal-{round}")),
            );
            let quick: Vec<_> =
                (0..round).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
            let long = pool.apply_async(held, (started.clone(), gate.clone()));
            let behind = pool.apply_async(answer, 5);
            for (n, answered) in within(LIMIT, join_all(quick)).await.into_iter().enumerate() {
                assert_eq!(answered.unwrap(), answer(n as u64));
            }
            noted(&started).await;
            assert!(!long.is_finished());
            assert!(!behind.is_finished());
            open(&gate);
            long.await.unwrap();
            assert_eq!(behind.await.unwrap(), answer(5));
        }
    });
}

/// As above, with tasks that were taken back between those that ran.
#[test]
fn an_answer_does_not_wait_behind_a_skipped_and_a_long_task() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        for round in 0..16 {
            make_hasty(&pool).await;
            let path = |name: &str| scratch.path(&format!("{name}-{round}"));
            let (first_started, first_gate) = (path("first"), path("first-gate"));
            let (started, gate, journal) = (path("started"), path("gate"), path("journal"));
            let first = pool.apply_async(held, (first_started.clone(), first_gate.clone()));
            let mut quick: Vec<_> =
                (0..4).map(|n| Some(pool.apply_async(quick, (journal.clone(), n)))).collect();
            let long = pool.apply_async(held, (started.clone(), gate.clone()));
            noted(&first_started).await;
            for (n, handle) in quick.iter_mut().enumerate() {
                if round & (1 << n) != 0 {
                    let cancelled = handle.take().unwrap().cancel().await;
                    assert!(!cancelled.started);
                }
            }
            open(&first_gate);
            first.await.unwrap();
            for (n, handle) in quick.into_iter().enumerate() {
                if let Some(handle) = handle {
                    assert_eq!(within(LIMIT, handle).await.unwrap(), answer(n as u64));
                }
            }
            noted(&started).await;
            open(&gate);
            long.await.unwrap();
        }
    });
}

#[test]
fn short_tasks_move_away_from_behind_a_long_one() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(2).build().unwrap();
        for round in 0..10 {
            make_hasty(&pool).await;
            let path = |name: &str| scratch.path(&format!("{name}-{round}"));
            let (a, b, gate_a, gate_b) = (path("a"), path("b"), path("gate-a"), path("gate-b"));
            let journal = path("journal");
            let mut ledger = Ledger::new(journal.clone());
            let long_a = pool.apply_async(held, (a.clone(), gate_a.clone()));
            let long_b = pool.apply_async(held, (b.clone(), gate_b.clone()));
            let short: Vec<_> =
                (0..50).map(|n| (n, pool.apply_async(quick, (journal.clone(), n)))).collect();
            noted(&a).await;
            noted(&b).await;
            assert_eq!(notes(&journal).len(), 0);
            // One worker gets free: all the short ones are its now.
            open(&gate_a);
            long_a.await.unwrap();
            for (n, handle) in short {
                ledger.answered(n, within(LIMIT, handle).await);
            }
            ledger.check();
            assert!(!long_b.is_finished());
            open(&gate_b);
            long_b.await.unwrap();
        }
    });
}

#[test]
fn long_tasks_run_at_the_same_time_however_they_were_sent() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(3).build().unwrap();
        make_hasty(&pool).await;
        let gate = scratch.path("gate");
        let started = scratch.path("started");
        let quick: Vec<_> = (0..90).map(|n| pool.apply_async(answer, n)).collect();
        let long: Vec<_> =
            (0..3).map(|_| pool.apply_async(held, (started.clone(), gate.clone()))).collect();
        // All three wait for the same gate: none may wait for another.
        within(LIMIT, pids(&started, 3)).await;
        join_all(quick).await;
        open(&gate);
        join_all(long).await;
    });
}

#[test]
fn what_waits_behind_a_long_task_moves_to_a_new_worker() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let pool = Pool::builder().workers(1).build().unwrap();
        make_hasty(&pool).await;
        let long = pool.apply_async(held, (started.clone(), gate.clone()));
        let mut ledger = Ledger::new(journal.clone());
        let short: Vec<_> =
            (0..20).map(|n| (n, pool.apply_async(quick, (journal.clone(), n)))).collect();
        noted(&started).await;
        pool.resize(2);
        for (n, handle) in short {
            ledger.answered(n, within(LIMIT, handle).await);
        }
        ledger.check();
        open(&gate);
        long.await.unwrap();
    });
}

/// Several workers get idle at once, and several have something to give: each
/// finds its victim.
#[test]
fn no_task_waits_while_a_worker_is_idle() {
    checked(async {
        let scratch = Scratch::new();
        for round in 0..40 {
            let path = |name: &str| scratch.path(&format!("{name}-{round}"));
            let (started, gate) = (path("started"), path("gate"));
            // The first that are ready get more than one.
            let pool = Pool::builder().workers(5).build().unwrap();
            let all: Vec<_> =
                (0..5).map(|_| pool.apply_async(held, (started.clone(), gate.clone()))).collect();
            within(LIMIT, pids(&started, 5)).await;
            open(&gate);
            join_all(all).await;
        }
    });
}
