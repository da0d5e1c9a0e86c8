//! Waiting until something can be read or written.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Whether a read would not wait, or nobody can tell.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Waits until there is something to read, or nobody to write it, but not for
/// longer than `most`. Returns whether it did not take that long.
pub(crate) fn await_readable(fd: BorrowedFd<'_>, most: Duration) -> io::Result<bool> {
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], most) {
        // A signal handler of the task's ran. Waiting less is no harm.
        Err(Errno::EINTR) => Ok(false),
        count => Ok(count? > 0),
    }
}

/// What one waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Waits until a read or a write would not wait, or fails, but not for longer than
/// `most`.
pub(crate) fn await_ready(
    fd: BorrowedFd<'_>,
    direction: Direction,
    most: Option<Duration>,
) -> io::Result<()> {
    let flags = match direction {
        Direction::Read => PollFlags::POLLIN,
        Direction::Write => PollFlags::POLLOUT,
    };
    match poll(&mut [PollFd::new(fd, flags)], poll_timeout(most)) {
        Err(Errno::EINTR) => Ok(()),
        done => Ok(done.map(|_| ())?),
    }
}

/// Waits until one of these can be read, but not for longer than `most`, or less if a
/// signal comes. Returns which can, by their places.
pub(crate) fn await_any_readable(
    fds: &[BorrowedFd<'_>],
    most: Option<Duration>,
) -> io::Result<Vec<usize>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, poll_timeout(most)) {
        Err(Errno::EINTR) => Ok(Vec::new()),
        done => {
            done?;
            let is_ready = |(_, polled): &(usize, &PollFd<'_>)| polled.any() != Some(false);
            Ok(polled.iter().enumerate().filter(is_ready).map(|(at, _)| at).collect())
        }
    }
}

/// Rounded up: whoever waits for less than a millisecond would not wait.
fn poll_timeout(most: Option<Duration>) -> PollTimeout {
    most.map_or(PollTimeout::NONE, |most| {
        let rounded = most.saturating_add(Duration::from_micros(999));
        PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
    })
}
