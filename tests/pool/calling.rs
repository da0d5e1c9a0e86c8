//! One call at a time: what can be called, and what comes back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use procession::TaskError;
use serde::{Deserialize, Serialize};

use crate::support::checked;
use crate::tasks::{pool_of, square};

async fn later(n: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(1)).await;
    tokio::spawn(async move { n + 1 }).await.unwrap()
}

fn largest<T: Ord>(of: Vec<T>) -> Option<T> {
    of.into_iter().max()
}

fn times<const N: u64>(n: u64) -> u64 {
    n * N
}

#[test]
fn a_function_is_called_in_another_process() {
    checked(async {
        let pool = pool_of(2);
        assert_eq!(pool.apply(square, 12).await.unwrap(), 144);
        let theirs = pool.apply(std::process::id, ()).await.unwrap();
        assert_ne!(theirs, std::process::id());
    });
}

#[test]
fn an_async_function_has_a_runtime_of_its_own() {
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(later, 1).await.unwrap(), 2);
        assert_eq!(pool.apply(later, 2).await.unwrap(), 3);
        // Sync and async tasks take turns on one worker.
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(pool.apply(|n: u64| async move { n + 4 }, 4).await.unwrap(), 8);
        assert_eq!(pool.map(later, 0..5).await.unwrap(), [1, 2, 3, 4, 5]);
    });
}

#[test]
fn instances_of_a_generic_function_are_told_apart() {
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(largest::<u8>, vec![1, 3, 2]).await.unwrap(), Some(3));
        assert_eq!(pool.apply(largest::<i64>, vec![]).await.unwrap(), None);
        let words = vec!["b".to_owned(), "c".to_owned()];
        assert_eq!(pool.apply(largest::<String>, words).await.unwrap().as_deref(), Some("c"));
        assert_eq!(pool.apply(times::<2>, 5).await.unwrap(), 10);
        assert_eq!(pool.apply(times::<3>, 5).await.unwrap(), 15);
    });
}

#[test]
fn closures_and_functions_of_std_are_tasks() {
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(|n: u64| n + 1, 1).await.unwrap(), 2);
        assert_eq!(pool.apply(|a: u64, b: u64| a + b, (1, 2)).await.unwrap(), 3);
        let kept = |text: String| text.len();
        assert_eq!(pool.apply(kept, "four".to_owned()).await.unwrap(), 4);
        assert_eq!(pool.apply(u64::pow, (2, 10)).await.unwrap(), 1024);
        assert_eq!(pool.apply(f64::sqrt, 2.25).await.unwrap(), 1.5);
        assert_eq!(pool.apply(String::into_bytes, "ab".to_owned()).await.unwrap(), b"ab");
        // A constructor is a function, too.
        assert_eq!(pool.apply(Meters, 1.5).await.unwrap(), Meters(1.5));
    });
}

/// The linker may fold them into one: same code, different functions.
#[test]
fn functions_of_equal_code_are_told_apart() {
    fn one(n: u64) -> (u64, &'static str) {
        (n, "")
    }
    // As tasks, their names must not be confused, whatever their addresses.
    fn first(n: u64) -> u64 {
        n + one(n).0
    }
    fn second(n: u64) -> u64 {
        n + one(n).0
    }
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(first, 1).await.unwrap(), 2);
        assert_eq!(pool.apply(second, 2).await.unwrap(), 4);
        let lost = pool.apply(|| -> u8 { std::process::exit(1) }, ()).await.unwrap_err();
        let other = pool.apply(|| -> u8 { std::process::exit(1) }, ()).await.unwrap_err();
        assert!(lost.is_worker_lost() && other.is_worker_lost());
    });
}

#[test]
fn none_to_eight_arguments() {
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(|| 0, ()).await.unwrap(), 0);
        assert_eq!(pool.apply(|a: i32| a, 1).await.unwrap(), 1);
        assert_eq!(pool.apply(|a: i32, b: i32| a + b, (1, 2)).await.unwrap(), 3);
        assert_eq!(pool.apply(|a: i32, b: i32, c: i32| a + b + c, (1, 2, 3)).await.unwrap(), 6);
        let f = |a: i32, b: i32, c: i32, d: i32| a + b + c + d;
        assert_eq!(pool.apply(f, (1, 2, 3, 4)).await.unwrap(), 10);
        let f = |a: i32, b: i32, c: i32, d: i32, e: i32| a + b + c + d + e;
        assert_eq!(pool.apply(f, (1, 2, 3, 4, 5)).await.unwrap(), 15);
        let f = |a: i32, b: i32, c: i32, d: i32, e: i32, f: i32| a + b + c + d + e + f;
        assert_eq!(pool.apply(f, (1, 2, 3, 4, 5, 6)).await.unwrap(), 21);
        let f = |a: i32, b: i32, c: i32, d: i32, e: i32, f: i32, g: i32| a + b + c + d + e + f + g;
        assert_eq!(pool.apply(f, (1, 2, 3, 4, 5, 6, 7)).await.unwrap(), 28);
        let mixed =
            |a: u8, b: i64, c: String, d: char, e: bool, f: f32, g: Option<u8>, h: Vec<u8>| {
                format!("{a} {b} {c} {d} {e} {f} {g:?} {h:?}")
            };
        let args = (1, -2, "three".to_owned(), '4', true, 0.5, Some(7), vec![8, 8]);
        let text = pool.apply(mixed, args).await.unwrap();
        assert_eq!(text, "1 -2 three 4 true 0.5 Some(7) [8, 8]");
    });
}

#[test]
fn a_tuple_can_be_the_one_argument() {
    fn swap((a, b): (u8, String)) -> (String, u8) {
        (b, a)
    }
    fn unit(_: ()) -> &'static str {
        // Not a result: `'static` text cannot be decoded.
        "unused"
    }
    checked(async {
        let pool = pool_of(1);
        assert_eq!(unit(()), "unused");
        assert_eq!(pool.apply(swap, (1, "a".into())).await.unwrap(), ("a".to_owned(), 1));
        assert_eq!(pool.apply(|pair: (u8, u8), n: u8| pair.1 + n, ((1, 2), 3)).await.unwrap(), 5);
    });
}

#[test]
fn a_result_of_the_task_is_its_answer() {
    fn parse(text: String) -> Result<i32, String> {
        text.parse().map_err(|error: std::num::ParseIntError| error.to_string())
    }
    async fn both(pool: &procession::Pool, text: &str) -> Result<i32, Box<dyn std::error::Error>> {
        Ok(pool.apply(parse, text.to_owned()).await??)
    }
    checked(async {
        let pool = pool_of(1);
        assert_eq!(both(&pool, "12").await.unwrap(), 12);
        let error = both(&pool, "twelve").await.unwrap_err();
        assert_eq!(error.to_string(), "invalid digit found in string");
        assert_eq!(pool.stats().completed, 2);
    });
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Meters(f64);

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    lines: Vec<(String, Option<u32>)>,
    size: Meters,
    state: State,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum State {
    New,
    Sent { by: String },
    Lost(i32, Box<State>),
}

#[test]
fn values_come_back_as_they_went() {
    fn echo<T>(value: T) -> T {
        value
    }
    checked(async {
        let pool = pool_of(1);
        macro_rules! travels {
            ($($type:ty: $value:expr;)*) => {$(
                let value: $type = $value;
                assert_eq!(pool.apply(echo::<$type>, value.clone()).await.unwrap(), value);
            )*};
        }
        travels! {
            String: "żółw 🐢\0".to_owned();
            String: String::new();
            Vec<u32>: (0..10_000).collect();
            Vec<String>: vec![String::new(), "a".into()];
            HashMap<String, u64>: HashMap::from([("one".into(), 1), ("two".into(), 2)]);
            BTreeMap<u8, Vec<i8>>: BTreeMap::from([(1, vec![-1]), (2, vec![])]);
            Option<Option<u8>>: Some(None);
            Result<u8, String>: Err("no".into());
            (): ();
            u128: u128::MAX;
            i64: i64::MIN;
            f64: f64::NEG_INFINITY;
            [u16; 3]: [1, 2, 3];
            Duration: Duration::from_nanos(1_500_000_001);
            Order: Order {
                id: 7,
                lines: vec![("bolt".into(), Some(4)), ("nut".into(), None)],
                size: Meters(0.25),
                state: State::Lost(-1, Box::new(State::Sent { by: "post".into() })),
            };
            State: State::New;
        }
    });
}

#[test]
fn large_bytes_travel_both_ways() {
    fn flip(bytes: Bytes) -> Bytes {
        assert_eq!(bytes.len(), 32 << 20);
        let mut bytes = Vec::from(bytes);
        let last = bytes.len() - 1;
        bytes.swap(0, last);
        bytes.into()
    }
    checked(async {
        let pool = pool_of(2);
        let mut bytes = vec![7; 32 << 20];
        bytes[0] = 1;
        let back = pool.apply(flip, Bytes::from(bytes.clone())).await.unwrap();
        let last = bytes.len() - 1;
        bytes.swap(0, last);
        // Without printing them.
        assert!(back == bytes);
    });
}

/// Neither side may wait for the other to read.
#[test]
fn many_large_values_travel_both_ways_at_once() {
    checked(async {
        let pool = pool_of(1);
        let calls = (0..20).map(|n| {
            let bytes = Bytes::from(vec![n; 1 << 20]);
            pool.apply(|bytes: Bytes| bytes, bytes)
        });
        for (n, back) in futures::future::join_all(calls).await.into_iter().enumerate() {
            assert!(back.unwrap() == vec![n as u8; 1 << 20]);
        }
    });
}

#[test]
fn what_a_call_waits_for_does_not_stop_others() {
    checked(async {
        let pool = pool_of(2);
        let calls = (0..500).map(|n| {
            let pool = pool.clone();
            async move { pool.apply(square, n).await.unwrap() }
        });
        let squares = futures::future::join_all(calls).await;
        assert!(squares.iter().enumerate().all(|(n, square)| *square == (n * n) as u64));
    });
}

#[test]
fn a_closed_pool_says_so() {
    checked(async {
        let pool = pool_of(1);
        pool.close();
        let error = pool.apply(square, 1).await.unwrap_err();
        assert!(matches!(error, TaskError::Closed), "{error:?}");
        assert_eq!(error.to_string(), "the pool is closed");
        assert_eq!(error.started(), Some(false));
        assert!(matches!(pool.apply_async(square, 1).await, Err(TaskError::Closed)));
        assert!(matches!(pool.map(square, 0..3).await, Err(TaskError::Closed)));
        assert!(matches!(pool.map_async(square, 0..3).await, Err(TaskError::Closed)));
        pool.join().await;
    });
}
