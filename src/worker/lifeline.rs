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
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::start::boot::Ties;
use crate::sys::crew;
use crate::sys::fd::keep_for_this_thread;
use crate::sys::signal::exit_group_now;

/// Starts the thread.
pub(super) fn start(socket: &UnixStream, ties: Ties) -> io::Result<()> {
    let socket = socket.try_clone()?;
    let (up, is_up) = mpsc::sync_channel(1);
    crew::spawn("procession-lifeline", move || {
        let watched = [socket.into(), ties.leash, ties.starter];
        // A task may close all descriptors that it does not know, or put others
        // in their places. Where this fails we share its fate.
        // Somebody waits for this, to drop what is left to the other threads.
        let _ = up.send(keep_for_this_thread(&watched));
        crew::rest(|| watch(&watched))
    })?;
    drop(is_up.recv());
    Ok(())
}

fn watch([socket, leash, starter]: &[OwnedFd; 3]) -> ! {
    // Data is left to the main thread: only hang-ups wake this one.
    let half_closed = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut watched = [
        PollFd::new(socket.as_fd(), half_closed),
        PollFd::new(leash.as_fd(), half_closed),
        PollFd::new(starter.as_fd(), PollFlags::POLLIN),
    ];
    loop {
        // Nothing here may allocate: the task may have been stopped, for good,
        // with the allocator's lock.
        if poll(&mut watched, PollTimeout::NONE).is_ok()
            && watched.iter().any(|fd| fd.any().unwrap_or(true))
        {
            exit_group_now();
        }
    }
}
