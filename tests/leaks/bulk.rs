//! Large byte strings: no copy of them is made, and buffers for them are not
//! kept for ever.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use nix::libc;
use procession::{Pool, SharedBytes, TaskStatus};

use crate::holdings::{BUFFERS, Holdings, LARGE_BYTES, WITNESS, large_allocations};
use crate::support::{LIMIT, Scratch, checked, checked_current_thread, note, noted, until};

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

#[test]
fn short_calls_between_them_do_not_take_their_buffers_away() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let bytes = Bytes::from(vec![7; LEN]);
        let (_, mut there) = pool.apply(echo, bytes.clone()).await.unwrap();
        let mut free = 0;
        for _ in 0..20 {
            pool.apply(echo, Bytes::new()).await.unwrap();
            let (_, now) = pool.apply(echo, bytes.clone()).await.unwrap();
            free += u32::from(there == now);
            there = now;
        }
        // As above.
        assert!(free >= 10, "{free} of 20 took no memory");
    });
}

/// Bytes of memory that a process has.
fn resident(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
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
fn a_worker_that_has_short_calls_to_run_keeps_no_large_buffers_for_them() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        let pid = pool.workers()[0].pid.unwrap();
        let there = resident(pid);
        pool.apply(echo, Bytes::from(vec![7; LEN])).await.unwrap();
        while resident(pid) > there + LARGE_BYTES as u64 {
            pool.apply(echo, Bytes::new()).await.unwrap();
        }
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

static POOL: Mutex<Option<Pool>> = Mutex::new(None);
static FREED: AtomicU32 = AtomicU32::new(0);

/// Asks the pool something while memory is given back. Nobody would be answered
/// while its lock is held.
fn ask() {
    let Some(pool) = POOL.lock().unwrap().clone() else { return };
    let (said, heard) = mpsc::channel();
    thread::spawn(move || said.send(pool.status().queued));
    heard.recv_timeout(LIMIT / 4).expect("the pool keeps everybody waiting");
    FREED.fetch_add(1, Ordering::Relaxed);
}

/// Whether a thread of the process waits for room to write to.
fn is_writing(pid: u32) -> bool {
    let write = format!("{} ", libc::SYS_writev);
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut calls =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok());
    calls.any(|call| call.starts_with(&write))
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_back_without_the_lock() {
    /// Longer than what is kept to be used again.
    fn answer(journal: String, gate: String) -> Bytes {
        note(journal, "begun");
        while !Path::new(&gate).exists() {
            thread::sleep(Duration::from_millis(1));
        }
        vec![7; 136 << 20].into()
    }
    checked_current_thread(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let call = pool.apply_async(answer, (journal.clone(), gate.clone()));
        noted(&journal).await;
        let TaskStatus::Running { pid, .. } = call.status() else { panic!("it has begun") };
        // The task ends, and its answer waits to be read: this is the thread that
        // would read it.
        fs::write(gate, "").unwrap();
        while !is_writing(pid) {
            thread::sleep(Duration::from_millis(1));
        }
        drop(call);
        *POOL.lock().unwrap() = Some(pool.clone());
        *WITNESS.lock().unwrap() = Some(ask);
        pool.apply(echo, Bytes::new()).await.unwrap();
        *WITNESS.lock().unwrap() = None;
        drop(POOL.lock().unwrap().take());
        assert_eq!((FREED.load(Ordering::Relaxed), pool.stats().workers_started), (1, 1));
    });
}

fn echo_shared(bytes: SharedBytes) -> SharedBytes {
    bytes
}

fn holdings() -> Holdings {
    Holdings::now()
}

#[test]
fn shared_memory_leaves_nothing_here_or_in_the_worker() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let round = async || {
            for n in 0..100 {
                let bytes = SharedBytes::copy_from_slice(&[n; 100_000]).unwrap();
                assert!(pool.apply(echo_shared, bytes.clone()).await.unwrap() == bytes);
            }
            let bytes = SharedBytes::copy_from_slice(&[7; 100_000]).unwrap();
            let inputs = (0..500).map(move |_| bytes.clone());
            assert_eq!(pool.map(echo_shared, inputs).await.unwrap().len(), 500);
        };
        round().await;
        round().await;
        let there = pool.apply(holdings, ()).await.unwrap();
        let here = Holdings::now();
        for _ in 0..10 {
            round().await;
        }
        let now = pool.apply(holdings, ()).await.unwrap();
        assert!(now.is_within(&there, BUFFERS), "the worker: {now:?}, before: {there:?}");
        here.assert_back(BUFFERS);
        assert_eq!(pool.stats().workers_started, 1);
    });
}
