//! The system really has no more: of descriptors, in the parent or a worker; of
//! memory, in a worker.

use std::fs;
use std::io;

use nix::libc::EMFILE;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use procession::{Pool, PoolState, Resource, TaskError};

use crate::scenario::{is_part, run_part};
use crate::support::{LIMIT, checked, until, within};

fn echo(n: u32) -> u32 {
    n
}

async fn echo_later(n: u32) -> u32 {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    n
}

fn open_descriptors() -> u64 {
    // Without the one that looks.
    fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1
}

/// Not a test of its own: runs out of descriptors, in a process of its own.
#[test]
fn parent_without_descriptors() {
    if !is_part() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_, hard) = getrlimit(Limit::RLIMIT_NOFILE).unwrap();
    let leave = |left: u64| {
        setrlimit(Limit::RLIMIT_NOFILE, open_descriptors() + left, hard).unwrap();
    };
    let relax = || setrlimit(Limit::RLIMIT_NOFILE, hard, hard).unwrap();
    runtime.block_on(async {
        // One that is there already goes on whatever becomes of the others.
        let old = Pool::builder().workers(1).build().unwrap();
        old.ready().await.unwrap();
        let before = open_descriptors();
        let mut left = 0;
        let mut enough = false;
        while !enough {
            leave(left);
            let pool = Pool::builder().workers(1).restart_limit(1).build().unwrap();
            let answer = pool.apply(echo, left as u32).await;
            assert_eq!(old.apply(echo, 7).await.unwrap(), 7);
            match answer {
                Ok(answer) => {
                    assert_eq!(answer, left as u32);
                    enough = true;
                }
                Err(TaskError::Broken(cause)) => {
                    let source = std::error::Error::source(&cause).unwrap();
                    let source = source.downcast_ref::<io::Error>().unwrap();
                    assert_eq!(source.raw_os_error(), Some(EMFILE), "{cause}: {source}");
                    assert_eq!(pool.status().state, PoolState::Broken);
                }
                Err(other) => panic!("with {left} descriptors: {other}"),
            }
            pool.terminate().await;
            relax();
            // The driver lets go of its last worker a moment after the pool's end.
            until("all are closed", || open_descriptors() == before).await;
            left += 1;
        }
        assert!(left > 3, "a worker takes no descriptors at all?");

        // One that has patience recovers.
        leave(0);
        let pool = Pool::builder().workers(2).restart_limit(1000).build().unwrap();
        let call = pool.apply_async(echo, 1);
        while pool.stats().workers_started < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(!call.is_finished());
        relax();
        assert_eq!(call.await.unwrap(), 1);
        pool.ready().await.unwrap();
        pool.terminate().await;
        old.terminate().await;
    });
}

#[test]
fn a_parent_without_descriptors() {
    run_part("exhaustion::parent_without_descriptors");
}

#[test]
fn a_worker_with_ever_more_descriptors() {
    for limit in 0..16 {
        checked(async {
            let pool = Pool::builder()
                .workers(1)
                .restart_limit(1)
                .stderr(procession::Stdio::null())
                .rlimits([(Resource::OpenFiles, limit)])
                .build()
                .unwrap();
            // What takes no descriptors works with any number of them.
            assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
            match pool.apply(echo_later, 2).await {
                Ok(answer) => assert_eq!(answer, 2),
                Err(TaskError::Panicked(panic)) => {
                    assert!(panic.message().contains("Too many open files"), "{panic}");
                }
                Err(other) => panic!("with a limit of {limit}: {other}"),
            }
            assert_eq!(pool.apply(echo, 3).await.unwrap(), 3);
            pool.terminate().await;
        });
    }
}

#[test]
fn a_worker_with_ever_more_memory() {
    fn touch(megabytes: usize) -> usize {
        vec![1_u8; megabytes << 20].len()
    }
    for megabytes in [1, 8, 32, 64, 128, 256, 1024] {
        checked(async {
            let pool = Pool::builder()
                .workers(1)
                .restart_limit(2)
                .stderr(procession::Stdio::piped())
                // Of the last words, the first are wanted.
                .env("RUST_BACKTRACE", "0")
                .rlimits([(Resource::AddressSpace, megabytes << 20), (Resource::CoreFile, 0)])
                .build()
                .unwrap();
            let half = megabytes as usize / 2;
            match within(LIMIT, pool.apply(touch, half)).await {
                Ok(len) => assert_eq!(len, half << 20),
                // It is out of memory, and says so in its last words.
                Err(TaskError::WorkerLost { exit, stderr, .. }) => {
                    assert!(exit.signal().is_some(), "{exit}");
                    assert!(stderr.contains("memory allocation"), "{stderr}");
                }
                Err(TaskError::Broken(cause)) => assert!(cause.exit().is_some(), "{cause}"),
                Err(other) => panic!("with {megabytes} MiB: {other}"),
            }
            pool.terminate().await;
        });
    }
}
