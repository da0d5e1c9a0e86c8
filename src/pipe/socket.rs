//! One end's socket, and how to wait for it: in whichever runtime asks, or in none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};

use super::timer::is_nobody;
use crate::seat::{Seats, until_writable};
use crate::sys::fd::{self, Direction};
use crate::sys::fork::Incarnation;

#[derive(Debug)]
pub(super) struct Socket {
    /// Whoever has sent it to us may still have it, and set it to wait: each call says
    /// that it does not.
    fd: Arc<OwnedFd>,
    /// Who has it. In a copy of this process, made by `fork`, it is the original's.
    home: Incarnation,
    /// Where each runtime waits until it can be read.
    seats: Seats,
    /// Where one waits until it can be written to: there is one sender.
    writing: Mutex<Option<(runtime::Id, AsyncFd<OwnedFd>)>>,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Arc<Self>> {
        Socket::shared(Arc::new(fd))
    }

    pub(super) fn shared(fd: Arc<OwnedFd>) -> io::Result<Arc<Self>> {
        fd::set_nonblocking(fd.as_fd())?;
        let home = Incarnation::current()?;
        Ok(Arc::new(Socket { fd, home, seats: Seats::default(), writing: Mutex::default() }))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether this is the process that has it, and not a copy of that one.
    pub(super) fn is_home(&self) -> bool {
        self.home.is_current()
    }

    /// For sending it elsewhere.
    pub(super) fn to_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Tries, and waits in the runtime as long as that would have to wait.
    pub(super) fn poll_io<R>(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        match direction {
            Direction::Read => self.poll_read(cx, attempt),
            Direction::Write => self.poll_write(cx, attempt),
        }
    }

    fn poll_read<R>(
        &self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        let is_blocked = |done: &io::Result<R>| matches!(done, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let mut seat = if is_nobody(cx) { None } else { self.seats.find() };
        let mut is_tried = false;
        loop {
            let ready = seat.as_ref().map(|seat| seat.poll_read_ready(cx));
            // Not before: a runtime that has just been told of the socket says so as well.
            if is_tried && matches!(ready, Some(Poll::Pending)) {
                return Poll::Pending;
            }
            let done = attempt();
            is_tried = true;
            if !is_blocked(&done) {
                return Poll::Ready(done);
            }
            match ready {
                Some(Poll::Pending) => return Poll::Pending,
                Some(Poll::Ready(ready)) => ready?.clear_ready(),
                None if is_nobody(cx) => return Poll::Pending,
                None => seat = Some(self.seats.take(|| Ok(Arc::clone(&self.fd)))?),
            }
        }
    }

    fn poll_write<R>(
        &self,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        // Whoever waited there before may have given up.
        let waited = self.writing.lock().unwrap_or_else(PoisonError::into_inner).take();
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
        if is_nobody(cx) {
            return Poll::Pending;
        }
        let runtime = Handle::current().id();
        let writing = match waited.filter(|(home, _)| *home == runtime) {
            Some((_, writing)) => writing,
            None => until_writable(self.fd.as_fd())?,
        };
        while let Poll::Ready(ready) = writing.poll_write_ready(cx) {
            if let Ok(done) = ready?.try_io(|_| attempt()) {
                return Poll::Ready(done);
            }
        }
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = Some((runtime, writing));
        Poll::Pending
    }

    /// Nobody waits until it can be written to any more.
    pub(super) fn forget_writing(&self) {
        drop(self.writing.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Tries, and blocks the thread as long as that would have to wait, but not
    /// beyond the deadline: that is an error of kind `TimedOut`.
    pub(super) fn block_io<R>(
        &self,
        deadline: Option<Instant>,
        direction: Direction,
        mut attempt: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            fd::await_ready(self.fd.as_fd(), direction, left)?;
        }
    }
}
