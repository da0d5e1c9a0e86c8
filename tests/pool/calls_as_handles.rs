//! What can be done with a call beside awaiting it.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use procession::{TaskError, TaskHandle, TaskStatus};

use crate::support::{Scratch, checked, checked_current_thread, note, noted, notes, until};
use crate::tasks::{hold, kill, never, noting, open, pid, pool_of, square};

#[test]
fn apply_does_nothing_before_it_is_polled() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        drop(pool.apply(noting, (journal.clone(), "dropped".into())));
        let kept = pool.apply(noting, (journal.clone(), "kept".into()));
        pool.apply(noting, (journal.clone(), "other".into())).await.unwrap();
        kept.await.unwrap();
        assert_eq!(notes(&journal), ["other", "kept"]);
        assert_eq!(pool.stats().submitted, 2);
    });
}

#[test]
fn a_started_call_runs_without_being_polled() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let first = pool.apply(noting, (journal.clone(), "apply".into())).start();
        let second = pool.apply_async(noting, (journal.clone(), "apply_async".into()));
        let third = pool.try_apply(noting, (journal.clone(), "try_apply".into())).unwrap();
        until("all three ran", || notes(&journal).len() == 3).await;
        assert_eq!(notes(&journal), ["apply", "apply_async", "try_apply"]);
        // In any order.
        third.await.unwrap();
        first.await.unwrap();
        second.await.unwrap();
    });
}

#[test]
fn start_on_a_polled_call_does_not_call_twice() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(1);
        let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
        let mut call = pool.apply(noting, (journal.clone(), "once".into()));
        assert!(futures::poll!(&mut call).is_pending());
        let handle = call.start();
        open(&gate);
        handle.await.unwrap();
        held.await.unwrap();
        assert_eq!(notes(&journal)[1..], ["once"]);
    });
}

#[test]
fn status_goes_from_queued_to_running_to_finished() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(1);
        let before = Instant::now();
        let first = pool.apply_async(hold, (journal.clone(), gate.clone()));
        let second = pool.apply_async(square, 3);
        noted(&journal).await;
        let TaskStatus::Running { pid, since } = first.status() else {
            panic!("{:?}", first.status());
        };
        assert_eq!(notes(&journal), [pid.to_string()]);
        assert!(before <= since && since <= Instant::now());
        assert_eq!(second.status(), TaskStatus::Queued);
        assert!(!first.is_finished() && !second.is_finished());
        open(&gate);
        until("both end", || first.is_finished() && second.is_finished()).await;
        assert_eq!(first.status(), TaskStatus::Finished);
        assert_eq!(first.await.unwrap(), pid);
        assert_eq!(second.await.unwrap(), 9);
    });
}

#[test]
fn ids_are_unique_and_count_up() {
    checked(async {
        let pool = pool_of(2);
        let handles: Vec<_> = (0..100).map(|n| pool.apply_async(square, n)).collect();
        let ids: Vec<_> = handles.iter().map(|handle| handle.id()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 100);
        for handle in handles {
            handle.await.unwrap();
        }
        let later = pool.apply_async(square, 1);
        assert!(later.id() > ids[99]);
        assert_eq!(later.id().to_string(), later.id().as_u64().to_string());
        later.await.unwrap();
    });
}

#[test]
fn a_detached_call_runs_on() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(1);
        pool.apply_async(hold, (journal.clone(), gate.clone())).detach();
        pool.apply_async(noting, (journal.clone(), "queued".into())).detach();
        noted(&journal).await;
        open(&gate);
        pool.close();
        pool.join().await;
        assert_eq!(notes(&journal)[1], "queued");
        assert_eq!(pool.stats().completed, 2);
    });
}

#[test]
fn a_label_is_in_the_error() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let handle = pool.apply(never, journal.clone()).label("order 66").start();
        noted(&journal).await;
        let id = handle.id();
        let pid = notes(&journal)[0].parse().unwrap();
        kill(pid);
        let error = handle.await.unwrap_err();
        let TaskError::WorkerLost { task, pid: theirs, .. } = &error else { panic!("{error:?}") };
        assert_eq!(task.label(), Some("order 66"));
        assert_eq!(task.id(), id);
        assert!(task.name().ends_with("tasks::never"), "{}", task.name());
        assert_eq!(*theirs, pid);
        assert!(error.to_string().contains("order 66"), "{error}");
    });
}

#[test]
fn a_timeout_ends_the_task_and_not_its_pool() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let after = Duration::from_millis(50);
        let before = Instant::now();
        let error = pool.apply(never, journal.clone()).timeout(after).await.unwrap_err();
        assert!(before.elapsed() >= after);
        assert!(error.is_timeout());
        assert_eq!(error.started(), Some(true));
        assert_eq!(error.exit().unwrap().signal(), Some(15));
        assert_eq!(
            error.to_string(),
            "the task ran for more than 50ms (its worker was killed by signal 15 (SIGTERM))"
        );
        assert_eq!(pool.apply(square, 4).await.unwrap(), 16);
        assert_eq!(pool.stats().timed_out, 1);
    });
}

#[test]
fn the_clock_of_a_timeout_starts_with_the_task() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(1);
        let first = pool.apply_async(hold, (journal.clone(), gate.clone()));
        // Far longer than the task takes once it has begun.
        let after = Duration::from_secs(1);
        let second = pool.apply(square, 5).timeout(after).start();
        noted(&journal).await;
        // Not for luck: it waits in the queue for longer than its timeout.
        tokio::time::sleep(after * 5 / 4).await;
        assert_eq!(second.status(), TaskStatus::Queued);
        open(&gate);
        first.await.unwrap();
        assert_eq!(second.await.unwrap(), 25);
    });
}

#[test]
fn the_pools_timeout_is_for_calls_without_their_own() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        // Long enough to note that it has begun.
        let after = Duration::from_millis(500);
        let pool = procession::Pool::builder().workers(1).task_timeout(after).build().unwrap();
        let error = pool.apply(never, journal.clone()).await.unwrap_err();
        assert!(matches!(error, TaskError::TimedOut { after: it, .. } if it == after), "{error:?}");
        let long = Duration::from_secs(3600);
        let call = pool.apply(hold, (journal.clone(), gate.clone())).timeout(long).start();
        until("the second has begun", || notes(&journal).len() == 2).await;
        tokio::time::sleep(after * 5 / 4).await;
        open(&gate);
        call.await.unwrap();
    });
}

#[test]
fn handles_outlive_the_pool() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let finished = pool.apply_async(square, 3);
        until("the first ends", || finished.is_finished()).await;
        let running = pool.apply_async(never, journal.clone());
        let queued = pool.apply_async(square, 4);
        let unpolled = pool.apply(square, 5);
        noted(&journal).await;
        drop(pool);
        let error = running.await.unwrap_err();
        assert!(matches!(error, TaskError::Terminated), "{error:?}");
        assert!(matches!(queued.await, Err(TaskError::Terminated)));
        let error = unpolled.await.unwrap_err();
        assert!(matches!(error, TaskError::Terminated | TaskError::Closed), "{error:?}");
        // Its answer had come before.
        assert_eq!(finished.await.unwrap(), 9);
    });
}

#[test]
fn clones_are_one_pool() {
    checked(async {
        let pool = pool_of(1);
        let other = pool.clone();
        let theirs = pool.apply(pid, ()).await.unwrap();
        drop(pool);
        assert_eq!(other.apply(pid, ()).await.unwrap(), theirs);
        let third = other.clone();
        third.close();
        assert!(matches!(other.apply(pid, ()).await, Err(TaskError::Closed)));
    });
}

#[test]
#[should_panic(expected = "polled after the call has given its answer")]
fn polling_a_handle_after_its_answer_panics() {
    checked(async {
        let pool = pool_of(1);
        let mut handle = pool.apply_async(square, 3);
        assert_eq!((&mut handle).await.unwrap(), 9);
        let _ = handle.await;
    });
}

/// Each writes where it is called, so that order is seen and not assumed.
#[test]
fn one_worker_runs_calls_in_the_order_they_were_made() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        for n in 0..200 {
            pool.apply_async(
                |journal: String, n: u32| note(journal, &n.to_string()),
                (journal.clone(), n),
            )
            .detach();
        }
        pool.close();
        pool.join().await;
        let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        assert_eq!(notes(&journal), expected);
    });
}

/// As tokio's channels do it. What it did not come to take then is still there.
#[test]
fn whoever_takes_many_answers_lets_others_run_and_loses_none() {
    checked_current_thread(async {
        let pool = pool_of(1);
        let mut calls: Vec<_> = (0..300).map(|n| pool.apply_async(square, n)).collect();
        until("all have ended", || calls.iter().all(TaskHandle::is_finished)).await;
        let mut answers = vec![None; calls.len()];
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            for (call, answer) in calls.iter_mut().zip(&mut answers) {
                if answer.is_none() {
                    if let Poll::Ready(end) = Pin::new(call).poll(cx) {
                        *answer = Some(end.unwrap());
                    }
                }
            }
            if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(polls > 1);
        assert!(answers.into_iter().flatten().eq((0..300).map(|n| n * n)));
    });
}
