//! Two ends that wake each other, and notice when the other is gone. Called by
//! `channel`. Each is the end of a socket, of which any number of processes may
//! have a copy: what is rung at one end, everybody at the other hears until one
//! of them silences it.
//!
//! A socket, and neither a pipe nor an eventfd: no call here waits, whatever
//! others set on what they share with us, and none ends a program by SIGPIPE.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use crate::sys::fd;

#[derive(Debug)]
pub(crate) struct Bell(UnixStream);

impl Bell {
    pub(crate) fn pair() -> io::Result<(Bell, Bell)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Bell(one), Bell(other)))
    }

    /// One that was sent. Any other descriptor is deaf and dumb, or a nuisance;
    /// it makes nobody wait.
    pub(crate) fn received(fd: OwnedFd) -> Bell {
        Bell(fd.into())
    }

    /// The same end, for a runtime to wait at.
    pub(crate) fn to_fd(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Everybody at the other end hears it.
    pub(crate) fn ring(&self) {
        // If there is no room, it is ringing; and if there is nobody, nobody cares.
        while let Err(error) = fd::send_slices(self.0.as_fd(), &[IoSlice::new(b"!")]) {
            if error.kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }

    /// Nobody at this end hears any more what was rung until now.
    pub(crate) fn silence(&self) {
        let mut heard = [0; 256];
        loop {
            match recv(self.0.as_raw_fd(), &mut heard, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EINTR) => {}
                // More than that only somebody rings who means to annoy.
                _ => return,
            }
        }
    }

    /// Whether nobody has the other end any more. That is for good.
    pub(crate) fn is_deserted(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|events| events.intersects(gone))
    }

    /// Sleeps until it is heard, or the other end is deserted, or for so long;
    /// or less, for no reason.
    pub(crate) fn listen(&self, most: Option<Duration>) -> io::Result<()> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout(most)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Rounded up: a wait that ends a little early would only begin again.
fn timeout(most: Option<Duration>) -> PollTimeout {
    let Some(most) = most else { return PollTimeout::NONE };
    let millis = most.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_heard(bell: &Bell) -> bool {
        fd::is_readable(bell.as_fd())
    }

    #[test]
    fn what_is_rung_is_heard_at_the_other_end_until_it_is_silenced() {
        let (one, other) = Bell::pair().unwrap();
        assert!(!is_heard(&one) && !is_heard(&other));
        for _ in 0..3 {
            one.ring();
            one.ring();
            assert!(is_heard(&other) && !is_heard(&one));
            other.listen(None).unwrap();
            other.silence();
            assert!(!is_heard(&other));
        }
        other.listen(Some(Duration::ZERO)).unwrap();
        other.ring();
        assert!(is_heard(&one));
    }

    #[test]
    fn ringing_for_ever_makes_nobody_wait() {
        let (one, other) = Bell::pair().unwrap();
        for _ in 0..10_000 {
            one.ring();
        }
        assert!(is_heard(&other));
    }

    #[test]
    fn an_end_notices_that_the_other_is_gone() {
        let (one, other) = Bell::pair().unwrap();
        let copy = Bell(other.0.try_clone().unwrap());
        one.ring();
        drop(other);
        assert!(!one.is_deserted());
        drop(copy);
        assert!(one.is_deserted());
        one.listen(None).unwrap();
        one.ring();
        one.silence();
        assert!(one.is_deserted());
    }
}
