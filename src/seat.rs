//! Where tasks wait until a descriptor can be read from or written to, each in the
//! runtime that it runs in. Called by whoever has a socket. Neither reads nor writes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Handle};

/// Where a runtime says that there is something to read. Nothing else: whenever the other
/// end reads there is more room to write, and it would wake for that, too.
pub(crate) type Seat = AsyncFd<Arc<OwnedFd>>;

pub(crate) fn until_readable(fd: Arc<OwnedFd>) -> io::Result<Seat> {
    register(fd, Interest::READABLE)
}

/// Where it says that there is room, for as long as there is none. By another descriptor:
/// a runtime waits for each only once, and for this one to be readable.
pub(crate) fn until_writable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let waiting = fd.try_clone_to_owned().and_then(|fd| register(fd, Interest::WRITABLE));
    waiting.map_err(|error| match error.raw_os_error() {
        // There may be one a moment later. But a runtime that has ended never waits again.
        Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC) => Errno::ENOBUFS.into(),
        _ => error,
    })
}

#[allow(deprecated, reason = "what its successor asks of the type is so; older versions have none")]
fn register<F: AsRawFd>(fd: F, interest: Interest) -> io::Result<AsyncFd<F>> {
    AsyncFd::with_interest(fd, interest)
}

/// Where each runtime waits until something can be read from one descriptor. One that has
/// ended is forgotten when the next one comes.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<Vec<(runtime::Id, Arc<Seat>)>>);

impl Seats {
    /// The place of this runtime, if there is one.
    pub(crate) fn find(&self) -> Option<Arc<Seat>> {
        let runtime = Handle::try_current().ok()?.id();
        find(&self.lock(), runtime)
    }

    /// The place of this runtime, at `fd` if it is a new one.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, or in one without I/O.
    pub(crate) fn take(
        &self,
        fd: impl FnOnce() -> io::Result<Arc<OwnedFd>>,
    ) -> io::Result<Arc<Seat>> {
        let runtime = Handle::current().id();
        let mut seats = self.lock();
        if let Some(seat) = find(&seats, runtime) {
            return Ok(seat);
        }
        // Of a runtime that has ended nothing more is to be had.
        let mut nobody = Context::from_waker(Waker::noop());
        seats.retain(|(_, seat)| !matches!(seat.poll_read_ready(&mut nobody), Poll::Ready(Err(_))));
        let seat = Arc::new(until_readable(fd()?)?);
        seats.push((runtime, Arc::clone(&seat)));
        Ok(seat)
    }

    /// Forgets a place whose runtime has ended. Its number may be another's now, whose
    /// place this then is not.
    pub(crate) fn leave(&self, gone: &Arc<Seat>) {
        self.lock().retain(|(_, seat)| !Arc::ptr_eq(seat, gone));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(runtime::Id, Arc<Seat>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(seats: &[(runtime::Id, Arc<Seat>)], runtime: runtime::Id) -> Option<Arc<Seat>> {
    seats.iter().find(|(id, _)| *id == runtime).map(|(_, seat)| Arc::clone(seat))
}
