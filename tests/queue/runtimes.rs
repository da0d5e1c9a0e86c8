//! A queue is made anywhere, and used in any runtime, or in none.

use procession::Queue;
use tokio::runtime::{Builder, Runtime};

use crate::support::alone;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn it_outlives_the_runtimes_in_which_it_is_used() {
    alone(|| {
        let queue: Queue<u32> = Queue::new(1).unwrap();
        for round in 0..10 {
            let runtime = if round % 2 == 0 { runtime() } else { current_thread() };
            runtime.block_on(async {
                let other = queue.clone();
                let waiting = tokio::spawn(async move { other.get().await.unwrap() });
                tokio::task::yield_now().await;
                queue.put(round).await.unwrap();
                assert_eq!(waiting.await.unwrap(), round);
            });
        }
        queue.try_put(1).unwrap();
        assert_eq!(queue.blocking_get().unwrap(), 1);
    });
}

#[test]
fn runtimes_that_stand_still_keep_no_other_waiting() {
    alone(|| {
        let queue: Queue<u32> = Queue::new(0).unwrap();
        let still = current_thread();
        // It waits there, in a runtime that nobody drives any more.
        let other = queue.clone();
        let waiting = still.spawn(async move { other.get().await });
        still.block_on(tokio::task::yield_now());
        let queue = &queue;
        std::thread::scope(|scope| {
            scope.spawn(|| queue.blocking_put(7).unwrap());
            assert_eq!(current_thread().block_on(queue.get()).unwrap(), 7);
            scope.spawn(|| queue.blocking_put(8).unwrap());
            assert_eq!(runtime().block_on(queue.get()).unwrap(), 8);
        });
        queue.try_put(9).unwrap();
        assert_eq!(still.block_on(waiting).unwrap().unwrap(), 9);
    });
}

#[test]
fn two_runtimes_pass_a_ball() {
    alone(|| {
        let (forth, back): (Queue<u32>, Queue<u32>) =
            (Queue::new(1).unwrap(), Queue::new(1).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                current_thread().block_on(async {
                    for _ in 0..300 {
                        back.put(forth.get().await.unwrap() + 1).await.unwrap();
                    }
                })
            });
            runtime().block_on(async {
                for n in 0..300 {
                    forth.put(n).await.unwrap();
                    assert_eq!(back.get().await.unwrap(), n + 1);
                }
            });
        });
    });
}

/// Whoever always finds an item lets the others of its thread run all the same.
#[test]
fn a_busy_consumer_does_not_keep_a_runtime_to_itself() {
    alone(|| {
        current_thread().block_on(async {
            let queue: Queue<u32> = Queue::new(0).unwrap();
            let other = queue.clone();
            let circle = tokio::spawn(async move {
                loop {
                    let n = other.get().await.unwrap();
                    other.put(n).await.unwrap();
                }
            });
            queue.put(1).await.unwrap();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            circle.abort();
            assert!(circle.await.unwrap_err().is_cancelled());
        });
    });
}
