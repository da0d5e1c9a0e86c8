//! The 16 bytes before each body, written and read back; `proto` draws them. Says also
//! which frames go before one that has more attached than a message takes.

use std::ops::Range;

use super::{FrameError, Kind};
use crate::attached::Count;
use crate::limits::{FRAME_ATTACHED_MAX, LADEN_ATTACHED_MAX};

pub(crate) const HEADER_BYTES: usize = 16;

/// Flag of a frame without a body: what is attached to it belongs to the next one of
/// its kind and number, which has no room for all that it has.
pub(super) const MORE: u8 = 0x80;

/// What a header says.
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) seq: u64,
    /// Length of the body.
    pub(super) len: usize,
    pub(super) attached: Count,
}

impl Header {
    /// Checks all but the length, whose limit is not the same for all readers.
    #[inline]
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let len = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes")) as usize;
        let kind = Kind::from_byte(bytes[4]).ok_or(FrameError::UnknownKind(bytes[4]))?;
        let attached = Count { memory: bytes[6].into(), descriptors: bytes[7].into() };
        let limit = if kind.carries_payload() { FRAME_ATTACHED_MAX } else { 0 };
        if attached.all() > limit {
            return Err(FrameError::Attached { announced: attached.all(), limit });
        }
        let seq = u64::from_le_bytes(bytes[8..].try_into().expect("8 bytes"));
        Ok(Header { kind, flags: bytes[5], seq, len, attached })
    }
}

/// Appends a header for a body of `body_len` bytes that the caller writes next.
pub(crate) fn put_header(out: &mut Vec<u8>, kind: Kind, flags: u8, seq: u64, body_len: usize) {
    out.extend_from_slice(&header(kind, flags, seq, body_len, Count::NONE));
}

/// The header for a body of `body_len` bytes, to which so much is `attached`. What of
/// that goes before it is in [`headers_before`].
pub(in crate::proto) fn header(
    kind: Kind,
    flags: u8,
    seq: u64,
    body_len: usize,
    attached: Count,
) -> [u8; HEADER_BYTES] {
    let len = u32::try_from(body_len).expect("bodies are checked against a 32-bit limit");
    debug_assert!(attached.all() <= LADEN_ATTACHED_MAX);
    let attached = attached.part(attached.parts_before());
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&len.to_le_bytes());
    header[4] = kind as u8;
    header[5] = flags;
    header[6..8].copy_from_slice(&[attached.memory as u8, attached.descriptors as u8]);
    header[8..].copy_from_slice(&seq.to_le_bytes());
    header
}

/// What goes with each of several messages.
impl Count {
    /// How many messages it takes before the one that the rest goes with.
    pub(crate) fn parts_before(self) -> usize {
        self.all().saturating_sub(1) / FRAME_ATTACHED_MAX
    }

    /// What goes with one of the messages. The last of them is the rest.
    pub(crate) fn part(self, index: usize) -> Count {
        let Range { start, end } = self.range_of_part(index);
        let memory = self.memory.clamp(start, end) - start;
        Count { memory, descriptors: end - start - memory }
    }

    /// Where that is among all, memory first.
    pub(crate) fn range_of_part(self, index: usize) -> Range<usize> {
        let end = |parts: usize| (parts * FRAME_ATTACHED_MAX).min(self.all());
        end(index)..end(index + 1)
    }
}

/// Headers of the frames to send before one that has `header` and so much `attached`:
/// each goes with the part of that which has its number.
pub(crate) fn headers_before(
    header: &[u8; HEADER_BYTES],
    attached: Count,
) -> impl Iterator<Item = [u8; HEADER_BYTES]> {
    (0..attached.parts_before()).map(move |index| {
        let part = attached.part(index);
        let mut before = *header;
        before[..4].fill(0);
        before[5] = MORE;
        before[6..8].copy_from_slice(&[part.memory as u8, part.descriptors as u8]);
        before
    })
}
