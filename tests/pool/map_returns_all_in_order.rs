//! `map`: one call for each input, one `Vec` of the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use procession::TaskError;

use crate::support::{Scratch, checked, noted, notes, until};
use crate::tasks::{hold, never, open, pid, pool_of, square};

#[test]
fn no_item_and_one_item() {
    checked(async {
        let pool = pool_of(2);
        assert_eq!(pool.map(square, []).await.unwrap(), Vec::<u64>::new());
        assert_eq!(pool.map(square, std::iter::empty()).chunk_size(7).await.unwrap(), []);
        assert_eq!(pool.map(square, [5]).await.unwrap(), [25]);
        assert_eq!(pool.map_async(square, []).await.unwrap(), []);
        assert_eq!(pool.map_async(square, [5]).await.unwrap(), [25]);
    });
}

#[test]
fn many_items_come_back_in_order() {
    checked(async {
        let pool = pool_of(2);
        let squares = pool.map(square, 0..10_000).await.unwrap();
        assert!(squares.into_iter().eq((0..10_000).map(square)));
        // Those that take longer first.
        let task = |n: u64| {
            std::thread::sleep(Duration::from_micros(200 - 10 * n));
            n
        };
        assert!(pool.map(task, 0..20).await.unwrap().into_iter().eq(0..20));
    });
}

#[test]
fn a_million_items_come_back_in_order() {
    checked(async {
        let pool = pool_of(2);
        let answers = pool.map(|n: u32| n + 1, 0..1_000_000).await.unwrap();
        assert!(answers.into_iter().eq(1..=1_000_000));
        assert!(pool.stats().submitted < 10_000, "they travel in chunks");
    });
}

#[test]
fn a_chunk_size_is_obeyed() {
    checked(async {
        let pool = pool_of(2);
        for (size, chunks) in [(1, 100), (7, 15), (100, 1), (usize::MAX, 1)] {
            let before = pool.stats().submitted;
            let squares = pool.map(square, 0..100).chunk_size(size).await.unwrap();
            assert!(squares.into_iter().eq((0..100).map(square)), "chunks of {size}");
            assert_eq!(pool.stats().submitted - before, chunks, "chunks of {size}");
        }
        // What is in a chunk has one worker.
        let workers = pool.map(|_: u32| pid(), 0..100).chunk_size(100).await.unwrap();
        assert!(workers.iter().all(|worker| *worker == workers[0]));
    });
}

#[test]
#[should_panic(expected = "a chunk needs at least one item")]
fn a_chunk_size_of_nothing_panics() {
    checked(async {
        drop(pool_of(1).map(square, 0..3).chunk_size(0));
    });
}

#[test]
fn several_arguments_are_tuples() {
    checked(async {
        let pool = pool_of(2);
        let pairs = [(2, 3), (4, 2), (10, 0)];
        assert_eq!(pool.map(u64::pow, pairs).await.unwrap(), [8, 16, 1]);
        let texts = vec![("a".to_owned(), 1_usize), ("b".to_owned(), 3)];
        let repeated = pool.map(|text: String, n: usize| text.repeat(n), texts).await.unwrap();
        assert_eq!(repeated, ["a", "bbb"]);
        assert_eq!(pool.map(|| 1, [(), ()]).await.unwrap(), [1, 1]);
    });
}

#[test]
fn results_of_tasks_are_answers() {
    checked(async {
        let pool = pool_of(2);
        let parse = |text: String| text.parse::<u8>().map_err(|error| error.to_string());
        let texts = ["1", "x", "3"].map(str::to_owned);
        let answers = pool.map(parse, texts).await.unwrap();
        assert_eq!(
            (answers[0].clone(), answers[1].is_err(), answers[2].clone()),
            (Ok(1), true, Ok(3))
        );
    });
}

/// Where it ran.
fn nap(millis: u64) -> u32 {
    std::thread::sleep(Duration::from_millis(millis));
    pid()
}

#[test]
fn long_items_are_spread_over_the_workers() {
    checked(async {
        let pool = pool_of(2);
        pool.ready().await.unwrap();
        let pids = pool.map(nap, [60; 4]).await.unwrap();
        let mut each = BTreeMap::new();
        for pid in pids {
            *each.entry(pid).or_insert(0) += 1;
        }
        assert_eq!(each.into_values().collect::<Vec<_>>(), [2, 2]);
    });
}

/// After many short ones, chunks are long, and looks at the clock are few.
#[test]
fn long_items_behind_short_ones_are_spread_too() {
    checked(async {
        let pool = pool_of(2);
        pool.ready().await.unwrap();
        let nap_if_long = |millis: u64| if millis > 0 { nap(millis) } else { 0 };
        let items = std::iter::repeat_n(0, 100_000).chain([50; 20]);
        let pids = pool.map(nap_if_long, items).await.unwrap();
        let mut shares = BTreeMap::<_, u32>::new();
        pids[100_000..].iter().for_each(|pid| *shares.entry(pid).or_default() += 1);
        // One worker may have begun with some before anybody knew that they are long.
        assert!(shares.len() == 2 && shares.values().all(|share| *share >= 5), "{shares:?}");
    });
}

#[test]
fn map_async_runs_without_being_polled() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(2);
        let task = |journal: String, n: u32| crate::support::note(journal, &n.to_string());
        let inputs: Vec<_> = (0..50).map(|n| (journal.clone(), n)).collect();
        let handle = pool.map_async(task, inputs);
        until("all items ran", || notes(&journal).len() == 50).await;
        until("it has ended", || handle.is_finished()).await;
        assert_eq!(handle.await.unwrap().len(), 50);
    });
}

#[test]
fn map_does_nothing_before_it_is_polled() {
    checked(async {
        let pool = pool_of(1);
        drop(pool.map(square, std::iter::repeat_with(|| -> u64 { panic!("pulled") })));
        drop(pool.imap(square, std::iter::repeat_with(|| -> u64 { panic!("pulled") })));
        assert_eq!(pool.apply(square, 2).await.unwrap(), 4);
        assert_eq!(pool.stats().submitted, 1);
    });
}

#[test]
fn close_lets_a_running_map_finish() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(2);
        // More than is under way at once, so that most is not yet in the queue.
        let inputs: Vec<_> = (0..1000).map(|_| (journal.clone(), gate.clone())).collect();
        let handle = pool.map_async(hold, inputs);
        noted(&journal).await;
        pool.close();
        assert!(matches!(pool.map(square, 0..3).await, Err(TaskError::Closed)));
        open(&gate);
        pool.join().await;
        assert_eq!(handle.await.unwrap().len(), 1000);
        assert_eq!(notes(&journal).len(), 1000);
    });
}

#[test]
fn dropping_a_map_handle_cancels_it_and_detaching_does_not() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(2);
        let handle = pool.map_async(never, vec![journal.clone(); 100]);
        until("two run", || notes(&journal).len() == 2).await;
        drop(handle);
        assert_eq!(pool.map(square, 0..4).await.unwrap(), [0, 1, 4, 9]);
        assert_eq!(notes(&journal).len(), 2, "no other item was begun");

        let journal = scratch.path("detached");
        let task = |journal: String, n: u32| crate::support::note(journal, &n.to_string());
        let inputs: Vec<_> = (0..50).map(|n| (journal.clone(), n)).collect();
        pool.map_async(task, inputs).detach();
        pool.close();
        pool.join().await;
        assert_eq!(notes(&journal).len(), 50);
    });
}

#[test]
fn dropping_a_polled_map_cancels_it() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let mut map = pool.map(never, vec![journal.clone(); 100]);
        assert!(futures::poll!(&mut map).is_pending());
        noted(&journal).await;
        drop(map);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(notes(&journal).len(), 1);
    });
}

#[test]
fn a_timeout_is_for_the_whole_map() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(2);
        let after = Duration::from_millis(100);
        let map = pool.map(never, vec![journal.clone(); 100]).timeout(after);
        let error = map.await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert!(error.to_string().contains("100ms"), "{error}");
        assert_eq!(pool.map(square, 0..4).await.unwrap(), [0, 1, 4, 9]);
        assert!(notes(&journal).len() <= 2, "no other item was begun");
        let map = pool.map_async(square, 0..100);
        assert_eq!(map.await.unwrap().len(), 100);
    });
}

#[test]
fn maps_share_a_pool() {
    checked(async {
        let pool = pool_of(2);
        let maps = (0..10).map(|from| pool.map_async(square, from * 100..(from + 1) * 100));
        for (from, squares) in futures::future::join_all(maps).await.into_iter().enumerate() {
            let from = from as u64 * 100;
            assert!(squares.unwrap().into_iter().eq((from..from + 100).map(square)));
        }
    });
}
