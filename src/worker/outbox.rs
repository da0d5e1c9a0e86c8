//! What a worker has answered and not yet sent. Answers are gathered here so
//! that a burst of short tasks costs one write; they are kept in the status
//! page, where they survive the worker: if a task kills it, the parent still
//! finds the answers of those before.
//!
//! Positions count bytes since the worker started. The ring holds
//! `sent..filled`; the parent knows how much it has received, and so which
//! part of the ring is news. What is too long for the ring, or has a descriptor
//! attached, goes into the socket at once, and the page says from where on the
//! ring can be believed.
//!
//! Where the worker forwards what its `tracing` is told, other threads put that
//! here, too; see `forward`, which then has it.

use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use crate::limits::WRITE_AGAIN_WAIT;
use crate::proto::draft::Draft;
use crate::proto::frame::headers_before;
use crate::sys::layout::UNSENT_BYTES_MAX;
use crate::sys::{descriptor, fd};

use crate::sys::page::Page;

/// Slices given to one write.
const SLICES_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Outbox {
    page: Arc<Page>,
    socket: UnixStream,
    sent: u64,
    filled: u64,
}

impl Outbox {
    pub(super) fn new(page: Arc<Page>, socket: UnixStream) -> Self {
        Outbox { page, socket, sent: 0, filled: 0 }
    }

    /// Adds whole frames.
    pub(super) fn push(&mut self, frames: &Draft) -> io::Result<()> {
        let len = frames.len() as u64;
        if self.filled - self.sent + len > UNSENT_BYTES_MAX {
            self.flush()?;
        }
        match frames.as_slice() {
            Some(frames) if len <= UNSENT_BYTES_MAX => self.write(frames),
            _ => {
                self.flush()?;
                let len = self.send(frames)?;
                self.sent += len;
                self.filled += len;
                self.page.outbox_skip(self.filled);
                self.page.outbox_publish(self.filled);
            }
        }
        Ok(())
    }

    /// Adds whole frames that fit into the ring.
    pub(super) fn push_short(&mut self, frames: &[u8]) -> io::Result<()> {
        if !self.has_room(frames.len()) {
            self.flush()?;
        }
        self.write(frames);
        Ok(())
    }

    /// Adds whole frames if that can be done without waiting for the parent, and
    /// sends what can be sent so. Returns whether they were added.
    pub(super) fn try_push_short(&mut self, frames: &[u8]) -> bool {
        if !self.has_room(frames.len()) {
            self.try_flush();
        }
        let has_room = self.has_room(frames.len());
        if has_room {
            self.write(frames);
            self.try_flush();
        }
        has_room
    }

    fn has_room(&self, len: usize) -> bool {
        self.filled - self.sent + len as u64 <= UNSENT_BYTES_MAX
    }

    /// Puts frames into the ring, which has room for them.
    fn write(&mut self, frames: &[u8]) {
        self.page.outbox_write(self.filled, frames);
        self.filled += frames.len() as u64;
        self.page.outbox_publish(self.filled);
    }

    /// Writes frames past the ring, from where they are, and returns how many bytes
    /// that was.
    fn send(&mut self, frames: &Draft) -> io::Result<u64> {
        let (attached, count) = (frames.attached(), frames.attached_count());
        let socket = &mut self.socket;
        let mut before = 0;
        if count.parts_before() > 0 {
            let mut head = [IoSlice::new(&[])];
            frames.slices(0, &mut head);
            let header = head[0].first_chunk().expect("frames begin with a header");
            for (index, header) in headers_before(header, count).enumerate() {
                let part = count.range_of_part(index);
                let slices = [IoSlice::new(&header)];
                let fd = socket.as_fd();
                let mut sent = patiently(|| descriptor::send(fd, &slices, attached, part.clone()))?;
                while sent < header.len() {
                    sent += patiently(|| socket.write(&header[sent..]))?;
                }
                before += sent;
            }
        }
        let mut written = 0;
        while written < frames.len() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let slices_count = frames.slices(written, &mut slices);
            let slices = &slices[..slices_count];
            written += if attached.is_empty() || written > 0 {
                patiently(|| socket.write_vectored(slices))?
            } else {
                let part = count.range_of_part(count.parts_before());
                let socket = socket.as_fd();
                patiently(|| descriptor::send(socket, slices, attached, part.clone()))?
            };
        }
        Ok((before + written) as u64)
    }

    /// Sends everything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.filled {
            let socket = self.socket.as_fd();
            let n = patiently(|| self.page.outbox_send(socket, self.sent, self.filled, true))?;
            self.sent += n as u64;
        }
        Ok(())
    }

    /// Sends what the socket takes now. If it fails, the next answer will meet the
    /// same, and know what to do.
    fn try_flush(&mut self) {
        while self.sent < self.filled {
            let socket = self.socket.as_fd();
            match self.page.outbox_send(socket, self.sent, self.filled, false) {
                Ok(n) => self.sent += n as u64,
                Err(_) => return,
            }
        }
    }
}

/// Repeats a write until the kernel has memory for it. There is nothing else to
/// do before that, and if the parent is gone, the lifeline ends the worker.
fn patiently(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if fd::is_passing(&error) => thread::sleep(WRITE_AGAIN_WAIT),
            written => return written,
        }
    }
}
