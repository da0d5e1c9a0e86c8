//! The fork server's own life, and what its processes have of it: nothing.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::process::fork_server;
use procession::{Process, StartMethod};

use crate::checked;
use crate::preload::{apart, forked};
use crate::support::{Scratch, is_alive, note, noted, notes, until};
use crate::tasks::{exit_with, forever, square};

fn strike(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

#[test]
fn its_processes_are_our_children() {
    checked(async {
        let parent = || std::os::unix::process::parent_id();
        assert_eq!(forked().spawn(parent, ()).unwrap().await.unwrap(), std::process::id());
    });
}

#[test]
fn one_server_makes_all_until_it_ends() {
    async fn test() {
        assert_eq!(fork_server().pid(), None, "it is started on demand");
        forked().spawn(square, 2).unwrap().await.unwrap();
        let first = fork_server().pid().unwrap();
        assert!(is_alive(first as i32));
        forked().spawn(square, 2).unwrap().await.unwrap();
        assert_eq!(fork_server().pid(), Some(first));
        strike(first);
        // Whether its end has been noticed or not.
        assert_eq!(forked().spawn(square, 3).unwrap().await.unwrap(), 9);
        let second = fork_server().pid().unwrap();
        assert_ne!(second, first);
        fork_server().stop();
        assert_eq!(fork_server().pid(), None);
        until("it is gone", || !is_alive(second as i32)).await;
        fork_server().stop();
    }
    checked(apart(test, ()));
}

#[test]
fn its_processes_live_on_without_it_and_how_they_end_is_known() {
    async fn test(scratch: String) {
        let gate = format!("{scratch}/gate");
        let gated = |gate: String| {
            while notes(&gate).is_empty() {
                std::thread::yield_now();
            }
            exit_with(7);
        };
        let waiting = forked().spawn(gated, gate.clone()).unwrap();
        let started = format!("{scratch}/started");
        let running = forked().spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        let server = fork_server().pid().unwrap();
        strike(server);
        until("the server is gone", || !is_alive(server as i32)).await;
        assert!(waiting.is_alive() && running.is_alive());
        running.terminate();
        assert_eq!(running.join().await.exitcode(), Some(-15));
        note(&gate, "open");
        assert_eq!(waiting.join().await.code(), Some(7));
    }
    checked(async {
        let scratch = Scratch::new();
        apart(test, scratch.path(".")).await;
    });
}

#[test]
fn it_is_gone_when_its_parent_is() {
    fn parent(scratch: String) {
        let started = format!("{scratch}/started");
        let process = forked().spawn(forever, started.clone()).unwrap();
        while notes(&started).is_empty() {
            std::thread::yield_now();
        }
        note(format!("{scratch}/server"), &fork_server().pid().unwrap().to_string());
        std::thread::park();
        drop(process);
    }
    checked(async {
        let scratch = Scratch::new();
        let process = Process::builder().start_method(StartMethod::Spawn);
        let process = process.spawn(parent, scratch.path(".")).unwrap();
        noted(&scratch.path("server")).await;
        let pid = |name: &str| notes(scratch.path(name))[0].parse::<i32>().unwrap();
        let (server, worker) = (pid("server"), pid("started"));
        assert!(is_alive(server) && is_alive(worker));
        strike(process.pid());
        until("server and worker are gone", || !is_alive(server) && !is_alive(worker)).await;
        process.join().await;
    });
}

/// At whatever point: a start comes to something, and no process is lost sight of.
#[test]
fn a_server_that_is_killed_at_any_instant_costs_nobody_more_than_a_start() {
    async fn test() {
        let (mut done, mut failed) = (0, 0);
        for n in 0..60_u64 {
            forked().spawn(square, 1).unwrap().await.unwrap();
            let server = fork_server().pid().unwrap();
            let killer = std::thread::spawn(move || {
                // A start takes some hundred microseconds.
                std::thread::sleep(Duration::from_micros(n * 7919 % 600));
                strike(server);
            });
            match forked().spawn(square, n) {
                Ok(process) => {
                    assert_eq!(process.await.unwrap(), n * n);
                    done += 1;
                }
                Err(_) => failed += 1,
            }
            killer.join().unwrap();
            // Its end may not have been noticed yet.
            until("it is gone", || !is_alive(server as i32)).await;
        }
        assert!(done > 0, "{failed} failed");
        fork_server().stop();
        until("nobody is left", || crate::support::children().is_empty()).await;
    }
    checked(apart(test, ()));
}

#[test]
fn the_environment_and_the_folder_are_ours_as_they_are_now() {
    async fn test(dir: String) {
        let var = |name: String| std::env::var(name).ok();
        let folder = || std::env::current_dir().unwrap().to_str().unwrap().to_owned();
        forked().spawn(|| (), ()).unwrap().await.unwrap();
        // SAFETY: nothing else in this process uses the environment now.
        unsafe { std::env::set_var("PROCESSION_TEST_LATE", "late") };
        std::env::set_current_dir(&dir).unwrap();
        let late = forked().spawn(var, "PROCESSION_TEST_LATE".into()).unwrap();
        assert_eq!(late.await.unwrap().as_deref(), Some("late"));
        assert_eq!(forked().spawn(folder, ()).unwrap().await.unwrap(), dir);
        std::fs::create_dir("below").unwrap();
        let below = forked().current_dir("below").spawn(folder, ()).unwrap().await.unwrap();
        assert_eq!(below, format!("{dir}/below"));
    }
    checked(async {
        let scratch = Scratch::new();
        let dir = std::fs::canonicalize(scratch.path(".")).unwrap();
        apart(test, dir.to_str().unwrap().to_owned()).await;
    });
}

#[test]
fn nested_ones_have_servers_of_their_own() {
    async fn nested() -> (Option<u32>, Option<u32>, u64) {
        let before = fork_server().pid();
        let answer = forked().spawn(square, 4).unwrap().await.unwrap();
        (before, fork_server().pid(), answer)
    }
    checked(async {
        let (before, after, answer) = forked().spawn(nested, ()).unwrap().await.unwrap();
        assert_eq!((before, answer), (None, 16));
        let after = after.unwrap();
        assert_ne!(Some(after), fork_server().pid());
        until("it is gone with its parent", || !is_alive(after as i32)).await;
    });
}

/// glibc keeps the number of a thread in mind, and compares it.
#[test]
fn a_copy_is_a_process_in_its_own_right() {
    fn threads() -> (u32, bool, usize) {
        let joined = std::thread::spawn(|| nix::unistd::gettid().as_raw()).join().unwrap();
        // Of a mutex that is checked for its owner.
        let lock = || -> bool {
            use nix::libc;
            // SAFETY: initialised before it is used, and destroyed after.
            unsafe {
                let mut attr = std::mem::zeroed();
                libc::pthread_mutexattr_init(&mut attr);
                libc::pthread_mutexattr_settype(&mut attr, libc::PTHREAD_MUTEX_ERRORCHECK);
                let mut mutex = std::mem::zeroed();
                libc::pthread_mutex_init(&mut mutex, &attr);
                let locked = libc::pthread_mutex_lock(&mut mutex) == 0;
                let again = libc::pthread_mutex_lock(&mut mutex) == libc::EDEADLK;
                let unlocked = libc::pthread_mutex_unlock(&mut mutex) == 0;
                libc::pthread_mutex_destroy(&mut mutex);
                libc::pthread_mutexattr_destroy(&mut attr);
                locked && again && unlocked
            }
        };
        let own = std::fs::read_dir("/proc/self/task").unwrap().count();
        (joined as u32, lock(), own)
    }
    checked(async {
        let process = forked().spawn(threads, ()).unwrap();
        let pid = process.pid();
        let (thread, locks, own) = process.await.unwrap();
        assert!(thread != pid && locks);
        assert_eq!(own, 2, "itself and the lifeline");
        // raise and abort go to this thread of this process.
        let process = forked().rlimits([(procession::Resource::CoreFile, 0)]);
        let error =
            process.spawn(|| -> u8 { std::process::abort() }, ()).unwrap().await.unwrap_err();
        assert_eq!(error.exit().unwrap().signal(), Some(6));
    });
}
