//! A worker that dies takes one call with it, which says how; the pool goes on.

use std::hint::black_box;
use std::time::Duration;

use futures::TryStreamExt;
use procession::{Exit, Pool, Resource, Stdio, TaskError};

use crate::support::{Scratch, checked, noted, notes, until};
use crate::tasks::{exit_of, hold, kill, never, open, pid, pool_of, square};

/// Awaits a call that must lose its worker, then shows that the pool goes on.
async fn lost<R: std::fmt::Debug + serde::de::DeserializeOwned>(
    pool: &Pool,
    call: procession::Apply<R>,
) -> (Exit, TaskError) {
    let worker = pool.apply(pid, ()).await.unwrap();
    let error = call.await.unwrap_err();
    let TaskError::WorkerLost { exit, pid: theirs, .. } = error else { panic!("{error:?}") };
    assert_eq!(theirs, worker);
    assert!(error.is_worker_lost() && !error.is_panic() && !error.is_cancelled());
    assert_eq!(error.started(), Some(true));
    assert_eq!(error.exit(), Some(exit));
    let text = error.to_string();
    assert!(text.starts_with(&format!("worker (pid {theirs}) ")), "{text}");
    assert!(text.contains(&format!("{exit} while it ran ")), "{text}");
    assert_ne!(pool.apply(pid, ()).await.unwrap(), worker);
    (exit, error)
}

fn exit(code: i32) {
    std::process::exit(code)
}

fn segfault() {
    let nowhere = std::ptr::without_provenance_mut::<u8>(1);
    // SAFETY: not safe at all: nothing is mapped there, which is the point.
    unsafe { nowhere.write_volatile(1) }
}

fn recurse(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(black_box(depth + 1)) + here[7] }
}

#[test]
fn an_exit_code_is_kept() {
    checked(async {
        let pool = pool_of(1);
        for code in [0, 3, 255] {
            let (exit, error) = lost(&pool, pool.apply(exit, code)).await;
            assert_eq!(exit, Exit::from_code(code));
            assert_eq!((exit.code(), exit.signal()), (Some(code), None));
            assert!(
                error.to_string().contains(&format!("exited with code {code} while")),
                "{error}"
            );
        }
        assert_eq!(pool.stats().workers_lost, 3);
        assert_eq!(pool.stats().lost, 3);
    });
}

#[test]
fn an_abort_is_a_signal() {
    checked(async {
        let pool = Pool::builder().workers(1).rlimits([(Resource::CoreFile, 0)]).build().unwrap();
        let (exit, _) = lost(&pool, pool.apply(|| -> () { std::process::abort() }, ())).await;
        assert_eq!((exit.signal(), exit.exitcode()), (Some(6), Some(-6)));
        assert_eq!(exit.to_string(), "killed by signal 6 (SIGABRT)");
    });
}

#[test]
fn a_segfault_is_a_signal() {
    checked(async {
        let pool = Pool::builder().workers(1).rlimits([(Resource::CoreFile, 0)]).build().unwrap();
        let (exit, _) = lost(&pool, pool.apply(segfault, ())).await;
        assert_eq!(exit.to_string(), "killed by signal 11 (SIGSEGV)");
    });
}

#[test]
fn a_stack_overflow_is_a_signal_and_its_last_words_are_kept() {
    checked(async {
        let pool = Pool::builder()
            .workers(1)
            .rlimits([(Resource::CoreFile, 0)])
            .stderr(Stdio::piped())
            .build()
            .unwrap();
        let (exit, error) = lost(&pool, pool.apply(recurse, 0)).await;
        assert!(matches!(exit.signal(), Some(6 | 11)), "{exit}");
        let TaskError::WorkerLost { stderr, .. } = error else { unreachable!() };
        assert!(stderr.contains("overflowed its stack"), "{stderr:?}");
    });
}

#[test]
fn running_out_of_memory_is_a_signal() {
    fn eats() -> usize {
        let mut eaten: Vec<Vec<u8>> = Vec::new();
        loop {
            eaten.push(black_box(vec![1; 16 << 20]));
        }
    }
    checked(async {
        let pool = Pool::builder()
            .workers(1)
            .rlimits([(Resource::AddressSpace, 1 << 30), (Resource::CoreFile, 0)])
            .stderr(Stdio::piped())
            .build()
            .unwrap();
        let (exit, error) = lost(&pool, pool.apply(eats, ())).await;
        assert_eq!(exit.signal(), Some(6));
        assert!(error.to_string().contains("memory allocation of"), "{error}");
    });
}

#[test]
fn a_kill_from_outside_is_a_signal() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let handle = pool.apply_async(never, journal.clone());
        noted(&journal).await;
        kill(notes(&journal)[0].parse().unwrap());
        let error = handle.await.unwrap_err();
        assert!(error.is_worker_lost());
        assert_eq!(error.exit().unwrap().to_string(), "killed by signal 9 (SIGKILL)");
        assert!(error.to_string().contains("was killed by signal 9 (SIGKILL) while it ran"));
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn a_worker_that_dies_idle_is_replaced() {
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        kill(worker);
        until("there is another", || {
            pool.workers().iter().any(|w| w.pid.is_some_and(|pid| pid != worker))
        })
        .await;
        assert_ne!(pool.apply(pid, ()).await.unwrap(), worker);
        let stats = pool.stats();
        assert_eq!((stats.lost, stats.workers_lost, stats.completed), (0, 1, 2));
    });
}

#[test]
fn other_calls_do_not_notice() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(2);
        let beside = pool.apply_async(hold, (journal.clone(), gate.clone()));
        noted(&journal).await;
        let dies = pool.apply_async(|| -> () { std::process::exit(9) }, ());
        let behind: Vec<_> = (0..50).map(|n| pool.apply_async(square, n)).collect();
        assert!(dies.await.unwrap_err().is_worker_lost());
        for (n, handle) in behind.into_iter().enumerate() {
            assert_eq!(handle.await.unwrap(), (n * n) as u64);
        }
        assert!(!beside.is_finished());
        open(&gate);
        assert_eq!(notes(&journal), [beside.await.unwrap().to_string()]);
    });
}

#[test]
fn one_crash_after_another_does_not_break_a_pool() {
    checked(async {
        let pool = pool_of(2);
        let calls = (0..30).map(|n| {
            let pool = &pool;
            let task = |n: u32| {
                if n % 2 == 0 {
                    std::process::abort();
                }
                n
            };
            async move { (n, pool.apply(task, n).await) }
        });
        for (n, ended) in futures::future::join_all(calls).await {
            match ended {
                Ok(m) => assert!(n % 2 == 1 && m == n),
                Err(error) => assert!(n % 2 == 0 && error.is_worker_lost(), "{n}: {error}"),
            }
        }
        assert_eq!(pool.stats().lost, 15);
    });
}

/// They were in the worker's outbox, not yet sent, when the next task killed it.
#[test]
fn answers_from_just_before_a_crash_are_not_lost() {
    checked(async {
        let pool = pool_of(1);
        // So that it is known to be short, and many are sent ahead.
        pool.map(square, 0..500).chunk_size(1).await.unwrap();
        for _ in 0..5 {
            let before: Vec<_> = (0..20).map(|n| pool.apply_async(square, n)).collect();
            let dies = pool.apply_async(exit, 1);
            let behind: Vec<_> = (0..20).map(|n| pool.apply_async(square, n)).collect();
            assert!(dies.await.unwrap_err().is_worker_lost());
            for (n, handle) in before.into_iter().enumerate() {
                assert_eq!(handle.await.unwrap(), (n * n) as u64, "{n} before the crash");
            }
            for (n, handle) in behind.into_iter().enumerate() {
                assert_eq!(handle.await.unwrap(), (n * n) as u64, "{n} behind the crash");
            }
        }
        assert_eq!(pool.stats().lost, 5);
    });
}

#[test]
fn what_a_task_started_goes_with_its_worker() {
    fn starts_a_child_and_dies(journal: String) {
        let child = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
        crate::support::note(journal, &child.id().to_string());
        std::process::exit(1);
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        assert!(pool.apply(starts_a_child_and_dies, journal.clone()).await.is_err());
        let child = notes(&journal)[0].parse().unwrap();
        until("the grandchild is gone", || !crate::support::is_alive(child)).await;
    });
}

#[test]
fn an_answer_that_was_sent_before_the_death_counts() {
    fn answers_then_dies(n: u32) -> u32 {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            std::process::exit(4);
        });
        n
    }
    checked(async {
        let pool = pool_of(1);
        for n in 0..5 {
            let lost = pool.stats().workers_lost;
            assert_eq!(pool.apply(answers_then_dies, n).await.unwrap(), n);
            until("the worker died idle", || pool.stats().workers_lost > lost).await;
        }
        assert_eq!(pool.stats().lost, 0);
    });
}

/// A copy of the worker that leaves the task, as the original does, would answer for it.
#[test]
fn a_copy_that_a_task_forks_ends_where_the_task_does() {
    /// Which of the two this is, and how the copy ended.
    fn forks(panics: bool) -> i32 {
        // SAFETY: no thread of a worker holds the allocator's lock while its task runs.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                assert!(!panics, "a copy's panic, on purpose");
                -1
            }
            nix::unistd::ForkResult::Parent { child } => exit_of(child),
        }
    }
    fn forks_in_a_stream(n: i32) -> impl Iterator<Item = i32> {
        (0..n).map(|_| forks(false))
    }
    checked(async {
        let pool = Pool::builder().workers(1).stderr(Stdio::null()).build().unwrap();
        for panics in [false, true] {
            assert_eq!(pool.apply(forks, panics).await.unwrap(), 1);
            assert_eq!(pool.map(forks, [panics]).await.unwrap(), [1]);
        }
        let items: Vec<_> = pool.stream(forks_in_a_stream, 5).try_collect().await.unwrap();
        assert_eq!(items, [1; 5]);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(pool.stats().workers_started, 1);
    });
}
