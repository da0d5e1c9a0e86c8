//! Reading or writing a worker's socket fails, on either side of it.

use nix::libc::{EAGAIN, ECONNRESET, EINTR, EIO, ENOBUFS, ENOMEM, EPIPE};

use crate::interpose::Call;
use crate::scenario::{Expect, builder, is_full, live_for_each, live_for_each_in_worker};

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
    in_parent(Call::SocketWrite, &[EINTR], 8, Expect::Nothing);
    in_parent(Call::SocketRead, &[EINTR], 8, Expect::Nothing);
}

/// The worker lives, and the parent waits a second for its death each time.
#[test]
fn a_parent_that_cannot_write() {
    let errors = [ENOBUFS, ENOMEM, EPIPE, ECONNRESET, EIO];
    let errors = if is_full() { &errors[..] } else { &errors[..1] };
    in_parent(Call::SocketWrite, errors, 3, Expect::LostWorker);
}

#[test]
fn a_parent_that_cannot_read() {
    let errors = [ENOMEM, ECONNRESET, EIO];
    let errors = if is_full() { &errors[..] } else { &errors[..1] };
    in_parent(Call::SocketRead, errors, 3, Expect::LostWorker);
}

#[test]
fn a_worker_that_is_interrupted() {
    in_worker(Call::SendMessage, &[EINTR], 8, Expect::Nothing);
    in_worker(Call::SocketRead, &[EINTR], 8, Expect::Nothing);
}

#[test]
fn a_worker_that_cannot_write() {
    let errors = [EPIPE, ENOBUFS, ENOMEM, EAGAIN, EIO];
    in_worker(Call::SendMessage, &errors, 5, Expect::LostWorker);
}

#[test]
fn a_worker_that_cannot_read() {
    in_worker(Call::SocketRead, &[ECONNRESET, ENOMEM, EIO], 5, Expect::LostWorker);
}
