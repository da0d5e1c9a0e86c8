//! How far `imap` pulls its input: never more than `buffer` ahead of the reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use procession::{Imap, Pool};
use serde::de::DeserializeOwned;

use crate::support::{checked, until};
use crate::tasks::{pool_of, square};

/// An endless input that counts what was pulled from it.
fn counted() -> (Arc<AtomicUsize>, impl Iterator<Item = u64> + Send + 'static) {
    let pulled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pulled);
    (pulled, (0..).inspect(move |_| _ = counter.fetch_add(1, Ordering::Relaxed)))
}

/// Reads a bit, stops, and reads on, watching how far the input is pulled.
async fn watch(pool: &Pool, imap: Imap<u64>, pulled: &AtomicUsize, buffer: usize) {
    let mut imap = imap;
    let pulled = || pulled.load(Ordering::Relaxed);
    assert_eq!(pulled(), 0, "lazy");
    // Whether or not an answer is there that soon.
    let first = futures::poll!(imap.next());
    assert_eq!(pulled(), buffer, "before anything was read");
    for read in 1 + usize::from(first.is_ready())..=2 * buffer + 10 {
        assert!(imap.next().await.is_some());
        assert!(pulled() <= read + buffer, "{} pulled, {read} read", pulled());
        if read == buffer / 2 {
            // The reader stops, until the workers have nothing left.
            until("all is done", || {
                let status = pool.status();
                status.running + status.queued == 0
            })
            .await;
            assert!(pulled() < read + buffer, "{} pulled, {read} read", pulled());
        }
    }
}

#[test]
fn no_further_than_the_buffer() {
    checked(async {
        let pool = pool_of(2);
        for buffer in [1, 2, 3, 10, 100] {
            for size in [1, 7] {
                let (pulled, input) = counted();
                let imap = pool.imap(square, input).buffer(buffer).chunk_size(size);
                watch(&pool, imap, &pulled, buffer).await;
                let (pulled, input) = counted();
                let imap = pool.imap_unordered(square, input).buffer(buffer).chunk_size(size);
                watch(&pool, imap, &pulled, buffer).await;
                let (pulled, input) = counted();
                let imap = pool.imap_stream(square, stream::iter(input)).buffer(buffer);
                watch(&pool, imap.chunk_size(size), &pulled, buffer).await;
            }
        }
    });
}

#[test]
fn without_a_buffer_set_it_is_256_for_each_worker() {
    checked(async {
        for workers in [1, 2] {
            let pool = pool_of(workers);
            let (pulled, input) = counted();
            let mut imap = pool.imap(square, input).chunk_size(1);
            let _ = futures::poll!(imap.next());
            assert_eq!(pulled.load(Ordering::Relaxed), 256 * workers, "nothing is known of them");
        }
    });
}

/// A reader that stops after each item it has read, and lets the workers catch up.
async fn furthest<R: DeserializeOwned>(
    pool: &Pool,
    mut imap: Imap<R>,
    pulled: &AtomicUsize,
) -> usize {
    let mut furthest = 0;
    for read in 0..5000 {
        assert!(imap.next().await.is_some());
        if read % 500 == 0 {
            let idle = || {
                let status = pool.status();
                status.running + status.queued == 0
            };
            until("all is done", idle).await;
        }
        furthest = furthest.max(pulled.load(Ordering::Relaxed) - read);
    }
    furthest
}

/// Of items that take no time it may be more than of single calls, as long as
/// their answers are short.
#[test]
fn without_a_buffer_set_it_depends_on_what_items_take() {
    checked(async {
        let pool = pool_of(2);
        let answer = |n: u64, len: usize| vec![n as u8; len];
        let run = async |len: usize, buffer: Option<usize>, chunk: Option<usize>| {
            let (pulled, input) = counted();
            let mut imap = pool.imap(answer, input.map(move |n| (n, len)));
            if let Some(buffer) = buffer {
                imap = imap.buffer(buffer);
            }
            if let Some(items) = chunk {
                imap = imap.chunk_size(items);
            }
            furthest(&pool, imap, &pulled).await
        };
        for chunk in [None, Some(1)] {
            let short = run(3, None, chunk).await;
            assert!(short > 1024 && short <= 2 * 4096, "{short}");
            let long = run(2000, None, chunk).await;
            assert!(long <= 2 * 256 + 1, "{long}");
            let told = run(3, Some(30), chunk).await;
            assert!(told <= 30, "{told}");
        }
        // Arguments wait here, and to read long ones takes no time.
        let (pulled, input) = counted();
        let bytes = Bytes::from(vec![1; 4096]);
        let imap = pool.imap(|bytes: Bytes| bytes.len(), input.map(move |_| bytes.clone()));
        let laden = furthest(&pool, imap.chunk_size(1), &pulled).await;
        assert!(laden <= 2 * 256 + 1, "{laden}");
    });
}

/// What is wide for one worker is not for four: each of them would have but a few.
#[test]
fn a_pool_that_has_grown_is_given_an_item_for_each_that_is_read() {
    checked(async {
        let pool = pool_of(1);
        let (pulled, input) = counted();
        // In the order in which they come, one is read with each look at the input.
        let mut imap = pool.imap_unordered(square, input).buffer(100).chunk_size(1);
        pool.resize(4);
        let first = u64::from(futures::poll!(imap.next()).is_ready());
        until("all have an answer", || pool.stats().completed == 100).await;
        for read in first..10 {
            imap.next().await.unwrap().unwrap();
            assert_eq!(pulled.load(Ordering::Relaxed) as u64, 100 + read);
        }
    });
}

/// The first is not answered, so nothing can be given; the rest piles up, but
/// only so far.
#[test]
fn one_slow_item_does_not_let_the_others_run_ahead() {
    use crate::support::Scratch;
    use crate::tasks::{await_file, open};
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let pool = pool_of(2);
        let (pulled, input) = counted();
        let task = |gate: String, n: u64| {
            if n == 0 {
                await_file(gate);
            }
            n
        };
        let it = gate.clone();
        let input = input.map(move |n| (it.clone(), n));
        let mut imap = pool.imap(task, input).buffer(20).chunk_size(1);
        assert!(futures::poll!(imap.next()).is_pending());
        until("the others are done", || pool.stats().completed == 19).await;
        for _ in 0..10 {
            assert!(futures::poll!(imap.next()).is_pending());
        }
        assert_eq!(pulled.load(Ordering::Relaxed), 20);
        open(&gate);
        for n in 0..100 {
            assert_eq!(imap.next().await.unwrap().unwrap(), n);
        }
    });
}

#[test]
#[should_panic(expected = "a stream needs room for an item")]
fn a_buffer_of_nothing_panics() {
    checked(async {
        let _ = pool_of(1).imap(square, 0..3).buffer(0);
    });
}

/// Endless input, endless answers: some are taken.
#[test]
fn an_endless_input_is_welcome() {
    checked(async {
        let pool = pool_of(2);
        let taken: Vec<_> = pool.imap(square, 0..).map(Result::unwrap).take(1000).collect().await;
        assert!(taken.into_iter().eq((0..1000).map(square)));
        let mut taken: Vec<_> =
            pool.imap_unordered(|n: u64| n, 0..).map(Result::unwrap).take(1000).collect().await;
        taken.sort();
        assert!(taken[999] < 1000 + 2 * 4096);
        let cycle = stream::iter([1, 2].into_iter().cycle());
        let taken: Vec<_> =
            pool.imap_stream(square, cycle).map(Result::unwrap).take(5).collect().await;
        assert_eq!(taken, [1, 4, 1, 4, 1]);
    });
}
