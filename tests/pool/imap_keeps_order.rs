//! `imap` and its kin: a stream of answers, failures among them.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::stream::{self, FusedStream};
use futures::{Stream, StreamExt};
use procession::{Imap, TaskError};

use crate::support::{Scratch, checked, noted, notes, until};
use crate::tasks::{await_file, never, open, pid, pool_of, square};

async fn all(imap: Imap<u64>) -> Vec<u64> {
    imap.map(Result::unwrap).collect().await
}

#[test]
fn answers_come_in_the_order_of_the_inputs() {
    checked(async {
        let pool = pool_of(2);
        assert_eq!(all(pool.imap(square, [])).await, []);
        assert_eq!(all(pool.imap(square, [3])).await, [9]);
        assert!(all(pool.imap(square, 0..5000)).await.into_iter().eq((0..5000).map(square)));
        for (size, buffer) in [(1, 1), (7, 10), (100, 3), (usize::MAX, 1000)] {
            let imap = pool.imap(square, 0..500).chunk_size(size).buffer(buffer);
            assert!(all(imap).await.into_iter().eq((0..500).map(square)), "{size} of {buffer}");
        }
        let pairs = pool.imap(u64::pow, [(2, 3), (3, 2)]);
        assert_eq!(all(pairs).await, [8, 9]);
    });
}

/// Ends when the file `gate` is there.
fn gated(gate: String, n: u64) -> u64 {
    if !gate.is_empty() {
        await_file(gate);
    }
    n
}

/// The first item is held, the others are not.
fn first_is_held(gate: &str, n: u64) -> Vec<(String, u64)> {
    (0..n).map(|i| (if i == 0 { gate.to_owned() } else { String::new() }, i)).collect()
}

#[test]
fn unordered_answers_come_as_they_finish() {
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let pool = pool_of(2);
        let mut imap = pool.imap_unordered(gated, first_is_held(&gate, 10)).buffer(4).indexed();
        let mut seen = Vec::new();
        for _ in 0..9 {
            let (index, n) = imap.next().await.unwrap();
            assert_eq!(index as u64, n.unwrap());
            seen.push(index);
        }
        seen.sort();
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        open(&gate);
        assert!(matches!(imap.next().await, Some((0, Ok(0)))));
        assert!(imap.next().await.is_none());
    });
}

#[test]
fn ordered_answers_wait_for_those_before() {
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let pool = pool_of(2);
        let mut imap = pool.imap(gated, first_is_held(&gate, 10)).chunk_size(1).indexed();
        assert!(futures::poll!(imap.next()).is_pending());
        until("the others are done", || pool.stats().completed == 9).await;
        assert!(futures::poll!(imap.next()).is_pending());
        open(&gate);
        let indices: Vec<_> = imap.map(|(index, n)| (index as u64, n.unwrap())).collect().await;
        assert!(indices.into_iter().eq((0..10).map(|n| (n, n))));
    });
}

#[test]
fn failures_have_their_place_and_the_others_go_on() {
    fn picky(n: u64) -> u64 {
        match n {
            3 => panic!("not 3"),
            5 => std::process::exit(5),
            n => n,
        }
    }
    checked(async {
        let pool = pool_of(2);
        let answers: Vec<_> = pool.imap(picky, 0..8).collect().await;
        assert_eq!(answers.len(), 8);
        for (n, answer) in answers.iter().enumerate() {
            match (n, answer) {
                (3, Err(error)) => {
                    assert!(error.is_panic(), "{error:?}");
                    assert_eq!(error.index(), Some(3));
                }
                (5, Err(error)) => {
                    assert_eq!(error.exit().unwrap().code(), Some(5));
                    assert_eq!(error.index(), Some(5));
                }
                (3 | 5, Ok(_)) | (_, Err(_)) => panic!("{n}: {answer:?}"),
                (n, Ok(m)) => assert_eq!(*m, n as u64),
            }
        }
        let unordered: Vec<_> = pool.imap_unordered(picky, 0..8).indexed().collect().await;
        assert_eq!(unordered.len(), 8);
        for (index, answer) in unordered {
            assert_eq!(answer.is_err(), index == 3 || index == 5, "{index}: {answer:?}");
        }
    });
}

#[test]
fn after_the_end_there_is_nothing() {
    checked(async {
        let pool = pool_of(1);
        let mut imap = pool.imap(square, 0..3);
        assert!(!imap.is_terminated());
        for n in 0..3 {
            assert_eq!(imap.next().await.unwrap().unwrap(), n * n);
        }
        for _ in 0..3 {
            assert!(imap.next().await.is_none());
        }
        assert!(imap.is_terminated());
    });
}

#[test]
fn the_size_hint_is_right_all_the_way() {
    checked(async {
        let pool = pool_of(2);
        let mut imap = pool.imap(square, 0..20).buffer(4);
        for left in (0..=20).rev() {
            let (least, most) = imap.size_hint();
            assert!(least <= left && most == Some(left), "{left}: {least} {most:?}");
            assert_eq!(imap.next().await.is_some(), left > 0);
        }
        assert_eq!(imap.size_hint(), (0, Some(0)));
        let unknown = pool.imap(square, (0..10).filter(|n| n % 2 == 0));
        assert_eq!(unknown.size_hint(), (0, None));
        assert_eq!(pool.imap(square, 0..7).indexed().size_hint().1, Some(7));
    });
}

#[test]
fn a_stream_is_an_input() {
    checked(async {
        let pool = pool_of(2);
        assert_eq!(all(pool.imap_stream(square, stream::empty())).await, []);
        let imap = pool.imap_stream(square, stream::iter(0..100));
        assert!(all(imap).await.into_iter().eq((0..100).map(square)));
        // One that is not ready every other time, and wakes itself.
        let mut n = 0;
        let mut ready = false;
        let slow = stream::poll_fn(move |cx| {
            ready = !ready;
            if !ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            n += 1;
            Poll::Ready((n <= 50).then_some(n))
        });
        for size in [1, 7] {
            let imap = pool.imap_stream(square, stream::iter(0..50)).chunk_size(size);
            assert_eq!(all(imap).await.len(), 50);
        }
        let imap = pool.imap_stream(square, slow);
        assert!(all(imap).await.into_iter().eq((1..=50).map(square)));
    });
}

/// What has been pulled is worked on while the input has no more.
#[test]
fn answers_come_while_the_input_waits() {
    checked(async {
        let pool = pool_of(2);
        for size in [1, 7] {
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<u64>();
            let input = stream::unfold(receiver, |mut receiver| async move {
                receiver.recv().await.map(|n| (n, receiver))
            });
            let mut imap = pool.imap_stream(square, input).chunk_size(size);
            for n in 0..20 {
                sender.send(n).unwrap();
                assert_eq!(imap.next().await.unwrap().unwrap(), n * n);
                assert!(futures::poll!(imap.next()).is_pending());
            }
            drop(sender);
            assert!(imap.next().await.is_none());
        }
    });
}

#[test]
fn answers_of_one_imap_are_the_input_of_another() {
    checked(async {
        let pool = pool_of(2);
        let squares = pool.imap(square, 0..100).map(Result::unwrap);
        let imap = pool.imap_stream(|n: u64| n + 1, squares);
        assert!(all(imap).await.into_iter().eq((0..100).map(|n| n * n + 1)));
    });
}

#[test]
fn two_consumers_of_clones_do_not_disturb_each_other() {
    checked(async {
        let pool = pool_of(2);
        let consumers = [0, 1000].map(|from| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let imap = pool.imap(square, from..from + 500).buffer(3);
                assert!(all(imap).await.into_iter().eq((from..from + 500).map(square)));
            })
        });
        drop(pool);
        for consumer in consumers {
            consumer.await.unwrap();
        }
    });
}

/// Its input is endless, and somebody else needs the workers.
#[test]
fn a_consumer_that_stopped_leaves_the_workers_to_others() {
    checked(async {
        let pool = pool_of(2);
        let mut stopped = pool.imap(square, 0..);
        assert_eq!(stopped.next().await.unwrap().unwrap(), 0);
        assert!(all(pool.imap(square, 0..1000)).await.len() == 1000);
        assert_eq!(stopped.next().await.unwrap().unwrap(), 1);
        drop(stopped);
        assert_eq!(pool.apply(square, 2).await.unwrap(), 4);
    });
}

#[test]
fn dropping_one_midway_cancels_what_is_under_way() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let mut imap = pool.imap(never, vec![journal.clone(); 10]).chunk_size(1);
        assert!(futures::poll!(imap.next()).is_pending());
        noted(&journal).await;
        drop(imap);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(notes(&journal).len(), 1);
        until("all are cancelled", || pool.stats().cancelled == 10).await;
    });
}

#[test]
fn dropping_next_loses_nothing() {
    checked(async {
        let pool = pool_of(2);
        let imap = pool.imap(
            |n: u64| {
                std::thread::sleep(Duration::from_micros(300));
                n
            },
            0..100,
        );
        let mut imap = pin!(imap);
        let mut seen = Vec::new();
        loop {
            // Let go after each poll that gave nothing.
            match futures::poll!(imap.next()) {
                Poll::Ready(Some(n)) => seen.push(n.unwrap()),
                Poll::Ready(None) => break,
                Poll::Pending => tokio::task::yield_now().await,
            }
        }
        assert!(seen.into_iter().eq(0..100));
    });
}

#[test]
fn a_closed_pool_gives_one_error_and_the_end() {
    checked(async {
        let pool = pool_of(1);
        let made_before = pool.imap(square, 0..3);
        pool.close();
        let mut imap = pool.imap(square, 0..3);
        assert!(matches!(imap.next().await, Some(Err(TaskError::Closed))));
        assert!(imap.next().await.is_none());
        // As in Python: it may be read when the pool is closed.
        assert_eq!(all(made_before).await, [0, 1, 4]);
        assert_eq!(pool.stats().workers_started, 1);
        pool.join().await;
    });
}

#[test]
fn one_that_was_begun_is_finished_after_close() {
    checked(async {
        let pool = pool_of(1);
        let mut imap = pool.imap(square, 0..100).buffer(2);
        assert_eq!(imap.next().await.unwrap().unwrap(), 0);
        pool.close();
        assert_eq!(all(imap).await.len(), 99);
        pool.join().await;
    });
}

#[test]
fn a_terminated_pool_ends_it() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let mut imap = pool.imap(never, std::iter::repeat(journal.clone())).buffer(3);
        assert!(futures::poll!(imap.next()).is_pending());
        noted(&journal).await;
        pool.terminate().await;
        let mut ends = 0;
        while let Some(answer) = imap.next().await {
            let error = answer.unwrap_err();
            assert!(matches!(error, TaskError::Terminated | TaskError::Closed), "{error:?}");
            ends += 1;
            assert!(ends < 100, "an endless input must not end in endless errors");
        }
    });
}

#[test]
fn a_whole_chunk_goes_to_one_worker() {
    checked(async {
        let pool = pool_of(2);
        let workers: Vec<u32> =
            pool.imap(|_: u32| pid(), 0..30).chunk_size(10).map(Result::unwrap).collect().await;
        for chunk in workers.chunks(10) {
            assert!(chunk.iter().all(|worker| *worker == chunk[0]));
        }
        assert_eq!(pool.stats().submitted, 3);
    });
}
