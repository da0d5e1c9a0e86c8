//! The runtime that a pool was made in goes, and the pool is still held.

use std::time::Duration;

use futures::StreamExt;
use procession::{Pool, TaskError};
use tokio::runtime::{Builder, Runtime};

use crate::support::{LIMIT, Scratch, alone, children, is_alive, note, notes, until, within};
use crate::tasks::*;

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        Builder::new_current_thread().enable_all().build().unwrap(),
    ]
}

fn is_terminated<T>(result: Result<T, TaskError>) -> bool {
    matches!(result, Err(TaskError::Terminated))
}

#[test]
fn every_handle_resolves_and_every_worker_is_gone() {
    alone(|| {
        for runtime in runtimes() {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let other = Builder::new_current_thread().enable_all().build().unwrap();
            let before = children().len();
            let (pool, running, queued, map, mut imap, mut stream) = runtime.block_on(async {
                let pool = Pool::builder().workers(2).build().unwrap();
                let running = pool.apply_async(stubborn, started.clone());
                let queued: Vec<_> = (0..10).map(|n| pool.apply_async(answer, n)).collect();
                let map = pool.map_async(answer, 0..1_000_000);
                let mut imap = pool.imap(answer, 0..100_000);
                imap.next().await.unwrap().unwrap();
                let mut stream = pool.stream(|n: u64| 0..n, 1_000_000);
                stream.next().await.unwrap().unwrap();
                pids(&started, 1).await;
                (pool, running, queued, map, imap, stream)
            });
            let victim: i32 = notes(&started)[0].parse().unwrap();
            drop(runtime);
            other.block_on(within(LIMIT, async {
                assert!(is_terminated(running.await));
                for handle in queued {
                    let result = handle.await;
                    assert!(result.is_ok() || is_terminated(result));
                }
                let result = map.await;
                assert!(is_terminated(result));
                while let Some(item) = imap.next().await {
                    if item.is_err() {
                        break;
                    }
                }
                while let Some(item) = stream.next().await {
                    if let Err(error) = item {
                        assert!(matches!(error, TaskError::Terminated), "{error}");
                    }
                }
                assert!(is_terminated(pool.apply(answer, 1).await));
                assert!(is_terminated(pool.map(answer, 0..3).await));
                pool.join().await;
                assert!(!is_alive(victim));
                assert_eq!(children().len(), before);
                pool.close();
                pool.terminate().await;
                assert!(pool.ready().await.is_err());
                assert_all_counted(&pool);
            }));
        }
    });
}

#[test]
fn shutdown_and_map_timeouts_need_no_clock_of_the_dead_runtime() {
    alone(|| {
        for runtime in runtimes() {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let other = Builder::new_current_thread().enable_all().build().unwrap();
            let (pool, mut map) = runtime.block_on(async {
                let pool = Pool::builder().workers(2).build().unwrap();
                let slow = |path: String| {
                    note(path, "1");
                    std::thread::sleep(Duration::from_secs(1000));
                };
                let map = pool.map(slow, vec![started.clone(); 10]);
                let mut map = Box::pin(map.timeout(Duration::from_secs(1000)));
                assert!(futures::poll!(map.as_mut()).is_pending());
                pids(&started, 1).await;
                (pool, map)
            });
            drop(runtime);
            other.block_on(within(LIMIT, async {
                assert!(is_terminated(map.as_mut().await));
                pool.shutdown(Duration::from_secs(5)).await;
                pool.shutdown(Duration::ZERO).await;
            }));
        }
    });
}

/// The same at once, before anything has ended.
#[test]
fn shutdown_right_after_the_runtime_is_gone() {
    for _ in 0..10 {
        alone(|| {
            let other = Builder::new_current_thread().build().unwrap();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let pool = runtime.block_on(async {
                let pool = Pool::builder().workers(2).build().unwrap();
                pool.ready().await.unwrap();
                pool
            });
            drop(runtime);
            // A runtime without any clock.
            other.block_on(pool.shutdown(Duration::from_secs(5)));
            assert!(pool.workers().is_empty());
        });
    }
}

#[test]
fn a_pool_is_used_from_a_runtime_that_is_not_its_own() {
    alone(|| {
        let [own, other] = runtimes();
        let pool = {
            let _inside = own.enter();
            Pool::builder().workers(2).build().unwrap()
        };
        let bare = Builder::new_current_thread().build().unwrap();
        for runtime in [&other, &bare] {
            runtime.block_on(async {
                assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
                let map = pool.map(answer, 0..1000).timeout(LIMIT);
                assert_eq!(map.await.unwrap().len(), 1000);
                let slow = pool.map(std::thread::sleep, vec![Duration::from_secs(1000)]);
                let error = slow.timeout(Duration::from_millis(20)).await.unwrap_err();
                assert!(error.is_timeout(), "{error}");
            });
        }
        let running = pool.apply_async(std::thread::sleep, Duration::from_secs(1000));
        let shutdown = bare.block_on(pool.shutdown(Duration::from_millis(20)));
        assert!(!shutdown.is_clean());
        assert!(is_terminated(bare.block_on(running)));
    });
}

#[test]
fn a_runtime_that_is_blocked_delays_no_kill() {
    alone(|| {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let grace = Duration::from_millis(50);
            let pool = Pool::builder().workers(1).grace_period(grace).build().unwrap();
            let running = pool.apply_async(stubborn, started.clone());
            let victim = pids(&started, 1).await[0];
            let cancelling = running.cancel();
            // Nobody polls anything now.
            while is_alive(victim) {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(cancelling.await.exit.unwrap().signal(), Some(9));
        });
    });
}

#[test]
fn a_runtime_shut_down_in_the_background_ends_its_pools() {
    alone(|| {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let other = Builder::new_current_thread().enable_all().build().unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (pool, running) = runtime.block_on(async {
            let pool = Pool::builder().workers(1).build().unwrap();
            let running = pool.apply_async(spin, started.clone());
            pids(&started, 1).await;
            (pool, running)
        });
        let victim: i32 = notes(&started)[0].parse().unwrap();
        runtime.shutdown_background();
        other.block_on(within(LIMIT, async {
            assert!(is_terminated(running.await));
            until("it is gone", || !is_alive(victim)).await;
            pool.join().await;
        }));
    });
}
