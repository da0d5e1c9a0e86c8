//! What decoding may take, and why it has failed. Charged by `guard`.

use std::fmt::{self, Write};

use serde::de;

use crate::limits;

/// What decoding may still take.
///
/// Heap is counted as the bytes of the values themselves. Spare capacity and
/// the allocator's own bytes come on top, so the truth is within a small
/// factor of the count.
#[derive(Debug)]
pub(crate) struct Budget {
    heap_left: usize,
    heap_limit: usize,
    pub(super) depth_limit: u32,
}

impl Budget {
    /// The budget for all values in a payload of `len` bytes.
    pub(crate) fn for_payload(len: usize) -> Self {
        let heap = len
            .saturating_mul(limits::DECODE_HEAP_PER_BYTE)
            .saturating_add(limits::DECODE_HEAP_BYTES_LEAST);
        Budget { heap_left: heap, heap_limit: heap, depth_limit: limits::DECODE_DEPTH_MAX }
    }

    #[inline]
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeFailure> {
        match self.heap_left.checked_sub(bytes) {
            Some(left) => {
                self.heap_left = left;
                Ok(())
            }
            None => {
                // Serde code that swallows the error must not get further
                // with something smaller.
                self.heap_left = 0;
                Err(DecodeFailure::TooLarge { limit: self.heap_limit })
            }
        }
    }
}

/// Why bytes did not become a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeFailure {
    /// They are not the encoding of such a value.
    Malformed(String),
    /// They nest deeper than any honest value.
    TooDeep { limit: u32 },
    /// The value would take more heap than its encoding justifies.
    TooLarge { limit: usize },
    /// The value ended before they did.
    LeftOver { bytes: usize },
}

impl fmt::Display for DecodeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeFailure::Malformed(text) => write!(f, "malformed payload: {text}"),
            DecodeFailure::TooDeep { limit } => {
                write!(f, "payload nests deeper than the limit of {limit} levels")
            }
            DecodeFailure::TooLarge { limit } => {
                write!(f, "payload decodes to more than its limit of {limit} bytes of memory")
            }
            DecodeFailure::LeftOver { bytes: 1 } => {
                f.write_str("1 byte is left over after the value")
            }
            DecodeFailure::LeftOver { bytes } => {
                write!(f, "{bytes} bytes are left over after the value")
            }
        }
    }
}

impl std::error::Error for DecodeFailure {}

impl de::Error for DecodeFailure {
    #[cold]
    fn custom<T: fmt::Display>(text: T) -> Self {
        DecodeFailure::Malformed(bounded_text(text))
    }
}

impl From<postcard::Error> for DecodeFailure {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        let text = match error {
            postcard::Error::DeserializeUnexpectedEnd => "it ends in the middle of a value",
            postcard::Error::DeserializeBadVarint => "a number is too large for its type",
            postcard::Error::DeserializeBadBool => "a bool is neither 0 nor 1",
            postcard::Error::DeserializeBadChar => "a char is not one",
            postcard::Error::DeserializeBadUtf8 => "a string is not UTF-8",
            postcard::Error::DeserializeBadOption => "an Option is neither 0 nor 1",
            other => return de::Error::custom(other),
        };
        DecodeFailure::Malformed(text.to_owned())
    }
}

/// `text` as a string of at most [`limits::REPORT_TEXT_BYTES_MAX`] bytes: a
/// type's error may quote what the peer sent, however long.
pub(super) fn bounded_text(text: impl fmt::Display) -> String {
    struct Bounded(String);

    impl Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = limits::REPORT_TEXT_BYTES_MAX - self.0.len();
            if part.len() <= room {
                self.0.push_str(part);
                return Ok(());
            }
            let end = (0..=room).rev().find(|&at| part.is_char_boundary(at)).unwrap_or(0);
            self.0.push_str(&part[..end]);
            Err(fmt::Error)
        }
    }

    let mut bounded = Bounded(String::new());
    // The error is how `Bounded` stops early; what it has is the answer.
    let _ = write!(bounded, "{text}");
    bounded.0
}
