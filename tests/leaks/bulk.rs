//! Large byte strings: no copy of them is made, and buffers for them are not
//! kept for ever.

use bytes::Bytes;
use procession::Pool;

use crate::holdings::{BUFFERS, Holdings, LARGE_BYTES, large_allocations};
use crate::support::{checked, until};

/// More than the system's allocator ever keeps of what it was given back.
const LEN: usize = 40 << 20;

/// Gives back what it got, and how often its process has asked for much memory.
fn echo(bytes: Bytes) -> (Bytes, u64) {
    (bytes, large_allocations())
}

#[test]
fn an_echo_of_many_bytes_makes_no_copy_of_them() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let bytes = Bytes::from(vec![7; LEN]);
        // The first ones make the buffers.
        let (_, mut there) = pool.apply(echo, bytes.clone()).await.unwrap();
        let mut here = large_allocations();
        let mut free = 0;
        for _ in 0..20 {
            let (back, now) = pool.apply(echo, bytes.clone()).await.unwrap();
            assert!(back == bytes);
            free += u32::from((here, there) == (large_allocations(), now));
            (here, there) = (large_allocations(), now);
        }
        // If this machine stands still for half a second, buffers are given back.
        assert!(free >= 10, "{free} of 20 took no memory");
    });
}

/// Bytes of memory that a process has.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn an_idle_pool_keeps_no_large_buffers() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(echo, Bytes::new()).await.unwrap().0.len(), 0);
        let pid = pool.workers()[0].pid.unwrap();
        let (here, there) = (Holdings::now(), resident(pid));
        for round in 0..4 {
            let bytes = Bytes::from(vec![round; LEN]);
            // Two at a time, so that both ends have two buffers.
            let calls = [pool.apply_async(echo, bytes.clone()), pool.apply_async(echo, bytes)];
            for call in calls {
                assert_eq!(call.await.unwrap().0[0], round);
            }
        }
        here.assert_back(BUFFERS);
        until("the worker gives it back", || resident(pid) < there + LARGE_BYTES as u64).await;
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn an_initializers_arguments_are_kept_once_for_all_workers() {
    fn warm_up(weights: Bytes) {
        assert_eq!(weights[LEN - 1], 7);
    }
    checked(async {
        let pool = Pool::builder().workers(3).build().unwrap();
        pool.ready().await.unwrap();
        let there = resident(pool.workers()[0].pid.unwrap());
        drop(pool);
        let here = Holdings::alone();

        let weights = Bytes::from(vec![7; LEN]);
        let pool = Pool::builder().workers(3).initializer(warm_up, weights).build().unwrap();
        pool.ready().await.unwrap();
        until("no more than one is kept here", || {
            Holdings::now().heap_bytes() < here.heap_bytes() + (LEN + LARGE_BYTES) as i64
        })
        .await;
        for worker in pool.workers() {
            let pid = worker.pid.unwrap();
            until("none there", || resident(pid) < there + LARGE_BYTES as u64).await;
        }
        assert_eq!(pool.stats().workers_started, 3);
    });
}
