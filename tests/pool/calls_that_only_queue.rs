//! Calls that come while every worker has all it can take: they only wait, and are taken
//! in later. Nobody can tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use futures::StreamExt;
use futures::future::join_all;
use procession::{Pool, PoolState, TaskError, TaskHandle, TaskStatus};

use crate::support::{Scratch, checked, checked_current_thread, noted};
use crate::tasks::{hold, open, pool_of, square};

/// More than are kept waiting at a time.
const MANY: u64 = 2_000;

#[test]
fn they_are_seen_at_once_and_counted() {
    checked_current_thread(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(1);
        let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
        noted(&journal).await;
        let mut calls: Vec<TaskHandle<u64>> = Vec::new();
        for n in 0..MANY {
            calls.push(pool.apply_async(square, n));
            if n % 97 == 0 {
                assert_eq!(calls[n as usize].status(), TaskStatus::Queued);
                assert_eq!(pool.status().queued as u64, n + 1);
                assert_eq!(pool.stats().submitted, n + 2);
            }
        }
        assert!(calls.is_sorted_by_key(TaskHandle::id), "in order of submission");
        // One that has not been looked at by anybody, and one of long ago.
        drop(calls.pop());
        drop(calls.remove(100));
        assert_eq!(pool.status().queued as u64, MANY - 2);
        open(&gate);
        held.await.unwrap();
        let expected = (0..MANY - 1).filter(|n| *n != 100).map(|n| n * n);
        for (call, square) in calls.into_iter().zip(expected) {
            assert_eq!(call.await.unwrap(), square);
        }
        assert_eq!((pool.stats().completed, pool.stats().cancelled), (MANY - 1, 2));
        pool.terminate().await;
    });
}

/// Each call has one end, and the books say the same.
#[test]
fn from_many_threads_while_others_are_answered() {
    checked(async {
        let pool = pool_of(2);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let pool = pool.clone();
                thread::spawn(move || {
                    let mut kept = Vec::new();
                    for n in 0..4 * MANY {
                        let call = pool.apply_async(square, n);
                        match (n + thread) % 5 {
                            0 => drop(call),
                            1 => kept.push((n, pool.apply(square, n).label("told").start())),
                            _ => kept.push((n, call)),
                        }
                    }
                    kept
                })
            })
            .collect();
        for thread in threads {
            for (n, call) in thread.join().unwrap() {
                assert_eq!(call.await.unwrap(), n * n);
            }
        }
        pool.close();
        pool.join().await;
        let stats = pool.stats();
        // Of five calls one is dropped, and one made beside one that is dropped.
        assert_eq!(stats.submitted, 4 * 4 * MANY / 5 * 6);
        assert_eq!(stats.completed + stats.cancelled, stats.submitted);
        assert!(stats.completed >= 4 * 4 * MANY / 5 * 4);
    });
}

/// Whatever the pool's end comes between, each handle gives an answer or says why not.
#[test]
fn while_the_pool_comes_to_its_end() {
    fn until_refused(pool: &Pool, begun: &AtomicU64) -> Vec<TaskHandle<u64>> {
        let mut calls = Vec::new();
        while pool.status().state == PoolState::Open {
            for _ in 0..300 {
                calls.push(pool.apply_async(square, 3));
                begun.fetch_add(1, Ordering::Relaxed);
            }
        }
        calls
    }

    checked(async {
        for round in 0..12 {
            let pool = pool_of(2);
            let begun = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (pool, begun) = (pool.clone(), Arc::clone(&begun));
                    thread::spawn(move || until_refused(&pool, &begun))
                })
                .collect();
            while begun.load(Ordering::Relaxed) < 500 * round {
                tokio::task::yield_now().await;
            }
            if round % 2 == 0 {
                pool.close();
            } else {
                pool.terminate().await;
            }
            let calls = threads.into_iter().flat_map(|thread| thread.join().unwrap());
            let ends = join_all(calls).await;
            let (mut answered, made) = (0, ends.len());
            for end in ends {
                match end {
                    Ok(n) => {
                        assert_eq!(n, 9);
                        answered += 1;
                    }
                    Err(TaskError::Closed) => assert!(round % 2 == 0),
                    Err(TaskError::Terminated) => assert!(round % 2 == 1),
                    Err(error) => panic!("{error}"),
                }
            }
            pool.join().await;
            let stats = pool.stats();
            assert_eq!(stats.completed, answered);
            assert!(stats.submitted <= made as u64);
        }
    });
}

/// A stream's items do the same. A pool that is closed finishes what was begun; one that
/// is terminated has an end for each.
#[test]
fn items_one_at_a_time_while_the_pool_comes_to_its_end() {
    checked(async {
        for round in 1..=12 {
            let pool = pool_of(2);
            let mut squares = pool.imap_unordered(square, 0..10 * MANY).chunk_size(1);
            let (mut answered, mut failed) = (0, 0);
            while let Some(answer) = squares.next().await {
                match answer {
                    Ok(_) => answered += 1,
                    Err(TaskError::Terminated) => failed += 1,
                    Err(error) => panic!("{error}"),
                }
                if answered + failed == 500 * round {
                    if round % 2 == 0 {
                        pool.close();
                    } else {
                        pool.terminate().await;
                    }
                }
            }
            if round % 2 == 0 {
                assert_eq!((answered, failed), (10 * MANY, 0));
            } else {
                assert!(answered >= 500 * round && failed > 0, "{answered} {failed}");
            }
            pool.terminate().await;
            let stats = pool.stats();
            assert_eq!(stats.completed + stats.failed, stats.submitted);
        }
    });
}
