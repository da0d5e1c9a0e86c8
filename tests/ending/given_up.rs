//! Calls that async code gives up in its own ways: a timeout around them, a `select!`
//! that somebody else wins, a request whose future is dropped. What loses is stopped in
//! its worker, which is replaced, or lives on if the task is polite.

use std::time::Duration;

use futures::future::join;
use procession::{Pool, worker};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{Scratch, checked, is_alive, note, noted, notes, until};
use crate::tasks::{answer, forever, quick};

/// Says that it runs, and returns when it is asked to.
fn polite(started: String) {
    note(started, &std::process::id().to_string());
    while !worker::is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// For a task to begin in a worker that is ready, on a machine that is busy.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

fn pool() -> Pool {
    Pool::builder().workers(1).grace_period(Duration::from_secs(30)).build().unwrap()
}

async fn replaced(pool: &Pool, pid: i32) {
    until("its worker is gone", || !is_alive(pid)).await;
    pool.ready().await.unwrap();
    assert_ne!(pool.workers()[0].pid, Some(pid as u32));
    assert_eq!(pool.stats().cancelled, 1);
}

/// The process of the one who noted it.
async fn runs(started: &str) -> i32 {
    noted(started).await;
    notes(started)[0].parse().unwrap()
}

#[test]
fn a_timeout_around_a_call_stops_it() {
    checked(async {
        let scratch = Scratch::new();
        let (started, journal) = (scratch.path("started"), scratch.path("journal"));
        let pool = pool();
        pool.ready().await.unwrap();
        let call = timeout(LONG_ENOUGH, pool.apply(forever, started.clone()));
        let (timed_out, pid) = join(call, runs(&started)).await;
        assert!(timed_out.is_err());
        replaced(&pool, pid).await;
        assert_eq!(pool.apply(quick, (journal, 1)).await.unwrap(), answer(1));
    });
}

#[test]
fn what_loses_a_select_is_stopped() {
    checked(async {
        let scratch = Scratch::new();
        let (started, journal) = (scratch.path("started"), scratch.path("journal"));
        let pool = pool();
        let (hang_up, hung_up) = oneshot::channel();
        let select = async {
            tokio::select! {
                ended = pool.apply(forever, started.clone()) => panic!("{ended:?}"),
                told = hung_up => told.unwrap(),
            }
        };
        let hangs_up = async {
            let pid = runs(&started).await;
            hang_up.send("hung up").unwrap();
            pid
        };
        let (winner, pid) = join(select, hangs_up).await;
        assert_eq!(winner, "hung up");
        replaced(&pool, pid).await;
        // A call that wins is not touched.
        tokio::select! {
            ended = pool.apply(quick, (journal, 1)) => assert_eq!(ended.unwrap(), answer(1)),
            () = std::future::pending() => unreachable!(),
        }
    });
}

#[test]
fn the_worker_of_a_polite_one_lives_on() {
    checked(async {
        let scratch = Scratch::new();
        let (started, journal) = (scratch.path("started"), scratch.path("journal"));
        let pool = pool();
        pool.ready().await.unwrap();
        let call = timeout(LONG_ENOUGH, pool.apply(polite, started.clone()));
        let (timed_out, pid) = join(call, runs(&started)).await;
        assert!(timed_out.is_err());
        assert_eq!(pool.apply(quick, (journal, 1)).await.unwrap(), answer(1));
        assert!(is_alive(pid));
        assert_eq!((pool.stats().workers_started, pool.stats().cancelled), (1, 1));
    });
}

/// As a server does with the handler of a client that hangs up.
#[test]
fn work_that_belongs_to_a_request_ends_with_it() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool();
        let handler = {
            let (pool, started) = (pool.clone(), started.clone());
            tokio::spawn(async move {
                // Some wait in the queue.
                let calls = (0..5).map(|_| pool.apply(forever, started.clone()));
                futures::future::join_all(calls).await
            })
        };
        let pid = runs(&started).await;
        handler.abort();
        assert!(handler.await.unwrap_err().is_cancelled());
        until("its worker is gone", || !is_alive(pid)).await;
        until("nothing is left", || pool.status().queued + pool.status().running == 0).await;
        assert_eq!(notes(&started).len(), 1, "those that waited never ran");
        assert_eq!(pool.stats().cancelled, 5);
    });
}
