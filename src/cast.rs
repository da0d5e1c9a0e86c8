//! Recognising a type among values of any type: `Bytes`, so that long ones need
//! not be copied, and what can be attached. The encoder and the decoder are
//! generic over this: telling types apart that may contain references takes
//! unsafe code, which `sys` has.

use bytes::Bytes;
use serde::de::Visitor;

pub(crate) trait Cast {
    /// `value` itself, if it is a `Bytes`.
    fn as_bytes<T: ?Sized>(value: &T) -> Option<&Bytes>;

    /// `bytes()` as what `V` makes of bytes, if `V` is what `Bytes` itself is
    /// deserialized by. Other visitors may make something else of them, even
    /// where that is a `Bytes`.
    fn from_bytes<'de, V: Visitor<'de>>(bytes: impl FnOnce() -> Option<Bytes>) -> Option<V::Value>;

    /// `value` itself, if it is a `U`.
    fn as_type<T: ?Sized, U: 'static>(value: &T) -> Option<&U>;

    /// `value()` as a `T`, if that is what a `U` is.
    fn from_type<U: 'static, T, E>(
        value: impl FnOnce() -> Option<Result<U, E>>,
    ) -> Option<Result<T, E>>;
}

/// Recognises nothing: everything is copied.
#[derive(Debug)]
pub(crate) enum Copying {}

impl Cast for Copying {
    #[inline]
    fn as_bytes<T: ?Sized>(_value: &T) -> Option<&Bytes> {
        None
    }

    #[inline]
    fn from_bytes<'de, V: Visitor<'de>>(_: impl FnOnce() -> Option<Bytes>) -> Option<V::Value> {
        None
    }

    #[inline]
    fn as_type<T: ?Sized, U: 'static>(_value: &T) -> Option<&U> {
        None
    }

    #[inline]
    fn from_type<U: 'static, T, E>(
        _: impl FnOnce() -> Option<Result<U, E>>,
    ) -> Option<Result<T, E>> {
        None
    }
}
