//! The queue has a bound: who waits for a place, and who is refused.

use procession::{Pool, TryApplyError};

use crate::records::listen;
use crate::support::{Scratch, checked, noted, notes};
use crate::tasks::{hold, noting, open, square};

#[test]
fn try_apply_gives_the_arguments_back_when_the_queue_is_full() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        for limit in [0, 1, 3] {
            let pool = Pool::builder().workers(1).queue_limit(limit).build().unwrap();
            let args = || (journal.clone(), gate.clone());
            let mut held = Vec::new();
            for _ in 0..=limit {
                held.push(pool.try_apply(hold, args()).unwrap());
            }
            let refused = pool.try_apply(hold, args()).unwrap_err();
            assert!(refused.is_full() && !refused.is_closed());
            assert_eq!(refused.to_string(), "the queue is full");
            assert_eq!(refused.into_args(), args());
            open(&gate);
            for handle in held {
                handle.await.unwrap();
            }
            pool.try_apply(square, 1).unwrap().await.unwrap();
            std::fs::remove_file(&gate).unwrap();
        }
    });
}

#[test]
fn try_apply_gives_the_arguments_back_when_the_pool_is_closed() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.close();
        let refused = pool.try_apply(square, 7).unwrap_err();
        assert!(refused.is_closed() && !refused.is_full());
        assert_eq!(refused, TryApplyError::Closed(7));
        assert_eq!(refused.to_string(), "the pool is closed");
        pool.terminate().await;
        assert_eq!(pool.try_apply(square, 8).unwrap_err(), TryApplyError::Closed(8));
    });
}

#[test]
fn apply_waits_for_a_place_and_started_calls_do_not() {
    checked(waits_for_a_place());
}

#[test]
fn a_subscriber_that_hears_of_calls_makes_no_places() {
    checked(async {
        listen();
        waits_for_a_place().await;
    });
}

async fn waits_for_a_place() {
    let scratch = Scratch::new();
    let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
    let pool = Pool::builder().workers(1).queue_limit(0).build().unwrap();
    let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
    noted(&journal).await;
    let mut waiting = pool.apply(noting, (journal.clone(), "waiting".into()));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(pool.stats().submitted, 1, "it must wait outside");
    let over = pool.apply_async(noting, (journal.clone(), "over the limit".into()));
    assert_eq!(pool.stats().submitted, 2);
    open(&gate);
    held.await.unwrap();
    over.await.unwrap();
    waiting.await.unwrap();
    assert_eq!(notes(&journal)[1..], ["over the limit", "waiting"]);
}

#[test]
fn who_gives_up_waiting_for_a_place_leaves_it_to_others() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = Pool::builder().workers(1).queue_limit(0).build().unwrap();
        let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
        let mut gives_up = pool.apply(noting, (journal.clone(), "gave up".into()));
        let mut waits = pool.apply(noting, (journal.clone(), "waits".into()));
        assert!(futures::poll!(&mut gives_up).is_pending());
        assert!(futures::poll!(&mut waits).is_pending());
        drop(gives_up);
        noted(&journal).await;
        open(&gate);
        held.await.unwrap();
        waits.await.unwrap();
        assert_eq!(notes(&journal)[1..], ["waits"]);
    });
}

#[test]
fn who_waits_for_a_place_is_told_when_the_pool_closes() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = Pool::builder().workers(1).queue_limit(0).build().unwrap();
        let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
        let mut waiting = pool.apply(square, 3);
        assert!(futures::poll!(&mut waiting).is_pending());
        pool.close();
        let error = waiting.await.unwrap_err();
        assert!(matches!(error, procession::TaskError::Closed), "{error:?}");
        open(&gate);
        held.await.unwrap();
    });
}

#[test]
fn no_limit_at_all_is_a_limit() {
    checked(async {
        let pool = Pool::builder().workers(1).queue_limit(usize::MAX).build().unwrap();
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        pool.resize(3);
        assert_eq!(pool.apply(square, 4).await.unwrap(), 16);
    });
}
