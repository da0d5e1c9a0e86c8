//! Where bytes lie from the read that brings them until their frame is taken. Its user
//! is [`FrameReader`](super::FrameReader). What is allocated stays in proportion to what
//! has arrived, whatever is announced.

use std::ops::Deref;

use bytes::{Buf, BytesMut};

use super::HEADER_BYTES;
use crate::limits::{LARGE_BYTES_LEAST, SPARE_BYTES_MAX, SPARE_LARGE_BYTES_MAX, SPARES_MAX};

/// Room offered to one read.
pub(super) const READ_BYTES: usize = 64 << 10;

/// Bytes that have come, the first of a frame in front.
///
/// A large frame is received into a buffer of its own. Whoever has its body
/// keeps that; once nobody does, it is used again for the next one of about its
/// size, since fresh memory costs more than what is copied into it.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: BytesMut,
    /// While `bytes` is a large frame's own: the buffer of all others.
    shared: Option<BytesMut>,
    /// Those of large frames before, oldest first.
    spares: Vec<Spare>,
    has_new_spare: bool,
}

/// The buffer of a large frame, which others may still hold.
#[derive(Debug)]
struct Spare {
    /// Empty, and knows the whole of it.
    handle: BytesMut,
    bytes: usize,
}

impl Spare {
    /// Whether it is free, and right for a frame of `total` bytes: not so large
    /// that whoever keeps the frame keeps far more.
    fn serves(&mut self, total: usize) -> bool {
        (total..=2 * total).contains(&self.bytes) && self.handle.try_reclaim(self.bytes)
    }
}

impl Buffer {
    /// It with room for the next read. Append to it only.
    pub(super) fn with_room(&mut self) -> &mut BytesMut {
        if self.bytes.is_empty() && self.bytes.capacity() > SPARE_BYTES_MAX {
            self.bytes = BytesMut::new();
        }
        let have = self.bytes.len();
        let wanted = match self.announced() {
            // Doubling, and then up to the end of the frame.
            Some(total) if total > have => {
                if total >= LARGE_BYTES_LEAST && have >= HEADER_BYTES && self.shared.is_none() {
                    self.begin_large(total);
                }
                let left = total - have;
                if left <= 3 * have { left } else { left.min(have.max(READ_BYTES)) }
            }
            _ => READ_BYTES,
        };
        if self.bytes.capacity() - have < wanted.min(READ_BYTES / 4) {
            self.bytes.reserve(wanted);
        }
        &mut self.bytes
    }

    /// As [`with_room`](Self::with_room), and how many bytes the next read should
    /// append at most: what follows a large frame does not belong behind it.
    pub(super) fn next_read(&mut self) -> (&mut BytesMut, usize) {
        self.with_room();
        let most = match self.announced() {
            Some(total) if self.shared.is_some() && total > self.bytes.len() => {
                total - self.bytes.len()
            }
            _ => usize::MAX,
        };
        (&mut self.bytes, most)
    }

    /// Takes out `count` bytes behind the first `at`.
    pub(super) fn remove(&mut self, at: usize, count: usize) {
        self.bytes.copy_within(at + count.., at);
        self.bytes.truncate(self.bytes.len() - count);
    }

    /// Takes the frame in front, all of which is there, and returns its body of `len`
    /// bytes.
    pub(super) fn take_body(&mut self, len: usize) -> BytesMut {
        let bytes = self.bytes.capacity();
        self.bytes.advance(HEADER_BYTES);
        let body = self.bytes.split_to(len);
        if let Some(shared) = self.shared.take() {
            self.end_large(shared, bytes);
        }
        body
    }

    /// Moves what has come of a large frame into a buffer of its own. Takes a
    /// spare one, and no memory for what is only announced.
    fn begin_large(&mut self, total: usize) {
        let spare = self.spares.iter_mut().position(|spare| spare.serves(total));
        let mut own = match spare {
            Some(at) => self.spares.remove(at).handle,
            None => BytesMut::with_capacity(2 * self.bytes.len()),
        };
        own.extend_from_slice(&self.bytes);
        self.bytes.clear();
        self.shared = Some(std::mem::replace(&mut self.bytes, own));
    }

    /// The large frame is taken: what follows goes into the buffer of all.
    fn end_large(&mut self, shared: BytesMut, bytes: usize) {
        let mut handle = std::mem::replace(&mut self.bytes, shared);
        self.bytes.extend_from_slice(&handle);
        handle.clear();
        if bytes <= SPARE_LARGE_BYTES_MAX {
            if self.spares.len() == SPARES_MAX {
                self.spares.remove(0);
            }
            self.spares.push(Spare { handle, bytes });
            self.has_new_spare = true;
        }
    }

    pub(super) fn has_spares(&self) -> bool {
        !self.spares.is_empty()
    }

    /// Whether there is one more than when this was last asked.
    pub(super) fn has_new_spare(&mut self) -> bool {
        std::mem::take(&mut self.has_new_spare)
    }

    /// Stops waiting for large buffers to be of use again.
    pub(super) fn give_back(&mut self) {
        self.spares = Vec::new();
    }

    /// Length of the frame in front, header included, if its length field has
    /// arrived.
    fn announced(&self) -> Option<usize> {
        let len = self.bytes.first_chunk::<4>()?;
        Some(HEADER_BYTES + u32::from_le_bytes(*len) as usize)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
