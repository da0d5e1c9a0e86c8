//! What runs in each worker before its first task, and workers that cannot
//! start.

use std::sync::OnceLock;
use std::time::Duration;

use procession::{Pool, PoolState, SpawnError, TaskError, TryApplyError};

use crate::support::{Scratch, checked, note, notes, until};
use crate::tasks::{hold, pid, square};

static GREETING: OnceLock<String> = OnceLock::new();

fn learn(greeting: String, journal: String) {
    note(journal, &pid().to_string());
    GREETING.set(greeting).expect("once in each worker");
}

fn greet(name: String) -> String {
    format!("{} {name}", GREETING.get().unwrap())
}

#[test]
fn it_runs_once_in_each_worker_before_its_first_task() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder()
            .workers(2)
            .initializer(learn, ("hello".to_owned(), journal.clone()))
            .build()
            .unwrap();
        let names = vec!["you".to_owned(); 100];
        let greetings = pool.map(greet, names).chunk_size(1).await.unwrap();
        assert!(greetings.iter().all(|greeting| greeting == "hello you"));
        pool.ready().await.unwrap();
        assert_eq!(notes(&journal).len(), 2);
        assert_eq!(GREETING.get(), None, "not here");
        // A worker that takes another's place learns it, too.
        assert!(pool.apply(|| -> () { std::process::abort() }, ()).await.is_err());
        pool.ready().await.unwrap();
        assert_eq!(notes(&journal).len(), 3);
    });
}

#[test]
fn it_may_be_async_or_a_closure_and_return_a_result() {
    async fn later(text: String) -> Result<(), String> {
        tokio::task::yield_now().await;
        GREETING.set(text)
    }
    checked(async {
        let pool = Pool::builder().workers(1).initializer(later, "hi".to_owned()).build().unwrap();
        assert_eq!(pool.apply(greet, "all".into()).await.unwrap(), "hi all");
        let pool = Pool::builder()
            .workers(1)
            .initializer(|| GREETING.set("closed".into()).unwrap(), ())
            .build()
            .unwrap();
        assert_eq!(pool.apply(greet, "one".into()).await.unwrap(), "closed one");
    });
}

/// Builds a pool whose workers fail to start, and gives the cause that every
/// kind of waiting handle was given.
async fn broken_by(builder: procession::PoolBuilder) -> SpawnError {
    let pool = builder.workers(2).restart_limit(2).build().unwrap();
    let queued = [pool.apply_async(square, 1), pool.apply_async(square, 2)];
    let map = pool.map_async(square, 0..10);
    let mut imap = pool.imap(square, 0..10);
    let mut stream = pool.stream(|| 0_u8..3, ());
    use futures::StreamExt;
    let (ready, map, item, streamed) =
        futures::join!(pool.ready(), map, imap.next(), stream.next());
    let cause = ready.unwrap_err();
    let text = cause.to_string();
    let check = |error: TaskError| {
        let TaskError::Broken(cause) = &error else { panic!("{error:?}") };
        assert_eq!(cause.to_string(), text);
        assert_eq!(error.to_string(), "no worker can be started");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), text);
        assert_eq!(error.started(), Some(false));
    };
    for handle in queued {
        check(handle.await.unwrap_err());
    }
    check(map.unwrap_err());
    check(item.unwrap().unwrap_err());
    check(streamed.unwrap().unwrap_err());
    // And those that come too late.
    check(pool.apply(square, 3).await.unwrap_err());
    check(pool.map(square, 0..3).await.unwrap_err());
    assert_eq!(pool.try_apply(square, 3).unwrap_err(), TryApplyError::Closed(3));
    assert_eq!(pool.ready().await.unwrap_err().to_string(), text);
    assert_eq!(pool.status().state, PoolState::Broken);
    until("the last attempts are gone", || pool.workers().is_empty()).await;
    pool.close();
    pool.join().await;
    cause
}

#[test]
fn an_error_of_it_breaks_the_pool() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let fails = |journal: String| -> Result<(), String> {
            note(journal, "attempt");
            Err("no model".into())
        };
        let cause = broken_by(Pool::builder().initializer(fails, journal.clone())).await;
        assert_eq!(cause.to_string(), "a worker could not start: the initializer failed: no model");
        assert!(cause.panic().is_none() && cause.exit().is_none());
        // Two rounds of at most two.
        assert!((2..=4).contains(&notes(&journal).len()), "{:?}", notes(&journal));
    });
}

#[test]
fn a_panic_of_it_breaks_the_pool() {
    checked(async {
        let cause = broken_by(Pool::builder().initializer(|| -> () { panic!("no model") }, ()));
        let cause = cause.await;
        let panic = cause.panic().unwrap();
        assert_eq!(panic.message(), "no model");
        assert!(panic.location().unwrap().starts_with(file!()));
        assert!(panic.task().is_none());
        let text = cause.to_string();
        assert!(text.starts_with("the initializer panicked at "), "{text}");
        assert!(text.ends_with(": no model"), "{text}");
    });
}

#[test]
fn an_exit_in_it_breaks_the_pool() {
    checked(async {
        let exits = || -> () { std::process::exit(3) };
        let cause = broken_by(Pool::builder().initializer(exits, ())).await;
        assert_eq!(cause.exit().unwrap().code(), Some(3));
        assert_eq!(cause.to_string(), "a worker exited with code 3 before it was ready");
    });
}

#[test]
fn its_last_words_are_in_the_cause() {
    checked(async {
        let dies = || -> () {
            eprintln!("the disk is full");
            std::process::abort();
        };
        let pool = Pool::builder().stderr(procession::Stdio::piped()).initializer(dies, ());
        let cause = broken_by(pool).await;
        assert_eq!(cause.exit().unwrap().signal(), Some(6));
        let text = cause.to_string();
        assert!(text.contains("was killed by signal 6 (SIGABRT"), "{text}");
        assert!(text.ends_with("; its last output: the disk is full"), "{text}");
    });
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed() {
    checked(async {
        let pool = Pool::builder()
            .start_timeout(Duration::from_millis(300))
            .initializer(|| std::thread::sleep(Duration::from_secs(3600)), ());
        let cause = broken_by(pool).await;
        assert!(cause.is_timeout(), "{cause:?}");
        assert_eq!(cause.to_string(), "a worker was not ready after 300ms");
    });
}

/// Fails until it was tried three times.
#[test]
fn a_bad_start_is_tried_again_after_a_pause() {
    fn third_time(journal: String) -> Result<(), String> {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        note(&journal, &since.to_string());
        if notes(&journal).len() < 3 { Err("not yet".into()) } else { Ok(()) }
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool =
            Pool::builder().workers(1).initializer(third_time, journal.clone()).build().unwrap();
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        let times: Vec<u64> = notes(&journal).iter().map(|time| time.parse().unwrap()).collect();
        assert_eq!(times.len(), 3);
        assert!(times[1] - times[0] >= 45, "{times:?}");
        assert!(times[2] - times[1] >= 95, "{times:?}");
        assert_eq!(pool.status().state, PoolState::Open);
    });
}

/// Deaths of workers that had work do not count, however many.
#[test]
fn a_pool_is_not_broken_by_its_tasks() {
    checked(async {
        let pool = Pool::builder().workers(1).restart_limit(1).build().unwrap();
        for _ in 0..10 {
            assert!(pool.apply(|| -> () { std::process::exit(1) }, ()).await.is_err());
        }
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn a_started_pool_goes_on_with_the_workers_that_it_has() {
    /// Only the first to come starts.
    fn only_one(journal: String) -> Result<(), String> {
        note(&journal, &pid().to_string());
        if notes(&journal)[0] == pid().to_string() { Ok(()) } else { Err("too many".into()) }
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let (other, gate) = (scratch.path("other"), scratch.path("gate"));
        let pool = Pool::builder()
            .workers(2)
            .restart_limit(1)
            .initializer(only_one, journal.clone())
            .build()
            .unwrap();
        let held = pool.apply_async(hold, (other, gate.clone()));
        until("the other was tried twice", || notes(&journal).len() >= 3).await;
        assert_eq!(pool.status().state, PoolState::Open);
        crate::tasks::open(&gate);
        assert_eq!(notes(&journal)[0], held.await.unwrap().to_string());
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}
