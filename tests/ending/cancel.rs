//! Cancelling one task, wherever it is, ends that task only.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::StreamExt;
use procession::{Cancelled, Exit, Pool, TaskError, TaskStatus};

use crate::support::{LIMIT, Scratch, checked, is_alive, note, noted, notes, until, within};
use crate::tasks::*;

const NOT_STARTED: Cancelled = Cancelled { started: false, exit: None };
const TERMINATED: Cancelled = Cancelled { started: true, exit: Some(Exit::from_signal(15)) };
const KILLED: Cancelled = Cancelled { started: true, exit: Some(Exit::from_signal(9)) };

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).grace_period(Duration::from_millis(200)).build().unwrap()
}

#[test]
fn a_queued_task_is_removed_and_no_worker_hears_of_it() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let pool = Pool::builder().workers(1).pipeline(1).build().unwrap();
        let running = pool.apply_async(held, (started.clone(), gate.clone()));
        noted(&started).await;
        let queued = pool.apply_async(quick, (journal.clone(), 1));
        let after = pool.apply_async(quick, (journal.clone(), 2));
        assert_eq!(queued.status(), TaskStatus::Queued);
        assert_eq!(queued.cancel().await, NOT_STARTED);
        assert_eq!(pool.status().queued, 1);
        open(&gate);
        let worker = running.await.unwrap();
        assert_eq!(after.await.unwrap(), answer(2));
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker, "the worker lives on");
        assert_eq!(notes(&journal), ["2"]);
        assert_all_counted(&pool);
    });
}

#[test]
fn a_sent_task_that_has_not_started_is_skipped() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let pool = pool(1);
        make_hasty(&pool).await;
        let running = pool.apply_async(held, (started.clone(), gate.clone()));
        let sent: Vec<_> = (0..16).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
        noted(&started).await;
        let mut kept = Vec::new();
        for (number, handle) in sent.into_iter().enumerate() {
            match number % 3 {
                0 => assert_eq!(handle.cancel().await, NOT_STARTED),
                1 => drop(handle),
                _ => kept.push((number as u64, handle)),
            }
        }
        open(&gate);
        let worker = running.await.unwrap();
        for (number, handle) in kept {
            assert_eq!(handle.await.unwrap(), answer(number));
        }
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker, "the worker lives on");
        assert_eq!(notes(&journal), ["2", "5", "8", "11", "14"]);
        assert_all_counted(&pool);
    });
}

#[test]
fn a_running_task_is_stopped_by_sigterm_and_its_worker_replaced() {
    checked(async {
        let scratch = Scratch::new();
        let (started, other, gate) =
            (scratch.path("started"), scratch.path("other"), scratch.path("gate"));
        let pool = Pool::builder().workers(2).build().unwrap();
        let bystander = pool.apply_async(held, (other.clone(), gate.clone()));
        noted(&other).await;
        let running = pool.apply_async(forever, started.clone());
        let victim = pids(&started, 1).await[0];
        assert!(
            matches!(running.status(), TaskStatus::Running { pid, .. } if pid == victim as u32)
        );
        let cancelled = running.cancel().await;
        assert_eq!(cancelled, TERMINATED);
        assert_eq!(cancelled.exit.unwrap().to_string(), "killed by signal 15 (SIGTERM)");
        assert!(!is_alive(victim), "gone when `cancel` says so");
        let next = pool.apply(pid, ()).await.unwrap();
        assert_ne!(next, victim as u32);
        assert_ne!(next as i32, pids(&other, 1).await[0]);
        open(&gate);
        assert_eq!(bystander.await.unwrap() as i32, pids(&other, 1).await[0]);
        assert_all_counted(&pool);
        assert_eq!(pool.stats().workers_lost, 0, "nobody was lost who was not to be");
    });
}

#[test]
fn a_task_that_ignores_sigterm_is_killed_after_the_grace_period() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let running = pool.apply_async(stubborn, started.clone());
        noted(&started).await;
        let before = Instant::now();
        assert_eq!(running.cancel().await, KILLED);
        assert!(before.elapsed() >= Duration::from_millis(200), "it had its grace period");
        pool.apply(pid, ()).await.unwrap();
    });
}

#[test]
fn no_grace_is_sigkill_at_once() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
        let running = pool.apply_async(forever, started.clone());
        noted(&started).await;
        assert_eq!(running.cancel().await, KILLED);
        pool.apply(pid, ()).await.unwrap();
    });
}

#[test]
fn cancelling_again_changes_nothing() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let running = pool.apply_async(stubborn, started.clone());
        noted(&started).await;
        let again = running.cancel_handle();
        let before = Instant::now();
        again.cancel();
        again.clone().cancel();
        let cancelling = running.cancel();
        again.cancel();
        assert_eq!(cancelling.await, KILLED);
        assert!(before.elapsed() >= Duration::from_millis(200), "it had its grace period");
        again.cancel();
        pool.apply(pid, ()).await.unwrap();
        assert_eq!(pool.stats().cancelled, 1);
        assert_eq!(pool.stats().workers_started, 2);
    });
}

#[test]
fn cancelling_what_has_finished_does_nothing() {
    checked(async {
        let pool = pool(1);
        let mut handle = pool.apply_async(pid, ());
        let worker = (&mut handle).await.unwrap();
        handle.cancel_handle().cancel();
        drop(handle);
        let handle = pool.apply_async(pid, ());
        until("the answer is there", || handle.is_finished()).await;
        handle.cancel_handle().cancel();
        assert_eq!(handle.cancel().await, Cancelled { started: true, exit: None });
        let handle = pool.apply_async(pid, ());
        until("the answer is there", || handle.is_finished()).await;
        handle.cancel_handle().cancel();
        assert_eq!(handle.await.unwrap(), worker, "the answer stays");
        assert_eq!(pool.stats().cancelled, 0);
    });
}

#[test]
fn somebody_else_may_cancel_what_one_waits_for() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let running = pool.apply_async(forever, started.clone());
        let queued = pool.apply_async(pid, ());
        let (end_running, end_queued) = (running.cancel_handle(), queued.cancel_handle());
        let running = tokio::spawn(running);
        let queued = tokio::spawn(queued);
        noted(&started).await;
        std::thread::spawn(move || {
            end_queued.cancel();
            end_running.cancel();
        })
        .join()
        .unwrap();
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(error.exit(), Some(Exit::from_signal(15)));
        assert_eq!(error.started(), Some(true));
        assert!(error.is_cancelled());
        let error = queued.await.unwrap().unwrap_err();
        assert!(matches!(error, TaskError::Cancelled { exit: None }), "{error}");
    });
}

#[test]
fn an_apply_can_be_dropped_after_any_poll() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool(1);
        make_hasty(&pool).await;
        let mut ledger = Ledger::new(journal.clone());
        for polls in 0..60 {
            let before = pool.apply_async(quick, (journal.clone(), 3 * polls));
            {
                let mut call = pin!(pool.apply(quick, (journal.clone(), 3 * polls + 1)));
                for _ in 0..polls {
                    if futures::poll!(call.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            let told = if polls == 0 { Told::NotStarted } else { Told::Perhaps };
            ledger.tell(3 * polls + 1, told);
            let after = pool.apply_async(quick, (journal.clone(), 3 * polls + 2));
            ledger.answered(3 * polls, before.await);
            ledger.answered(3 * polls + 2, after.await);
        }
        ledger.check();
        assert_all_counted(&pool);
    });
}

#[test]
fn timeouts_and_select_stop_what_they_give_up() {
    checked(async {
        let scratch = Scratch::new();
        let pool = pool(1);
        let started = scratch.path("timeout");
        let call = pool.apply(forever, started.clone());
        let gave_up = tokio::time::timeout(Duration::from_millis(50), call).await;
        assert!(gave_up.is_err());
        assert_eq!(pool.apply(|| 1, ()).await.unwrap(), 1);
        for pid in notes(&started) {
            until("it is gone", || !is_alive(pid.parse().unwrap())).await;
        }
        let started = scratch.path("select");
        tokio::select! {
            _ = pool.apply(forever, started.clone()) => panic!("it never ends"),
            () = noted(&started) => {}
        }
        assert_eq!(pool.apply(|| 1, ()).await.unwrap(), 1);
        let victim = pids(&started, 1).await[0];
        until("it is gone", || !is_alive(victim)).await;
        assert!(pool.stats().cancelled >= 1);
    });
}

#[test]
fn a_detached_task_runs_on() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let pool = pool(1);
        pool.apply_async(held, (started.clone(), gate.clone())).detach();
        pool.apply_async(quick, (journal.clone(), 1)).detach();
        noted(&started).await;
        open(&gate);
        noted(&journal).await;
    });
}

#[test]
fn grandchildren_end_with_the_cancelled_task() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let running = pool.apply_async(parent_of_sleep, started.clone());
        let both = pids(&started, 2).await;
        assert_eq!(running.cancel().await, TERMINATED);
        for pid in both {
            until("it is gone", || !is_alive(pid)).await;
        }
    });
}

#[test]
fn a_stopped_worker_can_be_cancelled() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let running = pool.apply_async(stopped, started.clone());
        let victim = pids(&started, 1).await[0];
        has_stopped(victim).await;
        // SIGTERM waits for the process to be continued, which nobody does.
        assert_eq!(running.cancel().await, KILLED);
        pool.apply(pid, ()).await.unwrap();
    });
}

/// Never ends, as long as its items are read.
fn endless(started: String) -> impl Iterator<Item = u64> {
    note(started, &std::process::id().to_string());
    0..
}

#[test]
fn a_stream_that_waits_for_its_reader_can_be_dropped() {
    checked(async {
        let scratch = Scratch::new();
        let pool = pool(1);
        for round in 0..3 {
            let started = scratch.path(&format!("started-{round}"));
            let mut stream = pool.stream(endless, started.clone()).buffer(4);
            assert_eq!(stream.next().await.unwrap().unwrap(), 0);
            pids(&started, 1).await;
            // Nothing is read on: it waits for credit, and needs no signal to end.
            drop(stream);
            within(LIMIT, pool.apply(pid, ())).await.unwrap();
        }
        assert_all_counted(&pool);
    });
}

#[test]
fn a_polite_stream_that_waits_for_its_reader_keeps_its_worker() {
    fn polite(started: String) -> impl Iterator<Item = u64> {
        procession::worker::is_cancelled();
        endless(started)
    }
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = Pool::builder().workers(1).build().unwrap();
        let mut stream = pool.stream(polite, started.clone()).buffer(4);
        for n in 0..5 {
            assert_eq!(stream.next().await.unwrap().unwrap(), n);
        }
        let worker = pids(&started, 1).await[0];
        drop(stream);
        assert_eq!(pool.apply(pid, ()).await.unwrap() as i32, worker);
        assert_all_counted(&pool);
    });
}

#[test]
fn cancelling_a_task_that_is_retried_ends_it_for_good() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let handle = pool.apply(forever, started.clone()).retry(100).start();
        let first = pids(&started, 1).await[0];
        send(first, nix::sys::signal::Signal::SIGKILL);
        let second = pids(&started, 2).await[1];
        assert_ne!(first, second, "run again by another worker");
        assert_eq!(handle.cancel().await, TERMINATED);
        pool.apply(pid, ()).await.unwrap();
        assert_eq!(notes(&started).len(), 2, "not run again after that");
        assert_all_counted(&pool);
    });
}

#[test]
fn a_retried_task_can_be_cancelled_between_two_attempts() {
    checked(async {
        let scratch = Scratch::new();
        let pool = pool(1);
        for round in 0..20 {
            let started = scratch.path(&format!("started-{round}"));
            let handle = pool.apply(forever, started.clone()).retry(1).start();
            let first = pids(&started, 1).await[0];
            send(first, nix::sys::signal::Signal::SIGKILL);
            for _ in 0..round * 20 {
                tokio::task::yield_now().await;
            }
            let cancelled = handle.cancel().await;
            let starts = notes(&started).len();
            assert!(starts <= 2);
            assert!(cancelled.started || starts == 1, "{cancelled:?} after {starts} starts");
            pool.apply(pid, ()).await.unwrap();
        }
        assert_all_counted(&pool);
    });
}

#[test]
fn cancelling_needs_no_runtime_and_no_poll() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let running = pool.apply_async(forever, started.clone());
        let victim = pids(&started, 1).await[0];
        // Not awaited: it happens all the same.
        drop(running.cancel());
        until("it is gone", || !is_alive(victim)).await;
        let handle = pool.apply_async(pid, ());
        let mut cancelling = handle.cancel();
        let polled = std::future::poll_fn(|cx| Poll::Ready(cancelling.poll_unpin(cx))).await;
        if let Poll::Ready(cancelled) = polled {
            assert!(cancelled == NOT_STARTED || cancelled.started);
        }
        pool.apply(pid, ()).await.unwrap();
    });
}
