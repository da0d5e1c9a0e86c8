//! The decoder that hostile bytes cannot hurt: postcard's format, read under a
//! budget of depth and heap. Used by `codec` only.
//!
//! Numbers of up to eight bytes are read by [`varint`], others, strings and
//! lengths by postcard itself. What is done here is everything that nests or
//! repeats, since that is where a few bytes can ask for a deep stack or much
//! memory. It never allocates on its own account, and never lets a type allocate
//! for elements that were not paid for.
//!
//! [`varint`]: super::varint

use std::marker::PhantomData;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

use super::budget::{Budget, DecodeFailure};
use super::draft::{Whole, shared};
use super::varint;
use crate::attached::{Passed, Shared};
use crate::cast::Cast;
use crate::limits;

/// Bytes being decoded, and the budget for what they become.
pub(super) struct Guard<'de, 'b, C> {
    rest: &'de [u8],
    budget: &'b mut Budget,
    /// What `rest` is part of: long `Bytes` share it.
    whole: Whole<'b>,
    cast: PhantomData<C>,
}

impl<'de, 'b, C: Cast> Guard<'de, 'b, C> {
    #[inline]
    pub(super) fn new(bytes: &'de [u8], whole: Whole<'b>, budget: &'b mut Budget) -> Self {
        Guard { rest: bytes, budget, whole, cast: PhantomData }
    }

    /// Where a whole value of type `T` is decoded.
    #[inline]
    pub(super) fn place_for<T>(&mut self) -> Place<'_, 'de, 'b, C> {
        let levels_left = self.budget.depth_limit;
        Place { guard: self, room: size_of::<T>(), levels_left }
    }

    /// What has not been decoded yet.
    #[inline]
    pub(super) fn rest(&self) -> &'de [u8] {
        self.rest
    }

    /// Reads a value that neither nests nor repeats.
    #[inline]
    fn take<T: Deserialize<'de>>(&mut self) -> Result<T, DecodeFailure> {
        let (value, rest) = postcard::take_from_bytes(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    /// Reads a varint if it takes at most `most` bytes, of which any are a
    /// number of the type that is wanted.
    #[inline]
    fn take_varint(&mut self, most: usize) -> Option<u64> {
        let (value, len) = varint::unpack(*self.rest.first_chunk()?)?;
        if len > most {
            return None;
        }
        self.rest = &self.rest[len..];
        Some(value)
    }

    /// As [`take`](Self::take), where it is seldom called for: small beside what
    /// is done otherwise, and by value, so that `rest` may be in a register there.
    #[inline]
    fn take_long<T: Deserialize<'de>>(&mut self) -> Result<T, DecodeFailure> {
        #[cold]
        fn take<'de, T: Deserialize<'de>>(
            bytes: &'de [u8],
        ) -> Result<(T, &'de [u8]), DecodeFailure> {
            Ok(postcard::take_from_bytes(bytes)?)
        }

        let (value, rest) = take(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    /// `bytes` without copying them, if they are worth it.
    fn share(&self, bytes: &[u8]) -> Option<Bytes> {
        let waste_max = bytes.len().saturating_mul(limits::SHARED_WASTE_MAX);
        let worth = bytes.len() >= limits::KEEP_BYTES_LEAST && self.whole.bytes.len() <= waste_max;
        if worth { shared(self.whole.bytes, bytes) } else { None }
    }

    /// Reads which memory beside the payload a value is. If nothing is there, values
    /// are in the payload itself.
    fn take_memory(&mut self) -> Option<Result<Shared, DecodeFailure>> {
        (!self.whole.arrived.is_none()).then(|| match self.take::<usize>()? {
            0 => Ok(Shared::empty()),
            len => self.take_memory_of(len),
        })
    }

    fn take_memory_of(&mut self, len: usize) -> Result<Shared, DecodeFailure> {
        let index = self.take::<usize>()?;
        let Some(memory) = self.whole.arrived.memory(index) else {
            return Err(self.missing("it names memory that is not attached"));
        };
        if memory.len() != len {
            return Err(de::Error::custom("attached memory has another length"));
        }
        memory.open().map_err(|error| {
            <DecodeFailure as de::Error>::custom(format_args!(
                "attached memory cannot be mapped: {error}"
            ))
        })?;
        Ok(memory.clone())
    }

    /// Reads which descriptor beside the payload a value is.
    fn take_descriptor(&mut self) -> Result<Passed, DecodeFailure> {
        let index = self.take::<usize>()?;
        match self.whole.arrived.descriptor(index) {
            Some(descriptor) => Ok(descriptor.clone()),
            None => Err(self.missing("it names a descriptor that is not attached")),
        }
    }

    /// What is named and is not there: for want of room, or because it never was.
    fn missing(&self, lie: &str) -> DecodeFailure {
        de::Error::custom(match self.whole.arrived.is_short() {
            true => {
                "its descriptor could not be received: too many files are open, or too many \
                 descriptors wait to be taken"
            }
            false => lie,
        })
    }

    /// How many of `len` announced elements a type may make room for at once.
    ///
    /// The size of an element is not known when a type asks, and some types
    /// believe every hint, so this is far less than any budget. All but the
    /// first few thousand elements are paid for before there is room for them.
    #[inline]
    fn hint(&self, len: usize) -> Option<usize> {
        Some(len.min(self.rest.len()).min(limits::DECODE_HINT_ELEMENTS_MAX))
    }
}

/// Where one value is decoded: the deserializer.
///
/// It knows how many bytes its owner already has for the value, inside a
/// struct, an element of a `Vec` or the like. A value larger than that must lie
/// behind a `Box`, which serde does not show, and is charged for.
pub(super) struct Place<'g, 'de, 'b, C> {
    guard: &'g mut Guard<'de, 'b, C>,
    room: usize,
    levels_left: u32,
}

impl<'g, 'de, 'b, C: Cast> Place<'g, 'de, 'b, C> {
    /// Goes one level down, into a value of type `T`.
    #[inline]
    fn enter<T>(self) -> Result<Self, DecodeFailure> {
        if size_of::<T>() > self.room {
            self.guard.budget.charge(size_of::<T>())?;
        }
        // The decoder's frames hold the value several times over: a level of
        // some KiB counts for more, so that a 2 MiB stack holds them all.
        let levels = 1
            + (size_of::<T>() / limits::DECODE_LEVEL_BYTES).min(limits::DECODE_LEVELS_EACH_MAX)
                as u32;
        match self.levels_left.checked_sub(levels) {
            Some(levels_left) => Ok(Place { guard: self.guard, room: size_of::<T>(), levels_left }),
            None => Err(DecodeFailure::TooDeep { limit: self.guard.budget.depth_limit }),
        }
    }

    #[inline]
    fn fields(self, count: usize) -> Fields<'g, 'de, 'b, C> {
        Fields { guard: self.guard, levels_left: self.levels_left, left: count }
    }

    #[inline]
    fn elements(self) -> Result<Elements<'g, 'de, 'b, C>, DecodeFailure> {
        let left = self.guard.take()?;
        Ok(Elements { guard: self.guard, levels_left: self.levels_left, left })
    }
}

/// Reads each kind of scalar as postcard does and hands it over.
macro_rules! scalars {
    ($($deserialize:ident, $visit:ident, $scalar:ty;)*) => {$(
        #[inline]
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
            visitor.$visit(self.guard.take::<$scalar>()?)
        }
    )*};
}

/// Reads each kind of number that postcard writes as a varint. With the bytes
/// that are given for it, none is too large.
macro_rules! varints {
    ($($deserialize:ident, $visit:ident, $number:ty, $bytes:literal, $from:expr;)*) => {$(
        #[inline]
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
            visitor.$visit(match self.guard.take_varint($bytes) {
                Some(plain) => $from(plain) as $number,
                None => self.guard.take_long::<$number>()?,
            })
        }
    )*};
}

/// Refuses what only a self-describing format can do.
macro_rules! refused {
    ($($deserialize:ident)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, DecodeFailure> {
            Err(de::Error::custom("its type needs a self-describing format, which postcard is not"))
        }
    )*};
}

impl<'de, C: Cast> de::Deserializer<'de> for Place<'_, 'de, '_, C> {
    type Error = DecodeFailure;

    scalars! {
        deserialize_bool, visit_bool, bool;
        deserialize_i8, visit_i8, i8;
        deserialize_i128, visit_i128, i128;
        deserialize_u8, visit_u8, u8;
        deserialize_u128, visit_u128, u128;
        deserialize_f32, visit_f32, f32;
        deserialize_f64, visit_f64, f64;
        deserialize_char, visit_char, char;
    }

    varints! {
        deserialize_u16, visit_u16, u16, 2, u64::from;
        deserialize_u32, visit_u32, u32, 4, u64::from;
        deserialize_u64, visit_u64, u64, 8, u64::from;
        deserialize_i16, visit_i16, i16, 2, varint::unzigzag;
        deserialize_i32, visit_i32, i32, 4, varint::unzigzag;
        deserialize_i64, visit_i64, i64, 8, varint::unzigzag;
    }

    refused! { deserialize_any deserialize_identifier deserialize_ignored_any }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        let text = self.guard.take::<&'de str>()?;
        self.guard.budget.charge(text.len())?;
        visitor.visit_borrowed_str(text)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        let bytes = self.guard.take::<&'de [u8]>()?;
        self.guard.budget.charge(bytes.len())?;
        visitor.visit_borrowed_bytes(bytes)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        if let Some(value) = C::from_type(|| self.guard.take_memory()) {
            return value;
        }
        if let Some(value) = C::from_type(|| Some(self.guard.take_descriptor())) {
            return value;
        }
        let bytes = self.guard.take::<&'de [u8]>()?;
        // What is shared is paid for as well: it may be kept for as long.
        self.guard.budget.charge(bytes.len())?;
        match C::from_bytes::<V>(|| self.guard.share(bytes)) {
            Some(value) => Ok(value),
            None => visitor.visit_borrowed_bytes(bytes),
        }
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        let place = self.enter::<V::Value>()?;
        match place.guard.take::<u8>()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(place),
            _ => Err(postcard::Error::DeserializeBadOption.into()),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        visitor.visit_newtype_struct(self.enter::<V::Value>()?)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        visitor.visit_seq(self.enter::<V::Value>()?.elements()?)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeFailure> {
        visitor.visit_map(self.enter::<V::Value>()?.elements()?)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        visitor.visit_seq(self.enter::<V::Value>()?.fields(len))
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        self.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        visitor.visit_enum(self.enter::<V::Value>()?)
    }
}

impl<'de, C: Cast> de::EnumAccess<'de> for Place<'_, 'de, '_, C> {
    type Error = DecodeFailure;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), DecodeFailure> {
        let index: U32Deserializer<DecodeFailure> = self.guard.take::<u32>()?.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de, C: Cast> de::VariantAccess<'de> for Place<'_, 'de, '_, C> {
    type Error = DecodeFailure;

    #[inline]
    fn unit_variant(self) -> Result<(), DecodeFailure> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, DecodeFailure> {
        seed.deserialize(Place { room: size_of::<S::Value>(), ..self })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        visitor.visit_seq(self.fields(len))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeFailure> {
        visitor.visit_seq(self.fields(fields.len()))
    }
}

/// Parts whose number the type fixes: they lie inside their owner, so they
/// cost nothing beyond it.
struct Fields<'g, 'de, 'b, C> {
    guard: &'g mut Guard<'de, 'b, C>,
    levels_left: u32,
    left: usize,
}

impl<'de, C: Cast> de::SeqAccess<'de> for Fields<'_, 'de, '_, C> {
    type Error = DecodeFailure;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeFailure> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        let place =
            Place { guard: self.guard, room: size_of::<S::Value>(), levels_left: self.levels_left };
        seed.deserialize(place).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// Parts whose number the peer chose: each is paid for before it is decoded.
struct Elements<'g, 'de, 'b, C> {
    guard: &'g mut Guard<'de, 'b, C>,
    levels_left: u32,
    left: usize,
}

impl<'de, C: Cast> Elements<'_, 'de, '_, C> {
    #[inline]
    fn decode<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeFailure> {
        let bytes = match size_of::<S::Value>() {
            // Or ten bytes could ask for 2^64 turns of this.
            0 => limits::DECODE_UNIT_BYTES,
            size => size,
        };
        self.guard.budget.charge(bytes)?;
        seed.deserialize(Place {
            guard: self.guard,
            room: size_of::<S::Value>(),
            levels_left: self.levels_left,
        })
    }

    /// The next element, or the next key, if there is one.
    #[inline]
    fn next<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeFailure> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        self.decode(seed).map(Some)
    }
}

impl<'de, C: Cast> de::SeqAccess<'de> for Elements<'_, 'de, '_, C> {
    type Error = DecodeFailure;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeFailure> {
        self.next(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.guard.hint(self.left)
    }
}

impl<'de, C: Cast> de::MapAccess<'de> for Elements<'_, 'de, '_, C> {
    type Error = DecodeFailure;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeFailure> {
        self.next(seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, DecodeFailure> {
        self.decode(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.guard.hint(self.left)
    }
}
