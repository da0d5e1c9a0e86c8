//! Items with descriptors, few and more than go with one `sendmsg`: they come whole or
//! not at all, and nobody keeps those of an item that was not put.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use procession::{Consumer, Fd, Pool, Producer, PutErrorKind, Queue, SharedBytes};
use tokio::io::AsyncReadExt;

use crate::blow::{Blow, Steps, Strike, sweep};
use crate::support::{LIMIT, checked, until, within};
use crate::tasks::{pid, pool_of};

type Item = (Vec<Fd<UnixStream>>, Vec<SharedBytes>);

/// Streams that say their numbers, and memory that holds them.
fn item(streams: usize, memory: usize) -> Item {
    let stream = |n: usize| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(n.to_string().as_bytes()).unwrap();
        theirs.into()
    };
    let bytes = |n: usize| SharedBytes::copy_from_slice(n.to_string().as_bytes()).unwrap();
    ((0..streams).map(stream).collect(), (0..memory).map(bytes).collect())
}

fn check((streams, memory): &Item, expected: (usize, usize)) {
    assert_eq!((streams.len(), memory.len()), expected);
    for (n, stream) in streams.iter().enumerate() {
        let mut text = String::new();
        (&**stream).read_to_string(&mut text).unwrap();
        assert_eq!(text, n.to_string());
    }
    for (n, bytes) in memory.iter().enumerate() {
        assert_eq!(bytes[..], *n.to_string().as_bytes());
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn forward(from: Consumer<Item>, to: Producer<Item>) {
    while let Ok(item) = from.blocking_get() {
        to.blocking_put(item).unwrap();
    }
}

#[test]
fn they_come_there_and_back() {
    const COUNTS: [(usize, usize); 7] =
        [(1, 0), (128, 0), (129, 0), (300, 0), (0, 200), (0, 0), (200, 150)];
    checked(async {
        let pool = pool_of(1);
        let (to, there) = Queue::<Item>::new(0).unwrap().split();
        let (back, from) = Queue::<Item>::new(0).unwrap().split();
        let forwarding = pool.apply_async(forward, (there, back));
        let before = descriptors();
        // Several are queued at a time.
        for (streams, memory) in COUNTS {
            to.put(item(streams, memory)).await.unwrap();
        }
        for counts in COUNTS {
            check(&from.get().await.unwrap(), counts);
        }
        until("none is left", || descriptors() <= before).await;
        drop(to);
        forwarding.await.unwrap();
        assert!(from.get().await.unwrap_err().is_closed());
    });
}

#[test]
fn one_more_than_may_be_is_an_error_that_names_the_limit() {
    checked(async {
        let queue = Queue::<Item>::new(0).unwrap();
        let clones = |count| (vec![item(1, 0).0.remove(0); count], vec![]);
        let error = queue.put(clones(1025)).await.unwrap_err();
        assert!(matches!(error.kind(), PutErrorKind::Encode(_)), "{error:?}");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(text.contains("more than the 1024 descriptors"), "{text}");
        assert!(queue.is_empty());
        queue.put(clones(1024)).await.unwrap();
        assert_eq!(queue.get().await.unwrap().0.len(), 1024);
    });
}

/// A pool whose worker has done the like before.
async fn warm() -> (Pool, i32) {
    let pool = Pool::builder().workers(1).build().unwrap();
    let pid = pool.apply(pid, ()).await.unwrap();
    (pool, pid as i32)
}

/// Waits until nobody has the other end.
async fn gone(stream: UnixStream) {
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
    assert_eq!(within(LIMIT, stream.read(&mut [0])).await.unwrap(), 0);
}

fn put(producer: Producer<Item>, stream: Fd<UnixStream>, count: usize) {
    producer.blocking_put((vec![stream; count], vec![])).unwrap();
}

#[test]
fn a_producer_that_is_killed_at_any_step_leaves_no_descriptor() {
    checked(async {
        for count in [1, 300] {
            let mut seen = BTreeSet::new();
            sweep(async |step| {
                let (pool, victim) = warm().await;
                let (producer, consumer) = Queue::<Item>::new(0).unwrap().split();
                let waiting = tokio::spawn(async move {
                    let mut got = 0;
                    while let Ok((streams, _)) = consumer.get().await {
                        assert_eq!(streams.len(), count);
                        got += 1;
                    }
                    got
                });
                let (ours, theirs) = UnixStream::pair().unwrap();
                let strike = Strike::prepare(victim, step, Blow::Kill, Steps::All).await;
                let done = pool.apply(put, (producer.clone(), Fd::new(theirs), count)).await;
                let struck = strike.finish().await;
                // The queue lives on, and somebody waits for the next item.
                gone(ours).await;
                drop(producer);
                pool.terminate().await;
                let got = within(LIMIT, waiting).await.unwrap();
                assert!(got == 1 || done.is_err() && got == 0, "{done:?}, {got}");
                seen.insert(got);
                struck
            })
            .await;
            assert_eq!(seen, BTreeSet::from([0, 1]), "{count}");
        }
    });
}

/// Keeps what it gets, which takes no steps.
fn get(consumer: Consumer<Item>) -> usize {
    let item = consumer.blocking_get().unwrap();
    let len = item.0.len();
    std::mem::forget(item);
    len
}

#[test]
fn a_consumer_that_is_killed_at_any_step_takes_all_or_none() {
    checked(async {
        let mut seen = BTreeSet::new();
        sweep(async |step| {
            // Behind these it has the item, and asks what each of its descriptors is.
            if step > 80 {
                return false;
            }
            let (pool, victim) = warm().await;
            let queue = Queue::<Item>::new(0).unwrap();
            let (first, second) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
            let many = |stream: UnixStream| (vec![Fd::new(stream); 300], vec![]);
            queue.put(many(first.1)).await.unwrap();
            queue.put(many(second.1)).await.unwrap();
            let strike = Strike::prepare(victim, step, Blow::Kill, Steps::All).await;
            let got = pool.apply(get, queue.consumer()).await;
            let struck = strike.finish().await;
            let mut left = 0;
            while let Ok((streams, _)) = queue.try_get() {
                assert_eq!(streams.len(), 300);
                left += 1;
            }
            assert!(left == 1 || left == 2 && got.is_err());
            pool.terminate().await;
            gone(first.0).await;
            gone(second.0).await;
            seen.insert(left);
            struck
        })
        .await;
        assert_eq!(seen, BTreeSet::from([1, 2]));
    });
}
