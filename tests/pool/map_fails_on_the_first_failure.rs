//! What ends a `map` before its end.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::{FutureExt, StreamExt};
use procession::TaskError;

use crate::support::{Scratch, checked, note, notes, until};
use crate::tasks::{await_file, kill, never, open, pid, pool_of, square};

/// Fails for 13; never ends for those behind it.
fn fails_for_13(journal: String, n: u64) {
    assert!(n != 13, "unlucky number {n}");
    note(&journal, &n.to_string());
    if n > 13 {
        never(journal + "-pids");
    }
}

#[test]
fn the_error_says_which_item_it_was() {
    checked(async {
        let pool = pool_of(2);
        for size in [None, Some(1), Some(7), Some(1000)] {
            let task = |n: u64| assert!(n != 13, "unlucky number {n}");
            let map = pool.map(task, 0..1000);
            let map = match size {
                Some(size) => map.chunk_size(size),
                None => map,
            };
            let error = map.await.unwrap_err();
            assert!(error.is_panic(), "{error:?}");
            assert_eq!(error.index(), Some(13), "chunks of {size:?}");
            let text = error.to_string();
            assert!(text.contains("(item 13) panicked at "), "{text}");
            assert!(text.ends_with("unlucky number 13"), "{text}");
        }
    });
}

#[test]
fn a_failure_stops_the_rest() {
    checked(async {
        let scratch = Scratch::new();
        let pool = pool_of(2);
        for size in [1, 7] {
            let journal = scratch.path(&format!("journal-{size}"));
            let inputs: Vec<_> = (0..100_000).map(|n| (journal.clone(), n)).collect();
            let error = pool.map(fails_for_13, inputs).chunk_size(size).await.unwrap_err();
            assert_eq!(error.index(), Some(13));
            until("nothing is left", || pool.status().running + pool.status().queued == 0).await;
            let ran = notes(&journal);
            let behind = |n: &&String| n.parse::<u64>().unwrap() > 13;
            // Each worker has one at the failure, and may get to another before
            // it is told; some hundred were under way.
            let behind: Vec<_> = ran.iter().filter(behind).collect();
            assert!(behind.len() <= 4, "{behind:?} were begun");
            assert_eq!(pool.map(square, 0..2).chunk_size(1).await.unwrap(), [0, 1]);
            assert_eq!(notes(&journal), ran, "and nothing came after that");
        }
    });
}

#[test]
fn a_failure_stops_what_runs_elsewhere() {
    fn one_fails(journal: String, gate: String, n: u32) {
        note(&journal, &format!("{n} {}", pid()));
        if n == 1 {
            await_file(gate);
            panic!("now");
        }
        never(journal);
    }
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(2);
        let inputs: Vec<_> = (0..2).map(|n| (journal.clone(), gate.clone(), n)).collect();
        let map = pool.map_async(one_fails, inputs);
        until("both run", || notes(&journal).len() == 3).await;
        open(&gate);
        assert_eq!(map.await.unwrap_err().index(), Some(1));
        until("the other is stopped", || pool.stats().cancelled == 1).await;
        assert_eq!(pool.map(square, 0..4).await.unwrap().len(), 4);
    });
}

#[test]
fn a_death_says_which_item_it_was() {
    checked(async {
        let pool = pool_of(2);
        for size in [None, Some(1), Some(7), Some(1000)] {
            let task = |n: u64| {
                if n == 13 {
                    std::process::exit(13);
                }
            };
            let map = pool.map(task, 0..100);
            let map = match size {
                Some(size) => map.chunk_size(size),
                None => map,
            };
            let error = map.await.unwrap_err();
            assert!(error.is_worker_lost(), "{error:?}");
            assert_eq!(error.exit().unwrap().code(), Some(13));
            assert_eq!(error.index(), Some(13), "chunks of {size:?}");
            assert!(error.to_string().contains("item 13)"), "{error}");
        }
    });
}

#[test]
fn a_kill_from_outside_says_which_item_it_was() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let task = |journal: String, n: u32| {
            if n == 4 {
                never(journal);
            }
        };
        let inputs: Vec<_> = (0..10).map(|n| (journal.clone(), n)).collect();
        let map = pool.map_async(task, inputs);
        crate::support::noted(&journal).await;
        kill(notes(&journal)[0].parse().unwrap());
        let error = map.await.unwrap_err();
        assert_eq!(error.exit().unwrap().signal(), Some(9));
        assert_eq!(error.index(), Some(4));
    });
}

/// Yields `0..n` and then panics.
fn panicking(n: u64) -> impl Iterator<Item = u64> + Send + 'static {
    (0..).inspect(move |i| assert!(*i < n, "the input broke"))
}

fn message(panic: Box<dyn std::any::Any + Send>) -> String {
    *panic
        .downcast::<String>()
        .or_else(|panic| panic.downcast().map(|s: Box<&str>| Box::new((*s).to_owned())))
        .unwrap()
}

#[test]
fn a_panic_of_the_input_reaches_the_caller_after_the_items_before() {
    checked(async {
        let scratch = Scratch::new();
        let pool = pool_of(2);
        for n in [0, 1, 50] {
            let journal = scratch.path(&format!("map-{n}"));
            let it = journal.clone();
            let map = pool.map(noting, panicking(n).map(move |n| (it.clone(), n)));
            let panic = AssertUnwindSafe(map).catch_unwind().await.unwrap_err();
            assert_eq!(message(panic), "the input broke");
            assert_eq!(notes(&journal).len(), n as usize);

            let journal = scratch.path(&format!("map_async-{n}"));
            let it = journal.clone();
            let map = pool.map_async(noting, panicking(n).map(move |n| (it.clone(), n)));
            let panic = AssertUnwindSafe(map).catch_unwind().await.unwrap_err();
            assert_eq!(message(panic), "the input broke");
            assert_eq!(notes(&journal).len(), n as usize);

            let mut imap = pool.imap(square, panicking(n));
            for i in 0..n {
                assert_eq!(imap.next().await.unwrap().unwrap(), i * i);
            }
            let panic = AssertUnwindSafe(imap.next()).catch_unwind().await.unwrap_err();
            assert_eq!(message(panic), "the input broke");
            assert!(imap.next().await.is_none());
        }
        assert_eq!(pool.map(square, 0..4).await.unwrap().len(), 4);
    });
}

fn noting(journal: String, n: u64) {
    note(journal, &n.to_string());
}

#[test]
fn an_input_that_panics_at_once_panics_in_the_caller() {
    struct Broken;
    impl IntoIterator for Broken {
        type Item = u64;
        type IntoIter = std::ops::Range<u64>;
        fn into_iter(self) -> Self::IntoIter {
            panic!("not even begun");
        }
    }
    checked(async {
        let pool = pool_of(1);
        let map = catch_unwind(AssertUnwindSafe(|| drop(pool.map(square, Broken))));
        assert_eq!(message(map.unwrap_err()), "not even begun");
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn a_failure_before_a_panic_of_the_input_comes_first() {
    checked(async {
        let pool = pool_of(1);
        let task = |n: u64| assert!(n != 2);
        let map = pool.map(task, panicking(5)).chunk_size(1);
        let error = map.await.unwrap_err();
        assert_eq!(error.index(), Some(2));
    });
}

#[test]
fn the_end_of_the_pool_ends_a_map() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let map = pool.map_async(never, vec![journal.clone(); 10]);
        crate::support::noted(&journal).await;
        pool.terminate().await;
        let error = map.await.unwrap_err();
        assert!(matches!(error, TaskError::Terminated), "{error:?}");
        assert_eq!(notes(&journal).len(), 1);
    });
}
