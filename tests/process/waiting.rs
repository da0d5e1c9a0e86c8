//! Joining, with and without a limit.

use std::time::Duration;

use procession::Process;

use crate::checked;
use crate::support::{Scratch, note, notes};

fn gated(gate: String) {
    while notes(&gate).is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn join_waits_for_the_end() {
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let process = Process::spawn(gated, gate.clone()).unwrap();
        for limit in [Duration::ZERO, Duration::from_millis(10)] {
            assert_eq!(process.join_timeout(limit).await, None);
            assert_eq!(process.blocking_join_timeout(limit), None);
        }
        assert!(process.is_alive());
        note(&gate, "open");
        assert_eq!(process.join().await.code(), Some(0));
        assert_eq!(process.join_timeout(Duration::ZERO).await.unwrap().code(), Some(0));
        assert_eq!(process.blocking_join().code(), Some(0));
        assert_eq!(process.blocking_join_timeout(Duration::ZERO).unwrap().code(), Some(0));
        assert_eq!(process.blocking_join_timeout(Duration::MAX).unwrap().code(), Some(0));
    });
}

#[test]
fn many_wait_for_one() {
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let process = Process::spawn(gated, gate.clone()).unwrap();
        let waiting: Vec<_> = (0..10).map(|_| tokio::spawn(process.exited())).collect();
        let dropped: Vec<_> = (0..10).map(|_| tokio::spawn(process.exited())).collect();
        tokio::task::yield_now().await;
        dropped.iter().for_each(|task| task.abort());
        note(&gate, "open");
        for task in waiting {
            assert!(task.await.unwrap().success());
        }
    });
}

/// It was woken in the runtime that polled first.
#[test]
fn a_process_can_be_awaited_in_another_runtime() {
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let mut process = Process::spawn(gated, gate.clone()).unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(5), &mut process).await;
        assert!(waited.is_err());
        let thread = std::thread::spawn(move || futures::executor::block_on(process));
        note(&gate, "open");
        thread.join().unwrap().unwrap();
    });
}

#[test]
#[should_panic(expected = "polled after the process has given its answer")]
fn an_answer_is_given_once() {
    checked(async {
        let mut process = Process::spawn(|| (), ()).unwrap();
        (&mut process).await.unwrap();
        let _ = (&mut process).await;
    });
}
