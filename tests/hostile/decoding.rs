//! Results that are built to hurt whoever decodes them: the call ends with an
//! error that says what is wrong with them, whatever kind of call it was, and
//! neither stack nor memory suffer.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;

use futures::StreamExt;
use procession::{Pool, TaskError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::scripted::{Cast, Script};
use crate::support::{alone, checked};
use crate::trial::Peak;
use crate::wire::{self, done, frame, item, varint};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("result", |actor, what| {
        actor.greet();
        let payload = payload(what);
        loop {
            let task = actor.take();
            actor.start(task.seq);
            let answer = match task.flags {
                0 => done(task.seq, 1, &payload),
                STREAM => item(task.seq, &payload),
                // A chunk's: one item has a value, and this is it.
                flags if flags & TALLIED != 0 => {
                    let head = [1, payload.len() as u32].map(u32::to_le_bytes).concat();
                    done(task.seq, 1, &[&head[..], &payload].concat())
                }
                _ => done(task.seq, 1, &[&1_u32.to_le_bytes()[..], &payload].concat()),
            };
            if task.flags != STREAM {
                actor.finish(task.seq);
            }
            actor.send(&answer);
        }
    }),
    ("outcome", |actor, what| {
        actor.hear_setup();
        let outcome = [&[1][..], &payload(what)].concat();
        let greeting = [actor.hello(), frame(wire::READY, 0, 0, &outcome)].concat();
        actor.send(&greeting);
    }),
];

/// The flag of a call whose answer is a stream.
const STREAM: u8 = 2;

/// And of a chunk whose values have their lengths before them.
const TALLIED: u8 = 8;

fn payload(what: &str) -> Vec<u8> {
    let everything = varint(u64::MAX);
    match what {
        "nested" => vec![1; 100_000],
        "nested a little" => vec![1; 50_000],
        "everything" => everything,
        "everything, of one" => [everything, vec![0]].concat(),
        "everything in each" => [varint(1000), everything].concat(),
        // A megabyte that says that each of its bytes is an element.
        "nothings" => [varint(1 << 20), vec![0; 1 << 20]].concat(),
        // Each of which has 127 elements of no size.
        "many units" => [varint(1 << 20), vec![127; 1 << 20]].concat(),
        "cut short" => vec![3, 1, 2],
        "left over" => vec![1, 2, 3],
        "empty" => Vec::new(),
        "no text" => vec![3, 0xff, 0xfe, 0xfd],
        _ => unreachable!("no payload {what}"),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Nest(Option<Box<Nest>>);

impl fmt::Display for Nest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a nest")
    }
}

fn value<R>(_: u8) -> R {
    unreachable!("the worker has a script")
}

fn items<R>(_: u8) -> std::iter::Empty<R> {
    std::iter::empty()
}

/// Calls in every way a task whose answer is such bytes.
async fn hurts<R>(what: &str, sentence: &str)
where
    R: Serialize + DeserializeOwned + fmt::Debug + Send + 'static,
{
    let peak = Peak::new();
    let cast = Cast::new(&format!("result:{what}"), 20);
    // Room for what is around the values of a chunk.
    let pool = cast.builder().workers(1).frame_limit(2 << 20).build().unwrap();
    let single = pool.apply(value::<R>, 0).await.unwrap_err();
    assert_eq!(pool.stats().workers_started, 1, "it is an answer, if a bad one");
    let mapped = pool.map(value::<R>, 0..4).chunk_size(2).await.unwrap_err();
    let mut each = pool.imap(value::<R>, 0..4).chunk_size(2);
    let first = each.next().await.unwrap().unwrap_err();
    drop(each);
    let mut stream = pool.stream(items::<R>, 0);
    let item = stream.next().await.unwrap().unwrap_err();
    assert!(stream.next().await.is_none(), "{what}: an error is the last");
    for (how, error) in [("apply", single), ("map", mapped), ("imap", first), ("stream", item)] {
        assert!(matches!(error, TaskError::Decode(_)), "{what}, {how}: {error:?}");
        let left_over = sentence.contains("left over") && how.ends_with("map");
        let sentence = if left_over { "the answer is too long" } else { sentence };
        assert!(error.to_string().contains(sentence), "{what}, {how}: {error}");
    }
    pool.terminate().await;
    // Twice the heap that an answer of a megabyte may take.
    peak.assert_below(2 * ((16 << 20) + (32 << 20)));
}

const TOO_DEEP: &str = "payload nests deeper than the limit of 128 levels";
const TOO_LARGE: &str = "payload decodes to more than its limit of";
const TOO_SHORT: &str = "it ends in the middle of a value";

#[test]
fn nested_a_hundred_thousand_deep() {
    checked(async {
        hurts::<Nest>("nested", TOO_DEEP).await;
        hurts::<Vec<Nest>>("nested", TOO_DEEP).await;
        hurts::<HashMap<u8, Nest>>("nested", TOO_DEEP).await;
    });
}

#[test]
fn nested_deep_for_a_thread_with_a_small_stack() {
    alone(|| {
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        let test = || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(hurts::<Nest>("nested", TOO_DEEP));
        };
        thread.spawn(test).unwrap().join().unwrap();
    });
}

#[test]
fn ten_bytes_that_claim_everything() {
    checked(async {
        hurts::<Vec<()>>("everything", TOO_LARGE).await;
        hurts::<HashSet<()>>("everything", TOO_LARGE).await;
        hurts::<VecDeque<[(); 4]>>("everything", TOO_LARGE).await;
        hurts::<BTreeMap<(), ()>>("everything", TOO_LARGE).await;
        hurts::<Vec<u8>>("everything", TOO_SHORT).await;
        hurts::<String>("everything", TOO_SHORT).await;
        hurts::<bytes::Bytes>("everything", TOO_SHORT).await;
        hurts::<HashMap<u8, u8>>("everything, of one", TOO_SHORT).await;
        hurts::<BTreeMap<String, u8>>("everything, of one", TOO_SHORT).await;
        hurts::<VecDeque<u64>>("everything", TOO_SHORT).await;
        hurts::<Vec<[u64; 32]>>("everything", TOO_SHORT).await;
        hurts::<Vec<Vec<()>>>("everything in each", TOO_LARGE).await;
        hurts::<Vec<Vec<u64>>>("everything in each", TOO_SHORT).await;
    });
}

#[test]
fn a_megabyte_that_would_grow() {
    checked(async {
        hurts::<Vec<Option<[u64; 32]>>>("nothings", TOO_LARGE).await;
        hurts::<Vec<Option<([u64; 32], [u64; 32])>>>("nothings", TOO_LARGE).await;
        hurts::<VecDeque<Vec<()>>>("many units", TOO_LARGE).await;
        hurts::<BTreeMap<Vec<()>, Vec<()>>>("many units", TOO_LARGE).await;
    });
}

/// Twenty-four times its length is what an honest value can take.
#[test]
fn a_megabyte_that_may_grow() {
    checked(async {
        let peak = Peak::new();
        let cast = Cast::new("result:nothings", 1);
        let pool = cast.builder().workers(1).frame_limit(2 << 20).build().unwrap();
        let strings = pool.apply(value::<Vec<String>>, 0).await.unwrap();
        assert_eq!(strings.len(), 1 << 20);
        pool.terminate().await;
        peak.assert_below(2 * ((16 << 20) + (32 << 20)));
    });
}

#[test]
fn too_short_too_long_and_no_text() {
    checked(async {
        hurts::<Vec<u8>>("cut short", TOO_SHORT).await;
        hurts::<(u8, u8, u8, u8)>("cut short", TOO_SHORT).await;
        hurts::<u8>("empty", TOO_SHORT).await;
        hurts::<u8>("left over", "2 bytes are left over after the value").await;
        hurts::<Vec<u8>>("left over", "1 byte is left over after the value").await;
        hurts::<()>("left over", "3 bytes are left over after the value").await;
        hurts::<String>("no text", "a string is not UTF-8").await;
    });
}

fn prepare<E>(_: u8) -> Result<(), E> {
    Ok(())
}

async fn refused<E>(what: &str, sentence: &str)
where
    E: fmt::Display + Serialize + DeserializeOwned + Send + 'static,
{
    let peak = Peak::new();
    let cast = Cast::new(&format!("outcome:{what}"), 20);
    let builder = cast.builder().workers(1).restart_limit(1).initializer(prepare::<E>, 0);
    let pool: Pool = builder.build().unwrap();
    let told = pool.ready().await.unwrap_err().to_string();
    assert!(told.contains("the initializer failed") && told.contains(sentence), "{told}");
    pool.terminate().await;
    peak.assert_below(64 << 20);
}

#[test]
fn outcomes_of_an_initializer() {
    checked(async {
        refused::<Nest>("nested a little", TOO_DEEP).await;
        refused::<Text<Vec<()>>>("everything", TOO_LARGE).await;
        refused::<String>("everything", TOO_SHORT).await;
        refused::<String>("no text", "a string is not UTF-8").await;
        refused::<String>("empty", TOO_SHORT).await;
        refused::<Text<u8>>("left over", "2 bytes are left over after the value").await;
    });
}

/// An error with any value in it.
#[derive(Serialize, Deserialize)]
struct Text<T>(T);

impl<T> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
}
