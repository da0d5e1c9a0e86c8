//! Values to postcard bytes: the encoder that a deep value cannot hurt. Used by
//! `codec` only.
//!
//! Numbers of up to eight bytes are written by [`varint`], everything else by
//! postcard itself. What is done here is counting levels, with the same rules as
//! [`guard`]: what encodes decodes, as far as depth goes. It takes no memory for
//! more than its limit, and leaves no part of a value behind that it has refused.
//!
//! A type that hands its serializer on to a part of itself, as `Box` and
//! `#[serde(transparent)]` do, shows no level. Where such a type contains
//! itself, there is nothing to count.
//!
//! [`guard`]: super::guard
//! [`varint`]: super::varint

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::ser::{self, Serializer as _};

use super::draft::{Draft, Kept, keep};
use super::{budget, varint};
use crate::attached::{Attached, Passed, Shared};
use crate::cast::{Cast, Copying};
use crate::limits;

/// Appends `value` in postcard form to `out`, at most `limit` bytes of it.
///
/// On failure `out` is as it was. Only a panic in `value`'s own serde code leaves
/// what was written before it.
pub(crate) fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), EncodeFailure> {
    // Nothing will be kept, so this takes no memory.
    encode::<Copying, T>(value, Appending::to((out, &mut Vec::new(), &mut Vec::new()), limit))
}

/// As [`encode_into`], and keeps long `Bytes` in `value` that `C` recognises,
/// without copying them, and attaches what can be. That counts as if its bytes
/// were here.
#[inline(always)]
pub(crate) fn draft<C: Cast, T: Serialize + ?Sized>(
    value: &T,
    out: &mut Draft,
    limit: usize,
) -> Result<(), EncodeFailure> {
    encode::<C, T>(value, Appending::to(out.parts(), limit))
}

#[inline(always)]
fn encode<C: Cast, T: Serialize + ?Sized>(
    value: &T,
    output: Appending<'_>,
) -> Result<(), EncodeFailure> {
    let mut to = postcard::Serializer { output };
    let level =
        Level::<C> { to: &mut to, levels_left: limits::DECODE_DEPTH_MAX, cast: PhantomData };
    let encoded = level.encode(value);
    let output = to.output;
    let failure = match encoded {
        Ok(()) if output.has_room(0) => return Ok(()),
        Ok(()) => EncodeFailure::TooLarge { size: output.size(), limit: output.limit },
        Err(Stop(failure)) => *failure,
    };
    let Appending { out, kept, attached, start, .. } = output;
    take_back(out, kept, attached, start);
    Err(failure)
}

/// Why a value could not be encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EncodeFailure {
    /// It takes `size` bytes, which is more than `limit`.
    TooLarge { size: usize, limit: usize },
    /// It nests deeper than would be decoded.
    TooDeep { limit: u32 },
    /// Its serde code said no, or asked for what postcard cannot express.
    Refused(String),
}

impl fmt::Display for EncodeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeFailure::TooLarge { size, limit } => {
                write!(f, "it takes {size} bytes, over the limit of {limit}")
            }
            EncodeFailure::TooDeep { limit } => {
                write!(f, "it nests deeper than the limit of {limit} levels")
            }
            EncodeFailure::Refused(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for EncodeFailure {}

/// A failure on its way out. One word, because serde code returns it for every
/// number and, in debug builds, keeps room for one per field on the stack.
#[derive(Debug)]
struct Stop(Box<EncodeFailure>);

impl Stop {
    #[cold]
    fn too_deep() -> Self {
        Stop(Box::new(EncodeFailure::TooDeep { limit: limits::DECODE_DEPTH_MAX }))
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Stop {}

impl ser::Error for Stop {
    #[cold]
    fn custom<T: fmt::Display>(text: T) -> Self {
        Stop(Box::new(EncodeFailure::Refused(budget::bounded_text(text))))
    }
}

impl From<postcard::Error> for Stop {
    #[cold]
    fn from(error: postcard::Error) -> Self {
        let text = match error {
            postcard::Error::CollectStrError => "its Display implementation returned an error",
            postcard::Error::SerializeSeqLengthUnknown => {
                "it holds a sequence or map whose length is not known beforehand"
            }
            other => return ser::Error::custom(other),
        };
        ser::Error::custom(text)
    }
}

/// Where one value is encoded: the serializer, for it and for its parts.
struct Level<'s, 'o, C> {
    to: &'s mut postcard::Serializer<Appending<'o>>,
    levels_left: u32,
    cast: PhantomData<C>,
}

impl<C: Cast> Level<'_, '_, C> {
    /// Writes `value`, or keeps or attaches it.
    #[inline(always)]
    fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Stop> {
        if let Some(memory) = C::as_type::<T, Shared>(value).filter(|one| one.len() > 0) {
            self.to.serialize_u64(memory.len() as u64)?;
            let index = self.to.output.attach_memory(memory)?;
            return Ok(self.to.serialize_u64(index as u64)?);
        }
        if let Some(descriptor) = C::as_type::<T, Passed>(value) {
            let index = self.to.output.attach_descriptor(descriptor)?;
            return Ok(self.to.serialize_u64(index as u64)?);
        }
        match C::as_bytes(value) {
            Some(bytes) if bytes.len() >= limits::KEEP_BYTES_LEAST => {
                self.to.serialize_u64(bytes.len() as u64)?;
                self.to.output.keep(bytes);
                Ok(())
            }
            _ => value.serialize(self),
        }
    }

    /// Goes one level down, wherever the decoder does.
    #[inline]
    fn enter(self) -> Result<Self, Stop> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Level { to: self.to, levels_left, cast: PhantomData }),
            None => Err(Stop::too_deep()),
        }
    }

    /// Goes one level down into a variant of an enum.
    #[inline]
    fn enter_variant(self, index: u32) -> Result<Self, Stop> {
        let level = self.enter()?;
        level.to.serialize_u32(index)?;
        Ok(level)
    }
}

#[inline]
fn zigzag(value: impl Into<i64>) -> u64 {
    varint::zigzag(value.into())
}

/// Lets postcard write each kind of value that has no parts.
macro_rules! scalars {
    ($($serialize:ident, $scalar:ty;)*) => {$(
        #[inline]
        fn $serialize(self, value: $scalar) -> Result<(), Stop> {
            Ok(self.to.$serialize(value)?)
        }
    )*};
}

/// Writes each kind of number that postcard writes as a varint.
macro_rules! varints {
    ($($serialize:ident, $number:ty, $plain:expr;)*) => {$(
        #[inline]
        fn $serialize(self, value: $number) -> Result<(), Stop> {
            self.to.output.push_varint($plain(value));
            Ok(())
        }
    )*};
}

impl<C: Cast> ser::Serializer for Level<'_, '_, C> {
    type Ok = ();
    type Error = Stop;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    scalars! {
        serialize_bool, bool;
        serialize_i8, i8;
        serialize_i128, i128;
        serialize_u8, u8;
        serialize_u128, u128;
        serialize_f32, f32;
        serialize_f64, f64;
        serialize_char, char;
        serialize_str, &str;
        serialize_bytes, &[u8];
    }

    varints! {
        serialize_u16, u16, u64::from;
        serialize_u32, u32, u64::from;
        serialize_u64, u64, u64::from;
        serialize_i16, i16, zigzag;
        serialize_i32, i32, zigzag;
        serialize_i64, i64, zigzag;
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Stop> {
        Ok(self.to.collect_str(value)?)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Stop> {
        Ok(self.enter()?.to.serialize_none()?)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Stop> {
        let level = self.enter()?;
        level.to.serialize_u8(1)?;
        level.encode(value)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Stop> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Stop> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), Stop> {
        self.enter_variant(index)?;
        Ok(())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        self.enter()?.encode(value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        self.enter_variant(index)?.encode(value)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Stop> {
        let level = self.enter()?;
        level.to.serialize_seq(len)?;
        Ok(level)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self, Stop> {
        let level = self.enter()?;
        level.to.serialize_map(len)?;
        Ok(level)
    }

    #[inline]
    fn serialize_tuple(self, _len: usize) -> Result<Self, Stop> {
        self.enter()
    }

    #[inline]
    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self, Stop> {
        self.enter()
    }

    #[inline]
    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self, Stop> {
        self.enter()
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, Stop> {
        self.enter_variant(index)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, Stop> {
        self.enter_variant(index)
    }
}

/// Writes parts one behind the other: postcard has nothing between them.
macro_rules! parts {
    ($($Parts:ident: $($part:ident($($key:ty)?)),+;)*) => {$(
        impl<C: Cast> ser::$Parts for Level<'_, '_, C> {
            type Ok = ();
            type Error = Stop;

            $(
                #[inline]
                fn $part<T: Serialize + ?Sized>(
                    &mut self,
                    $(_key: $key,)?
                    value: &T,
                ) -> Result<(), Stop> {
                    let level = Level::<C> {
                        to: self.to,
                        levels_left: self.levels_left,
                        cast: PhantomData,
                    };
                    level.encode(value)
                }
            )+

            #[inline]
            fn end(self) -> Result<(), Stop> {
                Ok(())
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(&'static str);
    SerializeStructVariant: serialize_field(&'static str);
}

/// Writes behind what `out` already holds. Past the limit it only counts, so
/// that the error can tell the whole size without the memory for it.
///
/// Numbers, of which there are most, look at the limit only where there is no
/// room left: it is there to spare memory, and that is spent already.
struct Appending<'a> {
    out: &'a mut Vec<u8>,
    kept: &'a mut Vec<Kept>,
    attached: &'a mut Vec<Attached>,
    /// Lengths of all three before the first byte.
    start: (usize, usize, usize),
    /// Bytes of the value that are not in `out`: kept, attached, or only counted.
    beside: usize,
    limit: usize,
}

impl<'a> Appending<'a> {
    #[inline]
    fn to(
        (out, kept, attached): (&'a mut Vec<u8>, &'a mut Vec<Kept>, &'a mut Vec<Attached>),
        limit: usize,
    ) -> Self {
        let start = (out.len(), kept.len(), attached.len());
        Appending { out, kept, attached, start, beside: 0, limit }
    }

    /// Bytes of the value so far, stored or not.
    #[inline]
    fn size(&self) -> usize {
        (self.out.len() - self.start.0).saturating_add(self.beside)
    }

    /// Whether so many more bytes are within the limit.
    #[inline]
    fn has_room(&self, bytes: usize) -> bool {
        self.size().saturating_add(bytes) <= self.limit
    }

    fn keep(&mut self, bytes: &Bytes) {
        if self.has_room(bytes.len()) {
            keep(self.kept, self.out.len(), bytes.clone());
        }
        self.beside = self.beside.saturating_add(bytes.len());
    }

    /// Returns where among all memory that is attached this is. What is there already
    /// is not counted again.
    fn attach_memory(&mut self, memory: &Shared) -> Result<usize, Stop> {
        let mut known = self.attached.iter().filter_map(Attached::memory);
        if let Some(index) = known.position(|known| known.is(memory)) {
            return Ok(index);
        }
        self.beside = self.beside.saturating_add(memory.len());
        let index = self.attached.iter().filter_map(Attached::memory).count();
        self.attach(Attached::Memory(memory.clone()))?;
        Ok(index)
    }

    /// Returns where among all descriptors that are attached this is. Each is one of
    /// its own: whoever receives it may close it.
    fn attach_descriptor(&mut self, descriptor: &Passed) -> Result<usize, Stop> {
        let index = self.attached.iter().filter_map(Attached::descriptor).count();
        self.attach(Attached::Descriptor(descriptor.clone()))?;
        Ok(index)
    }

    fn attach(&mut self, attached: Attached) -> Result<(), Stop> {
        if self.attached.len() - self.start.2 == limits::ATTACHED_MAX {
            return Err(ser::Error::custom(format_args!(
                "it holds more than the {} descriptors and pieces of shared memory that go with \
                 one value",
                limits::ATTACHED_MAX
            )));
        }
        self.attached.push(attached);
        Ok(())
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        if self.has_room(bytes.len()) {
            self.out.extend_from_slice(bytes);
        } else {
            self.beside = self.beside.saturating_add(bytes.len());
        }
    }

    /// Appends a number.
    #[inline]
    fn push_varint(&mut self, value: u64) {
        match varint::pack(value) {
            // The length is not known to the compiler, but eight bytes and a
            // shorter length are two stores.
            Some((bytes, len)) if self.out.capacity() - self.out.len() >= bytes.len() => {
                let end = self.out.len() + len;
                self.out.extend_from_slice(&bytes);
                self.out.truncate(end);
            }
            _ => self.beside = push_slowly(self.out, self.start.0, self.beside, self.limit, value),
        }
    }
}

/// Leaves nothing of a value behind. A function of parts, as is the next.
#[cold]
fn take_back(
    out: &mut Vec<u8>,
    kept: &mut Vec<Kept>,
    attached: &mut Vec<Attached>,
    start: (usize, usize, usize),
) {
    out.truncate(start.0);
    kept.truncate(start.1);
    attached.truncate(start.2);
}

/// Appends a number that is long, or for which there is no room yet. Returns what
/// is `beside` then. A function of parts, so that the whole, which is the same for
/// most of many values, need not be in memory for the sake of the few.
#[cold]
fn push_slowly(out: &mut Vec<u8>, start: usize, beside: usize, limit: usize, value: u64) -> usize {
    let (bytes, len) = varint::pack_long(value);
    if (out.len() - start).saturating_add(beside).saturating_add(len) > limit {
        return beside.saturating_add(len);
    }
    out.extend_from_slice(&bytes[..len]);
    beside
}

impl Flavor for Appending<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.push(&[byte]);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.push(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
