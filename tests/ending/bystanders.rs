//! A worker that dies takes with it what it ran, and nothing else.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use procession::{Exit, Pool, TaskError};

use crate::support::{Scratch, checked, children, note, notes};
use crate::tasks::*;

/// Ends its process.
fn crash(journal: String, number: u64, manner: u64) -> u64 {
    note(journal, &number.to_string());
    match manner {
        0 => std::process::exit(3),
        1 => std::process::abort(),
        // SAFETY: none. Nothing is mapped there, so the kernel ends this process.
        2 => drop(unsafe { std::ptr::without_provenance::<u8>(1).read_volatile() }),
        3 => nix::sys::signal::raise(Signal::SIGKILL).unwrap(),
        _ => panic!("only a panic"),
    }
    unreachable!("dead by now")
}

fn expected(manner: u64) -> Exit {
    match manner {
        0 => Exit::from_code(3),
        1 => Exit::from_signal(6),
        2 => Exit::from_signal(11),
        _ => Exit::from_signal(9),
    }
}

#[test]
fn what_was_answered_before_a_crash_arrives_and_what_waited_runs_once() {
    checked(async {
        let scratch = Scratch::new();
        let mut rng = Rng::new(5);
        for workers in [1, 2] {
            let journal = scratch.path(&format!("journal-{workers}"));
            let pool = Pool::builder().workers(workers).build().unwrap();
            make_hasty(&pool).await;
            let mut ledger = Ledger::new(journal.clone());
            let mut number = 0;
            for _ in 0..40 {
                let mut handles = Vec::new();
                for _ in 0..24 {
                    number += 1;
                    let manner = if rng.one_in(12) { Some(rng.below(5)) } else { None };
                    let handle = match manner {
                        None => pool.apply_async(quick, (journal.clone(), number)),
                        Some(manner) => pool.apply_async(crash, (journal.clone(), number, manner)),
                    };
                    handles.push((number, manner, handle));
                }
                for (number, manner, handle) in handles {
                    let result = handle.await;
                    match manner {
                        None => ledger.answered(number, result),
                        Some(4) => {
                            assert!(result.unwrap_err().is_panic());
                            ledger.tell(number, Told::Answered);
                        }
                        Some(manner) => {
                            let error = result.unwrap_err();
                            let TaskError::WorkerLost { exit, task, .. } = error else {
                                panic!("{number}: {error}");
                            };
                            assert_eq!((exit.code(), exit.signal()), {
                                let exit = expected(manner);
                                (exit.code(), exit.signal())
                            });
                            assert!(task.name().contains("crash"));
                            ledger.tell(number, Told::Answered);
                        }
                    }
                }
            }
            ledger.check();
            assert_all_counted(&pool);
            assert_eq!(pool.stats().lost, pool.stats().workers_lost);
        }
    });
}

#[test]
fn every_task_right_before_a_crash_is_answered() {
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        make_hasty(&pool).await;
        for round in 0..60 {
            let (started, gate, journal) = (
                scratch.path(&format!("started-{round}")),
                scratch.path(&format!("gate-{round}")),
                scratch.path(&format!("journal-{round}")),
            );
            // All of it is sent before any of it runs.
            let first = pool.apply_async(held, (started.clone(), gate.clone()));
            let mut ledger = Ledger::new(journal.clone());
            let before: Vec<_> =
                (0..8).map(|n| (n, pool.apply_async(quick, (journal.clone(), n)))).collect();
            let crash = pool.apply_async(crash, (journal.clone(), 8, round % 4));
            let after: Vec<_> =
                (9..20).map(|n| (n, pool.apply_async(quick, (journal.clone(), n)))).collect();
            open(&gate);
            first.await.unwrap();
            for (number, handle) in before.into_iter().chain(after) {
                ledger.answered(number, handle.await);
            }
            let error = crash.await.unwrap_err();
            assert_eq!(error.exit().map(|e| e.exitcode()), Some(expected(round % 4).exitcode()));
            ledger.tell(8, Told::Answered);
            ledger.check();
            // It takes a few quick ones to be trusted with more again.
            for _ in 0..3 {
                make_hasty(&pool).await;
            }
        }
    });
}

#[test]
fn a_killed_worker_takes_only_what_it_ran() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(2).build().unwrap();
        make_hasty(&pool).await;
        let mut ledger = Ledger::new(journal.clone());
        let mut rng = Rng::new(9);
        let mut lost = 0;
        let mut kills = 0;
        let mut number = 0;
        for _ in 0..40 {
            let mut handles = Vec::new();
            for _ in 0..100 {
                number += 1;
                let args = (journal.clone(), number, rng.below(100));
                handles.push((number, pool.apply_async(working, args)));
            }
            for _ in 0..rng.below(3) {
                for _ in 0..rng.below(30) {
                    tokio::task::yield_now().await;
                }
                let all: Vec<i32> = children().into_iter().collect();
                if !all.is_empty() {
                    let victim = all[rng.below(all.len() as u64) as usize];
                    // It may be gone already; its number is nobody else's yet.
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), Signal::SIGKILL);
                    kills += 1;
                }
            }
            for (number, handle) in handles {
                match handle.await {
                    Err(error) if error.is_worker_lost() => {
                        assert_eq!(error.exit(), Some(Exit::from_signal(9)), "{error}");
                        lost += 1;
                        ledger.tell(number, Told::Perhaps);
                    }
                    result => ledger.answered(number, result),
                }
            }
        }
        ledger.check();
        assert_all_counted(&pool);
        assert!(lost <= kills, "{lost} tasks were lost to {kills} kills");
    });
}

#[test]
fn a_retried_task_runs_again_and_only_that() {
    fn once(journal: String, number: u64) -> u64 {
        let before = notes(&journal);
        note(&journal, &number.to_string());
        if !before.contains(&number.to_string()) {
            std::process::abort();
        }
        answer(number)
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let crashing = scratch.path("crashing");
        let pool = Pool::builder().workers(2).build().unwrap();
        make_hasty(&pool).await;
        let mut ledger = Ledger::new(journal.clone());
        let mut handles = Vec::new();
        for number in 0..200 {
            let handle = if number % 10 == 0 {
                pool.apply(once, (crashing.clone(), number)).retry(1).start()
            } else {
                pool.apply_async(quick, (journal.clone(), number))
            };
            handles.push((number, handle));
        }
        for (number, handle) in handles {
            if number % 10 == 0 {
                assert_eq!(handle.await.unwrap(), answer(number));
            } else {
                ledger.answered(number, handle.await);
            }
        }
        ledger.check();
        let starts = notes(&crashing);
        assert_eq!(starts.len(), 40);
        assert_eq!(starts.iter().collect::<HashSet<_>>().len(), 20);
        assert_eq!(pool.stats().workers_lost, 20);
        assert_all_counted(&pool);
    });
}

/// The error names the process, and that is gone.
#[test]
fn a_kill_from_outside_is_told_with_pid_and_signal() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = Pool::builder().workers(1).build().unwrap();
        let handle = pool.apply_async(forever, started.clone());
        let victim = pids(&started, 1).await[0];
        send(victim, Signal::SIGKILL);
        let error = handle.await.unwrap_err();
        let TaskError::WorkerLost { exit, pid, ref task, .. } = error else { panic!("{error}") };
        assert_eq!((exit, pid as i32), (Exit::from_signal(9), victim));
        assert!(task.name().ends_with("forever"), "{task}");
        assert!(error.to_string().contains("killed by signal 9 (SIGKILL)"), "{error}");
        assert_ne!(pool.apply(crate::tasks::pid, ()).await.unwrap() as i32, victim);
    });
}

/// Idle workers that are killed, again and again, are replaced.
#[test]
fn killing_idle_workers_breaks_nothing() {
    checked(async {
        let pool = Pool::builder().workers(2).build().unwrap();
        for _ in 0..20 {
            assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
            pool.ready().await.unwrap();
            let idle = pool.workers().iter().find_map(|worker| worker.pid).unwrap();
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(idle as i32), Signal::SIGKILL);
        }
        pool.shutdown(Duration::from_secs(10)).await;
    });
}
