//! Ends the worker, and every process in its group, when the parent is gone,
//! however busy the worker is. A thread that only ever waits.
//!
//! It looks at three things, because each can fail: the parent's end of the
//! socket and of the leash may be open in a process that the parent has forked,
//! and a parent of before Linux 6.9 that becomes another program keeps its
//! pidfd. That the kernel kills the group when the leash hangs up does not help
//! a worker that has left the group. Nor does this thread help against a task
//! that stops its process again and again: that is for the leash alone.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::libc;

use crate::start::boot::Ties;
use crate::sys::sentry;
use crate::sys::signal::exit_group_now;

/// Starts the thread. `socket` stays open as long as the worker is there.
pub(super) fn start(socket: &UnixStream, ties: Ties) -> io::Result<()> {
    // Data is left to the main thread: only hang-ups wake this one.
    let watched = [
        (socket.as_fd(), libc::POLLRDHUP),
        (ties.leash.as_fd(), libc::POLLRDHUP),
        (ties.starter.as_fd(), libc::POLLIN),
    ];
    // A task may close all descriptors that it does not know, or put others in their
    // places; or it may have been stopped, for good, with the allocator's lock.
    if !sentry::post(c"procession-lifeline", watched, exit_group_now)? {
        mem::forget(ties);
    }
    Ok(())
}
