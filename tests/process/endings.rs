//! Terminate, kill, signal.

use std::time::Duration;

use nix::libc;
use procession::{Exit, Process, TaskError};

use crate::checked;
use crate::support::{LIMIT, Scratch, is_alive, note, noted, notes, until, within};
use crate::tasks::{forever, pid, square};

#[test]
fn terminate_is_signal_15() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let mut process = Process::spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        assert!(process.is_alive());
        assert_eq!(process.exit(), None);
        process.terminate();
        assert_eq!(process.join().await, Exit::from_signal(15));
        assert!(!process.is_alive());
        assert_eq!(process.exit().unwrap().exitcode(), Some(-15));
        let error = (&mut process).await.unwrap_err();
        assert!(
            matches!(error, TaskError::Cancelled { exit: Some(exit) } if exit.signal() == Some(15))
        );
        // Once more does no harm.
        process.terminate();
        process.kill();
    });
}

#[test]
fn terminate_as_early_as_can_be_is_signal_15() {
    checked(async {
        for _ in 0..20 {
            let process = Process::spawn(std::thread::park, ()).unwrap();
            process.terminate();
            assert_eq!(process.join().await.exitcode(), Some(-15));
        }
    });
}

#[test]
fn a_signal_as_early_as_can_be_is_not_lost() {
    checked(async {
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGUSR1] {
            for _ in 0..20 {
                let process = Process::spawn(std::thread::park, ()).unwrap();
                process.signal(signal).unwrap();
                let exit = within(LIMIT, process.join()).await;
                assert_eq!(exit.signal(), Some(signal));
            }
        }
    });
}

#[test]
fn kill_is_signal_9() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let process = Process::spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        process.kill();
        assert_eq!(process.join().await.exitcode(), Some(-9));
        let error = process.await.unwrap_err();
        assert!(error.is_cancelled(), "{error:?}");
    });
}

#[test]
fn one_that_ignores_sigterm_runs_on_until_it_is_killed() {
    fn stubborn(started: String) {
        // SAFETY: runs no code of ours.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        forever(started);
    }
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let process = Process::spawn(stubborn, started.clone()).unwrap();
        noted(&started).await;
        process.terminate();
        assert_eq!(process.join_timeout(Duration::from_millis(50)).await, None);
        assert!(process.is_alive());
        process.kill();
        assert_eq!(process.join().await.signal(), Some(9));
    });
}

#[test]
fn any_signal_can_be_sent() {
    checked(async {
        for signal in [libc::SIGINT, libc::SIGUSR1, libc::SIGRTMIN() + 3] {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let mut process = Process::spawn(forever, started.clone()).unwrap();
            noted(&started).await;
            process.signal(0).unwrap();
            assert!(process.signal(4711).is_err());
            process.signal(signal).unwrap();
            let error = (&mut process).await.unwrap_err();
            assert!(error.is_worker_lost(), "nobody has asked for its end: {error:?}");
            assert_eq!(error.exit().unwrap().signal(), Some(signal));
            process.signal(signal).unwrap();
        }
    });
}

#[test]
fn one_can_be_stopped_and_continued() {
    checked(async {
        let mut process = Process::spawn(
            || {
                // Until its parent has an eye on it.
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap();
                5
            },
            (),
        )
        .unwrap();
        let stat = format!("/proc/{}/stat", process.pid());
        let is_stopped = || std::fs::read_to_string(&stat).unwrap().contains(") T ");
        until("it has stopped", is_stopped).await;
        assert!(process.is_alive());
        process.signal(libc::SIGCONT).unwrap();
        assert_eq!((&mut process).await.unwrap(), 5);
    });
}

#[test]
fn what_it_has_started_goes_with_it() {
    #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
    fn parent(started: String) {
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        note(&started, &child.id().to_string());
        std::thread::park();
    }
    checked(async {
        for kill in [true, false] {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let process = Process::spawn(parent, started.clone()).unwrap();
            noted(&started).await;
            let grandchild: i32 = notes(&started)[0].parse().unwrap();
            assert!(is_alive(grandchild));
            if kill {
                process.kill()
            } else {
                process.terminate()
            }
            process.join().await;
            until("the grandchild is gone", || !is_alive(grandchild)).await;
        }
    });
}

#[test]
fn what_it_leaves_behind_when_it_returns_goes_with_it() {
    fn leaves() -> u32 {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap().id()
    }
    checked(async {
        let grandchild = Process::spawn(leaves, ()).unwrap().await.unwrap() as i32;
        until("the grandchild is gone", || !is_alive(grandchild)).await;
    });
}

#[test]
fn threads_that_go_on_do_not_keep_it() {
    fn leaves_a_thread() -> u32 {
        std::thread::spawn(std::thread::park);
        pid()
    }
    checked(async {
        let mut process = Process::spawn(leaves_a_thread, ()).unwrap();
        assert_eq!((&mut process).await.unwrap(), process.pid());
        assert!(process.exit().unwrap().success());
    });
}

/// What has ended by itself has not been cancelled.
#[test]
fn a_result_that_was_there_before_is_kept() {
    checked(async {
        let process = Process::spawn(square, 4).unwrap();
        process.join().await;
        process.terminate();
        process.kill();
        assert_eq!(process.await.unwrap(), 16);
    });
}

#[test]
fn signals_are_as_in_a_fresh_process() {
    let status = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
    checked(async move {
        let status = Process::spawn(status, ()).unwrap().await.unwrap();
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line[name.len()..].trim(), 16).unwrap()
        };
        assert_eq!(line("SigBlk:"), 0);
        assert_eq!(line("SigIgn:") & 0x7fff_ffff & !(1 << (13 - 1)), 0, "SIGPIPE alone");
    });
}
