//! Frames: what messages travel in. Both ends write a [`header`] before each body and
//! split what they receive by a [`FrameReader`]. Knows nothing of what bodies mean: that
//! is `message`.

mod buffer;
pub(crate) mod header;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::BytesMut;

pub(super) use self::header::header;
pub(crate) use self::header::{HEADER_BYTES, put_header};
pub(crate) use self::reader::FrameReader;
use crate::attached::Arrived;

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

    /// Whether it carries one, and thus what may be attached to that.
    pub(crate) fn carries_payload(self) -> bool {
        matches!(self, Kind::Setup | Kind::Run | Kind::Done | Kind::Item)
    }
}

/// One whole frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) seq: u64,
    pub(crate) body: BytesMut,
    pub(crate) arrived: Arrived,
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
