//! System calls and allocations for each call, in the parent and in the worker.
//! One thread and one worker, so that allocations, and all system calls of one
//! call at a time, are exact but for what a buffer needs to grow. How many frames
//! one of many in flight carries depends on who runs when, and has room for that.

use std::future::Future;

use futures::stream::{FuturesUnordered, StreamExt};
use procession::Pool;

use crate::counting::Cost;
use crate::support::checked_current_thread;

fn increment(n: u64) -> u64 {
    n + 1
}

fn costs() -> Cost {
    Cost::now()
}

/// What `calls` calls made by `make` cost both sides.
async fn measured<F: Future>(pool: &Pool, make: impl Fn() -> F) -> (Cost, Cost) {
    // Buffers grow to what they have to hold.
    make().await;
    let there = pool.apply(costs, ()).await.unwrap();
    let here = Cost::now();
    make().await;
    let here = Cost::now() - here;
    (here, pool.apply(costs, ()).await.unwrap() - there)
}

async fn pool_of_one() -> Pool {
    let pool = Pool::builder().workers(1).build().unwrap();
    pool.ready().await.unwrap();
    pool
}

/// Each side sends once and reads once. The parent also reads once in vain, since
/// only that tells that nothing is left, and its runtime looks for events before
/// and after.
#[test]
fn one_at_a_time() {
    checked_current_thread(async {
        let pool = pool_of_one().await;
        let calls = 2000;
        let (here, there) = measured(&pool, || async {
            for n in 0..calls {
                assert_eq!(pool.apply(increment, n).await.unwrap(), n + 1);
            }
        })
        .await;
        here.assert_at_most(
            "parent",
            calls as i64,
            Cost { sends: 1050, reads: 2100, waits: 3500, wakes: 10, allocations: 3050 },
        );
        there.assert_at_most(
            "worker",
            calls as i64,
            Cost { sends: 1050, reads: 1050, waits: 0, wakes: 0, allocations: 5 },
        );
        pool.terminate().await;
    });
}

#[test]
fn many_in_flight() {
    checked_current_thread(async {
        let pool = pool_of_one().await;
        let calls = 20_000;
        let (here, there) = measured(&pool, || async {
            let calls: FuturesUnordered<_> =
                (0..calls).map(|n| pool.apply_async(increment, n)).collect();
            calls.for_each(async |answer| assert!(answer.is_ok())).await;
        })
        .await;
        here.assert_at_most(
            "parent",
            calls as i64,
            Cost { sends: 50, reads: 100, waits: 100, wakes: 10, allocations: 2100 },
        );
        there.assert_at_most(
            "worker",
            calls as i64,
            Cost { sends: 50, reads: 50, waits: 0, wakes: 0, allocations: 5 },
        );
        pool.terminate().await;
    });
}

/// Those who are told together call again together, and are sent together.
#[test]
fn sixteen_callers() {
    checked_current_thread(async {
        let pool = pool_of_one().await;
        let calls = 16 * 1000;
        let (here, there) = measured(&pool, || async {
            let callers: Vec<_> = (0..16)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        for n in 0..1000 {
                            assert_eq!(pool.apply(increment, n).await.unwrap(), n + 1);
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
        })
        .await;
        here.assert_at_most(
            "parent",
            calls as i64,
            Cost { sends: 65, reads: 130, waits: 100, wakes: 10, allocations: 1450 },
        );
        there.assert_at_most(
            "worker",
            calls as i64,
            Cost { sends: 65, reads: 65, waits: 0, wakes: 0, allocations: 5 },
        );
        pool.terminate().await;
    });
}

#[test]
fn items_of_an_imap() {
    checked_current_thread(async {
        let pool = pool_of_one().await;
        let calls = 20_000;
        let (here, there) = measured(&pool, || async {
            let answers = pool.imap_unordered(increment, 0..calls);
            answers.for_each(async |answer| assert!(answer.is_ok())).await;
        })
        .await;
        here.assert_at_most(
            "parent",
            calls as i64,
            Cost { sends: 50, reads: 100, waits: 100, wakes: 10, allocations: 2150 },
        );
        there.assert_at_most(
            "worker",
            calls as i64,
            Cost { sends: 50, reads: 50, waits: 0, wakes: 0, allocations: 5 },
        );
        pool.terminate().await;
    });
}

/// Items share everything but their own bytes.
#[test]
fn items_of_a_map() {
    checked_current_thread(async {
        let pool = pool_of_one().await;
        let calls = 200_000;
        let (here, there) = measured(&pool, || async {
            assert_eq!(pool.map(increment, 0..calls).await.unwrap().len() as u64, calls);
        })
        .await;
        here.assert_at_most(
            "parent",
            calls as i64,
            Cost { sends: 2, reads: 4, waits: 4, wakes: 1, allocations: 10 },
        );
        there.assert_at_most(
            "worker",
            calls as i64,
            Cost { sends: 2, reads: 2, waits: 0, wakes: 0, allocations: 5 },
        );
        pool.terminate().await;
    });
}
