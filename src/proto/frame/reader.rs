//! Splits a byte stream into frames, however the bytes were cut, and gives each what
//! is attached to it. Used by both ends. A length is checked against its kind's limit
//! before anything is allocated for it.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::buffer::Buffer;
use super::header::{Header, MORE};
use super::{Frame, FrameError, HEADER_BYTES, Kind, REPORT_BYTES_MAX};
use crate::attached::{Arrived, Count, Passed};
use crate::limits::{FRAME_ATTACHED_MAX, LADEN_ATTACHED_MAX};

/// Collects bytes and gives out frames.
///
/// It waits for the buffers of large frames to be of use again, until its owner
/// [gives them back](Self::give_back).
#[derive(Debug)]
pub(crate) struct FrameReader {
    buffer: Buffer,
    /// Longest body of a kind that carries a payload.
    payload_bytes_max: usize,
    /// The same with what is attached to it.
    laden_bytes_max: usize,
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

impl FrameReader {
    pub(crate) fn new(payload_bytes_max: usize) -> Self {
        FrameReader {
            buffer: Buffer::default(),
            payload_bytes_max,
            laden_bytes_max: payload_bytes_max,
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
        self.buffer.with_room()
    }

    /// As [`buffer`](Self::buffer), and how many bytes the next read should
    /// append at most: what follows a large frame does not belong behind it.
    pub(crate) fn next_read(&mut self) -> (&mut BytesMut, usize) {
        self.buffer.next_read()
    }

    /// Takes out `count` bytes behind the first `at`: they came another way before.
    pub(crate) fn remove(&mut self, at: usize, count: usize) {
        self.buffer.remove(at, count);
    }

    /// Whether there are buffers to give back.
    pub(crate) fn has_spares(&self) -> bool {
        self.buffer.has_spares()
    }

    /// Whether there is one more than when this was last asked.
    pub(crate) fn has_new_spare(&mut self) -> bool {
        self.buffer.has_new_spare()
    }

    /// Stops waiting for large buffers to be of use again.
    pub(crate) fn give_back(&mut self) {
        self.buffer.give_back();
    }

    /// How much has come that belongs to frames which are not whole yet.
    pub(crate) fn arrived(&self) -> usize {
        let early = self.early.as_ref().map_or(0, |early| early.arrived.count());
        early + self.arrived.iter().flatten().count()
    }

    /// How many bytes have come that were not given out: of one frame that is not whole, if
    /// all before it were.
    pub(crate) fn under_way(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing of the next frame has come.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.early.is_none()
    }

    /// Changes the limit of what has yet to come.
    pub(crate) fn set_payload_bytes_max(&mut self, bytes: usize) {
        self.payload_bytes_max = bytes;
        self.laden_bytes_max = bytes;
    }

    /// What has come and was not given out: its bytes, if nothing is attached to them.
    pub(crate) fn unread(&self) -> Option<&[u8]> {
        (self.arrived.is_empty() && self.early.is_none()).then_some(&*self.buffer)
    }

    /// The next whole frame, if its last byte has arrived, with all that belongs to it.
    /// After an error the stream has no meaning any more.
    #[inline]
    pub(crate) fn next_whole(&mut self) -> Result<Option<Frame>, FrameError> {
        while let Some(frame) = self.next_frame()? {
            let is_part = frame.flags & MORE != 0 && frame.kind.carries_payload();
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
        let Some(header) = self.buffer.first_chunk() else {
            // Whatever is attached comes with the first byte of its frame.
            let most = if self.buffer.is_empty() { 0 } else { FRAME_ATTACHED_MAX };
            self.check_arrived(0, most)?;
            return Ok(None);
        };
        let Header { kind, flags, seq, len, attached } = Header::read(header)?;
        let limit = if kind.carries_payload() { self.payload_bytes_max } else { REPORT_BYTES_MAX };
        if len > limit {
            return Err(FrameError::TooLong { size: len, limit });
        }
        let total = HEADER_BYTES + len;
        if self.buffer.len() <= total {
            // There is nothing behind it that more could belong to.
            self.check_arrived(attached.all(), attached.all())?;
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        let arrived = self.take_arrived(attached, len)?;
        let body = self.buffer.take_body(len);
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
}
