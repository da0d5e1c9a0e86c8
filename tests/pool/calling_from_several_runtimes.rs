//! A pool belongs to the runtime that it was made in, and works from anywhere.

use std::time::{Duration, Instant};

use futures::StreamExt;
use procession::{Pool, TaskError, TaskHandle};
use tokio::runtime::{Builder, Runtime};

use crate::support::{LIMIT, alone, checked, checked_current_thread};
use crate::tasks::{pool_of, square};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_current_thread_runtime_is_enough() {
    checked_current_thread(async {
        let pool = pool_of(2);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(pool.map(square, 0..1000).await.unwrap().len(), 1000);
        let sum = pool.imap(square, 0..100).fold(0, |sum, n| async move { sum + n.unwrap() });
        assert_eq!(sum.await, 328_350);
        let handle = pool.map_async(square, 0..10);
        pool.close();
        assert_eq!(handle.await.unwrap().len(), 10);
        pool.join().await;
    });
}

/// The driver is woken by the task that makes the calls, and that one's thread never comes
/// to run it.
#[test]
fn calls_are_made_while_whoever_queues_them_does_not_rest() {
    alone(|| {
        let runtime = runtime();
        let pool = runtime.block_on(async {
            let pool = pool_of(2);
            pool.ready().await.unwrap();
            pool
        });
        let caller = pool.clone();
        let queues = runtime.spawn(async move {
            let until = Instant::now() + LIMIT;
            let mut calls = Vec::new();
            while calls.get(500).is_none_or(|call: &TaskHandle<u64>| !call.is_finished()) {
                calls.push(caller.apply_async(square, 3));
                if calls.len() > 1000 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert!(Instant::now() < until, "nothing is done before it rests");
            }
            for call in calls {
                assert_eq!(call.await.unwrap(), 9);
            }
            caller.close();
            caller.join().await;
        });
        runtime.block_on(queues).unwrap();
        drop(pool);
    });
}

#[test]
fn another_runtime_can_call() {
    alone(|| {
        let home = runtime();
        let pool = home.block_on(async { pool_of(2) });
        for other in [runtime(), current_thread()] {
            other.block_on(async {
                assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
                assert_eq!(pool.map(square, 0..100).await.unwrap().len(), 100);
                assert_eq!(pool.map_async(square, 0..100).await.unwrap().len(), 100);
                let items: Vec<_> = pool.imap(square, 0..10).collect().await;
                assert_eq!(items.len(), 10);
                let items: Vec<_> = pool.stream(|n: u32| 0..n, 10).collect().await;
                assert_eq!(items.len(), 10);
                pool.ready().await.unwrap();
            });
        }
        current_thread().block_on(async {
            let left = pool.shutdown(std::time::Duration::from_secs(60)).await;
            assert!(left.is_clean());
        });
    });
}

#[test]
fn any_executor_can_await_handles() {
    alone(|| {
        let home = runtime();
        let pool = home.block_on(async { pool_of(2) });
        futures::executor::block_on(async {
            assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
            let started = pool.apply_async(square, 4);
            assert_eq!(started.await.unwrap(), 16);
            assert_eq!(pool.map(square, 0..100).await.unwrap().len(), 100);
            let map = pool.map(square, 0..10).timeout(std::time::Duration::from_secs(60));
            assert_eq!(map.await.unwrap().len(), 10);
            assert_eq!(pool.map_async(square, 0..100).await.unwrap().len(), 100);
            let items: Vec<_> = pool.imap_unordered(square, 0..100).collect().await;
            assert_eq!(items.len(), 100);
            let cancelled = pool.apply_async(square, 5).cancel().await;
            assert!(cancelled.started || cancelled.exit.is_none());
            pool.shutdown(std::time::Duration::from_secs(60)).await;
        });
    });
}

#[test]
fn many_threads_share_a_pool() {
    alone(|| {
        let home = runtime();
        let pool = home.block_on(async { pool_of(2) });
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let pool = &pool;
                scope.spawn(move || {
                    futures::executor::block_on(async {
                        for n in 0..50 {
                            let n = thread * 1000 + n;
                            assert_eq!(pool.apply(square, n).await.unwrap(), n * n);
                        }
                        let from = thread * 100;
                        let squares = pool.map(square, from..from + 100).await.unwrap();
                        assert!(squares.into_iter().eq((from..from + 100).map(|n| n * n)));
                    });
                });
            }
        });
        home.block_on(async { assert_eq!(pool.stats().failed, 0) });
    });
}

/// Nobody drives the runtime while the caller waits elsewhere.
#[test]
fn a_current_thread_runtime_catches_up_when_it_runs() {
    alone(|| {
        let home = current_thread();
        let pool = home.block_on(async { pool_of(1) });
        let handle = pool.apply_async(square, 3);
        assert!(!handle.is_finished());
        assert_eq!(home.block_on(handle).unwrap(), 9);
    });
}

/// Workers take real time, whatever a test makes of its clock.
#[test]
fn a_paused_clock_stops_nothing() {
    alone(|| {
        let home = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        home.block_on(async {
            let pool = pool_of(1);
            let long = std::time::Duration::from_secs(3600);
            assert_eq!(pool.apply(square, 3).timeout(long).await.unwrap(), 9);
            let items: Vec<_> = pool.imap(square, 0..10).collect().await;
            assert_eq!(items.len(), 10);
            pool.close();
            pool.join().await;
        });
    });
}

#[test]
fn what_is_left_of_a_pool_without_its_runtime_says_so() {
    alone(|| {
        let home = runtime();
        let pool = home.block_on(async { pool_of(1) });
        let call =
            pool.apply_async(|| std::thread::sleep(std::time::Duration::from_secs(3600)), ());
        let map = pool.map_async(square, 0..3);
        drop(home);
        futures::executor::block_on(async {
            assert!(matches!(call.await, Err(TaskError::Terminated)));
            // It may have been fast.
            assert!(matches!(map.await, Ok(_) | Err(TaskError::Terminated)));
            assert!(matches!(pool.apply(square, 3).await, Err(TaskError::Terminated)));
            assert!(matches!(pool.map(square, 0..3).await, Err(TaskError::Terminated)));
            assert!(matches!(pool.map_async(square, 0..3).await, Err(TaskError::Terminated)));
            assert!(matches!(
                pool.imap(square, 0..3).next().await,
                Some(Err(TaskError::Terminated))
            ));
            assert!(pool.ready().await.is_err());
            pool.join().await;
            pool.terminate().await;
        });
        assert!(pool.workers().is_empty());
    });
}

#[test]
fn two_pools_do_not_mix() {
    checked(async {
        let one = pool_of(1);
        let two = Pool::builder().workers(1).env("WHO", "two").build().unwrap();
        let who = || std::env::var("WHO").ok();
        for _ in 0..20 {
            let (first, second) = futures::join!(one.apply(who, ()), two.apply(who, ()));
            assert_eq!((first.unwrap(), second.unwrap().as_deref()), (None, Some("two")));
        }
        one.terminate().await;
        assert_eq!(two.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn outside_of_a_runtime_no_pool_is_made() {
    alone(|| {
        let error = Pool::new().unwrap_err();
        assert!(error.to_string().starts_with("there is no tokio runtime here"), "{error}");
        assert!(!error.is_setting() && !error.is_not_initialised());
    });
}
