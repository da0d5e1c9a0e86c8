//! `stream`: one call, many items, each as it is made.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FusedStream;
use procession::{Pool, TaskError, TaskStream};

use crate::support::{Scratch, checked, is_alive, note, noted, notes, until};
use crate::tasks::{hold, kill, open, pid, pool_of, square};

fn count(n: u64) -> std::ops::Range<u64> {
    0..n
}

/// Notes each item when it is made; endless.
fn noted_items(journal: String) -> impl Iterator<Item = u64> {
    note(&journal, &pid().to_string());
    (0..).inspect(move |n| note(&journal, &n.to_string()))
}

#[test]
fn all_items_come_in_order() {
    checked(async {
        let pool = pool_of(1);
        for buffer in [None, Some(1), Some(2), Some(7), Some(100_000)] {
            let stream = pool.stream(count, 1000);
            let stream = match buffer {
                Some(items) => stream.buffer(items),
                None => stream,
            };
            let items: Vec<u64> = stream.map(Result::unwrap).collect().await;
            assert!(items.into_iter().eq(0..1000), "a buffer of {buffer:?}");
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn anything_iterable_will_do() {
    checked(async {
        let pool = pool_of(1);
        let words = |text: String, least: usize| -> Vec<String> {
            text.split(' ').filter(|word| word.len() >= least).map(str::to_owned).collect()
        };
        let stream = pool.stream(words, ("a few words here".to_owned(), 3));
        let items: Vec<String> = stream.map(Result::unwrap).collect().await;
        assert_eq!(items, ["few", "words", "here"]);
        let items: Vec<u8> = pool.stream(|| Some(3), ()).map(Result::unwrap).collect().await;
        assert_eq!(items, [3]);
        // A result among items is an item.
        let task = || vec![Ok(1), Err("no".to_owned())];
        let items: Vec<Result<u8, String>> =
            pool.stream(task, ()).map(Result::unwrap).collect().await;
        assert_eq!(items, [Ok(1), Err("no".to_owned())]);
        assert_eq!(pool.stream(|| vec![(); 5], ()).count().await, 5);
    });
}

#[test]
fn nothing_at_all_is_a_stream() {
    checked(async {
        let pool = pool_of(1);
        let mut stream = pool.stream(count, 0);
        assert!(!stream.is_terminated());
        for _ in 0..3 {
            assert!(stream.next().await.is_none());
        }
        assert!(stream.is_terminated());
        assert_eq!(pool.stats().completed, 1);
    });
}

#[test]
fn it_is_lazy() {
    checked(async {
        let pool = pool_of(1);
        drop(pool.stream(count, 3));
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(pool.stats().submitted, 1);
    });
}

/// Polls `stream` for the first time while the pool's only worker is busy, so
/// that there can be no item yet.
async fn begin(pool: &Pool, stream: &mut TaskStream<u64>) {
    let scratch = Scratch::new();
    let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
    let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
    noted(&journal).await;
    assert!(futures::poll!(stream.next()).is_pending());
    open(&gate);
    held.await.unwrap();
}

#[test]
fn a_worker_is_at_most_the_buffer_and_one_ahead() {
    checked(async {
        let scratch = Scratch::new();
        let pool = pool_of(1);
        for buffer in [1, 2, 5, 16] {
            let journal = scratch.path(&format!("journal-{buffer}"));
            let mut stream = pool.stream(noted_items, journal.clone());
            // The default is 16.
            if buffer != 16 {
                stream = stream.buffer(buffer);
            }
            // The first note is the worker's.
            let made = || notes(&journal).len().saturating_sub(1);
            begin(&pool, &mut stream).await;
            until("the worker is ahead", || made() > buffer).await;
            // Not for luck: time to do what it must not.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(made(), buffer + 1);
            for taken in 1..=100 {
                assert_eq!(stream.next().await.unwrap().unwrap(), taken as u64 - 1);
                assert!(made() <= taken + buffer + 1, "{} made, {taken} taken", made());
            }
        }
    });
}

#[test]
fn a_panic_comes_after_the_items_before_it() {
    fn breaks(after: u64) -> impl Iterator<Item = u64> {
        (0..).inspect(move |n| assert!(*n < after, "broke"))
    }
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        for after in [0, 1, 40] {
            let mut stream = pool.stream(breaks, after);
            for n in 0..after {
                assert_eq!(stream.next().await.unwrap().unwrap(), n);
            }
            let error = stream.next().await.unwrap().unwrap_err();
            assert!(error.is_panic() && error.to_string().ends_with("broke"), "{error:?}");
            assert!(stream.next().await.is_none());
            assert!(stream.next().await.is_none());
        }
        let mut stream = pool.stream(|| -> Vec<u8> { panic!("not even one") }, ());
        assert!(stream.next().await.unwrap().unwrap_err().is_panic());
        assert!(stream.next().await.is_none());
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
        assert_eq!(pool.stats().panicked, 4);
    });
}

#[test]
fn dropping_an_endless_one_stops_its_task() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let mut stream = pool.stream(noted_items, journal.clone()).buffer(2);
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        drop(stream);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        until("it is cancelled", || pool.stats().cancelled == 1).await;
        let made = notes(&journal).len();
        assert!(made <= 1 + 1 + 3, "{made}");
    });
}

#[test]
fn dropping_one_that_is_busy_stops_its_task() {
    fn stuck(journal: String) -> impl Iterator<Item = u64> {
        note(&journal, &pid().to_string());
        (0..).inspect(|n| {
            if *n == 3 {
                loop {
                    std::hint::spin_loop();
                }
            }
        })
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let mut stream = pool.stream(stuck, journal.clone());
        for n in 0..3 {
            assert_eq!(stream.next().await.unwrap().unwrap(), n);
        }
        drop(stream);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        let worker = notes(&journal)[0].parse().unwrap();
        assert!(!is_alive(worker));
    });
}

#[test]
fn a_death_comes_after_the_items_before_it() {
    fn dies(after: u64) -> impl Iterator<Item = u64> {
        (0..).inspect(move |n| {
            if *n == after {
                std::process::exit(7);
            }
        })
    }
    checked(async {
        let pool = pool_of(1);
        for after in [0, 1, 10] {
            let mut stream = pool.stream(dies, after);
            for n in 0..after {
                assert_eq!(stream.next().await.unwrap().unwrap(), n);
            }
            let error = stream.next().await.unwrap().unwrap_err();
            assert!(error.is_worker_lost(), "{error:?}");
            assert_eq!(error.exit().unwrap().code(), Some(7));
            assert!(stream.next().await.is_none());
        }
    });
}

#[test]
fn a_kill_while_nobody_reads_is_seen_by_the_next_reader() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let mut stream = pool.stream(noted_items, journal.clone()).buffer(4).label("endless");
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        kill(notes(&journal)[0].parse().unwrap());
        until("the worker is replaced", || pool.stats().lost == 1).await;
        let mut last = 0;
        let error = loop {
            match stream.next().await.unwrap() {
                Ok(n) => {
                    assert_eq!(n, last + 1);
                    last = n;
                }
                Err(error) => break error,
            }
        };
        assert!(last <= 5);
        assert_eq!(error.exit().unwrap().signal(), Some(9));
        assert!(error.to_string().contains("endless"), "{error}");
        assert!(stream.next().await.is_none());
    });
}

#[test]
fn items_may_be_large() {
    fn blocks(n: u8) -> impl Iterator<Item = Bytes> {
        (0..n).map(|n| vec![n; 4 << 20].into())
    }
    checked(async {
        let pool = pool_of(1);
        for buffer in [1, 16] {
            let mut stream = pool.stream(blocks, 8).buffer(buffer);
            for n in 0..8 {
                let block = stream.next().await.unwrap().unwrap();
                assert!(block.len() == 4 << 20 && block.iter().all(|byte| *byte == n));
            }
            assert!(stream.next().await.is_none());
        }
    });
}

#[test]
fn an_item_that_is_too_large_is_the_end() {
    fn grow() -> impl Iterator<Item = Bytes> {
        [10, 20, (64 << 10) + 1, 30].into_iter().map(|size| vec![0; size - 3].into())
    }
    checked(async {
        let pool = Pool::builder().workers(1).frame_limit(64 << 10).build().unwrap();
        let worker = pool.apply(pid, ()).await.unwrap();
        let items: Vec<_> = pool.stream(grow, ()).collect().await;
        assert_eq!(items.len(), 3);
        assert!(items[0].is_ok() && items[1].is_ok());
        let TaskError::TooLarge { size, limit } = items[2].as_ref().unwrap_err() else {
            panic!("{:?}", items[2]);
        };
        assert_eq!((*size, *limit), ((64 << 10) + 1, 64 << 10));
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
    });
}

#[test]
fn a_timeout_includes_waiting_for_the_reader() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        // Long enough for the first item.
        let after = Duration::from_millis(500);
        let mut stream = pool.stream(noted_items, journal.clone()).timeout(after).buffer(2);
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        noted(&journal).await;
        until("it is ended", || pool.stats().timed_out == 1).await;
        let rest: Vec<_> = stream.collect().await;
        let error = rest.last().unwrap().as_ref().unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert!(rest[..rest.len() - 1].iter().all(Result::is_ok));
    });
}

#[test]
fn streams_run_beside_calls() {
    checked(async {
        let pool = pool_of(2);
        let mut one = pool.stream(|| 0_u64.., ()).buffer(3);
        assert_eq!(one.next().await.unwrap().unwrap(), 0);
        assert_eq!(pool.map(square, 0..100).await.unwrap().len(), 100);
        let items: Vec<_> = pool.stream(count, 10).collect().await;
        assert_eq!(items.len(), 10);
        assert_eq!(one.next().await.unwrap().unwrap(), 1);
    });
}

#[test]
fn the_end_of_the_pool_ends_a_stream() {
    checked(async {
        let pool = pool_of(1);
        let mut stream = pool.stream(|| 0_u64.., ()).buffer(3);
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        drop(pool);
        let rest: Vec<_> = stream.collect().await;
        assert!(rest.len() <= 5, "{}", rest.len());
        assert!(matches!(rest.last(), Some(Err(TaskError::Terminated))), "{:?}", rest.last());
        let pool = pool_of(1);
        pool.close();
        let mut stream = pool.stream(count, 3);
        assert!(matches!(stream.next().await, Some(Err(TaskError::Closed))));
        assert!(stream.next().await.is_none());
    });
}

#[test]
#[should_panic(expected = "a stream needs room for an item")]
fn a_buffer_of_nothing_panics() {
    checked(async {
        let _ = pool_of(1).stream(count, 3).buffer(0);
    });
}
