//! One end's socket, and how to wait for it: in whichever runtime asks, or in none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};

use super::timer::is_nobody;
use crate::sys::fd::{self, Direction};
use crate::sys::fork::Incarnation;

#[derive(Debug)]
pub(super) struct Socket {
    /// Whoever has sent it to us may still have it, and set it to wait: each call says
    /// that it does not.
    fd: Arc<OwnedFd>,
    /// Who has it. In a copy of this process, made by `fork`, it is the original's.
    home: Incarnation,
    /// Where each runtime waits for it.
    seats: Mutex<Vec<(runtime::Id, Arc<Seat>)>>,
}

type Seat = AsyncFd<Arc<OwnedFd>>;

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Arc<Self>> {
        Socket::shared(Arc::new(fd))
    }

    pub(super) fn shared(fd: Arc<OwnedFd>) -> io::Result<Arc<Self>> {
        fd::set_nonblocking(fd.as_fd())?;
        let home = Incarnation::current()?;
        Ok(Arc::new(Socket { fd, home, seats: Mutex::default() }))
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

    /// The place of this runtime.
    fn seat(&self) -> io::Result<Arc<Seat>> {
        let runtime = Handle::current().id();
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, seat)) = seats.iter().find(|(id, _)| *id == runtime) {
            return Ok(Arc::clone(seat));
        }
        // Of a runtime that has ended nothing more is to be had.
        let mut nobody = Context::from_waker(Waker::noop());
        seats.retain(|(_, seat)| !matches!(seat.poll_read_ready(&mut nobody), Poll::Ready(Err(_))));
        #[allow(
            deprecated,
            reason = "what its successor asks of the type is so; older versions have none"
        )]
        let seat = Arc::new(AsyncFd::new(Arc::clone(&self.fd))?);
        seats.push((runtime, Arc::clone(&seat)));
        Ok(seat)
    }

    /// Tries, and waits in the runtime as long as that would have to wait.
    pub(super) fn poll_io<R>(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        mut attempt: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
        if is_nobody(cx) {
            return Poll::Pending;
        }
        let seat = self.seat()?;
        loop {
            let mut ready = match direction {
                Direction::Read => ready!(seat.poll_read_ready(cx))?,
                Direction::Write => ready!(seat.poll_write_ready(cx))?,
            };
            if let Ok(done) = ready.try_io(|_| attempt()) {
                return Poll::Ready(done);
            }
        }
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
