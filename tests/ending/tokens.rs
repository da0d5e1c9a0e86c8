//! Cancelling by a token, wherever what it was given to is.

use futures::StreamExt;
use procession::{Exit, Pool, TaskError};
use tokio_util::sync::CancellationToken;

use crate::support::{Scratch, checked, noted, notes, until};
use crate::tasks::*;

fn terminated(error: &TaskError) -> bool {
    matches!(error, TaskError::Cancelled { exit: Some(exit) } if *exit == Exit::from_signal(15))
}

fn not_started(error: &TaskError) -> bool {
    matches!(error, TaskError::Cancelled { exit: None })
}

fn three_and_no_more(n: u64) -> u64 {
    if n >= 3 {
        loop {
            std::thread::park();
        }
    }
    n
}

/// Watches end with what they watch: tasks of the runtime are as many as before.
async fn all_watches_end(before: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    until("the watches have ended", || metrics.num_alive_tasks() <= before).await;
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[test]
fn calls_end_with_their_token_wherever_they_are() {
    checked(async {
        let scratch = Scratch::new();
        let (started, journal) = (scratch.path("started"), scratch.path("journal"));
        let pool = Pool::builder().workers(1).queue_limit(1).build().unwrap();
        pool.ready().await.unwrap();
        let before = alive_tasks();
        let token = CancellationToken::new();
        let running = pool.apply(forever, started.clone()).cancel_on(token.clone()).start();
        noted(&started).await;
        let queued = pool.apply(quick, (journal.clone(), 1)).cancel_on(token.clone()).start();
        // No place is left in the queue.
        let waiting = pool.apply(quick, (journal.clone(), 2)).cancel_on(token.clone());
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        let unpolled = pool.apply(quick, (journal.clone(), 3)).cancel_on(token.clone());
        token.cancel();
        assert!(terminated(&running.await.unwrap_err()));
        for error in [queued.await.unwrap_err(), waiting.await.unwrap_err()] {
            assert!(not_started(&error), "{error}");
        }
        assert!(not_started(&unpolled.await.unwrap_err()));
        assert_eq!(pool.apply(quick, (journal.clone(), 4)).await.unwrap(), answer(4));
        assert_eq!(notes(&journal), ["4"]);
        // The place that nobody took is there.
        let held = pool.try_apply(quick, (journal.clone(), 5)).unwrap();
        held.await.unwrap();
        all_watches_end(before).await;
        assert_all_counted(&pool);
    });
}

#[test]
fn one_that_was_detached_ends_too() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = Pool::builder().workers(1).build().unwrap();
        let token = CancellationToken::new();
        pool.apply(forever, started.clone()).cancel_on(token.clone()).start().detach();
        noted(&started).await;
        token.cancel();
        until("the task has ended", || pool.stats().cancelled == 1).await;
    });
}

#[test]
fn a_token_that_is_not_cancelled_leaves_nothing_behind() {
    checked(async {
        let pool = Pool::builder().workers(2).build().unwrap();
        pool.ready().await.unwrap();
        let before = alive_tasks();
        let token = CancellationToken::new();
        for n in 0..200_u64 {
            let call = pool.apply(|n: u64| n, n).cancel_on(token.clone());
            if n % 3 == 0 {
                drop(call.start());
            } else {
                assert_eq!(call.await.unwrap(), n);
            }
        }
        all_watches_end(before).await;
        token.cancel();
        assert_eq!(pool.stats().cancelled + pool.stats().completed, 200);
    });
}

#[test]
fn maps_and_streams_end_with_their_token() {
    checked(async {
        let scratch = Scratch::new();
        let started = |name| scratch.path(name);
        let pool = Pool::builder().workers(2).build().unwrap();

        let token = CancellationToken::new();
        let paths = vec![started("map"); 2];
        let map = pool.map(forever, paths).cancel_on(token.clone()).start();
        noted(&started("map")).await;
        token.cancel();
        assert!(not_started(&map.await.unwrap_err()));

        let token = CancellationToken::new();
        let mut imap = pool.imap(three_and_no_more, 0_u64..).cancel_on(token.clone());
        for n in 0..3 {
            assert_eq!(imap.next().await.unwrap().unwrap(), n);
        }
        token.cancel();
        assert!(not_started(&imap.next().await.unwrap().unwrap_err()));
        assert!(imap.next().await.is_none());

        let token = CancellationToken::new();
        let mut stream = pool.stream(|| 0_u64.., ()).cancel_on(token.clone());
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        token.cancel();
        let mut last = None;
        while let Some(item) = stream.next().await {
            last = Some(item);
        }
        assert!(last.unwrap().unwrap_err().is_cancelled());
        assert_eq!(pool.apply(|| 7, ()).await.unwrap(), 7);
    });
}

#[test]
fn a_pool_ends_with_its_token() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let token = CancellationToken::new();
        let pool = Pool::builder().workers(1).cancel_on(token.child_token()).build().unwrap();
        let running = pool.apply_async(forever, started.clone());
        noted(&started).await;
        token.cancel();
        assert!(matches!(running.await.unwrap_err(), TaskError::Terminated));
        pool.join().await;
        assert!(matches!(pool.apply(|| 7, ()).await.unwrap_err(), TaskError::Terminated));
    });
}

#[test]
fn a_pool_outlives_a_token_that_is_never_cancelled() {
    checked(async {
        let before = alive_tasks();
        let token = CancellationToken::new();
        let pool = Pool::builder().workers(1).cancel_on(token.clone()).build().unwrap();
        assert_eq!(pool.apply(|| 7, ()).await.unwrap(), 7);
        pool.close();
        pool.join().await;
        all_watches_end(before).await;
    });
}
