//! The answers of a chunk, as the payload of its `Done`. Written by the worker,
//! read by `map` and `imap`.
//!
//! ```text
//!  u32 le                                  u32 le
//! ┌────────┬─────────────┬────────────────┬────────┬─────────────┬───
//! │ values │ values …    │ Failure        │ values │ values …    │ …
//! └────────┴─────────────┴────────────────┴────────┴─────────────┴───
//!            of so many    of the one
//!            calls         behind them
//! ```
//!
//! How many answers there are in all is a field of the `Done`.
//!
//! In a chunk whose calls have fates of their own each value has its length before
//! it, so that one which cannot be read does not hide those behind it.

use super::codec;
use super::draft::{Draft, Mark};
use super::message::Failure;

/// Values that follow each other, while they are written.
#[derive(Debug)]
pub(crate) struct Values {
    /// Where their number belongs.
    at: usize,
    pub(crate) count: u32,
}

const COUNT_BYTES: usize = size_of::<u32>();

/// Of the length of a value.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Begins a payload.
pub(crate) fn begin(out: &mut Vec<u8>) -> Values {
    let at = out.len();
    out.extend_from_slice(&[0; COUNT_BYTES]);
    Values { at, count: 0 }
}

/// Appends a failure behind `values`, and begins those behind it.
pub(crate) fn fail(out: &mut Vec<u8>, values: Values, failure: &Failure) -> Values {
    end(out, values);
    codec::encode_into(failure, out, usize::MAX)
        .unwrap_or_else(|error| unreachable!("plain data encodes: {error:?}"));
    begin(out)
}

/// Ends a payload.
pub(crate) fn end(out: &mut [u8], values: Values) {
    let Values { at, count } = values;
    out[at..at + COUNT_BYTES].copy_from_slice(&count.to_le_bytes());
}

/// Begins a value with a length.
#[inline]
pub(crate) fn begin_sized(out: &mut Draft) {
    out.tail().extend_from_slice(&[0; LENGTH_BYTES]);
}

/// Ends a value that was begun at `mark`.
#[inline]
pub(crate) fn end_sized(out: &mut Draft, mark: Mark) {
    let length = (out.len_since(mark) - LENGTH_BYTES) as u32;
    out.tail_since(mark)[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// The next value, at the front of `bytes`, which moves on behind it.
pub(crate) fn take_sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *bytes = rest;
    Some(value)
}

/// A payload of `count` values and no failure.
pub(crate) fn of_values(count: u32, values: &[u8]) -> Vec<u8> {
    [&count.to_le_bytes()[..], values].concat()
}

/// How many values follow, at the front of `bytes`, which moves on to them.
pub(crate) fn take_count(bytes: &mut &[u8]) -> Option<u32> {
    let (count, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*count))
}
