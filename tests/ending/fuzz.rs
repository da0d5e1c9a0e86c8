//! Everything at once, at random, with an account of every task.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Pool, TaskError, TaskHandle, worker};

use crate::support::{Scratch, checked, checked_current_thread, note};
use crate::tasks::*;

/// One task of many manners.
fn anything(journal: String, number: u64, manner: u64, micros: u64) -> u64 {
    match manner {
        0 => ignore_term(),
        1 => drop(worker::is_cancelled()),
        _ => {}
    }
    note(&journal, &number.to_string());
    match manner {
        2 => std::process::exit(9),
        3 => std::process::abort(),
        4 => panic!("as was to be expected"),
        _ => {}
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(micros) {
        if manner == 1 && worker::is_cancelled() {
            break;
        }
        std::hint::spin_loop();
    }
    answer(number)
}

struct Call {
    number: u64,
    manner: u64,
    /// Cancelled through a cancel handle, or has a timeout.
    threatened: bool,
    handle: TaskHandle<u64>,
}

async fn chaos(seed: u64, time: Duration) {
    let scratch = Scratch::new();
    let journal = scratch.path("journal");
    let mut rng = Rng::new(seed);
    let builder = Pool::builder()
        .workers(2)
        .grace_period(Duration::from_millis(rng.below(20)))
        // A worker that is killed before its first task looks as if it could
        // not start.
        .restart_limit(1000)
        .stderr(procession::Stdio::null());
    let builder = builder.spare_workers(rng.below(3) as usize);
    let pool = match rng.below(3) {
        0 => builder.max_tasks_per_worker(50),
        1 => builder.idle_timeout(Duration::from_millis(1)),
        _ => builder,
    };
    let pool = pool.build().unwrap();
    let mut ledger = Ledger::new(journal.clone());
    let mut calls: Vec<Call> = Vec::new();
    let mut number = 0;
    let mut killed = false;
    let start = Instant::now();
    while start.elapsed() < time {
        match rng.below(100) {
            0..60 => {
                number += 1;
                let manner = rng.below(60);
                let micros = if rng.one_in(50) { 20_000 } else { rng.below(300) };
                let call = pool.apply(anything, (journal.clone(), number, manner, micros));
                let threatened = rng.one_in(20);
                let call = if threatened {
                    call.timeout(Duration::from_micros(rng.below(20_000)))
                } else {
                    call
                };
                calls.push(Call { number, manner, threatened, handle: call.start() });
            }
            60..70 if !calls.is_empty() => {
                let call = calls.swap_remove(rng.below(calls.len() as u64) as usize);
                ledger.tell(call.number, Told::Perhaps);
                drop(call.handle);
            }
            70..75 if !calls.is_empty() => {
                let call = calls.swap_remove(rng.below(calls.len() as u64) as usize);
                let cancelled = call.handle.cancel().await;
                let told = if cancelled.started { Told::Perhaps } else { Told::NotStarted };
                ledger.tell(call.number, told);
            }
            75..80 if !calls.is_empty() => {
                let index = rng.below(calls.len() as u64) as usize;
                calls[index].threatened = true;
                calls[index].handle.cancel_handle().cancel();
            }
            80..81 => {
                let workers = pool.workers();
                if let Some(pid) = workers.first().and_then(|worker| worker.pid) {
                    killed = true;
                    let signal = if rng.one_in(4) { Signal::SIGTERM } else { Signal::SIGKILL };
                    let _ = kill(Pid::from_raw(pid as i32), signal);
                }
            }
            81..82 => pool.resize(1 + rng.below(4) as usize),
            82..90 => tokio::task::yield_now().await,
            90..92 if calls.len() > 200 => {
                for call in calls.drain(..) {
                    settle(&mut ledger, call, killed).await;
                }
                killed = false;
            }
            _ => {}
        }
    }
    for call in calls {
        settle(&mut ledger, call, killed).await;
    }
    pool.close();
    pool.join().await;
    ledger.check();
    assert_all_counted(&pool);
    assert_eq!(pool.stats().submitted, number);
}

async fn settle(ledger: &mut Ledger, call: Call, killed: bool) {
    let Call { number, manner, threatened, handle } = call;
    let told = match handle.await {
        Ok(value) => {
            assert_eq!(value, answer(number));
            assert!(!(2..=4).contains(&manner));
            Told::Answered
        }
        Err(TaskError::Panicked(_)) if manner == 4 => Told::Answered,
        Err(TaskError::WorkerLost { exit, .. }) => {
            let own = match manner {
                2 => exit.code() == Some(9),
                3 => exit.signal() == Some(6),
                _ => false,
            };
            let ours = killed && matches!(exit.signal(), Some(9 | 15));
            assert!(own || ours, "{number} of manner {manner} was lost: {exit}");
            if own { Told::Answered } else { Told::Perhaps }
        }
        Err(error) if threatened && (error.is_cancelled() || error.is_timeout()) => Told::Perhaps,
        Err(error) => panic!("{number} of manner {manner}: {error}"),
    };
    ledger.tell(number, told);
}

#[test]
fn everything_at_once() {
    for seed in 100..108 {
        checked(chaos(seed, Duration::from_millis(500)));
    }
}

#[test]
fn everything_at_once_on_one_thread() {
    for seed in 200..204 {
        checked_current_thread(chaos(seed, Duration::from_millis(400)));
    }
}
