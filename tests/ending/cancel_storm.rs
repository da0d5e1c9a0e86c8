//! Cancels by the thousand, against tasks that note every start of theirs.

use std::time::Duration;

use procession::Pool;

use crate::support::{Scratch, checked};
use crate::tasks::*;

/// Cancels tasks at random moments of their lives. Those that nobody cancelled
/// must be answered, whatever happens around them.
async fn storm(pool: &Pool, seed: u64, rounds: u64, micros: u64) {
    let scratch = Scratch::new();
    let journal = scratch.path("journal");
    let mut ledger = Ledger::new(journal.clone());
    let mut rng = Rng::new(seed);
    let mut number = 0;
    let mut stopped = 0;
    for _ in 0..rounds {
        let mut handles = Vec::new();
        for _ in 0..32 {
            number += 1;
            let call = pool.apply_async(working, (journal.clone(), number, rng.below(micros + 1)));
            handles.push((number, Some(call)));
        }
        let mut cancelling = Vec::new();
        for _ in 0..8 {
            for _ in 0..rng.below(6) {
                tokio::task::yield_now().await;
            }
            let (number, handle) = &mut handles[rng.below(32) as usize];
            if let Some(handle) = handle.take() {
                if rng.one_in(3) {
                    drop(handle);
                    ledger.tell(*number, Told::Perhaps);
                } else {
                    cancelling.push((*number, handle.cancel()));
                }
            }
        }
        for (number, handle) in handles {
            if let Some(handle) = handle {
                ledger.answered(number, handle.await);
            }
        }
        for (number, cancelling) in cancelling {
            let cancelled = cancelling.await;
            stopped += u64::from(cancelled.exit.is_some());
            let told = match (cancelled.started, cancelled.exit) {
                (false, exit) => {
                    assert_eq!(exit, None);
                    Told::NotStarted
                }
                (true, None) => Told::Answered,
                (true, Some(_)) => Told::Perhaps,
            };
            ledger.tell(number, told);
        }
    }
    // What was dropped may still be ending.
    pool.close();
    pool.join().await;
    ledger.check();
    assert_all_counted(pool);
    assert_eq!(pool.stats().workers_lost, 0, "{stopped} were stopped, nobody else");
}

#[test]
fn a_cancel_that_crosses_the_result_harms_nobody() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        storm(&pool, 1, 60, 20).await;
        let pool = Pool::builder().workers(2).build().unwrap();
        storm(&pool, 2, 60, 200).await;
        let pool = Pool::builder().workers(2).grace_period(Duration::ZERO).build().unwrap();
        storm(&pool, 3, 60, 50).await;
        let pool = Pool::builder().workers(2).pipeline(1).build().unwrap();
        storm(&pool, 4, 30, 50).await;
        let pool = Pool::builder().workers(2).untrusted().build().unwrap();
        storm(&pool, 5, 30, 50).await;
        let pool = Pool::builder().workers(2).spare_workers(1).build().unwrap();
        storm(&pool, 6, 60, 50).await;
    });
}

#[test]
fn thousands_of_short_pipelined_tasks_are_cancelled_and_no_other() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(2).build().unwrap();
        make_hasty(&pool).await;
        let mut ledger = Ledger::new(journal.clone());
        let mut rng = Rng::new(7);
        let mut number = 0;
        for _ in 0..10 {
            let mut kept = Vec::new();
            let mut cancelling = Vec::new();
            for _ in 0..1000 {
                number += 1;
                let handle = pool.apply_async(quick, (journal.clone(), number));
                if rng.one_in(2) {
                    kept.push((number, handle));
                } else if rng.one_in(2) {
                    cancelling.push((number, handle.cancel()));
                } else {
                    drop(handle);
                    ledger.tell(number, Told::Perhaps);
                }
            }
            for (number, handle) in kept {
                ledger.answered(number, handle.await);
            }
            for (number, cancelling) in cancelling {
                let cancelled = cancelling.await;
                let told = if cancelled.started { Told::Perhaps } else { Told::NotStarted };
                ledger.tell(number, told);
            }
        }
        pool.close();
        pool.join().await;
        ledger.check();
        assert_all_counted(&pool);
        assert_eq!(pool.stats().workers_lost, 0);
    });
}

#[test]
fn all_of_a_burst_can_be_cancelled_in_any_order() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(2).build().unwrap();
        make_hasty(&pool).await;
        for backwards in [false, true] {
            let journal = scratch.path(&format!("journal-{backwards}"));
            let mut ledger = Ledger::new(journal.clone());
            let mut handles: Vec<_> = (0..2000)
                .map(|number| (number, pool.apply_async(quick, (journal.clone(), number))))
                .collect();
            if backwards {
                handles.reverse();
            }
            let cancelling: Vec<_> =
                handles.into_iter().map(|(number, handle)| (number, handle.cancel())).collect();
            for (number, cancelling) in cancelling {
                let cancelled = cancelling.await;
                let told = if cancelled.started { Told::Perhaps } else { Told::NotStarted };
                ledger.tell(number, told);
            }
            assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
            ledger.check();
        }
        assert_all_counted(&pool);
    });
}

/// Each call has a timeout that its task may or may not keep.
#[test]
fn a_timeout_that_crosses_the_result_harms_nobody() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(2).build().unwrap();
        pool.ready().await.unwrap();
        let mut ledger = Ledger::new(journal.clone());
        let mut rng = Rng::new(11);
        let mut handles = Vec::new();
        for number in 0..400 {
            let hurried = rng.one_in(4);
            // Some are over their time by much, some by nothing at all.
            let micros = if hurried { 1000 + rng.below(4000) } else { rng.below(500) };
            let call = pool.apply(working, (journal.clone(), number, micros));
            let timeout = Duration::from_millis(if hurried { 2 } else { 30_000 });
            handles.push((number, hurried, call.timeout(timeout).start()));
        }
        for (number, hurried, handle) in handles {
            match handle.await {
                Err(error) if hurried => {
                    assert!(error.is_timeout(), "{error}");
                    ledger.tell(number, Told::Perhaps);
                }
                result => ledger.answered(number, result),
            }
        }
        ledger.check();
        assert_all_counted(&pool);
        assert_eq!(pool.stats().workers_lost, 0);
        assert!(pool.stats().timed_out > 0, "some were too late");
    });
}
