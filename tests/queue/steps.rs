//! Whoever uses a queue is killed at each of its system calls, or stopped there:
//! the queue goes on, and at most the item that was at hand is gone.

use std::collections::BTreeSet;

use bytes::Bytes;
use procession::{Consumer, JoinError, JoinableQueue, Pool, Producer, Queue};

use crate::blow::{Blow, Steps, Strike, sweep};
use crate::support::{LIMIT, checked, within};
use crate::tasks::pid;

/// A pool whose worker has done the like before, so that its steps are those of
/// the queue.
async fn warm() -> (Pool, i32) {
    let pool = Pool::builder().workers(1).build().unwrap();
    let pid = pool.apply(pid, ()).await.unwrap();
    (pool, pid as i32)
}

fn bytes(n: u8) -> Bytes {
    Bytes::from(vec![n; 3000])
}

fn put_three(producer: Producer<Bytes>) {
    for n in 0..3 {
        producer.blocking_put(bytes(n)).unwrap();
    }
}

fn get_three(consumer: Consumer<Bytes>) -> Vec<u8> {
    (0..3).map(|_| consumer.blocking_get().unwrap()[0]).collect()
}

#[test]
fn a_producer_is_killed_at_each_step() {
    checked(async {
        for blow in [Blow::Kill, Blow::Pause] {
            let mut left = BTreeSet::new();
            sweep(async |step| {
                let (pool, victim) = warm().await;
                let (producer, consumer) = Queue::<Bytes>::new(0).unwrap().split();
                // Somebody waits while it is put.
                let waiting = tokio::spawn({
                    let consumer = consumer.clone();
                    async move {
                        let mut got = Vec::new();
                        while let Ok(item) = consumer.get().await {
                            got.push(item[0]);
                        }
                        got
                    }
                });
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let put = pool.apply(put_three, producer).await;
                let struck = strike.finish().await;
                // All producers are gone.
                let got = within(LIMIT, waiting).await.unwrap();
                assert!(got.iter().eq([0, 1, 2][..got.len()].iter()), "{got:?}");
                if put.is_ok() {
                    assert_eq!(got.len(), 3);
                }
                left.insert(got.len());
                assert!(consumer.try_get().unwrap_err().is_closed());
                pool.terminate().await;
                struck
            })
            .await;
            let all =
                if blow == Blow::Kill { BTreeSet::from([0, 1, 2, 3]) } else { BTreeSet::from([3]) };
            assert_eq!(left, all, "{blow:?}");
        }
    });
}

#[test]
fn a_consumer_is_killed_at_each_step() {
    checked(async {
        let mut left = BTreeSet::new();
        sweep(async |step| {
            let (pool, victim) = warm().await;
            let queue = Queue::<Bytes>::new(3).unwrap();
            for n in 0..3 {
                queue.put(bytes(n)).await.unwrap();
            }
            // Somebody waits for room.
            let waiting = tokio::spawn({
                let queue = queue.clone();
                async move { queue.put(bytes(3)).await }
            });
            let strike = Strike::prepare(victim, step, Blow::Kill, Steps::All).await;
            let got = pool.apply(get_three, queue.consumer()).await;
            let struck = strike.finish().await;
            let mut rest = Vec::new();
            while let Ok(item) = queue.try_get() {
                rest.push(item[0]);
            }
            within(LIMIT, waiting).await.unwrap().unwrap();
            while let Ok(item) = queue.try_get() {
                rest.push(item[0]);
            }
            assert!(rest.is_sorted() && rest.last() == Some(&3), "{rest:?}");
            assert!(rest.len() == 4 - rest[0] as usize, "the first are gone, and no other");
            if let Ok(got) = got {
                assert_eq!((got, &rest[..]), (vec![0, 1, 2], &[3][..]));
            }
            left.insert(rest.len());
            pool.terminate().await;
            struck
        })
        .await;
        assert_eq!(left, BTreeSet::from([1, 2, 3, 4]));
    });
}

/// With its descriptors beside it.
fn forward(from: Consumer<Producer<u8>>) {
    let producer = from.blocking_get().unwrap();
    producer.blocking_put(7).unwrap();
}

#[test]
fn items_with_descriptors_are_lost_whole_or_not_at_all() {
    checked(async {
        let mut seen = BTreeSet::new();
        sweep(async |step| {
            let (pool, victim) = warm().await;
            let queue = Queue::<Producer<u8>>::new(0).unwrap();
            let (first, answers) = Queue::<u8>::new(0).unwrap().split();
            let (second, others) = Queue::<u8>::new(0).unwrap().split();
            queue.put(first).await.unwrap();
            queue.put(second).await.unwrap();
            let strike = Strike::prepare(victim, step, Blow::Kill, Steps::All).await;
            let forwarded = pool.apply(forward, queue.consumer()).await;
            let struck = strike.finish().await;
            let mut count = 0;
            while let Ok(producer) = queue.try_get() {
                producer.put(8).await.unwrap();
                count += 1;
            }
            assert_eq!(within(LIMIT, others.get()).await.unwrap(), 8, "the second is there");
            let first = within(LIMIT, answers.get()).await.ok();
            match (&forwarded, first) {
                (Ok(()), first) => assert_eq!((first, count), (Some(7), 1)),
                // It has come to the queue's end, or its item is back with us.
                (Err(_), Some(7)) => assert_eq!(count, 1),
                (Err(_), Some(_)) => assert_eq!(count, 2),
                (Err(_), None) => assert_eq!(count, 1),
            }
            seen.insert((first, count));
            drop(queue);
            pool.terminate().await;
            struck
        })
        .await;
        let all = [(None, 1), (Some(7), 1), (Some(8), 2)];
        assert_eq!(seen, BTreeSet::from(all));
    });
}

fn take_one(queue: JoinableQueue<Bytes>) {
    let item = queue.blocking_take().unwrap();
    // A step with the item in its hands.
    std::thread::yield_now();
    drop(item);
}

#[test]
fn a_holder_is_killed_at_each_step() {
    checked(async {
        for requeue in [false, true] {
            let mut fates = BTreeSet::new();
            sweep(async |step| {
                let (pool, victim) = warm().await;
                let queue = JoinableQueue::builder().requeue_lost(requeue).build().unwrap();
                queue.put(bytes(0)).await.unwrap();
                queue.put(bytes(1)).await.unwrap();
                let strike = Strike::prepare(victim, step, Blow::Kill, Steps::All).await;
                let joined = tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.join().await }
                });
                let taken = pool.apply(take_one, queue.clone()).await;
                let struck = strike.finish().await;
                let mut rest = Vec::new();
                while queue.unfinished() > 0 {
                    match within(LIMIT, queue.take_timeout(std::time::Duration::from_millis(60)))
                        .await
                    {
                        Ok(item) => rest.push(item[0]),
                        Err(error) => assert!(error.is_empty(), "{error:?}"),
                    }
                }
                let lost = match within(LIMIT, joined).await.unwrap() {
                    Ok(()) => 0,
                    Err(JoinError::Lost { items }) => items,
                    Err(error) => panic!("{error:?}"),
                };
                rest.sort_unstable();
                match (taken, lost) {
                    (Ok(()), lost) => assert_eq!((&rest[..], lost), (&[1][..], 0)),
                    (Err(_), 0) => assert!(rest == [1] || rest == [0, 1], "{rest:?}"),
                    (Err(_), lost) => assert_eq!((&rest[..], lost, requeue), (&[1][..], 1, false)),
                }
                fates.insert((rest.len(), lost));
                pool.terminate().await;
                struck
            })
            .await;
            let all = if requeue { vec![(1, 0), (2, 0)] } else { vec![(1, 0), (1, 1), (2, 0)] };
            assert_eq!(fates, all.into_iter().collect());
        }
    });
}
