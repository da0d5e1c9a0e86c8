//! Reading or writing a worker's socket fails, on either side of it.

use nix::libc::{EAGAIN, ECONNRESET, EINTR, EIO, ENOBUFS, ENOMEM, EPIPE};

use crate::interpose::{Call, Plan, Who, arm_workers, hits_in_workers};
use crate::scenario::{Expect, builder, is_full, live, live_for_each, live_for_each_in_worker};
use crate::support::Scratch;

fn in_parent(call: Call, errors: &[i32], most: u32, expect: Expect) {
    for &error in errors {
        let most = if is_full() { u32::MAX } else { most };
        assert!(live_for_each(builder, (call, error), most, expect) >= 2, "{call:?}");
    }
}

fn in_worker(call: Call, errors: &[i32], most: u32, expect: Expect) {
    for &error in errors {
        let most = if is_full() { u32::MAX } else { most };
        assert!(live_for_each_in_worker(builder, (call, error), most, expect) >= 2, "{call:?}");
    }
}

#[test]
fn a_parent_that_is_interrupted() {
    in_parent(Call::SocketSend, &[EINTR, EAGAIN], 8, Expect::Nothing);
    in_parent(Call::SocketRead, &[EINTR, EAGAIN], 8, Expect::Nothing);
}

#[test]
fn a_parent_that_cannot_write_for_a_moment() {
    in_parent(Call::SocketSend, &[ENOBUFS, ENOMEM], 8, Expect::Nothing);
}

/// The worker lives, and the parent waits a second for its death each time.
#[test]
fn a_parent_that_cannot_write() {
    let errors = [EPIPE, ECONNRESET, EIO];
    let errors = if is_full() { &errors[..] } else { &errors[..1] };
    in_parent(Call::SocketSend, errors, 3, Expect::LostWorker);
}

#[test]
fn a_parent_that_cannot_read() {
    let errors = [ENOMEM, ECONNRESET, EIO];
    let errors = if is_full() { &errors[..] } else { &errors[..1] };
    in_parent(Call::SocketRead, errors, 3, Expect::LostWorker);
}

#[test]
fn a_worker_that_is_interrupted() {
    in_worker(Call::SocketSend, &[EINTR], 8, Expect::Nothing);
    in_worker(Call::SocketRead, &[EINTR], 8, Expect::Nothing);
}

#[test]
fn a_worker_that_cannot_write_for_a_moment() {
    in_worker(Call::SocketSend, &[ENOBUFS, ENOMEM, EAGAIN], 5, Expect::Nothing);
    // The long frame that goes past the outbox, in whichever worker.
    for error in [ENOBUFS, ENOMEM, EAGAIN] {
        let scratch = Scratch::new();
        let folder = scratch.path("fault");
        let plan = Plan::nth(Call::SocketWrite, 1, error);
        live(arm_workers(builder(), Who::AllWorkers, plan, &folder), None, Expect::Nothing);
        assert_eq!(hits_in_workers(&folder), 1);
    }
}

#[test]
fn a_worker_that_cannot_write() {
    in_worker(Call::SocketSend, &[EPIPE, EIO], 5, Expect::LostWorker);
}

#[test]
fn a_worker_that_cannot_read() {
    in_worker(Call::SocketRead, &[ECONNRESET, ENOMEM, EIO], 5, Expect::LostWorker);
}
