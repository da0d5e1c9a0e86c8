//! Memory that both ends look into: it arrives as it was, wherever it is in a
//! value, nothing of it is copied, and no descriptor is left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use procession::{Pool, SharedBytes, SharedBytesMut, TaskError};
use serde::{Deserialize, Serialize};

use crate::support::{Scratch, checked, noted, until};
use crate::tasks::{dying_once, hold, never, open, pid, pool_of};

/// Bytes that are the same nowhere.
fn pattern(len: usize) -> SharedBytes {
    let mut state = len as u64;
    let mut bytes = SharedBytesMut::zeroed(len).unwrap();
    for part in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        part.copy_from_slice(&state.to_be_bytes()[..part.len()]);
    }
    bytes.freeze().unwrap()
}

fn echo(bytes: SharedBytes) -> SharedBytes {
    bytes
}

/// How many pieces of shared memory this process has mapped, and how many
/// descriptors of such.
fn held() -> (usize, usize) {
    let is_shared = |text: &str| text.contains("memfd:procession-shared");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    (
        maps.lines().filter(|line| is_shared(line)).count(),
        links.filter(|link| is_shared(link.to_str().unwrap())).count(),
    )
}

#[test]
fn bytes_of_any_length_come_back() {
    checked(async {
        let pool = pool_of(1);
        for len in [0, 1, 100, 4095, 4096, 4097, 100_000, 1 << 20, 64 << 20] {
            let bytes = pattern(len);
            assert!(pool.apply(echo, bytes.clone()).await.unwrap() == bytes, "{len}");
            let later = |bytes: SharedBytes| async move { bytes };
            assert!(pool.apply(later, bytes.clone()).await.unwrap() == bytes, "{len}");
            // Made there, and only counted there.
            assert!(pool.apply(pattern, len).await.unwrap() == bytes, "{len}");
            assert_eq!(pool.apply(|bytes: SharedBytes| bytes.len(), bytes).await.unwrap(), len);
        }
        assert_eq!(pool.apply(held, ()).await.unwrap(), (0, 0), "the worker keeps nothing");
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Part {
    None,
    One(SharedBytes),
    Named { head: u8, body: SharedBytes, tail: String },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Album {
    name: String,
    cover: Option<SharedBytes>,
    pages: Vec<SharedBytes>,
    parts: Vec<Part>,
    keyed: BTreeMap<u8, SharedBytes>,
    plain: Bytes,
    boxed: Box<SharedBytes>,
    outcome: Result<SharedBytes, String>,
    after: u64,
}

fn album(len: usize) -> Album {
    let bytes = pattern(len);
    Album {
        name: "a name".into(),
        cover: Some(bytes.clone()),
        pages: vec![pattern(len + 1), SharedBytes::default(), bytes.clone(), pattern(5)],
        parts: vec![
            Part::None,
            Part::One(pattern(len + 2)),
            Part::Named { head: 1, body: bytes.clone(), tail: "tail".into() },
        ],
        keyed: (0..3).map(|key| (key, pattern(len + usize::from(key)))).collect(),
        plain: pattern(len).into_bytes(),
        boxed: Box::new(bytes.clone()),
        outcome: Ok(bytes),
        after: u64::MAX,
    }
}

#[test]
fn bytes_inside_of_values_come_back() {
    checked(async {
        let pool = pool_of(1);
        for len in [1, 5000, 100_000] {
            let (a, b) = (pattern(len), pattern(len + 1));
            let swap = |a: SharedBytes, n: u32, b: SharedBytes| (b, n, a);
            assert!(pool.apply(swap, (a.clone(), 7, b.clone())).await.unwrap() == (b, 7, a));
            let sent = album(len);
            assert!(pool.apply(|album: Album| album, sent.clone()).await.unwrap() == sent, "{len}");
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn clones_are_sent_once_and_are_clones_again() {
    fn count(many: Vec<SharedBytes>) -> (usize, bool, (usize, usize)) {
        let place = many[0].as_ptr();
        (many.len(), many.iter().all(|one| one.as_ptr() == place), held())
    }
    checked(async {
        let pool = pool_of(1);
        let bytes = pattern(1 << 20);
        let many = vec![bytes.clone(); 1000];
        assert_eq!(pool.apply(count, many).await.unwrap(), (1000, true, (1, 1)));
        let back = pool.apply(|bytes: SharedBytes| vec![bytes; 1000], bytes.clone()).await.unwrap();
        assert!(back.iter().all(|one| one.as_ptr() == back[0].as_ptr()) && back[0] == bytes);
        // A map's items too, though they are encoded one by one.
        let sizes = pool.map(|bytes: SharedBytes, n: usize| bytes.len() + n, {
            (0..10_000).map(move |n| (bytes.clone(), n))
        });
        let expected: Vec<_> = (0..10_000).map(|n| (1 << 20) + n).collect();
        assert_eq!(sizes.await.unwrap(), expected);
        assert_eq!(pool.apply(held, ()).await.unwrap(), (0, 0));
    });
}

#[test]
fn as_many_as_may_be_come_back_and_one_more_is_an_error() {
    fn many(count: usize) -> Vec<SharedBytes> {
        (0..count).map(|n| pattern(n + 1)).collect()
    }
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        let sent = many(300);
        assert!(pool.apply(|many: Vec<SharedBytes>| many, sent.clone()).await.unwrap() == sent);
        assert!(pool.apply(many, 300).await.unwrap() == sent);
        let error = pool.apply(|many: Vec<SharedBytes>| many.len(), many(1025)).await.unwrap_err();
        assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
        assert_eq!(error.started(), Some(false));
        assert!(
            error
                .to_string()
                .contains("more than the 1024 descriptors and pieces of shared memory"),
            "{error}"
        );
        let error = pool.apply(many, 1025).await.unwrap_err();
        assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
        assert_eq!(error.started(), Some(true));
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
    });
}

#[test]
fn bytes_are_mapped_and_streamed() {
    checked(async {
        let pool = pool_of(2);
        let inputs: Vec<SharedBytes> = (0..300).map(|n| pattern(n * 97)).collect();
        assert!(pool.map(echo, inputs.clone()).await.unwrap() == inputs);
        // More for each chunk than go with one frame.
        assert!(pool.map(echo, inputs.clone()).chunk_size(300).await.unwrap() == inputs);
        assert!(pool.map(pattern, (0..300).map(|n| n * 97)).await.unwrap() == inputs);
        let lengths = |bytes: SharedBytes| bytes.len();
        let expected: Vec<_> = inputs.iter().map(|bytes| bytes.len()).collect();
        assert_eq!(pool.map(lengths, inputs.clone()).chunk_size(100).await.unwrap(), expected);
        let back: Vec<_> = pool.imap(echo, inputs.clone()).map(Result::unwrap).collect().await;
        assert!(back == inputs);
        let mut unordered = pool.imap_unordered(echo, inputs.clone()).chunk_size(7).indexed();
        let mut count = 0;
        while let Some((index, back)) = unordered.next().await {
            assert!(back.unwrap() == inputs[index]);
            count += 1;
        }
        assert_eq!(count, inputs.len());
        let items = |inputs: Vec<SharedBytes>| inputs.into_iter();
        let some = inputs[..50].to_vec();
        let back: Vec<_> = pool.stream(items, some.clone()).map(Result::unwrap).collect().await;
        assert!(back == some);
        assert_eq!(pool.stats().workers_started, 2);
    });
}

/// Each item takes longer than the last: chunks come back unfinished, and their
/// rest is sent again with what belongs to it.
#[test]
fn a_chunk_that_comes_back_unfinished_is_sent_on() {
    fn slowly(bytes: SharedBytes, n: u64) -> (SharedBytes, u64) {
        std::thread::sleep(Duration::from_micros(n * 300));
        (bytes, n)
    }
    checked(async {
        let pool = pool_of(2);
        let inputs: Vec<_> = (0..60).map(|n| (pattern(1000 + n as usize), n)).collect();
        let back = pool.map(slowly, inputs.clone()).await.unwrap();
        assert!(back == inputs);
        // Answers of more than a MiB are sent early, in the middle of a chunk.
        let inputs: Vec<_> = (0..12).map(|n| pattern((300 << 10) + n)).collect();
        let back = pool.map(pattern, (0..12).map(|n| (300 << 10) + n)).chunk_size(12).await;
        assert!(back.unwrap() == inputs);
    });
}

#[test]
fn an_item_that_fails_takes_nothing_from_the_others() {
    fn odd(n: usize) -> Vec<SharedBytes> {
        assert!(n % 3 > 0, "on purpose");
        (0..if n % 7 == 0 { 65 } else { 3 }).map(|k| pattern(1000 * n + k)).collect()
    }
    checked(async {
        let pool = pool_of(1);
        let back: Vec<_> = pool.imap(odd, 1..40).chunk_size(20).collect().await;
        for (n, back) in (1..40).zip(back) {
            match back {
                Err(TaskError::Panicked(_)) => assert_eq!(n % 3, 0),
                Err(error) => assert!(n % 7 == 0 && matches!(error, TaskError::Encode(_))),
                Ok(many) => assert!((0..3).all(|k| many[k] == pattern(1000 * n + k)), "{n}"),
            }
        }
        assert_eq!(pool.apply(held, ()).await.unwrap(), (0, 0));
    });
}

#[test]
fn a_call_that_is_retried_is_sent_the_same_memory() {
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let bytes = pattern(2 << 20);
        let args = (scratch.path("died"), bytes.clone());
        assert!(pool.apply(dying_once::<SharedBytes>, args).retry(1).await.unwrap() == bytes);
    });
}

/// Those behind it had not started.
#[test]
fn calls_of_a_worker_that_dies_are_sent_to_the_next_with_their_memory() {
    fn fatal(bytes: SharedBytes) -> usize {
        assert_ne!(bytes.len(), 7);
        std::process::abort()
    }
    checked(async {
        let pool = pool_of(1);
        let crash = pool.apply_async(fatal, pattern(1));
        let calls: Vec<_> = (0..20).map(|n| pool.apply_async(echo, pattern(n))).collect();
        assert!(crash.await.unwrap_err().is_worker_lost());
        for (n, call) in calls.into_iter().enumerate() {
            assert!(call.await.unwrap() == pattern(n));
        }
    });
}

#[test]
fn what_is_cancelled_or_dropped_leaves_nothing() {
    fn holding(journal: String, gate: String, bytes: SharedBytes) -> SharedBytes {
        hold(journal, gate);
        bytes
    }
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
        let bytes = pattern(1 << 20);
        let (mappings, descriptors) = held();
        let args = (journal.clone(), gate.clone(), bytes.clone());
        let running = pool.apply_async(holding, args);
        noted(&journal).await;
        let queued: Vec<_> = (0..10).map(|n| pool.apply_async(echo, pattern(n + 1))).collect();
        assert_eq!(held(), (mappings + 10, descriptors + 10));
        drop(queued);
        until("queued arguments are dropped", || held() == (mappings, descriptors)).await;
        running.cancel().await;

        // Answers that nobody takes, of calls and of a stream.
        let calls: Vec<_> = (0..10).map(|n| pool.apply_async(pattern, n + 1)).collect();
        until("they are answered", || calls.iter().all(|call| call.is_finished())).await;
        drop(calls);
        let mut items = pool.stream(|| (0..).map(|n| pattern(n + 1)), ());
        assert!(items.next().await.unwrap().is_ok());
        drop(items);
        until("answers are dropped", || held() == (mappings, descriptors)).await;

        let stuck = pool.apply_async(never, scratch.path("stuck"));
        noted(&scratch.path("stuck")).await;
        let waiting = pool.apply_async(echo, bytes.clone());
        pool.terminate().await;
        assert!(stuck.await.is_err() && waiting.await.is_err());
        drop(bytes);
        until("nothing is left", || held() == (0, 0)).await;
        open(&gate);
    });
}

#[test]
fn bytes_outlive_the_worker_that_made_them_and_the_pool() {
    checked(async {
        let pool = pool_of(1);
        let bytes = pool.apply(pattern, 3 << 20).await.unwrap();
        pool.terminate().await;
        drop(pool);
        assert!(bytes == pattern(3 << 20));
        let bytes = bytes.into_bytes();
        assert!(bytes.slice(1 << 20..) == pattern(3 << 20)[1 << 20..]);
    });
}

#[test]
fn the_frame_limit_holds_for_what_is_not_sent() {
    const LIMIT: usize = 1 << 20;
    checked(async {
        let pool = Pool::builder().workers(1).frame_limit(LIMIT).build().unwrap();
        // Four bytes say how long it is, and which.
        for (len, fits) in [(LIMIT - 4, true), (LIMIT - 3, false), (2 << 20, false)] {
            let sent = pool.apply(|bytes: SharedBytes| bytes.len(), pattern(len)).await;
            let came = pool.apply(pattern, len).await;
            if fits {
                assert_eq!(sent.unwrap(), len);
                assert!(came.unwrap() == pattern(len));
                continue;
            }
            for error in [sent.unwrap_err(), came.unwrap_err()] {
                assert!(matches!(error, TaskError::TooLarge { limit: LIMIT, .. }), "{error:?}");
            }
        }
        // What is the same counts once.
        let twice = vec![pattern(LIMIT / 2 + 1); 2];
        assert!(pool.apply(|many: Vec<SharedBytes>| many, twice.clone()).await.unwrap() == twice);
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn an_initializer_gets_it_too() {
    static SEEN: std::sync::Mutex<Option<SharedBytes>> = std::sync::Mutex::new(None);
    fn keep(bytes: SharedBytes) {
        *SEEN.lock().unwrap() = Some(bytes);
    }
    fn kept() -> Option<SharedBytes> {
        SEEN.lock().unwrap().clone()
    }
    checked(async {
        let bytes = pattern(100_000);
        let pool = Pool::builder().workers(1).initializer(keep, bytes.clone()).build().unwrap();
        assert!(pool.apply(kept, ()).await.unwrap() == Some(bytes));
    });
}
