//! Joinable queues: what was put is done once somebody says so.

use std::time::Duration;

use procession::{GetError, JoinError, JoinableQueue};

use crate::support::{alone, checked, until};

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn join_returns_when_all_is_done() {
    checked(async {
        let queue: JoinableQueue<u32> = JoinableQueue::new(0).unwrap();
        queue.join().await.unwrap();
        for n in 0..10 {
            queue.put(n).await.unwrap();
        }
        assert_eq!(queue.unfinished(), 10);
        let joined = tokio::spawn({
            let queue = queue.clone();
            async move { queue.join().await }
        });
        let thread = std::thread::spawn({
            let queue = queue.clone();
            move || queue.blocking_join()
        });
        for n in 0..10 {
            assert!(!joined.is_finished() && !thread.is_finished());
            assert_eq!(queue.get().await.unwrap(), n);
            assert_eq!(queue.unfinished(), 10 - n as usize);
            queue.task_done().unwrap();
        }
        joined.await.unwrap().unwrap();
        thread.join().unwrap().unwrap();
        queue.join().await.unwrap();
    });
}

#[test]
fn join_gives_up_after_a_while() {
    checked(async {
        let queue: JoinableQueue<u32> = JoinableQueue::new(0).unwrap();
        queue.put(1).await.unwrap();
        let error = queue.join_timeout(MOMENT).await.unwrap_err();
        assert!(matches!(error, JoinError::TimedOut { after: MOMENT }), "{error:?}");
        let error = queue.blocking_join_timeout(MOMENT).unwrap_err();
        assert!(matches!(error, JoinError::TimedOut { after: MOMENT }), "{error:?}");
        let item = queue.take().await.unwrap();
        assert!(queue.join_timeout(MOMENT).await.is_err());
        drop(item);
        queue.join_timeout(Duration::ZERO).await.unwrap();
        queue.blocking_join_timeout(Duration::ZERO).unwrap();
    });
}

#[test]
fn more_cannot_be_done_than_was_got() {
    alone(|| {
        let queue: JoinableQueue<u32> = JoinableQueue::new(0).unwrap();
        let over = |queue: &JoinableQueue<u32>| {
            matches!(queue.task_done().unwrap_err(), JoinError::OverDone)
        };
        assert!(over(&queue));
        queue.try_put(1).unwrap();
        queue.try_put(2).unwrap();
        assert!(over(&queue), "nobody has got it yet");
        let item = queue.try_take().unwrap();
        assert!(over(&queue), "whoever has taken it says so by dropping it");
        queue.try_get().unwrap();
        queue.task_done().unwrap();
        assert!(over(&queue));
        drop(item);
        queue.blocking_join().unwrap();
        assert!(over(&queue));
    });
}

#[test]
fn an_item_is_done_when_it_is_dropped() {
    checked(async {
        let queue: JoinableQueue<Vec<u8>> = JoinableQueue::new(0).unwrap();
        for n in 0..6 {
            queue.put(vec![n]).await.unwrap();
        }
        let mut first = queue.take().await.unwrap();
        first.push(7);
        assert_eq!(format!("{first:?}"), "QueueItem([0, 7])");
        assert_eq!(first.done(), [0, 7]);
        drop(queue.blocking_take().unwrap());
        drop(queue.try_take().unwrap());
        drop(queue.take_timeout(Duration::MAX).await.unwrap());
        drop(queue.blocking_take_timeout(Duration::MAX).unwrap());
        assert_eq!(queue.unfinished(), 1);
        let joined = tokio::spawn({
            let queue = queue.clone();
            async move { queue.join().await }
        });
        let last = queue.take().await.unwrap();
        assert!(matches!(queue.try_take(), Err(GetError::Empty)));
        // On another thread, and after the handle is gone.
        drop(queue);
        std::thread::spawn(move || drop(last)).join().unwrap();
        joined.await.unwrap().unwrap();
    });
}

#[test]
fn as_many_are_held_as_may_be_and_then_one_waits() {
    checked(async {
        let queue: JoinableQueue<u32> = JoinableQueue::new(0).unwrap();
        for n in 0..300 {
            queue.put(n).await.unwrap();
        }
        let mut held = Vec::new();
        while let Ok(item) = queue.try_take() {
            held.push(item);
        }
        assert_eq!(held.len(), 256);
        assert!(matches!(queue.take_timeout(MOMENT).await, Err(GetError::TimedOut { .. })));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { *queue.take().await.unwrap() }
        });
        drop(held.remove(100));
        assert_eq!(waiting.await.unwrap(), 256);
        // Those that are got and not held are no more than there is room for.
        assert_eq!(queue.get().await.unwrap(), 257);
        drop(held);
        while let Ok(item) = queue.try_take() {
            drop(item);
        }
        assert_eq!(queue.unfinished(), 1);
        queue.task_done().unwrap();
        queue.join().await.unwrap();
    });
}

#[test]
fn many_tasks_finish_all_that_was_put() {
    checked(async {
        for requeue in [false, true] {
            let queue = JoinableQueue::builder().maxsize(5).requeue_lost(requeue).build().unwrap();
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let queue: JoinableQueue<u32> = queue.clone();
                    tokio::spawn(async move {
                        let mut sum = 0;
                        while let Ok(item) = queue.take().await {
                            sum += *item;
                        }
                        sum
                    })
                })
                .collect();
            for round in 0..20 {
                for n in 0..50 {
                    queue.put(n).await.unwrap();
                }
                queue.join().await.unwrap();
                assert_eq!((queue.unfinished(), queue.len()), (0, 0), "{round}");
            }
            queue.close();
            let mut sum = 0;
            for worker in workers {
                sum += worker.await.unwrap();
            }
            assert_eq!((sum, queue.lost()), (20 * 49 * 50 / 2, 0));
        }
    });
}

#[test]
fn what_a_task_panics_over_is_done() {
    checked(async {
        let queue: JoinableQueue<u32> = JoinableQueue::new(0).unwrap();
        queue.put(1).await.unwrap();
        let task = tokio::spawn({
            let queue = queue.clone();
            async move {
                let _item = queue.take().await.unwrap();
                panic!("over an item");
            }
        });
        assert!(task.await.unwrap_err().is_panic());
        queue.join().await.unwrap();
        until("nothing is held", || queue.unfinished() == 0).await;
    });
}
