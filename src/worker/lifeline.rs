//! Ends the worker, and every process in its group, when the parent is gone,
//! however busy the worker is. A thread that only ever waits.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::signal::exit_group_now;
use crate::sys::wait::pidfd_open;

/// Starts the thread.
pub(super) fn start(socket: &UnixStream) -> std::io::Result<()> {
    let socket = socket.try_clone()?;
    // The parent's process as well as its socket: a process that it forked may
    // hold a copy of the other end.
    let parent = pidfd_open(nix::unistd::getppid().as_raw());
    std::thread::Builder::new().name("procession-lifeline".into()).spawn(move || {
        let half_closed = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let hang_up = half_closed | PollFlags::POLLHUP | PollFlags::POLLERR;
        let parent = parent.ok();
        loop {
            // Data is left to the main thread: only hang-ups wake this one.
            let mut watched = vec![PollFd::new(socket.as_fd(), hang_up)];
            let parent: Option<BorrowedFd<'_>> = parent.as_ref().map(AsFd::as_fd);
            watched.extend(parent.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if poll(&mut watched, PollTimeout::NONE).is_ok()
                && watched.iter().any(|fd| fd.any().unwrap_or(true))
            {
                exit_group_now();
            }
        }
    })?;
    Ok(())
}
