//! Something that the parent needs for a new worker cannot be had: once, for a
//! while, or ever again.

use std::error::Error;
use std::io;

use nix::libc::*;
use procession::{Pool, PoolBuilder, PoolState, SpawnError, TaskError};

use crate::interpose::{Call, Hits, Plan, arm, disarm};
use crate::scenario::{
    Expect, builder, checked_with, is_full, is_part, live, live_for_each, pool_threads, run_part,
};
use crate::support::{Scratch, note, notes, until};

/// What a start needs, and how it fails. The first error is the likeliest.
const NEEDS: &[(Call, &[i32])] = &[
    (Call::Memfd, &[EMFILE, ENFILE, ENOMEM]),
    (Call::Truncate, &[ENOMEM, ENOSPC]),
    (Call::Seal, &[ENOMEM, EPERM]),
    (Call::MapPage, &[ENOMEM, EAGAIN, ENFILE]),
    (Call::Socketpair, &[EMFILE, ENFILE, ENOBUFS, ENOMEM]),
    (Call::SendMessage, &[ENOBUFS, ENOMEM, ETOOMANYREFS, EAGAIN]),
    (Call::Nonblock, &[EIO]),
    (Call::OpenNull, &[EMFILE, ENFILE, ENOENT, ENOMEM]),
    (Call::Pipe, &[EMFILE, ENFILE]),
    (Call::Duplicate, &[EMFILE]),
    (Call::Spawn, &[EAGAIN, ENOMEM, EMFILE, ENOENT]),
    (Call::PidfdOpen, &[EMFILE, ENFILE, ENOMEM]),
    (Call::WatchDeath, &[ENOSPC, ENOMEM]),
    (Call::RegisterSocket, &[ENOSPC, ENOMEM]),
];

/// With pipes where they matter.
fn with_pipes(call: Call, builder: PoolBuilder) -> PoolBuilder {
    match call {
        Call::Pipe | Call::RegisterSocket => {
            builder.stdout(procession::Stdio::piped()).stderr(procession::Stdio::piped())
        }
        _ => builder,
    }
}

#[test]
fn nobody_notices_a_start_that_fails_once() {
    for &(call, errors) in NEEDS {
        let errors = if is_full() { errors } else { &errors[..1] };
        for &error in errors {
            let builder = || with_pipes(call, builder());
            let times = live_for_each(builder, (call, error), u32::MAX, Expect::Restart);
            assert!(times >= 4, "{call:?} was reached {times} times");
        }
    }
}

fn echo(n: u32) -> u32 {
    n
}

#[track_caller]
fn assert_names(error: &SpawnError, errno: i32) {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let source = source.unwrap_or_else(|| panic!("{error}: {error:?}"));
    assert_eq!(source.raw_os_error(), Some(errno), "{error}: {source}");
}

#[test]
fn starts_that_always_fail_break_the_pool_and_name_the_cause() {
    for &(call, errors) in NEEDS {
        for &error in errors {
            checked_with(Some(Plan::from_nth(call, 1, u32::MAX, error)), async {
                let builder = Pool::builder().workers(2).restart_limit(2);
                let pool = with_pipes(call, builder).build().unwrap();
                let waiting = pool.apply_async(echo, 1);
                let cause = pool.ready().await.unwrap_err();
                assert_names(&cause, error);
                match waiting.await.unwrap_err() {
                    TaskError::Broken(told) => assert_eq!(told.to_string(), cause.to_string()),
                    other => panic!("{other:?}"),
                }
                assert_eq!(pool.status().state, PoolState::Broken);
                pool.close();
                pool.join().await;
                disarm();
                let pool = Pool::builder().workers(1).build().unwrap();
                assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
                pool.terminate().await;
            });
        }
    }
}

#[test]
fn a_pool_recovers_from_starts_that_fail_for_a_while() {
    // From the first start on, and from the first replacement on.
    for (call, error) in [(Call::Spawn, EAGAIN), (Call::Socketpair, EMFILE)] {
        for from in [1, 3] {
            let plan = Plan::from_nth(call, from, 5, error);
            let hits = live(builder().restart_limit(20), Some(plan), Expect::Restart);
            assert_eq!(hits.total(), 5);
        }
    }
}

/// `ready` once waited for ever here.
#[test]
fn ready_tells_of_workers_that_cannot_start_beside_one_that_has() {
    checked_with(Some(Plan::from_nth(Call::Spawn, 2, u32::MAX, EAGAIN)), async {
        let pool = Pool::builder().workers(3).restart_limit(3).build().unwrap();
        assert_names(&pool.ready().await.unwrap_err(), EAGAIN);
        assert_eq!(pool.status().state, PoolState::Open);
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        disarm();
        while let Err(cause) = pool.ready().await {
            assert_names(&cause, EAGAIN);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(pool.workers().len(), 3);
        pool.terminate().await;
    });
}

#[test]
fn a_pool_whose_last_worker_cannot_be_replaced_is_broken_and_loses_nothing() {
    fn hold(gate: String) {
        while notes(&gate).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::process::exit(4);
    }
    fn noted(journal: String) {
        note(journal, "ran");
    }
    for &(call, errors) in NEEDS {
        // That is not asked for again.
        if call == Call::Pipe {
            continue;
        }
        checked_with(None, async {
            let scratch = Scratch::new();
            let (gate, journal) = (scratch.path("gate"), scratch.path("journal"));
            let pool = Pool::builder().workers(1).restart_limit(2).build().unwrap();
            pool.ready().await.unwrap();
            let last = pool.apply_async(hold, gate.clone());
            let waiting: Vec<_> =
                (0..5).map(|_| pool.apply_async(noted, journal.clone())).collect();
            arm(Plan::from_nth(call, 1, u32::MAX, errors[0]));
            note(&gate, "open");
            assert_eq!(last.await.unwrap_err().exit().unwrap().code(), Some(4));
            for call in waiting {
                let error = call.await.unwrap_err();
                assert_eq!(error.started(), Some(false));
                match error {
                    TaskError::Broken(cause) => assert_names(&cause, errors[0]),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(notes(&journal), [""; 0]);
            pool.close();
            pool.join().await;
        });
    }
}

/// Not a test of its own: the first pool of a process, where everything that it
/// needs for itself fails first.
#[test]
fn first_pool() {
    if !is_part() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let needs: &[(Call, &[i32])] = &[
        (Call::EventFd, &[EMFILE, ENFILE, ENOMEM]),
        (Call::EpollCreate, &[EMFILE, ENFILE, ENOMEM]),
        (Call::WatchDeath, &[ENOSPC, ENOMEM]),
        (Call::Thread, &[EAGAIN, ENOMEM, EPERM]),
    ];
    runtime.block_on(async {
        for &(call, errors) in needs {
            for &error in errors {
                let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
                let before = open();
                // The second thread is the warden's starter.
                for nth in 1..=if call == Call::Thread { 2 } else { 1 } {
                    arm(Plan::from_nth(call, nth, u32::MAX, error));
                    let failed = Pool::builder().build().unwrap_err();
                    disarm();
                    assert!(Hits::now().of(call) > 0, "{call:?} was not reached");
                    assert_eq!(
                        failed.to_string(),
                        "could not start the thread that watches over workers"
                    );
                    assert_names(&failed, error);
                    until("it is undone", || open() == before && pool_threads() == 0).await;
                }
            }
        }
        let pool = Pool::builder().workers(2).build().unwrap();
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
    });
}

#[test]
fn a_pool_can_be_built_after_the_first_one_could_not() {
    run_part("starts_that_fail::first_pool");
}
