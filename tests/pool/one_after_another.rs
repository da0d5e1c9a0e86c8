//! One call awaited before the next is made, so that parent and worker look out for
//! each other: whatever comes in between, each has its own answer.

use bytes::Bytes;
use futures::StreamExt;
use procession::{Pool, TaskError};

use crate::support::checked;

fn echo(n: u64) -> u64 {
    n
}

fn fails(n: u64) -> u64 {
    panic!("{n}")
}

fn echo_bytes(bytes: Bytes) -> Bytes {
    bytes
}

fn count(n: u64) -> std::ops::Range<u64> {
    0..n
}

fn ends(code: i32) {
    std::process::exit(code)
}

/// The answers are of every kind: short, past the ring, of a panic, of a chunk, items.
#[test]
fn each_has_its_own_answer() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let long = Bytes::from(vec![7; 100_000]);
        for n in 0..2000 {
            assert_eq!(pool.apply(echo, n).await.unwrap(), n);
            match n % 8 {
                1 if n % 80 == 1 => {
                    let error = pool.apply(fails, n).await.unwrap_err();
                    let TaskError::Panicked(panic) = error else { panic!("{error:?}") };
                    assert_eq!(panic.message(), n.to_string());
                }
                3 if n % 10 == 3 => {
                    assert_eq!(pool.apply(echo_bytes, long.clone()).await.unwrap(), long);
                }
                4 => assert_eq!(pool.map(echo, 0..n % 20).await.unwrap().len() as u64, n % 20),
                5 => assert_eq!(pool.stream(count, n % 5).count().await as u64, n % 5),
                6 => pool.apply_async(echo, n).detach(),
                7 => {
                    let other = pool.apply_async(echo, n + 1);
                    assert_eq!(pool.apply(echo, n).await.unwrap(), n);
                    assert_eq!(other.await.unwrap(), n + 1);
                }
                _ => {}
            }
        }
        pool.close();
        pool.join().await;
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn a_death_in_between_is_one_calls() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        for n in 0..20 {
            for i in 0..20 {
                assert_eq!(pool.apply(echo, i).await.unwrap(), i);
            }
            let error = pool.apply(ends, n).await.unwrap_err();
            assert_eq!(error.exit().and_then(|exit| exit.code()), Some(n), "{error:?}");
        }
        pool.terminate().await;
    });
}
