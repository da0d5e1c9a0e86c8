//! Tasks that asked to end politely do, and keep their worker.

use std::time::{Duration, Instant};

use procession::{Cancelled, Exit, Pool, worker};

use crate::support::{Scratch, checked, note, noted, notes};
use crate::tasks::*;

const POLITE: Cancelled = Cancelled { started: true, exit: None };

/// Works until it is cancelled.
fn attentive(started: String, ended: String) {
    worker::is_cancelled();
    note(started, &std::process::id().to_string());
    while !worker::is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    note(ended, "cancelled");
}

async fn patient(started: String, ended: String) {
    let mut cancelled = std::pin::pin!(worker::cancelled());
    // Asked once, so that it is polite from before the note on.
    assert!(futures::poll!(cancelled.as_mut()).is_pending());
    note(started, &std::process::id().to_string());
    cancelled.await;
    note(ended, "cancelled");
}

fn called_back(started: String, ended: String) {
    let (wake, woken) = std::sync::mpsc::channel();
    worker::on_terminate(move || wake.send(()).unwrap());
    note(started, &std::process::id().to_string());
    woken.recv().unwrap();
    note(ended, "cancelled");
}

/// Promises to end, and does not.
fn liar(started: String) {
    worker::is_cancelled();
    forever(started);
}

#[test]
fn a_task_that_ends_when_asked_keeps_its_worker() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        for (round, task) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
            let (started, ended) = (
                scratch.path(&format!("started-{round}")),
                scratch.path(&format!("ended-{round}")),
            );
            let args = (started.clone(), ended.clone());
            let handle = match task {
                0 => pool.apply_async(attentive, args),
                1 => pool.apply_async(patient, args),
                _ => pool.apply_async(called_back, args),
            };
            let before = pids(&started, 1).await[0];
            assert_eq!(handle.cancel().await, POLITE);
            assert_eq!(notes(&ended), ["cancelled"]);
            assert_eq!(pool.apply(pid, ()).await.unwrap() as i32, before);
        }
        assert_eq!(pool.stats().workers_started, 1);
        assert_eq!(pool.stats().cancelled, 6);
        assert_all_counted(&pool);
    });
}

#[test]
fn a_polite_task_that_does_not_end_is_killed() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let grace = Duration::from_millis(100);
        let pool = Pool::builder().workers(1).grace_period(grace).build().unwrap();
        let handle = pool.apply_async(liar, started.clone());
        noted(&started).await;
        let before = Instant::now();
        let exit = Some(Exit::from_signal(9));
        assert_eq!(handle.cancel().await, Cancelled { started: true, exit });
        assert!(before.elapsed() >= grace);
        pool.apply(pid, ()).await.unwrap();
    });
}

#[test]
fn politeness_ends_with_the_task() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.apply(
            || {
                worker::on_terminate(|| std::process::exit(77));
                worker::is_cancelled()
            },
            (),
        )
        .await
        .unwrap();
        // Says nothing of being polite, so it is stopped at once, by a signal.
        let handle = pool.apply_async(forever, started.clone());
        noted(&started).await;
        let exit = Some(Exit::from_signal(15));
        assert_eq!(handle.cancel().await, Cancelled { started: true, exit });
    });
}

#[test]
fn a_polite_task_that_is_told_too_late_was_not_cancelled_twice() {
    checked(async {
        let scratch = Scratch::new();
        let (started, ended) = (scratch.path("started"), scratch.path("ended"));
        let pool = Pool::builder().workers(1).build().unwrap();
        let handle = pool.apply_async(attentive, (started.clone(), ended.clone()));
        let before = pids(&started, 1).await[0];
        let again = handle.cancel_handle();
        let behind: Vec<_> = (0..10).map(|n| pool.apply_async(answer, n)).collect();
        again.cancel();
        again.cancel();
        let error = handle.await.unwrap_err();
        assert!(error.is_cancelled());
        assert_eq!(error.exit(), None);
        for (n, handle) in behind.into_iter().enumerate() {
            assert_eq!(handle.await.unwrap(), answer(n as u64));
        }
        assert_eq!(pool.apply(pid, ()).await.unwrap() as i32, before);
    });
}

#[test]
fn a_timeout_is_polite_too() {
    checked(async {
        let scratch = Scratch::new();
        let (started, ended) = (scratch.path("started"), scratch.path("ended"));
        let pool = Pool::builder().workers(1).build().unwrap();
        let call = pool.apply(attentive, (started.clone(), ended.clone()));
        // Long enough to begin to watch.
        let error = call.timeout(Duration::from_millis(500)).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(error.exit(), None);
        assert_eq!(notes(&ended), ["cancelled"]);
        let before = pids(&started, 1).await[0];
        assert_eq!(pool.apply(pid, ()).await.unwrap() as i32, before);
        let started = scratch.path("forever");
        let call = pool.apply(forever, started.clone()).timeout(Duration::from_millis(30));
        let error = call.await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(error.exit(), Some(Exit::from_signal(15)));
        pool.apply(pid, ()).await.unwrap();
        assert_eq!(pool.stats().timed_out, 2);
    });
}

#[test]
fn a_timeout_counts_from_the_start_of_the_task() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let pool = Pool::builder().workers(1).build().unwrap();
        make_hasty(&pool).await;
        let first = pool.apply_async(held, (started.clone(), gate.clone()));
        noted(&started).await;
        // Far longer than the task takes once it has begun.
        let limit = Duration::from_secs(1);
        let behind = pool.apply(quick, (journal.clone(), 1)).timeout(limit).start();
        // It waits for longer than it may run.
        tokio::time::sleep(limit * 5 / 4).await;
        assert!(!behind.is_finished());
        open(&gate);
        first.await.unwrap();
        assert_eq!(behind.await.unwrap(), answer(1));
    });
}

/// Tasks of both manners, cancelled at once: the callback of one is never
/// called for another.
#[test]
fn callbacks_are_called_for_their_own_task_only() {
    fn touchy(journal: String, number: u64, patience: u64) -> u64 {
        let theirs = journal.clone();
        worker::on_terminate(move || note(theirs, &format!("{number} hears")));
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(patience) {
            std::hint::spin_loop();
        }
        answer(number)
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(2).build().unwrap();
        make_hasty(&pool).await;
        let mut rng = Rng::new(3);
        let mut kept = Vec::new();
        for round in 0..150 {
            let handles: Vec<_> = (0..8)
                .map(|n| {
                    let number = round * 8 + n;
                    let patience = rng.below(100);
                    (number, pool.apply_async(touchy, (journal.clone(), number, patience)))
                })
                .collect();
            for (number, handle) in handles {
                if number % 2 == 0 {
                    for _ in 0..rng.below(4) {
                        tokio::task::yield_now().await;
                    }
                    drop(handle);
                } else {
                    assert_eq!(handle.await.unwrap(), answer(number));
                    kept.push(number);
                }
            }
        }
        pool.close();
        pool.join().await;
        for line in notes(&journal) {
            let number: u64 = line.split(' ').next().unwrap().parse().unwrap();
            assert!(!kept.contains(&number), "{number} was told to end, and nobody wanted that");
        }
        assert_all_counted(&pool);
    });
}

/// What a copy of the worker asks for is not what the task does.
#[test]
fn a_copy_that_a_task_forks_promises_nothing() {
    fn forks(started: String) {
        // SAFETY: no thread of a worker holds a lock that the copy needs.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                worker::on_terminate(|| ());
                let code = i32::from(worker::is_cancelled());
                // SAFETY: nothing of the original's is to be cleaned up here.
                unsafe { nix::libc::_exit(code) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let ended = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
        forever(started);
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        let task = pool.apply_async(forks, scratch.path("started"));
        noted(&scratch.path("started")).await;
        let cancelled = task.cancel().await;
        assert_eq!(cancelled.exit.and_then(|exit| exit.signal()), Some(15), "without a delay");
    });
}
