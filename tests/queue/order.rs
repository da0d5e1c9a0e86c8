//! First in, first out; what was put is there at once, and comes out as it was.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use procession::{GetError, Queue, SharedBytes};
use serde::{Deserialize, Serialize};

use crate::support::{alone, checked, checked_current_thread};

#[test]
fn items_come_in_the_order_in_which_they_were_put() {
    checked_current_thread(async {
        let queue: Queue<u32> = Queue::new(0).unwrap();
        for n in 0..10_000 {
            queue.put(n).await.unwrap();
        }
        assert_eq!(queue.len(), 10_000);
        for n in 0..10_000 {
            assert_eq!(queue.get().await.unwrap(), n);
        }
        assert!(queue.is_empty());
        assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    });
}

#[test]
fn what_was_put_is_there_at_once() {
    alone(|| {
        let queue: Queue<u32> = Queue::new(0).unwrap();
        let other = queue.clone();
        for n in 0..1000 {
            queue.try_put(n).unwrap();
            assert_eq!((queue.len(), other.len()), (1, 1));
            assert_eq!(other.try_get().unwrap(), n);
            assert_eq!((queue.len(), other.len()), (0, 0));
        }
    });
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Job {
    Stop,
    Scale { image: Bytes, to: (u32, u32) },
    Named(String, Vec<Option<Job>>),
}

#[test]
fn values_of_any_type_and_length_come_out_as_they_were() {
    checked(async {
        let queue: Queue<Job> = Queue::new(0).unwrap();
        let image = |len: usize| Bytes::from((0..len).map(|n| (n * 7) as u8).collect::<Vec<_>>());
        let mut jobs = vec![Job::Stop, Job::Named("name".into(), vec![None, Some(Job::Stop)])];
        for len in [0, 1, 990, 1000, 1001, 1100, 40_000, 1 << 20, (1 << 20) + 1, 30 << 20] {
            jobs.push(Job::Scale { image: image(len), to: (len as u32, 7) });
        }
        for job in &jobs {
            queue.put(job.clone()).await.unwrap();
        }
        for job in &jobs {
            assert!(queue.get().await.unwrap() == *job);
        }
        for job in &jobs {
            queue.blocking_put(job.clone()).unwrap();
            assert!(queue.blocking_get().unwrap() == *job);
        }
    });
}

#[test]
fn nothing_is_an_item_too() {
    checked(async {
        let queue: Queue<()> = Queue::new(3).unwrap();
        for _ in 0..3 {
            queue.put(()).await.unwrap();
        }
        assert!(queue.is_full() && queue.try_put(()).unwrap_err().is_full());
        for _ in 0..3 {
            queue.get().await.unwrap();
        }
        assert!(queue.is_empty());
    });
}

#[test]
fn shared_memory_goes_through_a_queue() {
    checked(async {
        let queue: Queue<(u32, Vec<SharedBytes>)> = Queue::new(0).unwrap();
        let bytes = |n: u32| SharedBytes::copy_from_slice(&[n as u8; 5000]).unwrap();
        for n in 0..20 {
            queue.put((n, vec![bytes(n), bytes(n + 1), bytes(n)])).await.unwrap();
        }
        for n in 0..20 {
            let expected = (n, vec![bytes(n), bytes(n + 1), bytes(n)]);
            assert!(queue.get().await.unwrap() == expected);
        }
        // Far more than fit beside the queue: whoever puts waits.
        let producer = queue.producer();
        let put = tokio::spawn(async move {
            for n in 0..2000 {
                producer.put((n, vec![SharedBytes::copy_from_slice(&[1]).unwrap()])).await.unwrap();
            }
        });
        for n in 0..2000 {
            assert_eq!(queue.get().await.unwrap().0, n);
        }
        put.await.unwrap();
    });
}

#[test]
fn each_item_goes_to_one_of_many_consumers() {
    checked(async {
        let queue: Queue<u32> = Queue::new(7).unwrap();
        let (producer, consumer) = queue.split();
        let producers = (0..4).map(|part| {
            let producer = producer.clone();
            tokio::spawn(async move {
                for n in 0..500 {
                    producer.put(part * 500 + n).await.unwrap();
                }
            })
        });
        let producers: Vec<_> = producers.collect();
        drop(producer);
        let consumers = (0..4).map(|_| {
            let consumer = consumer.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                loop {
                    match consumer.get().await {
                        Ok(n) => got.push(n),
                        Err(GetError::Closed) => return got,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        let consumers: Vec<_> = consumers.collect();
        drop(consumer);
        join_all(producers).await;
        let got: Vec<_> = join_all(consumers).await.into_iter().map(Result::unwrap).collect();
        for of_one in &got {
            // Of each producer in its order.
            for part in 0..4 {
                assert!(of_one.iter().filter(|n| *n / 500 == part).is_sorted());
            }
        }
        let all: Vec<_> = got.concat();
        assert_eq!(all.len(), 2000);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (0..2000).collect());
    });
}

#[test]
fn threads_and_tasks_share_a_queue() {
    checked(async {
        let (forth, back) = (Queue::new(1).unwrap(), Queue::new(1).unwrap());
        let (theirs, ours) = (forth.consumer(), back.producer());
        let thread = std::thread::spawn(move || {
            while let Ok(n) = theirs.blocking_get() {
                let n: u32 = n;
                ours.blocking_put(n + 1).unwrap();
            }
        });
        let forth = forth.split().0;
        for n in 0..500 {
            forth.put(n).await.unwrap();
            assert_eq!(back.get().await.unwrap(), n + 1);
        }
        drop(forth);
        thread.join().unwrap();
    });
}
