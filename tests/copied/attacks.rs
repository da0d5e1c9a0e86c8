//! Copies that are made under attack: by signals, by limits, and after much has happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{mem, ptr, thread};

use futures::executor::block_on;
use futures::future::join_all;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use procession::{Pool, Process, StartMethod, TaskError};

use crate::checked;
use crate::copies::{cause, copied};
use crate::support::{children, until};
use crate::tasks::{exit_with, square};

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// System calls that a signal interrupts fail.
fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: zeroes are a valid action; the handlers here count and wait for nothing.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
    }
}

fn alarm(after_micros: libc::suseconds_t, every_micros: libc::suseconds_t) {
    let micros = |tv_usec| libc::timeval { tv_sec: 0, tv_usec };
    let (it_value, it_interval) = (micros(after_micros), micros(every_micros));
    let timer = libc::itimerval { it_interval, it_value };
    // SAFETY: reads a variable of ours.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) }, 0);
}

#[test]
fn signals_at_a_high_rate_are_no_hindrance() {
    fn bombards(pid: i32) {
        loop {
            // SAFETY: takes two integers.
            unsafe { libc::kill(pid, libc::SIGUSR1) };
            thread::yield_now();
        }
    }
    let handled = || SIGNALS.load(Ordering::Relaxed);
    checked(async {
        for signal in [libc::SIGALRM, libc::SIGCHLD, libc::SIGUSR1] {
            handle(signal, count);
        }
        let bomber = Process::builder().start_method(StartMethod::Spawn);
        let bomber = bomber.spawn(bombards, std::process::id() as i32).unwrap();
        alarm(50, 50);
        let pool = Pool::builder().workers(2).build().unwrap();
        for round in 0..40 {
            let before = handled();
            let processes = (0..3).map(|n| Process::spawn(square, n).unwrap());
            for (n, answer) in join_all(processes).await.into_iter().enumerate() {
                assert_eq!(answer.unwrap(), (n * n) as u64);
            }
            // The original's handlers are none of the copy's.
            let seen = Process::spawn(handled, ()).unwrap().await.unwrap();
            assert!(seen >= before && seen <= handled());
            if round % 8 == 0 {
                assert!(pool.apply(exit_with, 3).await.unwrap_err().is_worker_lost());
            }
            assert_eq!(pool.map(square, 0..4).await.unwrap(), [0, 1, 4, 9]);
        }
        alarm(0, 0);
        assert!(handled() > 100);
        bomber.kill();
        bomber.join().await;
    });
}

extern "C" fn collect_all(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: waits for nothing, and writes nowhere.
    while unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// Kills and collects all children, without memory, locks, or anything else of Rust's.
extern "C" fn end_all(_: libc::c_int) {
    let mut list = [0_u8; 256];
    // SAFETY: opens, reads into a buffer of ours, and closes what it has opened.
    let len = unsafe {
        let fd = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY);
        let len = libc::read(fd, list.as_mut_ptr().cast(), list.len());
        libc::close(fd);
        len
    };
    let mut pid = 0;
    for byte in &list[..usize::try_from(len).unwrap_or(0)] {
        match byte {
            b'0'..=b'9' => pid = pid * 10 + i32::from(byte - b'0'),
            _ => {
                // SAFETY: takes integers, and writes nowhere.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                // SAFETY: the same.
                if unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } == pid {
                    SIGNALS.fetch_add(1, Ordering::Relaxed);
                }
                pid = 0;
            }
        }
    }
}

/// As old servers do. How it ended is lost with that, and nothing else: what it has said,
/// and that it has ended.
#[test]
fn a_program_that_collects_all_its_children_itself() {
    checked(async {
        handle(libc::SIGCHLD, collect_all);
        for _ in 0..50 {
            let process = copied().spawn(std::process::id, ()).unwrap();
            let pid = process.pid();
            assert_eq!(process.await.unwrap(), pid);
            let process = copied().spawn(exit_with, 3).unwrap();
            let pid = process.pid();
            let error = process.await.unwrap_err();
            assert!(matches!(error, TaskError::WorkerLost { pid: lost, .. } if lost == pid));
            let exit = error.exit().unwrap();
            assert!(exit.code().is_none_or(|code| code == 3), "{exit}");
        }
        assert!(SIGNALS.load(Ordering::Relaxed) > 0);
    });
}

/// Before anybody has a pidfd of it, too. It was there all the same.
#[test]
fn a_copy_that_is_killed_and_collected_at_any_moment_of_its_start() {
    checked(async {
        handle(libc::SIGALRM, end_all);
        let (mut killed, mut answered) = (0, 0);
        for round in 0..200 {
            alarm(1 + round * 10, 0);
            let process = copied().spawn(std::process::id, ()).unwrap();
            let pid = process.pid();
            match process.await {
                Ok(told) => {
                    answered += 1;
                    assert_eq!(told, pid);
                }
                Err(TaskError::WorkerLost { pid: lost, .. }) => {
                    killed += 1;
                    assert_eq!(lost, pid);
                }
                Err(error) => panic!("{round}: {error:?}"),
            }
            alarm(0, 0);
        }
        eprintln!("{killed} were killed, {answered} not");
        assert!(killed > 0 && SIGNALS.load(Ordering::Relaxed) > 0);
    });
}

/// What signals the caller has blocked is as before, whether there is a copy or not.
#[test]
fn the_signal_mask_stays_as_it_is() {
    use nix::sys::signal::{SigSet, Signal};
    fn mask() -> Vec<bool> {
        let mask = SigSet::thread_get_mask().unwrap();
        Signal::iterator().map(|signal| mask.contains(signal)).collect()
    }
    checked(async {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGUSR2);
        blocked.thread_block().unwrap();
        let before = mask();
        let theirs = Process::spawn(mask, ()).unwrap().await.unwrap();
        assert!(!theirs.contains(&true), "a copy's is empty");
        assert_eq!(mask(), before);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let other = thread::spawn(move || held.recv());
        Process::spawn(square, 3).unwrap_err();
        assert_eq!(mask(), before);
        drop(hold);
        let _ = other.join().unwrap();
        blocked.thread_unblock().unwrap();
    });
}

#[test]
fn many_pools_and_processes_have_lived_and_died() {
    checked(async {
        let methods = [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork];
        for round in 0..60 {
            let method = methods[round % 3];
            let pool = Pool::builder().workers(2).start_method(method).build().unwrap();
            assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
            if round % 2 == 0 {
                pool.terminate().await;
            } else {
                drop(pool);
            }
            let doomed = Process::builder().start_method(method).spawn(thread::park, ()).unwrap();
            doomed.kill();
            doomed.join().await;
            assert_eq!(copied().spawn(square, 4).unwrap().await.unwrap(), 16);
        }
        procession::process::fork_server().stop();
        until("the server is gone", || children().is_empty()).await;
    });
}

/// As a service does that was started by root.
#[test]
fn a_user_who_may_have_no_more_processes_is_told_so() {
    const NOBODY_ELSE: u32 = 54_321;
    /// 0: a copy has answered. 1: it was not made. 2: it had no thread to run on.
    fn tries(limit: u64) -> u8 {
        block_on(copied().spawn(square, 3).unwrap()).unwrap();
        // SAFETY: takes an integer.
        assert_eq!(unsafe { libc::setuid(NOBODY_ELSE) }, 0);
        setrlimit(Resource::RLIMIT_NPROC, limit, limit).unwrap();
        let became = match copied().spawn(square, 3) {
            Err(error) => {
                assert!(cause(&error).contains("os error 11"), "{error:?}: {}", cause(&error));
                1
            }
            Ok(process) => match block_on(process) {
                Ok(answer) => u8::from(answer != 9) * 3,
                Err(TaskError::Broken(error)) => {
                    eprintln!("{error}");
                    2
                }
                Err(error) => panic!("{error:?}"),
            },
        };
        assert!(children().is_empty(), "nothing is left");
        became
    }
    checked(async {
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("NOT TESTED HERE: another user can be had by root only");
            return;
        }
        let mut became = Vec::new();
        while became.last() != Some(&0) {
            let limit = became.len() as u64 + 1;
            assert!(limit < 50, "{became:?}");
            let process = copied().spawn(tries, limit).unwrap();
            became.push(process.await.unwrap());
        }
        assert!(became.contains(&1) && became.contains(&2), "{became:?}");
    });
}

/// A pool breaks, and says why; there is no harm in that.
#[test]
fn a_pool_without_descriptors_for_a_copy_is_broken_and_the_next_is_not() {
    fn starves() -> String {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = || {
                let pool = Pool::builder().workers(1).restart_limit(1);
                pool.start_method(StartMethod::Fork).build().unwrap()
            };
            pool().terminate().await;
            setrlimit(Resource::RLIMIT_NOFILE, open + 6, 1 << 10).unwrap();
            let starved = pool();
            let error = match starved.apply(square, 3).await {
                Err(TaskError::Broken(error)) => cause(&error),
                other => panic!("{other:?}"),
            };
            starved.terminate().await;
            setrlimit(Resource::RLIMIT_NOFILE, 1 << 10, 1 << 10).unwrap();
            let fed = pool();
            assert_eq!(fed.apply(square, 3).await.unwrap(), 9);
            fed.terminate().await;
            error
        })
    }
    checked(async {
        let process = Process::builder().start_method(StartMethod::Fork);
        let process = process.rlimits([(procession::Resource::OpenFiles, 1 << 10)]);
        let told = process.spawn(starves, ()).unwrap().await.unwrap();
        assert!(told.contains("os error 24"), "{told}");
    });
}

/// A copy in a copy that a fork server has made, each of which is copied, too.
#[test]
fn copies_of_what_a_fork_server_has_made() {
    fn nested(left: u32) -> u32 {
        if left == 0 {
            return 0;
        }
        let pool = Pool::builder().workers(1).start_method(StartMethod::Fork);
        let process = copied().spawn(nested, left - 1).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let by_pool = runtime.block_on(async {
            let pool = pool.build().unwrap();
            let depth = pool.apply(nested, left - 1).await.unwrap();
            pool.terminate().await;
            depth
        });
        assert_eq!(by_pool, left - 1);
        1 + block_on(process).unwrap()
    }
    checked(async {
        let process = Process::builder().start_method(StartMethod::ForkServer);
        assert_eq!(process.spawn(nested, 3).unwrap().await.unwrap(), 3);
        procession::process::fork_server().stop();
        until("the server is gone", || children().is_empty()).await;
    });
}

#[cfg(feature = "sandbox")]
#[test]
fn a_copy_is_shut_into_a_sandbox_like_any_other() {
    use procession::Sandbox;
    static SECRET: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    fn reads(path: String) -> bool {
        std::fs::read(path).is_ok()
    }
    checked(async {
        let scratch = crate::support::Scratch::new();
        std::fs::write(scratch.path("secret"), "x").unwrap();
        SECRET.get_or_init(|| "in memory".into());
        let builder = || Pool::builder().workers(1);
        let open = builder().build().unwrap();
        assert!(open.apply(reads, scratch.path("secret")).await.unwrap());
        let shut = builder().sandbox(Sandbox::computing()).build().unwrap();
        assert!(!shut.apply(reads, scratch.path("secret")).await.unwrap());
        assert_eq!(shut.map(square, 0..4).await.unwrap(), [0, 1, 4, 9]);
        let known = || SECRET.get().cloned();
        assert_eq!(shut.apply(known, ()).await.unwrap().as_deref(), Some("in memory"));
        // Nor may it be copied.
        let copies = || copied().spawn(square, 3).is_err();
        assert!(shut.apply(copies, ()).await.unwrap());
        open.terminate().await;
        shut.terminate().await;
    });
}
