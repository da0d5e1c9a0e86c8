//! The pipes of a process, for tokio. They come to a runtime when they are first
//! read or written, not when they are made: a process can be started without one.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::{io, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::limits::OUTPUT_TAIL_BYTES;
use crate::sys::fd;

/// One end of a pipe.
#[derive(Debug)]
enum End<T> {
    Idle(OwnedFd),
    /// It has come to a runtime.
    Watched(T),
    /// It could not.
    Lost,
}

impl<T: AsFd> End<T> {
    fn watched(&mut self, watch: fn(OwnedFd) -> io::Result<T>) -> io::Result<Pin<&mut T>>
    where
        T: Unpin,
    {
        if let End::Idle(_) = self {
            if let End::Idle(fd) = mem::replace(self, End::Lost) {
                *self = End::Watched(watch(fd)?);
            }
        }
        match self {
            End::Watched(watched) => Ok(Pin::new(watched)),
            End::Idle(_) | End::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn into_fd(self, unwatch: fn(T) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
        match self {
            End::Idle(fd) => fd::set_waiting(&fd, true).map(|()| fd),
            End::Watched(watched) => unwatch(watched),
            End::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// What a process reads as its standard input. Dropping it is the input's end.
///
/// Comes to a tokio runtime, one with I/O, when it is first written to.
#[derive(Debug)]
pub struct ProcessStdin(End<Sender>);

/// What a process writes to its standard output.
///
/// Comes to a tokio runtime, one with I/O, when it is first read.
#[derive(Debug)]
pub struct ProcessStdout(End<Receiver>);

/// What a process writes to its standard error.
///
/// Comes to a tokio runtime, one with I/O, when it is first read.
#[derive(Debug)]
pub struct ProcessStderr {
    end: End<Receiver>,
    tap: Tapped,
}

impl ProcessStdin {
    pub(super) fn new(fd: OwnedFd) -> Self {
        ProcessStdin(End::Idle(fd))
    }

    /// The descriptor, writes to which wait.
    ///
    /// # Errors
    ///
    /// If the system does not let go of it.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        self.0.into_fd(Sender::into_blocking_fd)
    }

    fn pipe(&mut self) -> io::Result<Pin<&mut Sender>> {
        self.0.watched(Sender::from_owned_fd)
    }
}

impl ProcessStdout {
    pub(super) fn new(fd: OwnedFd) -> Self {
        ProcessStdout(End::Idle(fd))
    }

    /// The descriptor, reads from which wait: another process's input, for example.
    ///
    /// # Errors
    ///
    /// If the system does not let go of it.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        self.0.into_fd(Receiver::into_blocking_fd)
    }
}

impl ProcessStderr {
    pub(super) fn new(fd: OwnedFd, tap: Arc<Tap>) -> Self {
        ProcessStderr { end: End::Idle(fd), tap: Tapped(tap) }
    }

    /// The descriptor, reads from which wait.
    ///
    /// # Errors
    ///
    /// If the system does not let go of it.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        self.end.into_fd(Receiver::into_blocking_fd)
    }
}

impl AsyncWrite for ProcessStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pipe()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: only dropping it closes it.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ProcessStdout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.watched(Receiver::from_owned_fd)?.poll_read(cx, buf)
    }
}

impl AsyncRead for ProcessStderr {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let pipe = this.end.watched(Receiver::from_owned_fd)?;
        loop {
            ready!(pipe.poll_read_ready(cx))?;
            // What has left the pipe is noted before anybody looks for it there.
            let mut tail = this.tap.0.lock();
            match pipe.try_read(buf.initialize_unfilled()) {
                Ok(len) => {
                    tail.add(&buf.initialize_unfilled()[..len]);
                    buf.advance(len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// What came through a pipe last: for reports, beside whoever reads it, and once nobody
/// does any more.
#[derive(Debug)]
pub(super) struct Tap(Mutex<Tail>);

#[derive(Debug)]
struct Tail {
    /// The same end, to see what has not been read. `None` once its reader is gone: as
    /// long as it is open, who writes may wait for one.
    pipe: Option<OwnedFd>,
    read: VecDeque<u8>,
}

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.read.extend(bytes);
        let excess = self.read.len().saturating_sub(OUTPUT_TAIL_BYTES);
        self.read.drain(..excess);
    }
}

impl Tap {
    pub(super) fn new(pipe: BorrowedFd<'_>) -> io::Result<Arc<Tap>> {
        let pipe = Some(pipe.try_clone_to_owned()?);
        Ok(Arc::new(Tap(Mutex::new(Tail { pipe, read: VecDeque::new() }))))
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last that was written, read or not, as far as there was a reader.
    pub(super) fn tail(&self) -> String {
        let tail = self.lock();
        let mut bytes: Vec<u8> = tail.read.iter().copied().collect();
        if let Some(pipe) = &tail.pipe {
            bytes.extend(fd::peek_pipe(pipe.as_fd()));
        }
        let from = bytes.len().saturating_sub(OUTPUT_TAIL_BYTES);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }
}

/// The reader's tap, which has seen all that will be seen when the reader is dropped.
#[derive(Debug)]
struct Tapped(Arc<Tap>);

impl Drop for Tapped {
    fn drop(&mut self) {
        let mut tail = self.0.lock();
        if let Some(pipe) = tail.pipe.take() {
            tail.add(&fd::peek_pipe(pipe.as_fd()));
        }
    }
}
