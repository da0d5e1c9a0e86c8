//! Whether a type is another one, `Bytes` for example, for types that may contain
//! references and so have no `TypeId` of their own. Called by the encoder and the
//! decoder of payloads.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::cast::Cast;

/// Goes by the type alone.
#[derive(Debug)]
pub(crate) enum Sharing {}

impl Cast for Sharing {
    #[inline]
    fn as_bytes<T: ?Sized>(value: &T) -> Option<&Bytes> {
        Self::as_type::<T, Bytes>(value)
    }

    #[inline]
    fn from_bytes<'de, V: Visitor<'de>>(bytes: impl FnOnce() -> Option<Bytes>) -> Option<V::Value> {
        if !is::<V::Value, Bytes>() || erased_id::<V>() != bytes_visitor() {
            return None;
        }
        into_type(bytes()?)
    }

    #[inline]
    fn as_type<T: ?Sized, U: 'static>(value: &T) -> Option<&U> {
        // The first is known when this is compiled, for most types.
        if size_of_val(value) != size_of::<U>() || !is::<T, U>() {
            return None;
        }
        // SAFETY: `T` is `U`.
        Some(unsafe { &*(&raw const *value).cast::<U>() })
    }

    #[inline]
    fn from_type<U: 'static, T, E>(
        value: impl FnOnce() -> Option<Result<U, E>>,
    ) -> Option<Result<T, E>> {
        if !is::<T, U>() {
            return None;
        }
        match value()? {
            Ok(value) => into_type(value).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

/// Whether both are the same type. `U` is `'static`: it has no lifetime in it
/// that could have been erased.
#[inline]
fn is<T: ?Sized, U: 'static>() -> bool {
    erased_id::<T>() == TypeId::of::<U>()
}

/// `value` as a `T`, if that is what it is.
#[inline]
fn into_type<U: 'static, T>(value: U) -> Option<T> {
    if !is::<T, U>() {
        return None;
    }
    let value = ManuallyDrop::new(value);
    // SAFETY: the two types are the same, and the original is not used again.
    Some(unsafe { mem::transmute_copy::<U, T>(&value) })
}

/// The id that `T` has with all its lifetimes `'static`. Types that differ in
/// nothing else share it.
#[inline]
fn erased_id<T: ?Sized>() -> TypeId {
    trait Identified {
        fn id(&self) -> TypeId
        where
            Self: 'static;
    }

    impl<T: ?Sized> Identified for PhantomData<T> {
        #[inline]
        fn id(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }

    let phantom = PhantomData::<T>;
    let identified: &dyn Identified = &phantom;
    // SAFETY: only the bound of the trait object changes. What is called through
    // it returns a constant, and touches neither `self` nor a `T`.
    let identified = unsafe {
        mem::transmute::<&(dyn Identified + '_), &(dyn Identified + 'static)>(identified)
    };
    identified.id()
}

/// The type of the visitor that `Bytes` is deserialized by, which is private.
#[inline]
fn bytes_visitor() -> TypeId {
    match Bytes::deserialize(Probe) {
        Err(Found(Some(id))) => id,
        Ok(_) | Err(Found(None)) => TypeId::of::<Probe>(),
    }
}

/// Tells who wants to deserialize something from it.
struct Probe;

#[derive(Debug)]
struct Found(Option<TypeId>);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a probe holds no value")
    }
}

impl std::error::Error for Found {}

impl de::Error for Found {
    fn custom<T: fmt::Display>(_text: T) -> Self {
        Found(None)
    }
}

impl<'de> Deserializer<'de> for Probe {
    type Error = Found;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Found> {
        Err(Found(Some(erased_id::<V>())))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde::de::DeserializeSeed;

    use super::*;

    #[test]
    fn bytes_are_told_from_everything_else() {
        let bytes = Bytes::from_static(b"here");
        assert!(std::ptr::eq(Sharing::as_bytes(&bytes).unwrap(), &bytes));
        assert!(Sharing::as_bytes(&[0_u64; 4]).is_none(), "of the same size");
        assert!(Sharing::as_bytes(&&bytes).is_none());
        assert!(Sharing::as_bytes(&Some(bytes.clone())).is_none());
        assert!(Sharing::as_bytes("a text of thirty-two bytes, no..").is_none());
        assert!(Sharing::as_bytes(&bytes[..]).is_none());
        let local = String::from("local");
        let borrowed: (Cow<'_, str>, u64) = (Cow::Borrowed(&local), 1);
        assert_eq!(size_of_val(&borrowed), size_of::<Bytes>());
        assert!(Sharing::as_bytes(&borrowed).is_none());
    }

    /// Offers `Bytes` to whoever asks.
    struct Offer;

    impl<'de> Deserializer<'de> for Offer {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            match Sharing::from_bytes::<V>(|| Some(Bytes::from_static(b"shared"))) {
                Some(value) => Ok(value),
                None => visitor.visit_borrowed_bytes(b"copied"),
            }
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map struct enum
            identifier ignored_any
        }
    }

    #[test]
    fn only_what_bytes_is_deserialized_by_gets_bytes() {
        assert_eq!(Bytes::deserialize(Offer).unwrap(), "shared");
        assert_eq!(PhantomData::<Bytes>.deserialize(Offer).unwrap(), "shared");
        assert_eq!(bytes::BytesMut::deserialize(Offer).unwrap(), "copied"[..]);
        assert_eq!(String::deserialize(Offer).unwrap(), "copied");

        /// Also makes a `Bytes`, and not the one that was sent.
        struct Reversing;

        impl Visitor<'_> for Reversing {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(bytes.iter().rev().copied().collect())
            }
        }

        assert_eq!(Offer.deserialize_byte_buf(Reversing).unwrap(), "deipoc");
    }
}
