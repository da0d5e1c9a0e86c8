//! A hundred thousand tasks, two thousand deaths, a thousand pools.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Pool, PoolBuilder, Stdio, TaskHandle};

use crate::holdings::{BUFFERS, Holdings, NOISE};
use crate::support::{Scratch, alone, checked, note, noted};

fn double(text: String) -> String {
    text.repeat(2)
}

fn up_to(n: u64) -> std::ops::Range<u64> {
    0..n
}

fn holdings() -> Holdings {
    Holdings::now()
}

fn sleep(_: u64) -> u64 {
    std::thread::sleep(Duration::from_secs(1000));
    0
}

/// Makes so many calls, in every way there is.
async fn calls(pool: &Pool, number: usize) {
    let each = number / 10;
    let texts = |count: usize| (0..count).map(|n| n.to_string());
    let calls: Vec<_> = texts(4 * each).map(|text| pool.apply_async(double, text)).collect();
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    for text in texts(each) {
        assert_eq!(pool.apply(double, text.clone()).await.unwrap(), text.repeat(2));
    }
    assert_eq!(pool.map(double, texts(each)).await.unwrap().len(), each);
    assert_eq!(pool.map_async(double, texts(each)).await.unwrap().len(), each);
    assert_eq!(pool.imap(double, texts(each)).count().await, each);
    assert_eq!(pool.imap_unordered(double, texts(each)).chunk_size(7).count().await, each);
    for _ in 0..each {
        assert_eq!(pool.stream(up_to, 3).count().await, 3);
    }
}

/// What is held without a pool, after there has been one.
async fn warm(builder: impl Fn() -> PoolBuilder) -> Holdings {
    let pool = builder().build().unwrap();
    calls(&pool, 2000).await;
    pool.terminate().await;
    drop(pool);
    Holdings::alone()
}

#[test]
fn a_hundred_thousand_tasks_leave_nothing_here_or_in_the_worker() {
    checked(async {
        let without = warm(|| Pool::builder().workers(1)).await;
        let pool = Pool::builder().workers(1).build().unwrap();
        for _ in 0..4 {
            calls(&pool, 2000).await;
        }
        let there = pool.apply(holdings, ()).await.unwrap();
        let here = Holdings::now();
        for _ in 0..50 {
            calls(&pool, 2000).await;
        }
        let now = pool.apply(holdings, ()).await.unwrap();
        assert!(now.is_within(&there, BUFFERS), "the worker: {now:?}, before: {there:?}");
        here.assert_back(BUFFERS);
        assert_eq!(pool.stats().workers_started, 1);
        pool.terminate().await;
        drop(pool);
        without.assert_back(NOISE);
    });
}

/// Four tasks that take their workers with them, each in its own way, and one
/// worker that is killed with or without a task.
async fn deaths(pool: &Pool) {
    let mut endless: Vec<TaskHandle<u64>> = (0..2).map(|n| pool.apply_async(sleep, n)).collect();
    let crash = pool.apply_async(|| -> u64 { std::process::abort() }, ());
    let exit = pool.apply_async(|| -> u64 { std::process::exit(3) }, ());
    let timeout = pool.apply(sleep, 1).timeout(Duration::from_millis(1));
    assert!(crash.await.unwrap_err().is_worker_lost());
    assert!(exit.await.unwrap_err().is_worker_lost());
    drop(endless.pop());
    let busy = pool.workers().into_iter().find(|worker| worker.task.is_some());
    if let Some(pid) = busy.and_then(|worker| worker.pid) {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    assert!(timeout.await.is_err());
    if let Some(handle) = endless.pop() {
        handle.cancel().await;
    }
}

#[test]
fn two_thousand_deaths_leave_nothing() {
    checked(async {
        let builder = || {
            let pool = Pool::builder().workers(4).grace_period(Duration::ZERO);
            pool.restart_limit(1000).stderr(Stdio::piped())
        };
        let without = warm(builder).await;
        let pool = builder().build().unwrap();
        for _ in 0..20 {
            deaths(&pool).await;
        }
        pool.ready().await.unwrap();
        let (here, started) = (Holdings::now(), pool.stats().workers_started);
        while pool.stats().workers_started < started + 2000 {
            deaths(&pool).await;
        }
        pool.ready().await.unwrap();
        here.assert_back(BUFFERS);
        pool.terminate().await;
        drop(pool);
        without.assert_back(NOISE);
    });
}

/// Makes a pool, and ends it in one of many ways.
async fn life(round: u64, started: &str) {
    let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
    let waiting = (0..3).map(|n| pool.apply_async(sleep, n));
    match round % 8 {
        // Dropped at once, before its worker is ready.
        0 => {}
        1 => drop(pool.apply_async(double, "never".into())),
        2 => pool.terminate().await,
        3 => {
            assert_eq!(pool.apply(double, "a".into()).await.unwrap(), "aa");
            pool.close();
            pool.join().await;
        }
        4 => {
            pool.ready().await.unwrap();
            let waiting: Vec<_> = waiting.collect();
            drop(pool);
            for call in waiting {
                assert!(call.await.is_err());
            }
        }
        5 => {
            let running = pool.apply_async(
                |path: String| {
                    note(path, "started");
                    sleep(0)
                },
                started.to_owned(),
            );
            noted(started).await;
            std::fs::remove_file(started).unwrap();
            pool.terminate().await;
            assert!(running.await.is_err());
        }
        6 => {
            let waiting: Vec<_> = waiting.collect();
            let left = pool.shutdown(Duration::from_millis(1)).await;
            assert_eq!(left.queued + left.running, waiting.len());
        }
        _ => {
            pool.map(double, ["a".to_owned(), "b".to_owned()]).await.unwrap();
        }
    }
}

#[test]
fn a_thousand_pools_leave_nothing() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        for round in 0..16 {
            life(round, &started).await;
        }
        let here = Holdings::alone();
        for round in 0..1000 {
            life(round, &started).await;
        }
        here.assert_back(NOISE);
    });
}

/// As a program does that makes a runtime for each thing it does.
#[test]
fn a_hundred_runtimes_with_pools_leave_nothing() {
    alone(|| {
        let life = || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let pool = Pool::builder().workers(1).build().unwrap();
                assert_eq!(pool.apply(double, "a".into()).await.unwrap(), "aa");
                pool.apply_async(sleep, 1).detach();
            });
        };
        life();
        let here = Holdings::alone();
        (0..100).for_each(|_| life());
        here.assert_back(NOISE);
    });
}
