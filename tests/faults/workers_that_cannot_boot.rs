//! A worker's process is there, and something that it does to become a worker
//! fails: in the first one, or in all of them.

use std::io;

use nix::libc::*;
use procession::{Pool, PoolBuilder, Resource, Stdio, TaskError};

use crate::interpose::{Call, Plan, Who, arm_workers, hits_in_workers};
use crate::scenario::{Expect, builder, checked_with, is_full, live_for_each_in_worker};
use crate::support::Scratch;

/// What a boot needs, and how it fails. The first error is the likeliest.
const NEEDS: &[(Call, &[i32])] = &[
    (Call::SocketName, &[ENOBUFS]),
    (Call::SocketOption, &[ENOMEM]),
    (Call::ProcessControl, &[EPERM]),
    (Call::Duplicate, &[EMFILE]),
    (Call::OpenNull, &[EMFILE, ENFILE, ENOENT]),
    (Call::ReplaceDescriptor, &[EBUSY]),
    (Call::ReceiveMessage, &[ENOMEM, EIO]),
    (Call::Seals, &[EINVAL]),
    (Call::MapPage, &[ENOMEM, EAGAIN]),
    (Call::SetPriority, &[EACCES]),
    (Call::SetAffinity, &[EINVAL]),
    (Call::Thread, &[EAGAIN]),
    (Call::OpenStatm, &[EMFILE, ENOENT]),
    (Call::SetLimit, &[EPERM]),
    (Call::SocketSend, &[EIO]),
    (Call::SocketRead, &[ENOMEM, EIO]),
];

/// With all that a worker can be told to do at its boot.
fn with_options(builder: PoolBuilder) -> PoolBuilder {
    builder
        .nice(5)
        .cpu_affinity([0, 1])
        .rlimits([(Resource::CoreFile, 0)])
        .max_worker_memory(u64::MAX)
        .stderr(Stdio::piped())
}

#[test]
fn nobody_notices_a_worker_that_cannot_boot() {
    for &(call, errors) in NEEDS {
        let errors = if is_full() { errors } else { &errors[..1] };
        for &error in errors {
            // What is called again later is not part of the boot.
            let most = match call {
                Call::SocketRead => 1,
                Call::SocketSend | Call::Duplicate => 2,
                _ => u32::MAX,
            };
            let builder = || with_options(builder());
            let times = live_for_each_in_worker(builder, (call, error), most, Expect::Restart);
            assert!(times > 0, "{call:?} was not reached");
        }
    }
}

fn echo(n: u32) -> u32 {
    n
}

#[test]
fn workers_that_never_boot_break_the_pool_and_name_the_cause() {
    for &(call, errors) in NEEDS {
        for &error in errors {
            let scratch = Scratch::new();
            let folder = scratch.path("fault");
            checked_with(None, async {
                let plan = Plan::from_nth(call, 1, u32::MAX, error);
                let builder = with_options(Pool::builder().workers(2).restart_limit(2));
                let builder = arm_workers(builder, Who::AllWorkers, plan, &folder);
                let pool = builder.build().unwrap();
                let waiting = pool.apply_async(echo, 1);
                let cause = pool.ready().await.unwrap_err().to_string();
                // The system's words for it, without the number.
                let reason = io::Error::from_raw_os_error(error).to_string();
                let reason = reason.split(" (").next().unwrap();
                assert!(cause.contains(reason), "{call:?}: {cause:?} does not say {reason:?}");
                match waiting.await.unwrap_err() {
                    TaskError::Broken(told) => assert_eq!(told.to_string(), cause),
                    other => panic!("{other:?}"),
                }
                pool.terminate().await;
            });
            assert!(hits_in_workers(&folder) >= 2, "{call:?} was not reached");
        }
    }
}
