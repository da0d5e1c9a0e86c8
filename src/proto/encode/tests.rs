//! What is counted, what is refused, and that nothing is left behind.

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
        is_limited_both_ways(levels, &(1..levels).fold(Seqs(vec![]), |next, _| Seqs(vec![next])));
        let maps = (1..levels).fold(Maps([].into()), |next, _| Maps([(1, next)].into()));
        is_limited_both_ways(levels, &maps);
    }
}

#[test]
fn levels_beside_each_other_do_not_add_up() {
    let many = if cfg!(miri) { 10 } else { 1000 };
    let value: Vec<Deep> = (0..many).map(|_| boxes(127)).collect();
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
        is_limited_both_ways(levels, &(1..levels).fold(end(), |next, _| Ends::Next(next.into())));
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
fn a_type_may_say_more_about_the_error_of_a_part() {
    struct Wraps(Refuses);

    impl Serialize for Wraps {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let wrap = |error| ser::Error::custom(format_args!("in a part: {error}"));
            self.0.serialize(serializer).map_err(wrap)
        }
    }

    let failure = encode_into(&Wraps(Refuses("red".into())), &mut Vec::new(), 100).unwrap_err();
    assert_eq!(failure, EncodeFailure::Refused("in a part: no: red".to_owned()));
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
    assert_eq!(text(&Endless), "it holds a sequence or map whose length is not known beforehand");
}

#[test]
fn refusals_leave_nothing_behind_and_panics_nothing_that_cannot_be_taken_back() {
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
    let mut draft = Draft::default();
    let mark = draft.mark();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        super::draft::<Copying, _>(&(1_u8, Panics), &mut draft, 100)
    }));
    assert!(panic.is_err());
    draft.rewind(mark);
    assert_eq!(draft.len(), 0);
}
