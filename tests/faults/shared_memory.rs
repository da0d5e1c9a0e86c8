//! Shared memory for which there is no descriptor left, at either end or on the
//! way: its own call fails, or waits, and nothing else does.

use nix::libc::{EAGAIN, EINTR, ENOBUFS, ETOOMANYREFS};
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use procession::{Pool, Resource, SharedBytes, TaskError};

use crate::interpose::{self, Call, Hits, Plan, Who, arm_workers, hits_in_workers};
use crate::support::{Scratch, checked};

fn many(count: usize) -> Vec<SharedBytes> {
    (0..count).map(|n| SharedBytes::copy_from_slice(&[n as u8; 5000]).unwrap()).collect()
}

fn echo(many: Vec<SharedBytes>) -> Vec<SharedBytes> {
    many
}

fn increment(n: u32) -> u32 {
    n + 1
}

#[test]
fn a_parent_without_descriptors_for_an_answer() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        assert!(pool.apply(many, 10).await.unwrap() == many(10));
        let (soft, hard) = getrlimit(Limit::RLIMIT_NOFILE).unwrap();
        let (mut failed, mut worked) = (0, 0);
        for left in 0..20 {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            setrlimit(Limit::RLIMIT_NOFILE, open - 1 + left, hard).unwrap();
            let answer = pool.apply(many, 10).await;
            let next = pool.apply(increment, 1).await;
            setrlimit(Limit::RLIMIT_NOFILE, soft, hard).unwrap();
            assert_eq!(next.unwrap(), 2);
            match answer {
                Ok(answer) => {
                    assert!(answer == many(10));
                    worked += 1;
                }
                Err(error) => {
                    assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
                    assert!(error.to_string().contains("too many files are open"), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed >= 5 && worked > 0, "{failed} and {worked}");
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn a_worker_without_descriptors_for_arguments_or_results() {
    let mut worked = 0;
    for limit in (8..40).step_by(2) {
        checked(async {
            let options = Pool::builder().workers(1).stderr(procession::Stdio::null());
            let pool = options.rlimits([(Resource::OpenFiles, limit)]).build().unwrap();
            match pool.apply(echo, many(10)).await {
                Ok(answer) => {
                    assert!(answer == many(10));
                    worked += 1;
                }
                Err(error) => {
                    assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
                    assert_eq!(error.started(), Some(false));
                    assert!(error.to_string().contains("too many files are open"), "{error}");
                }
            }
            match pool.apply(many, 20).await {
                Ok(answer) => assert!(answer == many(20)),
                // It unwraps.
                Err(error) => assert!(error.is_panic(), "{error:?}"),
            }
            assert_eq!(pool.apply(increment, 1).await.unwrap(), 2);
            assert_eq!(pool.stats().workers_started, 1);
        });
    }
    assert!((1..16).contains(&worked), "{worked}");
}

/// Of descriptors that were sent and not received, a user may have so many.
#[test]
fn too_many_descriptors_on_their_way() {
    // A socket is not full without becoming writable again.
    for (errno, times) in [(ETOOMANYREFS, 3), (ENOBUFS, 3), (EINTR, 3), (EAGAIN, 1)] {
        let plan = Plan::from_nth(Call::SendMessage, 1, times, errno);
        checked(async {
            let pool = Pool::builder().workers(1).build().unwrap();
            pool.ready().await.unwrap();
            interpose::arm(plan);
            assert!(pool.apply(echo, many(5)).await.unwrap() == many(5));
            interpose::disarm();
            assert_eq!(Hits::now().of(Call::SendMessage), times);
            assert_eq!(pool.stats().workers_started, 1);
        });
        checked(async {
            let scratch = Scratch::new();
            let folder = scratch.path("fault");
            let builder = arm_workers(Pool::builder().workers(1), Who::AllWorkers, plan, &folder);
            let pool = builder.build().unwrap();
            assert!(pool.apply(echo, many(5)).await.unwrap() == many(5));
            assert!(pool.apply(many, 5).await.unwrap() == many(5));
            assert_eq!(hits_in_workers(&folder), times);
            assert_eq!(pool.stats().workers_started, 1);
        });
    }
}
