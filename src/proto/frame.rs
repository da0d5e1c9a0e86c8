//! Splits a byte stream into frames, however the bytes were cut, gives each what
//! is attached to it, and writes frame headers. Used by both ends. A length is checked against its kind's
//! limit before anything is allocated for it, and the buffer grows only as
//! fast as bytes really arrive.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::{Buf, BytesMut};

use crate::attached::{Arrived, Count, Passed};
use crate::limits::{
    FRAME_ATTACHED_MAX, LADEN_ATTACHED_MAX, LARGE_BYTES_LEAST, SPARE_BYTES_MAX,
    SPARE_LARGE_BYTES_MAX, SPARES_MAX,
};

pub(crate) const HEADER_BYTES: usize = 16;

/// Room offered to one read.
const READ_BYTES: usize = 64 << 10;

/// Bodies that carry no payload (hellos, reports) are never longer than this.
pub(crate) const REPORT_BYTES_MAX: usize = 64 << 10;

/// A frame's kind byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Setup = 1,
    Run = 2,
    Bye = 3,
    Hello = 16,
    Ready = 17,
    InitFailed = 18,
    Done = 19,
    Failed = 20,
    Skipped = 21,
    Item = 22,
    Began = 23,
    Trace = 24,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Setup,
            2 => Kind::Run,
            3 => Kind::Bye,
            16 => Kind::Hello,
            17 => Kind::Ready,
            18 => Kind::InitFailed,
            19 => Kind::Done,
            20 => Kind::Failed,
            21 => Kind::Skipped,
            22 => Kind::Item,
            23 => Kind::Began,
            24 => Kind::Trace,
            _ => return None,
        })
    }

    pub(crate) fn carries_payload(self) -> bool {
        matches!(self, Kind::Setup | Kind::Run | Kind::Done | Kind::Item)
    }

    /// Whether something may be attached to it.
    fn carries_attached(self) -> bool {
        matches!(self, Kind::Setup | Kind::Run | Kind::Done | Kind::Item)
    }
}

/// Flag of a frame without a body: what is attached to it belongs to the next one of
/// its kind and number, which has no room for all that it has.
const MORE: u8 = 0x80;

/// One whole frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) seq: u64,
    pub(crate) body: BytesMut,
    pub(crate) arrived: Arrived,
}

/// Appends a header for a body of `body_len` bytes that the caller writes next.
pub(crate) fn put_header(out: &mut Vec<u8>, kind: Kind, flags: u8, seq: u64, body_len: usize) {
    out.extend_from_slice(&header(kind, flags, seq, body_len, Count::NONE));
}

/// The header for a body of `body_len` bytes, to which so much is `attached`. What of
/// that goes before it is in [`headers_before`].
pub(super) fn header(
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

/// Collects bytes and gives out frames.
///
/// A large frame is received into a buffer of its own. Whoever has its body
/// keeps that; once nobody does, it is used again for the next one of about its
/// size, since fresh memory costs more than what is copied into it. Its owner
/// says when to stop waiting for that, by [`give_back`](Self::give_back).
#[derive(Debug)]
pub(crate) struct FrameReader {
    buf: BytesMut,
    /// Longest body of a kind that carries a payload.
    payload_bytes_max: usize,
    /// The same with what is attached to it.
    laden_bytes_max: usize,
    /// While `buf` is a large frame's own: the buffer of all others.
    shared: Option<BytesMut>,
    /// Those of large frames before, oldest first.
    spares: Vec<Spare>,
    has_new_spare: bool,
    /// What has come and belongs to frames that are not whole yet. `None` where more
    /// came than this process had room for: what follows is not that frame's.
    arrived: VecDeque<Option<Passed>>,
    /// What has come before the frame that it belongs to.
    early: Option<Box<Early>>,
}

/// See [`MORE`].
#[derive(Debug)]
struct Early {
    kind: Kind,
    seq: u64,
    /// Frames that it came with.
    frames: usize,
    arrived: Arrived,
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

impl FrameReader {
    pub(crate) fn new(payload_bytes_max: usize) -> Self {
        FrameReader {
            buf: BytesMut::new(),
            payload_bytes_max,
            laden_bytes_max: payload_bytes_max,
            shared: None,
            spares: Vec::new(),
            has_new_spare: false,
            arrived: VecDeque::new(),
            early: None,
        }
    }

    /// Lets any length of memory be attached to frames.
    pub(crate) fn trusting(self) -> Self {
        FrameReader { laden_bytes_max: usize::MAX, ..self }
    }

    /// Takes in what has come attached to bytes that are in the buffer, by one read.
    /// `is_short`: this process had no room for more, and what is missing from their
    /// frame is not its sender's fault.
    pub(crate) fn attach(&mut self, arrived: Vec<Passed>, is_short: bool) {
        self.arrived.extend(arrived.into_iter().map(Some));
        if is_short {
            self.arrived.push_back(None);
        }
    }

    /// The buffer, with room for the next read. Append to it only.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        if self.buf.is_empty() && self.buf.capacity() > SPARE_BYTES_MAX {
            self.buf = BytesMut::new();
        }
        let have = self.buf.len();
        let wanted = match self.announced() {
            // Doubling, and then up to the end of the frame: what is allocated
            // stays in proportion to what has arrived.
            Some(total) if total > have => {
                if total >= LARGE_BYTES_LEAST && have >= HEADER_BYTES && self.shared.is_none() {
                    self.begin_large(total);
                }
                let left = total - have;
                if left <= 3 * have { left } else { left.min(have.max(READ_BYTES)) }
            }
            _ => READ_BYTES,
        };
        if self.buf.capacity() - have < wanted.min(READ_BYTES / 4) {
            self.buf.reserve(wanted);
        }
        &mut self.buf
    }

    /// As [`buffer`](Self::buffer), and how many bytes the next read should
    /// append at most: what follows a large frame does not belong behind it.
    pub(crate) fn next_read(&mut self) -> (&mut BytesMut, usize) {
        self.buffer();
        let most = match self.announced() {
            Some(total) if self.shared.is_some() && total > self.buf.len() => {
                total - self.buf.len()
            }
            _ => usize::MAX,
        };
        (&mut self.buf, most)
    }

    /// Takes out `count` bytes behind the first `at`: they came another way before.
    pub(crate) fn remove(&mut self, at: usize, count: usize) {
        self.buf.copy_within(at + count.., at);
        self.buf.truncate(self.buf.len() - count);
    }

    /// Moves what has come of a large frame into a buffer of its own. Takes a
    /// spare one, and no memory for what is only announced.
    fn begin_large(&mut self, total: usize) {
        let spare = self.spares.iter_mut().position(|spare| spare.serves(total));
        let mut own = match spare {
            Some(at) => self.spares.remove(at).handle,
            None => BytesMut::with_capacity(2 * self.buf.len()),
        };
        own.extend_from_slice(&self.buf);
        self.buf.clear();
        self.shared = Some(std::mem::replace(&mut self.buf, own));
    }

    /// The large frame is complete: what follows goes into the buffer of all.
    fn end_large(&mut self, shared: BytesMut, bytes: usize) {
        let mut handle = std::mem::replace(&mut self.buf, shared);
        self.buf.extend_from_slice(&handle);
        handle.clear();
        if bytes <= SPARE_LARGE_BYTES_MAX {
            if self.spares.len() == SPARES_MAX {
                self.spares.remove(0);
            }
            self.spares.push(Spare { handle, bytes });
            self.has_new_spare = true;
        }
    }

    /// Whether there are buffers to give back.
    pub(crate) fn has_spares(&self) -> bool {
        !self.spares.is_empty()
    }

    /// Whether there is one more than when this was last asked.
    pub(crate) fn has_new_spare(&mut self) -> bool {
        std::mem::take(&mut self.has_new_spare)
    }

    /// Stops waiting for large buffers to be of use again.
    pub(crate) fn give_back(&mut self) {
        self.spares = Vec::new();
    }

    /// How much has come that belongs to frames which are not whole yet.
    pub(crate) fn arrived(&self) -> usize {
        let early = self.early.as_ref().map_or(0, |early| early.arrived.count());
        early + self.arrived.iter().flatten().count()
    }

    /// Whether nothing of the next frame has come.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.early.is_none()
    }

    /// Changes the limit of what has yet to come.
    pub(crate) fn set_payload_bytes_max(&mut self, bytes: usize) {
        self.payload_bytes_max = bytes;
        self.laden_bytes_max = bytes;
    }

    /// What has come and was not given out: its bytes, if nothing is attached to them.
    pub(crate) fn unread(&self) -> Option<&[u8]> {
        (self.arrived.is_empty() && self.early.is_none()).then_some(&self.buf)
    }

    /// The next whole frame, if its last byte has arrived, with all that belongs to it.
    /// After an error the stream has no meaning any more.
    #[inline]
    pub(crate) fn next_whole(&mut self) -> Result<Option<Frame>, FrameError> {
        while let Some(frame) = self.next_frame()? {
            let is_part = frame.flags & MORE != 0 && frame.kind.carries_attached();
            if !is_part && self.early.is_none() {
                return Ok(Some(frame));
            }
            if let Some(whole) = self.gather(frame)? {
                return Ok(Some(whole));
            }
        }
        Ok(None)
    }

    /// Takes in a frame that brings what belongs to another, or is that one.
    #[cold]
    fn gather(&mut self, mut frame: Frame) -> Result<Option<Frame>, FrameError> {
        let Frame { kind, seq, .. } = frame;
        let early = self.early.take();
        if early.as_ref().is_some_and(|early| (early.kind, early.seq) != (kind, seq)) {
            return Err(FrameError::Scattered);
        }
        let fresh = || Box::new(Early { kind, seq, frames: 0, arrived: Arrived::NOTHING });
        let mut early = early.unwrap_or_else(fresh);
        // In this one there may be fewer than it said, for want of room.
        let least = early.frames * FRAME_ATTACHED_MAX + frame.arrived.count();
        if least > LADEN_ATTACHED_MAX {
            let limit = LADEN_ATTACHED_MAX;
            return Err(FrameError::Attached { announced: least, limit });
        }
        let is_full = frame.arrived.count() == FRAME_ATTACHED_MAX || frame.arrived.is_short();
        early.arrived.append(std::mem::take(&mut frame.arrived));
        let size = frame.body.len().saturating_add(early.arrived.memory_bytes());
        if size > self.laden_bytes_max {
            return Err(FrameError::TooLong { size, limit: self.laden_bytes_max });
        }
        if frame.flags & MORE == 0 {
            return Ok(Some(Frame { arrived: early.arrived, ..frame }));
        }
        if frame.flags != MORE || !frame.body.is_empty() || !is_full {
            return Err(FrameError::Scattered);
        }
        early.frames += 1;
        self.early = Some(early);
        Ok(None)
    }

    /// The next frame, if its last byte has arrived, with what is attached to itself.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buf.first_chunk::<HEADER_BYTES>() else {
            // Whatever is attached comes with the first byte of its frame.
            let most = if self.buf.is_empty() { 0 } else { FRAME_ATTACHED_MAX };
            self.check_arrived(0, most)?;
            return Ok(None);
        };
        let len = u32::from_le_bytes(header[..4].try_into().expect("4 bytes")) as usize;
        let kind = Kind::from_byte(header[4]).ok_or(FrameError::UnknownKind(header[4]))?;
        let flags = header[5];
        let count = Count { memory: header[6].into(), descriptors: header[7].into() };
        let attached = count.all();
        let attached_max = if kind.carries_attached() { FRAME_ATTACHED_MAX } else { 0 };
        if attached > attached_max {
            return Err(FrameError::Attached { announced: attached, limit: attached_max });
        }
        let seq = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        let limit = if kind.carries_payload() { self.payload_bytes_max } else { REPORT_BYTES_MAX };
        if len > limit {
            return Err(FrameError::TooLong { size: len, limit });
        }
        if self.buf.len() < HEADER_BYTES + len {
            self.check_arrived(attached, attached)?;
            return Ok(None);
        }
        if self.buf.len() == HEADER_BYTES + len {
            // There is nothing behind it that more could belong to.
            self.check_arrived(attached, attached)?;
        }
        let arrived = self.take_arrived(count, len)?;
        let bytes = self.buf.capacity();
        self.buf.advance(HEADER_BYTES);
        let body = self.buf.split_to(len);
        if let Some(shared) = self.shared.take() {
            self.end_large(shared, bytes);
        }
        Ok(Some(Frame { kind, flags, seq, body, arrived }))
    }

    /// Whether what waits is as much as the frame at the front announces: at
    /// least so much, unless there was no room for it, and at most so much.
    #[inline]
    fn check_arrived(&self, least: usize, most: usize) -> Result<(), FrameError> {
        let count = self.arrived.iter().flatten().count();
        if count > most {
            return Err(FrameError::Unannounced);
        }
        if count < least && count == self.arrived.len() {
            return Err(FrameError::Missing);
        }
        Ok(())
    }

    /// Takes what is attached to the frame at the front, whose body has `len` bytes.
    #[inline]
    fn take_arrived(&mut self, announced: Count, len: usize) -> Result<Arrived, FrameError> {
        if announced == Count::NONE {
            return Ok(Arrived::NOTHING);
        }
        self.check_arrived(announced.all(), usize::MAX)?;
        let next = || self.arrived.pop_front().flatten();
        let came: Vec<_> = std::iter::from_fn(next).take(announced.all()).collect();
        let is_short = came.len() < announced.all();
        let mut list = came.into_iter();
        let memory = list.by_ref().take(announced.memory).map(|came| came.to_memory());
        let memory: Option<Vec<_>> = memory.collect();
        let descriptors = list.collect();
        let memory = memory.ok_or(FrameError::Unsendable)?;
        let size = memory.iter().fold(len, |size, one| size.saturating_add(one.len()));
        if size > self.laden_bytes_max {
            return Err(FrameError::TooLong { size, limit: self.laden_bytes_max });
        }
        Ok(Arrived::new(memory, descriptors, is_short))
    }

    /// Length of the frame at the front, header included, if its length field
    /// has arrived.
    fn announced(&self) -> Option<usize> {
        let len = self.buf.first_chunk::<4>()?;
        Some(HEADER_BYTES + u32::from_le_bytes(*len) as usize)
    }
}

/// Bytes that are not a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameError {
    UnknownKind(u8),
    TooLong {
        size: usize,
        limit: usize,
    },
    /// More is said to be attached than may be.
    Attached {
        announced: usize,
        limit: usize,
    },
    /// What is said to be attached did not come.
    Missing,
    /// Something came that no frame has announced.
    Unannounced,
    /// What came as memory is none that nobody can change.
    Unsendable,
    /// What came before a frame is of another, or less than could have come.
    Scattered,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::UnknownKind(kind) => write!(f, "unknown frame kind {kind}"),
            FrameError::TooLong { size, limit } => {
                write!(f, "frame of {size} bytes is over the limit of {limit}")
            }
            FrameError::Attached { announced, limit } => {
                write!(f, "{announced} descriptors are over the frame's limit of {limit}")
            }
            FrameError::Missing => f.write_str("descriptors that it announced did not come"),
            FrameError::Unannounced => f.write_str("descriptors came that it did not announce"),
            FrameError::Unsendable => f.write_str("a descriptor is not one of sealed memory"),
            FrameError::Scattered => f.write_str("its descriptors came otherwise than they may"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attached::Shared;

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (seq, body) in bodies.iter().enumerate() {
            put_header(&mut out, Kind::Done, 1, seq as u64, body.len());
            out.extend_from_slice(body);
        }
        out
    }

    fn drain(reader: &mut FrameReader) -> Vec<(u64, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            frames.push((frame.seq, frame.body.to_vec()));
        }
        frames
    }

    #[test]
    fn any_two_way_split_gives_the_same_frames() {
        let bytes = stream(&[vec![], vec![1], vec![2; 300], vec![]]);
        for cut in 0..=bytes.len() {
            let mut reader = FrameReader::new(1000);
            reader.buffer().extend_from_slice(&bytes[..cut]);
            let mut frames = drain(&mut reader);
            reader.buffer().extend_from_slice(&bytes[cut..]);
            frames.extend(drain(&mut reader));
            assert_eq!(frames.len(), 4, "cut at {cut}");
            assert_eq!(frames[2].1, vec![2; 300]);
            assert!(reader.buffer().is_empty());
        }
    }

    #[test]
    fn a_giant_length_is_refused_before_its_body() {
        let mut bytes = Vec::new();
        put_header(&mut bytes, Kind::Done, 0, 1, u32::MAX as usize);
        let mut reader = FrameReader::new(1000);
        reader.buffer().extend_from_slice(&bytes);
        assert_eq!(
            reader.next_frame().unwrap_err(),
            FrameError::TooLong { size: u32::MAX as usize, limit: 1000 }
        );
    }

    #[test]
    fn the_buffer_grows_with_what_arrives_not_with_what_is_announced() {
        let mut bytes = Vec::new();
        put_header(&mut bytes, Kind::Done, 0, 1, 1 << 30);
        let mut reader = FrameReader::new(2 << 30);
        reader.buffer().extend_from_slice(&bytes);
        assert!(reader.next_frame().unwrap().is_none());
        assert!(reader.buffer().capacity() <= 2 * READ_BYTES);
    }

    #[test]
    fn a_frame_may_be_as_long_as_its_limit_and_no_longer() {
        for (kind, limit) in [
            (Kind::Setup, 100_000),
            (Kind::Run, 100_000),
            (Kind::Done, 100_000),
            (Kind::Item, 100_000),
            (Kind::Bye, REPORT_BYTES_MAX),
            (Kind::Hello, REPORT_BYTES_MAX),
            (Kind::Ready, REPORT_BYTES_MAX),
            (Kind::InitFailed, REPORT_BYTES_MAX),
            (Kind::Failed, REPORT_BYTES_MAX),
            (Kind::Skipped, REPORT_BYTES_MAX),
            (Kind::Began, REPORT_BYTES_MAX),
        ] {
            for (len, fits) in [(limit, true), (limit + 1, false)] {
                let mut bytes = Vec::new();
                put_header(&mut bytes, kind, 3, u64::MAX - 1, len);
                bytes.resize(bytes.len() + len, 7);
                let mut reader = FrameReader::new(100_000);
                reader.buffer().extend_from_slice(&bytes);
                match reader.next_frame() {
                    Ok(Some(frame)) if fits => {
                        assert_eq!((frame.kind, frame.flags, frame.seq), (kind, 3, u64::MAX - 1));
                        assert_eq!(frame.body, vec![7; len]);
                    }
                    Err(error) if !fits => {
                        assert_eq!(error, FrameError::TooLong { size: len, limit });
                    }
                    other => panic!("{kind:?} of {len} bytes: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn headers_that_nobody_writes_are_refused() {
        let refused = |at: usize, byte| {
            let mut bytes = stream(&[vec![]]);
            bytes[at] = byte;
            let mut reader = FrameReader::new(1000);
            reader.buffer().extend_from_slice(&bytes);
            reader.next_frame().unwrap_err()
        };
        let most = FRAME_ATTACHED_MAX;
        assert_eq!(refused(6, most as u8), FrameError::Missing);
        for (at, byte, announced) in [(6, most as u8 + 1, most + 1), (7, 255, 255)] {
            assert_eq!(refused(at, byte), FrameError::Attached { announced, limit: most });
        }
        for byte in (0..=255).filter(|byte| !matches!(byte, 1..=3 | 16..=24)) {
            assert_eq!(refused(4, byte), FrameError::UnknownKind(byte));
        }
    }

    #[test]
    fn a_long_frame_arrives_in_any_pieces_and_leaves_no_large_buffer() {
        let body = vec![5; SPARE_BYTES_MAX + 100_000];
        let bytes = stream(&[body.clone(), vec![1, 2]]);
        let mut reader = FrameReader::new(body.len());
        let (mut capacity, mut grown) = (0, 0);
        for piece in bytes.chunks(5_000) {
            let buffer = reader.buffer();
            let (have, room) = (buffer.len(), buffer.capacity() - buffer.len());
            let missing = (HEADER_BYTES + body.len()).saturating_sub(have);
            assert!(room >= missing.clamp(1, READ_BYTES / 4), "{room} with {missing} missing");
            assert!(buffer.capacity() <= 2 * (2 * have + READ_BYTES), "far more than has arrived");
            grown += usize::from(buffer.capacity() > capacity);
            capacity = buffer.capacity();
            buffer.extend_from_slice(piece);
        }
        assert!(grown < 12, "it is copied {grown} times");
        // Frames that wait to be taken do not keep others from arriving.
        assert!(reader.buffer().capacity() > bytes.len());
        assert_eq!(drain(&mut reader), [(0, body), (1, vec![1, 2])]);
        // Its room is used again now and then, but not kept.
        let short = stream(&[vec![1; 4000]]);
        let mut large = 0;
        for _ in 0..4000 {
            large += usize::from(reader.buffer().capacity() > SPARE_BYTES_MAX);
            reader.buffer().extend_from_slice(&short);
            assert_eq!(drain(&mut reader).len(), 1);
        }
        assert!(large < 10, "{large} times");
    }

    /// Feeds one frame in pieces as a socket would, and returns its body.
    fn receive(reader: &mut FrameReader, byte: u8, len: usize) -> BytesMut {
        let bytes = stream(&[vec![byte; len]]);
        let mut rest = &bytes[..];
        loop {
            let (buffer, most) = reader.next_read();
            let room = buffer.capacity() - buffer.len();
            let (now, later) = rest.split_at(rest.len().min(room).min(most).min(200_000));
            assert!(!now.is_empty(), "no room, and nothing complete");
            buffer.extend_from_slice(now);
            rest = later;
            if let Some(frame) = reader.next_frame().unwrap() {
                assert!(rest.is_empty() && reader.is_empty());
                return frame.body;
            }
        }
    }

    const LARGE: usize = 4 * LARGE_BYTES_LEAST;

    #[test]
    fn a_large_buffer_is_used_again_once_nobody_holds_it() {
        let mut reader = FrameReader::new(1 << 30);
        let first = receive(&mut reader, 1, LARGE);
        let place = first.as_ptr();
        assert!(reader.has_spares() && reader.has_new_spare() && !reader.has_new_spare());
        let second = receive(&mut reader, 2, LARGE);
        assert_ne!(second.as_ptr(), place, "the first is still held");
        assert!(first.iter().all(|byte| *byte == 1));
        // As long as any part of it is held, by whomever.
        let part = first.freeze().slice(LARGE - 1..);
        assert_ne!(receive(&mut reader, 3, LARGE).as_ptr(), place);
        assert_eq!(part[..], [1]);
        drop(part);
        drop(second);
        let mut reader = FrameReader::new(1 << 30);
        let place = receive(&mut reader, 1, LARGE).as_ptr();
        for round in 0..5 {
            // Short ones between them do not matter.
            assert_eq!(receive(&mut reader, 9, round).len(), round);
            let body = receive(&mut reader, 2, LARGE);
            assert_eq!((body.as_ptr(), body.len()), (place, LARGE));
            assert!(body.iter().all(|byte| *byte == 2));
        }
    }

    #[test]
    fn one_large_buffer_is_filled_while_another_is_held() {
        let mut reader = FrameReader::new(1 << 30);
        let mut held = receive(&mut reader, 0, LARGE);
        let mut places = vec![held.as_ptr()];
        for round in 1..10 {
            held = receive(&mut reader, round, LARGE);
            places.push(held.as_ptr());
        }
        assert!(held.iter().all(|byte| *byte == 9));
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 2);
    }

    #[test]
    fn a_frame_does_not_keep_a_buffer_far_larger_than_itself() {
        let mut reader = FrameReader::new(1 << 30);
        let place = receive(&mut reader, 1, 4 * LARGE).as_ptr();
        let small = receive(&mut reader, 2, LARGE);
        assert_ne!(small.as_ptr(), place);
        let other = receive(&mut reader, 3, 3 * LARGE);
        assert_eq!(other.as_ptr(), place, "and it waits for one that suits it");
    }

    #[test]
    fn large_buffers_are_given_back() {
        let mut reader = FrameReader::new(1 << 30);
        let body = receive(&mut reader, 1, LARGE).freeze();
        assert!(!body.is_unique());
        reader.give_back();
        assert!(body.is_unique() && !reader.has_spares());
        // So are all but the latest, however many are held.
        let held: Vec<_> = (0..9).map(|n| receive(&mut reader, n, LARGE).freeze()).collect();
        assert_eq!(held.iter().filter(|body| !body.is_unique()).count(), SPARES_MAX);
        let mut reader = FrameReader::new(1 << 30);
        assert!(receive(&mut reader, 1, SPARE_LARGE_BYTES_MAX + 1).freeze().is_unique());
    }

    #[test]
    fn a_length_alone_takes_no_memory_but_what_is_there() {
        let mut reader = FrameReader::new(1 << 30);
        let mut header = Vec::new();
        put_header(&mut header, Kind::Done, 0, 1, 1 << 30);
        reader.buffer().extend_from_slice(&header);
        assert!(reader.next_frame().unwrap().is_none());
        let (buffer, most) = reader.next_read();
        assert!(buffer.capacity() <= 2 * READ_BYTES);
        assert_eq!(most, 1 << 30);
    }

    #[test]
    fn a_frame_that_nobody_has_taken_leaves_room_for_the_next_read() {
        // The first fills what is made room for at first.
        for len in [READ_BYTES - HEADER_BYTES, LARGE] {
            let bytes = stream(&[vec![1; len]]);
            let mut reader = FrameReader::new(LARGE);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (buffer, most) = reader.next_read();
                let room = buffer.capacity() - buffer.len();
                let (now, later) = rest.split_at(rest.len().min(room).min(most));
                buffer.extend_from_slice(now);
                rest = later;
            }
            let (buffer, most) = reader.next_read();
            assert!(buffer.capacity() - buffer.len() >= READ_BYTES / 4, "behind {len}");
            assert_eq!(most, usize::MAX);
            assert_eq!(drain(&mut reader).len(), 1);
        }
    }

    #[test]
    fn what_follows_a_short_frame_is_read_with_it() {
        let bytes = stream(&[vec![1; 300]]);
        for there in [1, HEADER_BYTES, bytes.len() - 1] {
            let mut reader = FrameReader::new(1000);
            assert!(reader.is_empty());
            reader.buffer().extend_from_slice(&bytes[..there]);
            assert!(!reader.is_empty());
            assert_eq!(reader.next_read().1, usize::MAX);
        }
    }

    #[test]
    fn what_comes_behind_a_large_frame_is_not_lost() {
        let bytes = stream(&[vec![1; LARGE], vec![2; 300], vec![3; LARGE]]);
        for step in [1000, 77_777, LARGE, bytes.len()] {
            let mut reader = FrameReader::new(1 << 30);
            let mut frames = Vec::new();
            for piece in bytes.chunks(step) {
                reader.buffer().extend_from_slice(piece);
                frames.extend(drain(&mut reader));
            }
            let lengths: Vec<_> = frames.iter().map(|(_, body)| (body[0], body.len())).collect();
            assert_eq!(lengths, [(1, LARGE), (2, 300), (3, LARGE)], "in steps of {step}");
        }
    }

    /// Memory of a length, or what is none.
    #[derive(Clone, Debug)]
    struct Fake(Option<usize>);

    impl crate::attached::Memory for Fake {
        fn len(&self) -> usize {
            self.0.unwrap()
        }

        fn open(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn bytes(&self) -> &[u8] {
            &[]
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    impl crate::attached::Open for Fake {
        fn to_memory(&self) -> Option<Shared> {
            self.0.map(|_| Shared::new(self.clone()))
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    fn fakes(lengths: &[usize]) -> Vec<Passed> {
        lengths.iter().map(|&len| Passed::new(Fake(Some(len)))).collect()
    }

    fn laden(kind: Kind, memory: usize, body: &[u8]) -> Vec<u8> {
        let count = Count { memory, descriptors: 0 };
        [&header(kind, 0, 1, body.len(), count)[..], body].concat()
    }

    fn lengths(frame: &Frame) -> Vec<usize> {
        (0..).map_while(|index| frame.arrived.memory(index)).map(Shared::len).collect()
    }

    /// Cut anywhere: what is attached comes with the piece that the first byte of
    /// its frame is in.
    #[test]
    fn each_frame_gets_what_is_attached_to_it() {
        let frames = [
            laden(Kind::Done, 2, b"first"),
            laden(Kind::Skipped, 0, b""),
            laden(Kind::Item, 1, b""),
            laden(Kind::Run, 0, b"last but one"),
            laden(Kind::Run, 3, b"last"),
        ];
        let attached = [&[1, 2][..], &[], &[3], &[], &[4, 5, 6]];
        for cut in 0..=frames.concat().len() {
            let mut reader = FrameReader::new(1000);
            let mut got = Vec::new();
            let mut at = 0;
            for (frame, attached) in frames.iter().zip(attached) {
                // A read ends behind bytes that something is attached to.
                let (now, later) = frame.split_at(cut.saturating_sub(at).min(frame.len()));
                at += frame.len();
                let mut attached = Some(fakes(attached));
                for piece in [now, later].into_iter().filter(|piece| !piece.is_empty()) {
                    reader.buffer().extend_from_slice(piece);
                    reader.attach(attached.take().unwrap_or_default(), false);
                    while let Some(frame) = reader.next_frame().unwrap() {
                        assert!(!frame.arrived.is_short());
                        got.push(lengths(&frame));
                    }
                }
            }
            assert_eq!(got, attached, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_attached_must_be_as_the_frame_says() {
        let first = |bytes: &[u8], attached: Vec<Passed>| {
            let mut reader = FrameReader::new(1000);
            reader.buffer().extend_from_slice(bytes);
            reader.attach(attached, false);
            reader.next_frame().map(|frame| frame.map(|frame| lengths(&frame)))
        };
        let frame = laden(Kind::Done, 2, b"body");
        let (part, header) = (&frame[..HEADER_BYTES + 1], &frame[..HEADER_BYTES - 1]);
        for bytes in [&frame[..], part] {
            assert_eq!(first(bytes, fakes(&[1])), Err(FrameError::Missing));
            assert_eq!(first(bytes, fakes(&[1, 2, 3])), Err(FrameError::Unannounced));
        }
        assert_eq!(first(part, fakes(&[1, 2])), Ok(None));
        // Nobody knows yet what it will say.
        for count in [0, 1, FRAME_ATTACHED_MAX] {
            assert_eq!(first(header, fakes(&vec![1; count])), Ok(None));
        }
        let too_many = fakes(&[1; FRAME_ATTACHED_MAX + 1]);
        assert_eq!(first(header, too_many), Err(FrameError::Unannounced));
        assert_eq!(first(b"", fakes(&[1])), Err(FrameError::Unannounced));
        let skipped = laden(Kind::Skipped, 0, b"");
        assert_eq!(first(&skipped, fakes(&[1])), Err(FrameError::Unannounced));
        let refused = [fakes(&[1]), vec![Passed::new(Fake(None))]].concat();
        assert_eq!(first(&frame, refused), Err(FrameError::Unsendable));

        for kind in [Kind::Bye, Kind::Hello, Kind::Ready, Kind::Failed, Kind::Began] {
            let refused = FrameError::Attached { announced: 1, limit: 0 };
            assert_eq!(first(&laden(kind, 1, b""), fakes(&[1])), Err(refused));
        }
        // Together with the body.
        assert_eq!(first(&frame, fakes(&[500, 496])), Ok(Some(vec![500, 496])));
        let too_long = FrameError::TooLong { size: 1001, limit: 1000 };
        assert_eq!(first(&frame, fakes(&[500, 497])), Err(too_long));
        let endless = first(&frame, fakes(&[usize::MAX, usize::MAX]));
        assert_eq!(endless, Err(FrameError::TooLong { size: usize::MAX, limit: 1000 }));
    }

    #[test]
    fn descriptors_are_behind_the_memory_and_may_be_anything() {
        let count = Count { memory: 1, descriptors: 2 };
        let frame = |kind| [&header(kind, 0, 1, 1, count)[..], b"x"].concat();
        let anything = || vec![Passed::new(Fake(None)), Passed::new(Fake(Some(5000)))];
        let mut reader = FrameReader::new(1000);
        for kind in [Kind::Setup, Kind::Run, Kind::Done, Kind::Item] {
            reader.buffer().extend_from_slice(&frame(kind));
            reader.attach([fakes(&[7]), anything()].concat(), false);
            let frame = reader.next_frame().unwrap().unwrap();
            let descriptors = (0..).map_while(|index| frame.arrived.descriptor(index)).count();
            assert_eq!((lengths(&frame), descriptors), (vec![7], 2));
        }
        // What is announced as memory must be some.
        reader.buffer().extend_from_slice(&frame(Kind::Done));
        reader.attach([anything(), fakes(&[7])].concat(), false);
        assert_eq!(reader.next_frame().unwrap_err(), FrameError::Unsendable);
    }

    #[test]
    fn what_there_was_no_room_for_is_nobodys_fault() {
        let mut reader = FrameReader::new(1000);
        reader.buffer().extend_from_slice(&laden(Kind::Done, 3, b"x"));
        reader.attach(fakes(&[7]), true);
        let frame = reader.next_frame().unwrap().unwrap();
        assert_eq!((lengths(&frame), frame.arrived.is_short()), (vec![7], true));
        assert!(!frame.arrived.is_none());
        // That is over with this frame.
        reader.buffer().extend_from_slice(&laden(Kind::Done, 1, b""));
        assert_eq!(reader.next_frame().unwrap_err(), FrameError::Missing);
    }

    /// A frame of which part comes with the next, whose descriptors are its own.
    #[test]
    fn what_there_was_no_room_for_is_not_taken_from_the_next_frame() {
        let frame = laden(Kind::Item, 2, b"body");
        for there in 0..2 {
            let mut reader = FrameReader::new(1000);
            let mut next = |bytes: &[u8], attached: &[usize], is_short| {
                reader.buffer().extend_from_slice(bytes);
                reader.attach(fakes(attached), is_short);
                std::iter::from_fn(|| reader.next_frame().unwrap())
                    .map(|frame| (lengths(&frame), frame.arrived.is_short()))
                    .collect::<Vec<_>>()
            };
            let (first, rest) = frame.split_at(HEADER_BYTES);
            assert_eq!(next(first, &[7, 8][..there], true), []);
            let rest_and_next = [rest, &frame].concat();
            let cut = ([7, 8][..there].to_vec(), true);
            assert_eq!(next(&rest_and_next, &[1, 2], false), [cut, (vec![1, 2], false)]);
            // And the other way round.
            assert_eq!(next(first, &[3, 4], false), []);
            let cut = ([9][..there].to_vec(), true);
            assert_eq!(next(&rest_and_next, &[9][..there], true), [(vec![3, 4], false), cut]);
        }
    }

    /// A frame to which so much is attached, as it is sent, and with what.
    fn scattered(kind: Kind, count: Count, body: &[u8]) -> Vec<(Vec<u8>, Vec<usize>)> {
        let header = header(kind, 0, 1, body.len(), count);
        let mut pieces: Vec<_> =
            headers_before(&header, count).map(|header| header.to_vec()).collect();
        pieces.push([&header[..], body].concat());
        let sizes = |part: std::ops::Range<usize>| part.collect();
        let parts = (0..pieces.len()).map(|index| sizes(count.range_of_part(index)));
        pieces.into_iter().zip(parts).collect()
    }

    #[test]
    fn what_one_message_does_not_take_comes_before_its_frame() {
        const FULL: usize = FRAME_ATTACHED_MAX;
        for (memory, descriptors) in
            [(0, 1), (0, FULL), (0, FULL + 1), (FULL, 1), (200, 200), (3, LADEN_ATTACHED_MAX - 3)]
        {
            let count = Count { memory, descriptors };
            let pieces = scattered(Kind::Item, count, b"body");
            assert_eq!(pieces.len(), count.all().div_ceil(FULL));
            for step in [1, 7, 1000] {
                let mut reader = FrameReader::new(1 << 20);
                let mut frames = Vec::new();
                for (bytes, lengths) in &pieces {
                    let mut arrived = Some(fakes(lengths));
                    for bytes in bytes.chunks(step) {
                        assert!(frames.is_empty());
                        reader.buffer().extend_from_slice(bytes);
                        reader.attach(arrived.take().unwrap_or_default(), false);
                        assert!(!reader.is_empty() && reader.unread().is_none());
                        frames.extend(reader.next_whole().unwrap());
                    }
                }
                let frame = &frames[0];
                assert_eq!((&frame.body[..], frame.flags), (&b"body"[..], 0));
                assert_eq!(lengths(frame), Vec::from_iter(0..memory));
                assert_eq!(frame.arrived.count(), count.all());
                assert!(reader.is_empty() && reader.next_whole().unwrap().is_none());
            }
        }
    }

    #[test]
    fn what_comes_before_a_frame_must_be_its_own_and_no_less_than_can_come() {
        const FULL: usize = FRAME_ATTACHED_MAX;
        let first = |parts: &[(&[u8], usize, bool)]| {
            let mut reader = FrameReader::new(1 << 20);
            let mut outcome = Ok(None);
            for &(bytes, count, is_short) in parts {
                assert_eq!(outcome, Ok(None));
                reader.buffer().extend_from_slice(bytes);
                reader.attach(fakes(&vec![1; count]), is_short);
                outcome = reader.next_whole().map(|frame| {
                    frame.map(|frame| (frame.arrived.count(), frame.arrived.is_short()))
                });
            }
            outcome
        };
        let part = |kind: Kind, flags, seq: u64, count: usize, body: &[u8]| {
            let count = Count { memory: count, descriptors: 0 };
            let mut bytes = header(kind, flags, seq, body.len(), count).to_vec();
            bytes.extend_from_slice(body);
            bytes
        };
        let more = part(Kind::Item, MORE, 1, FULL, b"");
        let last = part(Kind::Item, 0, 1, 2, b"x");
        let full = (&more[..], FULL, false);
        assert_eq!(first(&[full, (&last, 2, false)]), Ok(Some((FULL + 2, false))));
        let scattered = Err(FrameError::Scattered);
        for other in [
            part(Kind::Item, 0, 2, 2, b"x"),
            part(Kind::Done, 0, 1, 2, b"x"),
            part(Kind::Item, MORE, 2, FULL, b""),
        ] {
            let count = other[6].into();
            assert_eq!(first(&[full, (&other, count, false)]), scattered);
        }
        // Not full; empty; with a body; with other flags.
        let fewer = part(Kind::Item, MORE, 1, FULL - 1, b"");
        assert_eq!(first(&[(&fewer, FULL - 1, false)]), scattered);
        assert_eq!(first(&[(&part(Kind::Item, MORE, 1, 0, b""), 0, false)]), scattered);
        assert_eq!(first(&[(&part(Kind::Item, MORE, 1, FULL, b"x"), FULL, false)]), scattered);
        assert_eq!(first(&[(&part(Kind::Item, MORE | 1, 1, FULL, b""), FULL, false)]), scattered);
        assert_eq!(first(&[full, (&part(Kind::Skipped, 0, 1, 0, b""), 0, false)]), scattered);
        // Without end, though each may be short.
        let most = LADEN_ATTACHED_MAX / FULL;
        for is_short in [false, true] {
            let there = if is_short { 0 } else { FULL };
            let mut parts = vec![(&more[..], there, is_short); most];
            assert_eq!(first(&parts), Ok(None));
            parts.extend([(&more[..], FULL, false)]);
            let announced = (most + 1) * FULL;
            let limit = LADEN_ATTACHED_MAX;
            assert_eq!(first(&parts), Err(FrameError::Attached { announced, limit }));
        }
        // All memory together, with the body.
        let mut reader = FrameReader::new(1000);
        for lengths in [vec![5; FULL], vec![5; FULL]] {
            reader.buffer().extend_from_slice(&more);
            reader.attach(fakes(&lengths), false);
        }
        let limit = 1000;
        assert_eq!(reader.next_whole().unwrap_err(), FrameError::TooLong { size: 1280, limit });
    }

    /// Nothing behind it is taken for what is missing.
    #[test]
    fn what_there_was_no_room_for_ends_what_came() {
        let count = Count { memory: 100, descriptors: 200 };
        let mut reader = FrameReader::new(1 << 20);
        let mut frame = None;
        for (index, (bytes, lengths)) in scattered(Kind::Run, count, b"").into_iter().enumerate() {
            let is_short = index == 1;
            reader.buffer().extend_from_slice(&bytes);
            reader.attach(fakes(&lengths[..if is_short { 7 } else { lengths.len() }]), is_short);
            frame = reader.next_whole().unwrap();
        }
        let frame = frame.unwrap();
        assert_eq!((frame.arrived.count(), frame.arrived.is_short()), (135, true));
        assert_eq!(lengths(&frame).len(), 100);
    }

    #[test]
    fn errors_read_well() {
        let texts = [
            (FrameError::UnknownKind(99), "unknown frame kind 99"),
            (
                FrameError::Attached { announced: 9, limit: 0 },
                "9 descriptors are over the frame's limit of 0",
            ),
            (FrameError::Missing, "descriptors that it announced did not come"),
            (FrameError::Unannounced, "descriptors came that it did not announce"),
            (FrameError::Unsendable, "a descriptor is not one of sealed memory"),
            (FrameError::TooLong { size: 7, limit: 5 }, "frame of 7 bytes is over the limit of 5"),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            cuts in prop::collection::vec(1usize..97, 1..40),
        ) {
            let bytes = stream(&bodies);
            let mut reader = FrameReader::new(1000);
            let mut frames = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                reader.buffer().extend_from_slice(now);
                frames.extend(drain(&mut reader));
                rest = later;
            }
            prop_assert_eq!(frames.into_iter().map(|(_, body)| body).collect::<Vec<_>>(), bodies);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = FrameReader::new(100);
            reader.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }
}
