//! Tests as users write them: plain `#[tokio::test]`, and one line for the
//! whole binary.

use futures::StreamExt;
use procession::Pool;

procession::test_worker!();

fn square(n: u64) -> u64 {
    n * n
}

async fn later(n: u64) -> u64 {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    n + 1
}

#[tokio::test]
async fn on_a_current_thread_runtime() {
    let pool = Pool::new().unwrap();
    assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    assert_eq!(pool.map(later, 0..4).await.unwrap(), [1, 2, 3, 4]);
    pool.close();
    pool.join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_multi_thread_runtime() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut squares = pool.imap(square, 0..4);
    while let Some(square) = squares.next().await {
        square.unwrap();
    }
    let pid = pool.apply(std::process::id, ()).await.unwrap();
    assert_ne!(pid, std::process::id());
}

#[tokio::test]
async fn a_pool_is_left_to_its_drop() {
    let pool = Pool::new().unwrap();
    assert!(pool.apply(|| -> () { panic!("on purpose") }, ()).await.unwrap_err().is_panic());
}

#[tokio::test]
async fn a_pool_that_did_nothing_at_all() {
    let _pool = Pool::new().unwrap();
}

#[test]
fn a_test_with_a_runtime_of_its_own() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = runtime.block_on(async { Pool::new() }).unwrap();
    let handle = pool.apply_async(square, 5);
    assert_eq!(runtime.block_on(handle).unwrap(), 25);
}

/// Within a module the path of a test is longer; the worker's is not.
mod within {
    use super::*;

    #[tokio::test]
    async fn a_module() {
        let pool = Pool::builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(|n: u64| n + 1, 1).await.unwrap(), 2);
    }
}
