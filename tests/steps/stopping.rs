//! Cancelling a task while its worker is held at any step, and striking a
//! worker at any step of a cancellation.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use procession::{Cancelled, Exit, Pool, TaskHandle, worker};

use crate::blow::{ALL, Blow, Steps, Strike, sweep};
use crate::support::{Scratch, checked, is_alive, note, noted, notes, until};
use crate::tasks::*;
use crate::working::works_on;

const NOT_STARTED: Cancelled = Cancelled { started: false, exit: None };
const OVER: Cancelled = Cancelled { started: true, exit: None };
const TERMINATED: Cancelled = Cancelled { started: true, exit: Some(Exit::from_signal(15)) };
const KILLED: Cancelled = Cancelled { started: true, exit: Some(Exit::from_signal(9)) };

/// Calls a task that notes its start in a file.
type Call = fn(&Pool, String) -> TaskHandle<()>;

/// Cancels the task that `call` makes while its worker is held at each step, with
/// another task behind it. Returns what that came to, and whether the task had noted
/// something by then; in no order: at which step a worker is first met depends on
/// how quick it is.
async fn cancel_at_each_step(
    call: impl Fn(&Pool, String) -> TaskHandle<u64>,
) -> Vec<(bool, Cancelled)> {
    let pool = Pool::builder().workers(1).build().unwrap();
    make_hasty(&pool).await;
    let mut seen = Vec::new();
    sweep(async |step| {
        let scratch = Scratch::new();
        let (journal, others) = (scratch.path("journal"), scratch.path("others"));
        let victim = pool.apply(pid, ()).await.unwrap() as i32;
        let strike = Strike::prepare(victim, step, Blow::Hold, Steps::All).await;
        let target = call(&pool, journal.clone());
        let behind = pool.apply_async(quick, (others.clone(), 7));
        until("it is held or done", || strike.has_fallen() || behind.is_finished()).await;
        if !strike.finish().await {
            assert_eq!(behind.await.unwrap(), answer(7));
            return false;
        }
        has_stopped(victim).await;
        let had_noted = !notes(&journal).is_empty();
        let cancelling = target.cancel();
        send(victim, Signal::SIGCONT);
        let cancelled = cancelling.await;
        assert_eq!(behind.await.unwrap(), answer(7), "{cancelled:?} at step {step}");
        assert_eq!(notes(&others), ["7"], "{cancelled:?} at step {step}");
        match cancelled {
            NOT_STARTED => assert!(notes(&journal).is_empty(), "at step {step}"),
            OVER => assert!(!notes(&journal).is_empty(), "at step {step}"),
            // The signal follows the fence, and the worker was let go meanwhile:
            // it may have gone on with this task, which is known to be lost.
            TERMINATED => {}
            other => panic!("{other:?} at step {step}"),
        }
        works_on(&pool, victim, cancelled.exit.is_some()).await;
        if !seen.contains(&(had_noted, cancelled)) {
            seen.push((had_noted, cancelled));
        }
        true
    })
    .await;
    assert_eq!(pool.stats().workers_lost, 0);
    seen
}

fn assert_met(seen: &[(bool, Cancelled)], ends: &[Cancelled]) {
    assert!(ends.iter().all(|end| seen.iter().any(|(_, met)| met == end)), "{seen:?}");
}

#[test]
fn a_task_is_cancelled_before_while_or_after_it_runs() {
    checked(async {
        let seen = cancel_at_each_step(|pool, journal| pool.apply_async(quick, (journal, 0))).await;
        assert_met(&seen, &[NOT_STARTED, TERMINATED, OVER]);
    });
}

#[test]
fn a_polite_task_is_cancelled_before_while_or_after_it_runs() {
    fn polite(journal: String) -> u64 {
        worker::is_cancelled();
        note(&journal, "begun");
        note(&journal, "done");
        1
    }
    checked(async {
        let seen = cancel_at_each_step(|pool, journal| pool.apply_async(polite, journal)).await;
        assert_met(&seen, &[NOT_STARTED, OVER]);
        // Another thread's step may hold it after its start and before its first look:
        // then it may be terminated. Never behind that.
        assert!(!seen.contains(&(true, TERMINATED)), "{seen:?}");
    });
}

/// Notes that it has begun, and ends when asked to.
fn called_back(started: String) {
    let (wake, woken) = std::sync::mpsc::channel();
    worker::on_terminate(move || wake.send(()).unwrap());
    note(started, &std::process::id().to_string());
    woken.recv().unwrap();
}

#[test]
fn a_worker_is_struck_while_its_task_ends_politely() {
    checked(async {
        for blow in ALL {
            let pool = Pool::builder().workers(1).build().unwrap();
            let mut seen = BTreeSet::new();
            sweep(async |step| {
                let scratch = Scratch::new();
                let (started, journal) = (scratch.path("started"), scratch.path("journal"));
                let running = pool.apply_async(called_back, started.clone());
                let victim = pids(&started, 1).await[0];
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let behind = pool.apply_async(quick, (journal.clone(), 0));
                let cancelled = running.cancel().await;
                let result = behind.await;
                let struck = strike.finish().await;
                assert!(cancelled.started);
                let killed = struck && blow.is_deadly();
                if let Some(exit) = cancelled.exit {
                    assert!(killed);
                    assert_eq!(exit, Exit::from_signal(blow.number()));
                    // What waited behind it was not lost with it.
                    assert_eq!(result.as_ref().unwrap(), &answer(0));
                }
                seen.insert(cancelled.exit.is_some());
                crate::judge::judge(&[result], &journal, blow, struck);
                works_on(&pool, victim, killed).await;
                struck
            })
            .await;
            let all: &[bool] = if blow.is_deadly() { &[false, true] } else { &[false] };
            assert!(seen.iter().eq(all), "{blow:?}: {seen:?}");
        }
    });
}

#[test]
fn a_worker_that_is_killed_in_the_grace_period_is_not_waited_for() {
    checked(async {
        let calls: [Call; 2] = [
            |pool, path| pool.apply_async(stubborn, path),
            |pool, path| pool.apply_async(liar, path),
        ];
        for call in calls {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            // Longer than a test may take.
            let grace = Duration::from_secs(1000);
            let pool = Pool::builder().workers(1).grace_period(grace).build().unwrap();
            let running = call(&pool, started.clone());
            let victim = pids(&started, 1).await[0];
            let cancelling = running.cancel();
            send(victim, Signal::SIGKILL);
            assert_eq!(cancelling.await, KILLED);
            works_on(&pool, victim, true).await;
        }
    });
}

/// Promises to end, and does not.
fn liar(started: String) {
    worker::is_cancelled();
    stubborn(started);
}

#[test]
fn a_worker_that_was_killed_just_before_is_cancelled_all_the_same() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let calls: [Call; 2] = [
                |pool, path| pool.apply_async(forever, path),
                |pool, path| pool.apply_async(called_back, path),
            ];
            for call in calls {
                for wait in [false, true] {
                    let scratch = Scratch::new();
                    let started = scratch.path("started");
                    let running = call(&pool, started.clone());
                    let victim = pids(&started, 1).await[0];
                    send(victim, signal);
                    if wait {
                        until("its caller knows", || running.is_finished()).await;
                    }
                    let exit = Some(Exit::from_signal(signal as i32));
                    assert_eq!(running.cancel().await, Cancelled { started: true, exit });
                    works_on(&pool, victim, true).await;
                }
            }
        }
    });
}

#[test]
fn a_stopped_worker_hears_of_the_cancellation_when_it_goes_on() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = Pool::builder().workers(1).build().unwrap();
        let running = pool.apply_async(called_back, started.clone());
        let victim = pids(&started, 1).await[0];
        send(victim, Signal::SIGSTOP);
        has_stopped(victim).await;
        let cancelling = running.cancel();
        send(victim, Signal::SIGCONT);
        assert_eq!(cancelling.await, OVER);
        works_on(&pool, victim, false).await;
    });
}

#[test]
fn a_polite_worker_that_stays_stopped_is_killed_after_the_grace_period() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let grace = Duration::from_millis(50);
        let pool = Pool::builder().workers(1).grace_period(grace).build().unwrap();
        let running = pool.apply_async(called_back, started.clone());
        let victim = pids(&started, 1).await[0];
        send(victim, Signal::SIGSTOP);
        has_stopped(victim).await;
        assert_eq!(running.cancel().await, KILLED);
        works_on(&pool, victim, true).await;
    });
}

#[test]
fn what_waits_behind_the_task_of_a_stopped_worker_is_cancelled_at_once() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let pool = Pool::builder().workers(1).build().unwrap();
        make_hasty(&pool).await;
        let running = pool.apply_async(held, (started.clone(), gate.clone()));
        noted(&started).await;
        let victim = pids(&started, 1).await[0];
        send(victim, Signal::SIGSTOP);
        has_stopped(victim).await;
        let behind: Vec<_> =
            (0..5).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
        for task in behind {
            assert_eq!(task.cancel().await, NOT_STARTED);
        }
        assert!(is_alive(victim));
        open(&gate);
        send(victim, Signal::SIGCONT);
        assert_eq!(running.await.unwrap() as i32, victim);
        works_on(&pool, victim, false).await;
        assert!(notes(&journal).is_empty());
    });
}

/// Whatever the worker is at: SIGKILL needs no help of its.
#[test]
fn a_worker_that_is_held_at_any_step_ends_with_its_pool() {
    checked(async {
        let ends: [fn(Pool) -> BoxFuture<'static, ()>; 2] = [
            |pool| Box::pin(async move { drop(pool) }),
            |pool| Box::pin(async move { pool.terminate().await }),
        ];
        for end in ends {
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let grace = Duration::from_millis(1);
                let pool = Pool::builder().workers(1).grace_period(grace).build().unwrap();
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, Blow::Hold, Steps::All).await;
                let target = pool.apply_async(quick, (journal.clone(), 0));
                until("it is held or done", || strike.has_fallen() || target.is_finished()).await;
                let held = strike.finish().await;
                if held {
                    has_stopped(victim).await;
                }
                let known = target.is_finished();
                end(pool).await;
                until("it is gone", || !is_alive(victim)).await;
                match target.await {
                    Ok(number) => assert_eq!(number, answer(0)),
                    Err(error) => {
                        assert!(matches!(error, procession::TaskError::Terminated), "{error}");
                        assert!(!known);
                    }
                }
                assert!(notes(&journal).len() <= 1);
                held
            })
            .await;
        }
    });
}
