//! Values to postcard bytes: the encoder that a deep value cannot hurt. Used by
//! `codec` only.
//!
//! Numbers, strings and lengths are written by postcard itself. What is done
//! here is counting levels, with the same rules as [`guard`]: what encodes
//! decodes, as far as depth goes. It never stores more than its limit, and
//! never leaves part of a value behind.
//!
//! A type that hands its serializer on to a part of itself, as `Box` and
//! `#[serde(transparent)]` do, shows no level. Where such a type contains
//! itself, there is nothing to count.
//!
//! [`guard`]: super::guard

use std::fmt;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::ser::{self, Serializer as _};

use super::guard;
use crate::limits;

/// Appends `value` in postcard form to `out`, at most `limit` bytes of it.
///
/// On failure, a panic in `value`'s own serde code included, `out` is as it
/// was.
pub(crate) fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), EncodeFailure> {
    match encode(value, Appending::to(out, limit)) {
        Ok(size) if size <= limit => Ok(()),
        Ok(size) => Err(EncodeFailure::TooLarge { size, limit }),
        Err(Stop(failure)) => Err(*failure),
    }
}

fn encode<T: Serialize + ?Sized>(value: &T, output: Appending<'_>) -> Result<usize, Stop> {
    let mut to = postcard::Serializer { output };
    value.serialize(Level { to: &mut to, levels_left: limits::DECODE_DEPTH_MAX })?;
    Ok(to.output.finalize()?)
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
        Stop(Box::new(EncodeFailure::Refused(guard::bounded_text(text))))
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
struct Level<'s, 'o> {
    to: &'s mut postcard::Serializer<Appending<'o>>,
    levels_left: u32,
}

impl Level<'_, '_> {
    /// Goes one level down, wherever the decoder does.
    #[inline]
    fn enter(self) -> Result<Self, Stop> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Level { to: self.to, levels_left }),
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

/// Lets postcard write each kind of value that has no parts.
macro_rules! scalars {
    ($($serialize:ident, $scalar:ty;)*) => {$(
        #[inline]
        fn $serialize(self, value: $scalar) -> Result<(), Stop> {
            Ok(self.to.$serialize(value)?)
        }
    )*};
}

impl ser::Serializer for Level<'_, '_> {
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
        serialize_i16, i16;
        serialize_i32, i32;
        serialize_i64, i64;
        serialize_i128, i128;
        serialize_u8, u8;
        serialize_u16, u16;
        serialize_u32, u32;
        serialize_u64, u64;
        serialize_u128, u128;
        serialize_f32, f32;
        serialize_f64, f64;
        serialize_char, char;
        serialize_str, &str;
        serialize_bytes, &[u8];
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
        value.serialize(level)
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
        value.serialize(self.enter()?)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), Stop> {
        value.serialize(self.enter_variant(index)?)
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
        impl ser::$Parts for Level<'_, '_> {
            type Ok = ();
            type Error = Stop;

            $(
                #[inline]
                fn $part<T: Serialize + ?Sized>(
                    &mut self,
                    $(_key: $key,)?
                    value: &T,
                ) -> Result<(), Stop> {
                    value.serialize(Level { to: self.to, levels_left: self.levels_left })
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
struct Appending<'a> {
    out: &'a mut Vec<u8>,
    /// Length of `out` before the first byte.
    start: usize,
    /// Bytes of the value so far, stored or not.
    size: usize,
    limit: usize,
    /// Set at the end of a value that fits. Until then, dropping takes back
    /// what was written.
    is_complete: bool,
}

impl<'a> Appending<'a> {
    fn to(out: &'a mut Vec<u8>, limit: usize) -> Self {
        let start = out.len();
        Appending { out, start, size: 0, limit, is_complete: false }
    }
}

impl Flavor for Appending<'_> {
    type Output = usize;

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.size = self.size.saturating_add(1);
        if self.size <= self.limit {
            self.out.push(byte);
        }
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.size = self.size.saturating_add(bytes.len());
        if self.size <= self.limit {
            self.out.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<usize> {
        self.is_complete = self.size <= self.limit;
        Ok(self.size)
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if !self.is_complete {
            self.out.truncate(self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::proto::codec::{DecodeFailure, decode};

    /// Whatever nests, one or two levels each.
    #[derive(Serialize, Deserialize)]
    enum Deep {
        End,
        Boxed(Box<Deep>),
        Pair(u8, Box<Deep>),
        Named { before: u8, next: Box<Deep> },
        Option(Option<Box<Deep>>),
        Newtype(Newtype),
        Struct(Struct),
        TupleStruct(TupleStruct),
        Tuple(Box<(u8, Deep)>),
        Seq(Vec<Deep>),
        Map(BTreeMap<u8, Deep>),
    }

    #[derive(Serialize, Deserialize)]
    struct Newtype(Box<Deep>);

    #[derive(Serialize, Deserialize)]
    struct Struct {
        next: Box<Deep>,
        after: u8,
    }

    #[derive(Serialize, Deserialize)]
    struct TupleStruct(Box<Deep>, u8);

    type Wrap = fn(Deep) -> Deep;

    const ONE_LEVEL: [Wrap; 3] = [
        |next| Deep::Boxed(next.into()),
        |next| Deep::Pair(1, next.into()),
        |next| Deep::Named { before: 1, next: next.into() },
    ];

    const TWO_LEVELS: [Wrap; 7] = [
        |next| Deep::Option(Some(next.into())),
        |next| Deep::Newtype(Newtype(next.into())),
        |next| Deep::Struct(Struct { next: next.into(), after: 1 }),
        |next| Deep::TupleStruct(TupleStruct(next.into(), 1)),
        |next| Deep::Tuple((1, next).into()),
        |next| Deep::Seq(vec![next]),
        |next| Deep::Map([(1, next)].into()),
    ];

    fn boxes(levels: u32) -> Deep {
        (1..levels).fold(Deep::End, |next, _| Deep::Boxed(next.into()))
    }

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Options(Option<Box<Options>>);

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Seqs(Vec<Seqs>);

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Maps(BTreeMap<u8, Maps>);

    /// Both directions take 128 levels, and neither takes more.
    #[track_caller]
    fn is_limited_both_ways<T: Serialize + DeserializeOwned>(levels: u32, value: &T) {
        let limit = limits::DECODE_DEPTH_MAX;
        assert_eq!(limit, 128);
        let bytes = postcard::to_stdvec(value).unwrap();
        let mut out = b"before".to_vec();
        let encoded = encode_into(value, &mut out, usize::MAX);
        let decoded = decode::<T>(&bytes).map(|_| ());
        if levels <= limit {
            assert_eq!((encoded, decoded), (Ok(()), Ok(())), "{levels} levels");
            assert_eq!(out[6..], bytes);
        } else {
            assert_eq!(encoded, Err(EncodeFailure::TooDeep { limit }), "{levels} levels");
            assert_eq!(decoded, Err(DecodeFailure::TooDeep { limit }), "{levels} levels");
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn what_encodes_decodes_and_nothing_deeper() {
        for levels in 126..=130 {
            for wrap in ONE_LEVEL {
                is_limited_both_ways(levels, &(1..levels).fold(Deep::End, |next, _| wrap(next)));
            }
            for wrap in TWO_LEVELS {
                // An even number of levels takes one more than `End`.
                let innermost = boxes(2 - levels % 2);
                let value = (0..(levels - 1) / 2).fold(innermost, |next, _| wrap(next));
                is_limited_both_ways(levels, &value);
            }
            // Nothing, or nothing more, is a level like the others.
            let options = (1..levels).fold(Options(None), |next, _| Options(Some(Box::new(next))));
            is_limited_both_ways(levels, &options);
            is_limited_both_ways(
                levels,
                &(1..levels).fold(Seqs(vec![]), |next, _| Seqs(vec![next])),
            );
            let maps = (1..levels).fold(Maps([].into()), |next, _| Maps([(1, next)].into()));
            is_limited_both_ways(levels, &maps);
        }
    }

    #[test]
    fn levels_beside_each_other_do_not_add_up() {
        let value: Vec<Deep> = (0..1000).map(|_| boxes(127)).collect();
        is_limited_both_ways(128, &value);
        let value: Vec<Deep> = (0..3).map(|_| boxes(128)).collect();
        is_limited_both_ways(129, &value);
    }

    #[test]
    fn numbers_texts_and_bytes_are_no_level() {
        #[derive(Serialize, Deserialize)]
        enum Ends {
            End((), f64, String, bytes::Bytes, char),
            Next(Box<Ends>),
        }

        let end = || Ends::End((), 1.0, "a".into(), vec![1].into(), 'b');
        for levels in 127..=129 {
            is_limited_both_ways(
                levels,
                &(1..levels).fold(end(), |next, _| Ends::Next(next.into())),
            );
        }
    }

    #[test]
    fn nesting_stops_before_the_stack_does() {
        let deep = boxes(1_000_000);
        std::thread::scope(|scope| {
            let encode = || encode_into(&deep, &mut Vec::new(), usize::MAX);
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            let result = thread.spawn_scoped(scope, encode).unwrap().join().unwrap();
            assert_eq!(result, Err(EncodeFailure::TooDeep { limit: limits::DECODE_DEPTH_MAX }));
        });
        // Dropping it would need the stack that encoding does not.
        std::mem::forget(deep);
    }

    /// Says why it cannot be encoded.
    struct Refuses(String);

    impl Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
            Err(ser::Error::custom(format_args!("no: {}", self.0)))
        }
    }

    #[test]
    fn a_types_own_error_is_kept_but_not_at_any_length() {
        let refusal = |text: &str| {
            let value = (1_u8, vec![Some(Refuses(text.to_owned()))]);
            encode_into(&value, &mut Vec::new(), 1 << 20).unwrap_err()
        };
        assert_eq!(refusal("too blue"), EncodeFailure::Refused("no: too blue".to_owned()));
        assert_eq!(refusal("too blue").to_string(), "no: too blue");
        let EncodeFailure::Refused(text) = refusal(&"é".repeat(1 << 20)) else {
            panic!("it is a refusal");
        };
        assert_eq!(text.len(), limits::REPORT_TEXT_BYTES_MAX);
    }

    #[test]
    fn failures_read_well() {
        struct Unprintable;

        impl fmt::Display for Unprintable {
            fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }

        impl Serialize for Unprintable {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        struct Endless;

        impl Serialize for Endless {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                ser::SerializeSeq::end(serializer.serialize_seq(None)?)
            }
        }

        fn text(value: &impl Serialize) -> String {
            encode_into(value, &mut Vec::new(), 3).unwrap_err().to_string()
        }

        assert_eq!(text(&[1_u8; 5]), "it takes 5 bytes, over the limit of 3");
        assert_eq!(text(&boxes(129)), "it nests deeper than the limit of 128 levels");
        assert_eq!(text(&Unprintable), "its Display implementation returned an error");
        assert_eq!(
            text(&Endless),
            "it holds a sequence or map whose length is not known beforehand"
        );
    }

    #[test]
    fn refusals_and_panics_leave_nothing_behind() {
        struct Panics;

        impl Serialize for Panics {
            fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
                panic!("no")
            }
        }

        let mut out = vec![9];
        let refusal = encode_into(&(1_u8, Refuses("really".into())), &mut out, 100);
        assert_eq!(refusal, Err(EncodeFailure::Refused("no: really".to_owned())));
        assert_eq!(out, [9]);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            encode_into(&(1_u8, Panics), &mut out, 100)
        }));
        assert!(panic.is_err());
        assert_eq!(out, [9]);
    }
}
