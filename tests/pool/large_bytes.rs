//! Long byte strings, which are sent from where they are and received without
//! being copied: they arrive as they were, wherever they are in a value, and
//! leave nothing behind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use procession::{Pool, TaskError, TaskHandle};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{Scratch, alone, checked, noted, until};
use crate::tasks::{dying_once, hold, open, pid, pool_of};

/// Around every length at which something is done in another way.
fn lengths() -> Vec<usize> {
    let turns = [16 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20];
    let around = |turn: usize| [turn - 40, turn - 4, turn - 1, turn, turn + 1, turn + 100];
    [0, 1, 100].into_iter().chain(turns.into_iter().flat_map(around)).collect()
}

/// Bytes that are the same nowhere.
fn pattern(len: usize) -> Bytes {
    let mut state = len as u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state.to_be_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes.into()
}

fn echo(bytes: Bytes) -> Bytes {
    bytes
}

#[test]
fn bytes_of_any_length_come_back() {
    checked(async {
        let pool = pool_of(1);
        for len in lengths() {
            let bytes = pattern(len);
            assert!(pool.apply(echo, bytes.clone()).await.unwrap() == bytes, "{len}");
            let later = |bytes: Bytes| async move { bytes };
            assert!(pool.apply(later, bytes.clone()).await.unwrap() == bytes, "{len}");
            // Made there, and only counted there.
            assert!(pool.apply(pattern, len).await.unwrap() == bytes, "{len}");
            assert_eq!(pool.apply(|bytes: Bytes| bytes.len(), bytes).await.unwrap(), len);
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Newtype(Bytes);

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Part {
    None,
    One(Bytes),
    Named { head: u8, body: Bytes, tail: String },
    Two(Bytes, Bytes),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Album {
    name: String,
    cover: Option<Bytes>,
    pages: Vec<Bytes>,
    parts: Vec<Part>,
    keyed: BTreeMap<u8, Bytes>,
    wrapped: Newtype,
    boxed: Box<Bytes>,
    outcome: Result<Bytes, String>,
    after: u64,
}

fn album(len: usize) -> Album {
    let bytes = pattern(len);
    Album {
        name: "a name".into(),
        cover: Some(bytes.clone()),
        pages: vec![bytes.clone(), Bytes::new(), bytes.slice(len / 2..), bytes.clone()],
        parts: vec![
            Part::None,
            Part::One(bytes.clone()),
            Part::Named { head: 1, body: bytes.clone(), tail: "tail".into() },
            Part::Two(bytes.clone(), bytes.slice(..len / 3)),
        ],
        keyed: (0..3).map(|key| (key, bytes.clone())).collect(),
        wrapped: Newtype(bytes.clone()),
        boxed: Box::new(bytes.clone()),
        outcome: Ok(bytes),
        after: u64::MAX,
    }
}

#[test]
fn bytes_inside_of_values_come_back() {
    checked(async {
        let pool = pool_of(1);
        for len in lengths() {
            let bytes = pattern(len);
            let pair = |a: Bytes, n: u32, b: Bytes| (b, n, a);
            let other = bytes.slice(..len / 2);
            let back = pool.apply(pair, (bytes.clone(), 7, other.clone())).await.unwrap();
            assert!(back == (other, 7, bytes), "{len}");
            let sent = album(len);
            assert!(pool.apply(|album: Album| album, sent.clone()).await.unwrap() == sent, "{len}");
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn more_pieces_than_one_write_takes_come_back() {
    checked(async {
        let pool = pool_of(1);
        let pieces: Vec<Bytes> = (0..100).map(|n| pattern((40 << 10) + n)).collect();
        let back = pool.apply(|pieces: Vec<Bytes>| pieces, pieces.clone()).await.unwrap();
        assert!(back == pieces);
    });
}

#[test]
fn bytes_are_mapped_and_streamed() {
    checked(async {
        let pool = pool_of(2);
        let inputs: Vec<Bytes> = lengths().into_iter().cycle().take(200).map(pattern).collect();
        assert!(pool.map(echo, inputs.clone()).await.unwrap() == inputs);
        assert!(pool.map(echo, inputs.clone()).chunk_size(7).await.unwrap() == inputs);
        let back: Vec<_> = pool.imap(echo, inputs.clone()).map(Result::unwrap).collect().await;
        assert!(back == inputs);
        let mut unordered = pool.imap_unordered(echo, inputs.clone()).chunk_size(3).indexed();
        let mut count = 0;
        while let Some((index, back)) = unordered.next().await {
            assert!(back.unwrap() == inputs[index]);
            count += 1;
        }
        assert_eq!(count, inputs.len());
        let items = |inputs: Vec<Bytes>| inputs.into_iter();
        let back: Vec<_> = pool.stream(items, inputs.clone()).map(Result::unwrap).collect().await;
        assert!(back == inputs);
        assert_eq!(pool.stats().workers_started, 2);
    });
}

#[test]
fn a_chunk_that_comes_back_unfinished_is_sent_on() {
    checked(async {
        let pool = pool_of(2);
        // Answers of more than a MiB are sent early, in the middle of a chunk.
        let inputs: Vec<Bytes> = (0..12).map(|n| pattern((300 << 10) + n)).collect();
        let back = pool.map(echo, inputs.clone()).chunk_size(12).await.unwrap();
        assert!(back == inputs);
    });
}

#[test]
fn an_answer_is_the_next_argument() {
    checked(async {
        let pool = pool_of(1);
        let bytes = pattern(3 << 20);
        let mut passed = bytes.clone();
        let mut kept = Vec::new();
        for round in 0..20 {
            passed = pool.apply(echo, passed).await.unwrap();
            if round % 5 == 0 {
                kept.push(passed.clone());
            }
        }
        // Nothing was received over what is still in use.
        assert!(kept.iter().all(|kept| kept == &bytes));
        assert!(passed == bytes);
    });
}

#[test]
fn answers_that_are_kept_stay_as_they_are() {
    checked(async {
        let pool = pool_of(1);
        let mut kept = Vec::new();
        for n in 0..40_usize {
            let len = (250 << 10) + (n % 7) * (100 << 10);
            let answer = pool.apply(pattern, len).await.unwrap();
            if n % 3 > 0 {
                kept.push(answer);
            }
        }
        assert!(kept.iter().all(|answer| *answer == pattern(answer.len())));
    });
}

#[test]
fn a_task_may_keep_its_arguments() {
    static KEPT: Mutex<Vec<Bytes>> = Mutex::new(Vec::new());
    fn keep(bytes: Bytes) -> bool {
        let mut kept = KEPT.lock().unwrap();
        kept.push(bytes);
        kept.iter().all(|bytes| *bytes == pattern(bytes.len()))
    }
    checked(async {
        let pool = pool_of(1);
        for n in 0..12 {
            assert!(pool.apply(keep, pattern((1 << 20) + n)).await.unwrap());
        }
    });
}

/// Sent as its bytes and what they are worth, in an order of its own.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Own {
    #[serde(serialize_with = "backwards", deserialize_with = "forwards")]
    bytes: Bytes,
}

fn backwards<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(&bytes.iter().rev().copied().collect::<Vec<u8>>())
}

fn forwards<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct Forwards;

    impl Visitor<'_> for Forwards {
        type Value = Bytes;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(bytes.iter().rev().copied().collect())
        }
    }

    deserializer.deserialize_byte_buf(Forwards)
}

#[test]
fn bytes_with_serde_code_of_their_own_go_through_it() {
    checked(async {
        let pool = pool_of(1);
        for len in lengths() {
            let own = Own { bytes: pattern(len) };
            let through = |own: Own| (own.bytes.first().copied(), own);
            let (first, back) = pool.apply(through, own.clone()).await.unwrap();
            assert!(first == own.bytes.first().copied() && back == own, "{len}");
        }
    });
}

#[test]
fn other_bytes_are_no_exception() {
    checked(async {
        let pool = pool_of(1);
        for len in lengths() {
            let bytes = BytesMut::from(&pattern(len)[..]);
            let grow = |mut bytes: BytesMut| {
                bytes.extend_from_slice(b"more");
                bytes
            };
            let back = pool.apply(grow, bytes.clone()).await.unwrap();
            assert!(back[..len] == bytes[..] && back[len..] == b"more"[..], "{len}");
        }
    });
}

#[test]
fn the_frame_limit_holds_for_bytes_to_the_byte() {
    const LIMIT: usize = 1 << 20;
    // Three bytes are their length, up to 2 MiB.
    fn taking(size: usize) -> Bytes {
        pattern(size - 3)
    }
    checked(async {
        let pool = Pool::builder().workers(1).frame_limit(LIMIT).build().unwrap();
        let worker = pool.apply(pid, ()).await.unwrap();
        let sizes = [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false), ((2 << 20) - 1, false)];
        for (size, fits) in sizes {
            let sent = pool.apply(|bytes: Bytes| bytes.len(), taking(size)).await;
            let came = pool.apply(|size: usize| taking(size), size).await;
            let both = pool.apply(|a: Bytes, b: Bytes| a.len() + b.len(), {
                (taking(size - 100_000), taking(100_000))
            });
            let both = both.await;
            let items = pool.stream(|size: usize| [taking(size)], size);
            let [streamed] = <[_; 1]>::try_from(items.collect::<Vec<_>>().await).unwrap();
            if fits {
                assert_eq!(sent.unwrap(), size - 3);
                assert!(came.unwrap() == taking(size));
                assert_eq!(both.unwrap(), size - 6);
                assert!(streamed.unwrap() == taking(size));
                continue;
            }
            for error in [sent.unwrap_err(), came.unwrap_err(), both.unwrap_err()] {
                let TaskError::TooLarge { size: said, limit } = error else { panic!("{error:?}") };
                assert_eq!((said, limit), (size, LIMIT));
            }
            assert!(matches!(streamed, Err(TaskError::TooLarge { .. })), "{streamed:?}");
            // Of many, the others come back.
            let inputs = [taking(100_000), taking(size), taking(200_000)];
            let back: Vec<_> = pool.imap(echo, inputs.clone()).chunk_size(3).collect().await;
            assert!(back[0].as_ref().unwrap() == &inputs[0]);
            assert!(matches!(&back[1], Err(TaskError::TooLarge { .. })));
            assert!(back[2].as_ref().unwrap() == &inputs[2]);
        }
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
    });
}

#[test]
fn a_call_that_is_retried_is_sent_the_same_bytes() {
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let bytes = pattern(2 << 20);
        let args = (scratch.path("died"), bytes.clone());
        assert!(pool.apply(dying_once::<Bytes>, args).retry(1).await.unwrap() == bytes);
    });
}

/// Memory of the program's own, with code to free it that asks the pool.
struct Owned(Vec<u8>, Arc<AtomicUsize>);

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Would wait for ever if the pool were locked.
        let pool = POOL.lock().unwrap().clone();
        pool.unwrap().status();
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

/// Twenty calls that wait for one that holds the worker: some of them on their
/// way to it, the rest in the queue.
async fn calls_behind_another(pool: &Pool, dropped: &Arc<AtomicUsize>) -> Vec<TaskHandle<usize>> {
    let scratch = Scratch::new();
    let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
    pool.apply_async(hold, (journal.clone(), gate)).detach();
    noted(&journal).await;
    let owned = || Bytes::from_owner(Owned(vec![1; 1 << 20], Arc::clone(dropped)));
    (0..20).map(|_| pool.apply_async(|bytes: Bytes| bytes.len(), owned())).collect()
}

fn impatient() -> Pool {
    let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
    *POOL.lock().unwrap() = Some(pool.clone());
    pool
}

#[test]
fn memory_of_the_callers_own_is_freed_when_its_call_has_ended() {
    checked(async {
        let dropped = Arc::new(AtomicUsize::new(0));
        let pool = impatient();
        let bytes = Bytes::from_owner(Owned(vec![1; 4 << 20], Arc::clone(&dropped)));
        assert_eq!(pool.apply(|bytes: Bytes| bytes.len(), bytes).await.unwrap(), 4 << 20);
        until("it is freed", || dropped.load(Ordering::Relaxed) == 1).await;

        let calls = calls_behind_another(&pool, &dropped).await;
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
        pool.terminate().await;
        for call in calls {
            assert!(matches!(call.await, Err(TaskError::Terminated)));
        }
        until("all of it is freed", || dropped.load(Ordering::Relaxed) == 21).await;
        drop(POOL.lock().unwrap().take());
    });
    alone(|| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let calls = runtime.block_on(async { calls_behind_another(&impatient(), &dropped).await });
        drop(runtime);
        drop(calls);
        assert_eq!(dropped.load(Ordering::Relaxed), 20);
        drop(POOL.lock().unwrap().take());
    });
}

/// Memory with code to free it that panics.
struct Unwilling(Vec<u8>, Arc<AtomicUsize>);

impl Unwilling {
    fn bytes(tries: &Arc<AtomicUsize>) -> Bytes {
        Bytes::from_owner(Unwilling(vec![1; 1 << 20], Arc::clone(tries)))
    }
}

impl AsRef<[u8]> for Unwilling {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Unwilling {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        panic!("it is not given back");
    }
}

#[test]
fn a_panic_of_code_that_frees_memory_ends_no_call_and_no_pool() {
    fn len(bytes: Bytes) -> usize {
        bytes.len()
    }
    fn unwilling(_: usize) -> Bytes {
        Unwilling::bytes(&Arc::default())
    }
    checked(async {
        let pool = pool_of(1);
        let tries = Arc::new(AtomicUsize::new(0));
        for round in 1..4 {
            assert_eq!(pool.apply(len, Unwilling::bytes(&tries)).await.unwrap(), 1 << 20);
            until("it is let go of", || tries.load(Ordering::Relaxed) == round).await;
        }
        // Queued, or on its way to the worker, when nobody wants it any more.
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
        noted(&journal).await;
        let calls: Vec<_> =
            (0..20).map(|_| pool.apply_async(len, Unwilling::bytes(&tries))).collect();
        drop(calls);
        open(&gate);
        let worker = held.await.unwrap();
        until("all is let go of", || tries.load(Ordering::Relaxed) == 23).await;

        // Made by a task.
        assert_eq!(pool.apply(unwilling, 0).await.unwrap().len(), 1 << 20);
        assert_eq!(pool.map(unwilling, 0..5).chunk_size(5).await.unwrap().len(), 5);
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
    });
}
