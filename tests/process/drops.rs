//! What is dropped is ended, unless it was told otherwise.

use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use procession::{Process, StartMethod};
use tokio::runtime::Builder;

use crate::frame::METHOD;
use crate::support::{Scratch, is_alive, note, noted, notes, until};
use crate::tasks::forever;
use crate::{alone, checked};

async fn gone(pid: u32) {
    until("it is gone", || !is_alive(pid as i32)).await;
}

#[test]
fn dropping_a_handle_ends_the_process() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let process = Process::spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        let (pid, exited) = (process.pid(), process.exited());
        drop(process);
        assert_eq!(exited.await.signal(), Some(15));
        gone(pid).await;
    });
}

#[test]
fn no_runtime_is_needed_for_it() {
    fn stubborn(started: String) {
        // SAFETY: runs no code of ours.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        forever(started);
    }
    alone(|| {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let grace = Duration::from_millis(20);
        let process =
            Process::builder().grace_period(grace).spawn(stubborn, started.clone()).unwrap();
        while notes(&started).is_empty() {
            std::thread::yield_now();
        }
        let pid = process.pid();
        drop(process);
        // SIGKILL follows, or the test would leave a child.
        while is_alive(pid as i32) {
            std::thread::yield_now();
        }
    });
}

#[test]
fn dropping_at_any_poll_ends_the_process() {
    checked(async {
        for polls in 0..4 {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let mut process = Process::spawn(forever, started.clone()).unwrap();
            for _ in 0..polls {
                let mut cx = Context::from_waker(futures::task::noop_waker_ref());
                assert!(matches!(
                    Future::poll(std::pin::Pin::new(&mut process), &mut cx),
                    Poll::Pending
                ));
                tokio::task::yield_now().await;
            }
            let exited = process.exited();
            drop(process);
            assert_eq!(exited.await.signal(), Some(15));
        }
    });
}

#[test]
fn a_future_of_its_end_does_not_keep_it() {
    checked(async {
        let process = Process::spawn(std::thread::park, ()).unwrap();
        let (first, second) = (process.exited(), process.exited());
        drop(first);
        drop(process);
        assert_eq!(second.await.signal(), Some(15));
    });
}

#[test]
fn dropping_one_that_has_ended_does_nothing() {
    checked(async {
        let process = Process::spawn(|| (), ()).unwrap();
        process.join().await;
        drop(process);
    });
}

#[test]
fn a_detached_one_runs_on() {
    fn notes_later(path: String, gate: String) {
        while notes(&gate).is_empty() {
            std::thread::yield_now();
        }
        note(path, "done");
    }
    checked(async {
        let scratch = Scratch::new();
        let (done, gate) = (scratch.path("done"), scratch.path("gate"));
        let process = Process::spawn(notes_later, (done.clone(), gate.clone())).unwrap();
        let exited = process.exited();
        process.detach();
        note(&gate, "open");
        assert!(exited.await.success());
        assert_eq!(notes(&done), ["done"]);
        // Nor does dropping one that is no daemon end it.
        let (done, gate) = (scratch.path("done2"), scratch.path("gate2"));
        let process = Process::builder().daemon(false);
        let process = process.spawn(notes_later, (done.clone(), gate.clone())).unwrap();
        assert!(!process.is_daemon());
        let exited = process.exited();
        drop(process);
        note(&gate, "open");
        assert!(exited.await.success());
        assert_eq!(notes(&done), ["done"]);
    });
}

#[test]
fn a_runtime_that_ends_takes_its_processes_along() {
    alone(|| {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let runtime = match METHOD {
            StartMethod::Fork => Builder::new_current_thread().enable_all().build().unwrap(),
            _ => tokio::runtime::Runtime::new().unwrap(),
        };
        let process = Process::spawn(forever, started.clone()).unwrap();
        let exited = process.exited();
        runtime.spawn(process);
        runtime.block_on(noted(&started));
        drop(runtime);
        assert_eq!(futures::executor::block_on(exited).signal(), Some(15));
    });
}

/// A program that forks by itself: the copy's handles are not the process's.
#[test]
fn a_forked_copy_of_a_handle_ends_nothing() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let process = Process::spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        // SAFETY: the child only drops a handle and ends.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                // Nor does it wait for what nobody will tell it.
                let is_over = process.blocking_join() != procession::Exit::from_code(0);
                let answer = futures::executor::block_on(process);
                let code = if is_over && answer.is_err() { 7 } else { 1 };
                // SAFETY: ends this process.
                unsafe { libc::_exit(code) };
            }
            nix::unistd::ForkResult::Parent { child } => {
                let ended = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 7));
            }
        }
        assert_eq!(process.join_timeout(Duration::from_millis(30)).await, None);
        process.kill();
        process.join().await;
    });
}
