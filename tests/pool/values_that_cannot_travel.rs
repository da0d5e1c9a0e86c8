//! Values that refuse, are too large, or turn out not to be what they should:
//! an error for that call, and the same worker goes on.

use std::error::Error;

use bytes::Bytes;
use futures::StreamExt;
use procession::{Pool, TaskError};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::checked;
use crate::tasks::{pid, pool_of};

/// Refuses to be encoded.
#[derive(Debug)]
struct Shy;

impl Serialize for Shy {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("I will not"))
    }
}

impl<'de> Deserialize<'de> for Shy {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Shy)
    }
}

/// Written as `W`, read as `R`.
#[derive(Debug)]
struct Crooked<W, R> {
    writes: Option<W>,
    reads: Option<R>,
}

impl<W, R> Crooked<W, R> {
    fn new(writes: W) -> Self {
        Crooked { writes: Some(writes), reads: None }
    }
}

impl<W: Serialize, R> Serialize for Crooked<W, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.writes.as_ref().unwrap().serialize(serializer)
    }
}

impl<'de, W, R: Deserialize<'de>> Deserialize<'de> for Crooked<W, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Crooked { writes: None, reads: Some(R::deserialize(deserializer)?) })
    }
}

/// Can be written, and never read.
#[derive(Debug, Serialize)]
struct OneWay;

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("no way back"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Nest(Option<Box<Nest>>);

fn nest(depth: u32) -> Nest {
    (0..depth).fold(Nest(None), |within, _| Nest(Some(Box::new(within))))
}

/// Runs `test`, and shows that the pool's only worker outlived it.
async fn unharmed<F: Future<Output = ()>>(pool: &Pool, test: F) {
    let worker = pool.apply(pid, ()).await.unwrap();
    test.await;
    assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
    assert_eq!(pool.stats().workers_started, 1);
}

#[test]
fn a_result_that_cannot_be_encoded() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let error = pool.apply(|| Shy, ()).await.unwrap_err();
            let TaskError::Encode(reason) = &error else { panic!("{error:?}") };
            assert!(
                reason.to_string().starts_with("the result could not be encoded: "),
                "{reason}"
            );
            assert!(reason.to_string().ends_with("encoded: I will not"), "{reason}");
            assert_eq!(error.to_string(), reason.to_string());
            assert_eq!(error.started(), Some(true));
            let error = pool
                .map(|n: u32| if n == 5 { Err(Shy) } else { Ok(n) }, 0..9)
                .chunk_size(9)
                .await
                .unwrap_err();
            assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
            assert_eq!(error.index(), Some(5));
        })
        .await;
        // A chunk with a failure in it is an answer.
        assert_eq!(pool.stats().failed, 1);
    });
}

#[test]
fn arguments_that_cannot_be_encoded() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let task = |_: Shy| 0;
            let error = pool.apply(task, Shy).await.unwrap_err();
            let TaskError::Encode(reason) = &error else { panic!("{error:?}") };
            assert!(reason.to_string().starts_with("the arguments could not be encoded: "));
            assert_eq!(error.started(), Some(false));
            assert!(matches!(pool.apply_async(task, Shy).await, Err(TaskError::Encode(_))));
            let handle = pool.try_apply(task, Shy).unwrap();
            assert!(matches!(handle.await, Err(TaskError::Encode(_))));
        })
        .await;
        // Not unharmed: an item that runs at the failure is cancelled.
        let task = |n: Result<u32, Shy>| n.unwrap();
        let inputs = (0..9).map(|n| if n == 5 { Err(Shy) } else { Ok(n) });
        let error = pool.map(task, inputs).await.unwrap_err();
        assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
        assert_eq!(error.index(), Some(5));
    });
}

const LIMIT: usize = 64 << 10;

/// Bytes that take `size` when encoded: three of them are their length.
fn bytes_of(size: usize) -> Bytes {
    vec![0; size - 3].into()
}

#[track_caller]
fn too_large<T: std::fmt::Debug>(ended: Result<T, TaskError>, at: usize) {
    let error = ended.unwrap_err();
    let TaskError::TooLarge { size, limit } = error else { panic!("{error:?}") };
    assert_eq!((size, limit), (at, LIMIT));
    let text = format!("a payload of {at} bytes is over the frame limit of {LIMIT}");
    assert_eq!(error.to_string(), text);
}

#[test]
fn arguments_over_the_frame_limit() {
    checked(async {
        let pool = Pool::builder().workers(1).frame_limit(LIMIT).build().unwrap();
        unharmed(&pool, async {
            let len = |bytes: Bytes| bytes.len();
            assert_eq!(pool.apply(len, bytes_of(LIMIT)).await.unwrap(), LIMIT - 3);
            too_large(pool.apply(len, bytes_of(LIMIT + 1)).await, LIMIT + 1);
            too_large(pool.apply_async(len, bytes_of(10 * LIMIT)).await, 10 * LIMIT);
            too_large(pool.try_apply(len, bytes_of(LIMIT + 1)).unwrap().await, LIMIT + 1);
            let sizes = [LIMIT, LIMIT, LIMIT];
            assert_eq!(pool.map(len, sizes.map(bytes_of)).await.unwrap(), [LIMIT - 3; 3]);
            too_large(pool.map(len, [LIMIT + 1, LIMIT].map(bytes_of)).await, LIMIT + 1);
        })
        .await;
    });
}

#[test]
fn results_over_the_frame_limit() {
    checked(async {
        let pool = Pool::builder().workers(1).frame_limit(LIMIT).build().unwrap();
        unharmed(&pool, async {
            assert_eq!(pool.apply(bytes_of, LIMIT).await.unwrap().len(), LIMIT - 3);
            too_large(pool.apply(bytes_of, LIMIT + 1).await, LIMIT + 1);
            too_large(pool.apply(bytes_of, 10 * LIMIT).await, 10 * LIMIT);
            assert_eq!(pool.map(bytes_of, [LIMIT; 50]).await.unwrap().len(), 50);
            assert_eq!(pool.map(bytes_of, [LIMIT; 50]).chunk_size(50).await.unwrap().len(), 50);
            too_large(pool.map(bytes_of, [LIMIT, LIMIT + 1, 9]).chunk_size(3).await, LIMIT + 1);
        })
        .await;
    });
}

#[test]
fn a_result_that_is_not_what_it_should_be() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let error = pool.apply(|| Crooked::<u8, bool>::new(7), ()).await.unwrap_err();
            let TaskError::Decode(reason) = &error else { panic!("{error:?}") };
            let text =
                "the result could not be decoded: malformed payload: a bool is neither 0 nor 1";
            assert_eq!(reason.to_string(), text);
            assert_eq!(error.to_string(), text);
            assert_eq!(error.started(), Some(true));
            assert!(error.source().is_none());

            let error = pool.apply(|| Crooked::<u8, String>::new(7), ()).await.unwrap_err();
            assert!(error.to_string().contains("ends in the middle of a value"), "{error}");
            let error = pool.apply(|| OneWay, ()).await.unwrap_err();
            assert!(error.to_string().contains("no way back"), "{error}");
        })
        .await;
    });
}

#[test]
fn arguments_that_are_not_what_they_should_be() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let task = |flag: Crooked<u8, bool>| flag.reads.unwrap();
            assert!(pool.apply(task, Crooked::new(1)).await.unwrap());
            let error = pool.apply(task, Crooked::new(7)).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
            assert!(
                error.to_string().starts_with("the arguments could not be decoded: "),
                "{error}"
            );
            assert_eq!(error.started(), Some(false));
            let inputs = [0, 1, 7, 1].map(Crooked::new);
            assert_eq!(pool.map(task, inputs).chunk_size(4).await.unwrap_err().index(), Some(2));
        })
        .await;
    });
}

#[test]
fn bytes_that_are_left_over() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let error = pool.apply(|| Crooked::<(u8, u8), u8>::new((1, 2)), ()).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
            assert!(error.to_string().ends_with("1 byte is left over after the value"), "{error}");
            let task = |n: u8| Crooked::<(u8, u8), u8>::new((n, n));
            let error = pool.map(task, 0..5).chunk_size(5).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
        })
        .await;
    });
}

#[test]
fn arguments_that_leave_bytes_over() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let task = |n: Crooked<(u8, u8), u8>| n.reads.unwrap();
            let error = pool.apply(task, Crooked::new((1, 2))).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
            assert!(error.to_string().ends_with("1 byte is left over after the value"), "{error}");
            assert_eq!(error.started(), Some(false));
            // Each reads one byte of its predecessor's two; the last sees it.
            let inputs = [(1, 2), (3, 4), (5, 6)].map(Crooked::new);
            let error = pool.map(task, inputs).chunk_size(3).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
            assert_eq!(error.index(), Some(2));
            let items = |n: Crooked<(u8, u8), u8>| vec![n.reads.unwrap()];
            let error = pool.stream(items, Crooked::new((1, 2))).next().await.unwrap().unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
        })
        .await;
    });
}

#[test]
fn a_value_that_is_too_deep() {
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            assert!(pool.apply(nest, 20).await.unwrap().0.is_some());
            for depth in [1000, 5000] {
                let error = pool.apply(nest, depth).await.unwrap_err();
                assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
                assert!(
                    error.to_string().contains("nests deeper than the limit of 128"),
                    "{error}"
                );
                let error = pool.apply(|nest: Nest| drop(nest), nest(depth)).await.unwrap_err();
                assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
                assert_eq!(error.started(), Some(false));
            }
        })
        .await;
    });
}

/// One byte each on the wire, and 264 in memory.
type Airy = Vec<Option<[u64; 32]>>;

#[test]
fn a_value_that_is_over_its_budget_of_memory() {
    checked(async {
        let pool = pool_of(1);
        let airy = |len: usize| -> Airy { vec![None; len] };
        unharmed(&pool, async {
            assert_eq!(pool.apply(airy, 10_000).await.unwrap().len(), 10_000);
            let error = pool.apply(airy, 200_000).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
            assert!(error.to_string().contains("bytes of memory"), "{error}");
            let error = pool.apply(|airy: Airy| airy.len(), airy(200_000)).await.unwrap_err();
            assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
            assert_eq!(error.started(), Some(false));
        })
        .await;
    });
}

/// The panic is in the worker for a result, and in the caller for arguments.
#[test]
fn a_value_that_panics_when_it_is_encoded() {
    #[derive(Deserialize)]
    struct Mine;
    impl Serialize for Mine {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("stepped on it");
        }
    }
    checked(async {
        let pool = pool_of(1);
        unharmed(&pool, async {
            let error = pool.apply(|| Mine, ()).await.map(|_| ()).unwrap_err();
            assert!(error.is_panic(), "{error:?}");
            assert!(error.to_string().ends_with("stepped on it"));
            let call = std::panic::AssertUnwindSafe(|| drop(pool.apply(|_: Mine| (), Mine)));
            assert!(std::panic::catch_unwind(call).is_err());
        })
        .await;
    });
}
