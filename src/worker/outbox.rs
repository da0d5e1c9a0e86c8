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
//! A parent that looks out for an answer takes it from the ring, and then it is
//! not sent. Which of the two it is, is settled in the page before either is done.
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
use crate::proto::frame::HEADER_BYTES;
use crate::proto::frame::header::headers_before;
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
    /// Up to where it is settled that it is sent. Invariant: `sent <= settled <= filled`.
    settled: u64,
    filled: u64,
}

impl Outbox {
    pub(super) fn new(page: Arc<Page>, socket: UnixStream) -> Self {
        Outbox { page, socket, sent: 0, settled: 0, filled: 0 }
    }

    /// How many bytes have been sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
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
                let before = frames.attached_count().parts_before() * HEADER_BYTES;
                let len = len + before as u64;
                self.filled += len;
                self.settle();
                self.send(frames)?;
                self.sent += len;
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

    /// Writes frames past the ring, from where they are, and before them those that it
    /// takes for more descriptors than fit.
    fn send(&mut self, frames: &Draft) -> io::Result<()> {
        let (attached, count) = (frames.attached(), frames.attached_count());
        let socket = &mut self.socket;
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
        Ok(())
    }

    /// Whether nothing is left for the parent to take.
    pub(super) fn is_settled(&self) -> bool {
        self.settled == self.filled || self.page.outbox_settled() == self.filled
    }

    /// Settles that all there is will be sent, but what the parent has taken.
    fn settle(&mut self) {
        while self.settled < self.filled {
            match self.page.outbox_settle(self.settled, self.filled) {
                Ok(()) => self.settled = self.filled,
                // It takes only what comes next, and so has all before that.
                Err(taken) => (self.sent, self.settled) = (taken, taken),
            }
        }
    }

    /// Sends everything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.settle();
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
        self.settle();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::{FromWorker, put_skipped};
    use crate::transport::Transport;

    /// Numbers that are the same for the same seed.
    fn splitmix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = *state;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// Answers are taken from the ring, fetched from it, or sent, and are past it
    /// now and then. Whoever is first: each is heard once, in order.
    #[tokio::test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    async fn each_answer_arrives_once_whichever_way_it_goes() {
        for seed in 0..200 {
            let mut random = seed;
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let (page, fd) = Page::create().unwrap();
            let mut parent = Transport::new(ours, Arc::new(page), 1 << 20).unwrap();
            let mut worker = Outbox::new(Arc::new(Page::open(fd).unwrap()), theirs);
            let (mut given, mut heard) = (0, 0);
            let mut settled_by_parent = 0;
            for step in 0..300 {
                match splitmix(&mut random) % 8 {
                    0 | 1 => {
                        let mut frames = Vec::new();
                        for _ in 0..=splitmix(&mut random) % 3 {
                            given += 1;
                            put_skipped(&mut frames, given);
                        }
                        worker.push_short(&frames).unwrap();
                    }
                    2 if step % 5 == 0 => {
                        // Too many for the ring.
                        let mut frames = Draft::default();
                        while frames.len() as u64 <= UNSENT_BYTES_MAX {
                            given += 1;
                            put_skipped(frames.tail(), given);
                        }
                        worker.push(&frames).unwrap();
                    }
                    3 => worker.flush().unwrap(),
                    4 => worker.try_flush(),
                    5 => parent.fetch_outbox(true).unwrap(),
                    6 => {
                        let before = worker.page.outbox_settled();
                        parent.take_outbox().unwrap();
                        settled_by_parent += u64::from(worker.page.outbox_settled() != before);
                    }
                    _ => drop(parent.read_now()),
                }
                while let Some(message) = parent.next_message().unwrap() {
                    heard += 1;
                    assert!(
                        matches!(message, FromWorker::Skipped { seq } if seq == heard),
                        "{seed}: {message:?} where {heard} was next"
                    );
                }
            }
            worker.flush().unwrap();
            while parent.read_now().is_ok() {
                while let Some(message) = parent.next_message().unwrap() {
                    heard += 1;
                    assert!(matches!(message, FromWorker::Skipped { seq } if seq == heard));
                }
            }
            assert_eq!(heard, given, "{seed}");
            assert!(settled_by_parent > 0, "{seed}: none was taken");
        }
    }
}
