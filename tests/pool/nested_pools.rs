//! Tasks that have pools of their own.

use procession::process::start_method;
use procession::{Pool, StartMethod};
use tokio::runtime::Builder;

use crate::support::{checked, is_alive, until};
use crate::tasks::{pid, pool_of, square};

fn squares_by_itself(n: u64) -> (Vec<u64>, u32) {
    // A copy makes copies, unless it is told otherwise, and has one thread for that.
    let mut runtime = match start_method() {
        StartMethod::Fork => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(squares(n))
}

async fn squares(n: u64) -> (Vec<u64>, u32) {
    let pool = Pool::builder().workers(1).name("within").build().unwrap();
    let squares = pool.map(square, 0..n).await.unwrap();
    (squares, pool.apply(pid, ()).await.unwrap())
}

#[test]
fn a_sync_task_has_a_pool_on_a_runtime_of_its_own() {
    checked(async {
        let pool = pool_of(2);
        let (squares, grandchild) = pool.apply(squares_by_itself, 4).await.unwrap();
        assert_eq!(squares, [0, 1, 4, 9]);
        assert!(pool.workers().iter().all(|worker| worker.pid != Some(grandchild)));
        until("the grandchild goes with its pool", || !is_alive(grandchild as i32)).await;
    });
}

#[test]
fn an_async_task_has_a_pool() {
    checked(async {
        let pool = pool_of(2);
        // More than once on one worker, and on both.
        for answer in pool.map(squares, [3; 4]).await.unwrap() {
            let (squares, grandchild) = answer;
            assert_eq!(squares, [0, 1, 4]);
            until("the grandchild goes with its pool", || !is_alive(grandchild as i32)).await;
        }
    });
}

#[test]
fn pools_nest_more_than_once() {
    async fn deeper(levels: u32) -> u32 {
        if levels == 0 {
            return 0;
        }
        let pool = Pool::builder().workers(1).build().unwrap();
        1 + Box::pin(pool.apply(deeper, levels - 1)).await.unwrap()
    }
    checked(async {
        let pool = pool_of(1);
        assert_eq!(pool.apply(deeper, 3).await.unwrap(), 3);
    });
}
