//! Payloads: values to postcard bytes and back. Called by the pool for
//! arguments, by the worker for results, and by each for what the other sent.
//!
//! Encoding is [`encode`]'s. Decoding goes through [`guard`], because the parent
//! must survive whatever a worker sends. Neither ever panics on its input nor
//! knows what a payload is for.
//!
//! [`encode`]: super::encode
//! [`guard`]: super::guard

use serde::de::DeserializeOwned;

use super::draft::Whole;
use super::guard::Guard;
use crate::cast::{Cast, Copying};

pub(crate) use super::budget::{Budget, DecodeFailure};
pub(crate) use super::encode::{EncodeFailure, draft, encode_into};

/// Decodes one value that must use every byte.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeFailure> {
    decode_shared::<Copying, T>(bytes, Whole::nothing())
}

/// As [`decode`]. What `C` recognises may share `whole`, which `bytes` are part of
/// if they are long themselves.
pub(crate) fn decode_shared<C: Cast, T: DeserializeOwned>(
    mut bytes: &[u8],
    whole: Whole<'_>,
) -> Result<T, DecodeFailure> {
    let mut budget = Budget::for_payload(bytes.len());
    let value = decode_front_shared::<C, T>(&mut bytes, whole, &mut budget)?;
    if bytes.is_empty() { Ok(value) } else { Err(DecodeFailure::LeftOver { bytes: bytes.len() }) }
}

/// Decodes one value from the front and moves `bytes` on past it.
///
/// What the value takes comes out of `budget`, which the values of one payload
/// share. On failure `bytes` stays where it was.
pub(crate) fn decode_front<T: DeserializeOwned>(
    bytes: &mut &[u8],
    budget: &mut Budget,
) -> Result<T, DecodeFailure> {
    decode_front_shared::<Copying, T>(bytes, Whole::nothing(), budget)
}

/// As [`decode_front`]. What `C` recognises may share `whole`, which `bytes` are
/// part of.
#[inline(always)]
pub(crate) fn decode_front_shared<C: Cast, T: DeserializeOwned>(
    bytes: &mut &[u8],
    whole: Whole<'_>,
    budget: &mut Budget,
) -> Result<T, DecodeFailure> {
    let mut guard = Guard::<C>::new(bytes, whole, budget);
    let value = T::deserialize(guard.place_for::<T>())?;
    *bytes = guard.rest();
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};
    use std::fmt::{self, Debug};
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::limits;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Unit;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Newtype(String);

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Empty,
        One(Newtype),
        Two(i64, Option<char>),
        Named { width: f32, height: f64, tags: Vec<String> },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Everything {
        small: (bool, u8, i8, u16, i16, u32, i32),
        large: (u64, i64, u128, i128, usize, isize),
        text: String,
        letters: Vec<char>,
        bytes: Bytes,
        shapes: Vec<Shape>,
        map: BTreeMap<String, Vec<Option<u16>>>,
        table: HashMap<u32, (Unit, [u8; 4])>,
        set: BTreeSet<i16>,
        boxed: Option<Box<Shape>>,
        duration: Duration,
        units: Vec<()>,
        result: Result<u8, String>,
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            Just(Shape::Empty),
            ".{0,8}".prop_map(|text| Shape::One(Newtype(text))),
            any::<(i64, Option<char>)>().prop_map(|(a, b)| Shape::Two(a, b)),
            (0_f32..1e9, 0_f64..1e9, prop::collection::vec(".{0,8}", 0..4))
                .prop_map(|(width, height, tags)| Shape::Named { width, height, tags }),
        ]
    }

    fn everything() -> impl Strategy<Value = Everything> {
        let plain = (
            any::<(bool, u8, i8, u16, i16, u32, i32)>(),
            any::<(u64, i64, u128, i128, usize, isize)>(),
        );
        let texts = (".{0,40}", any::<Vec<char>>(), any::<Vec<u8>>());
        let shapes =
            (prop::collection::vec(shape(), 0..8), prop::option::of(shape().prop_map(Box::new)));
        let keyed = (
            prop::collection::btree_map(".{0,8}", any::<Vec<Option<u16>>>(), 0..8),
            any::<HashMap<u32, [u8; 4]>>(),
            any::<BTreeSet<i16>>(),
        );
        let others = (any::<Duration>(), 0_usize..200, any::<Result<u8, String>>());
        (plain, texts, shapes, keyed, others).prop_map(
            |(
                (small, large),
                (text, letters, bytes),
                (shapes, boxed),
                (map, table, set),
                (duration, units, result),
            )| {
                Everything {
                    small,
                    large,
                    text,
                    letters,
                    bytes: bytes.into(),
                    shapes,
                    map,
                    table: table.into_iter().map(|(key, value)| (key, (Unit, value))).collect(),
                    set,
                    boxed,
                    duration,
                    units: vec![(); units],
                    result,
                }
            },
        )
    }

    fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_into(value, &mut bytes, usize::MAX).unwrap();
        bytes
    }

    /// Whatever the bytes, both decoders agree on them; only ours insists on
    /// their end.
    fn agrees_with_postcard<T: DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
        match (postcard::take_from_bytes::<T>(bytes), decode::<T>(bytes)) {
            (Ok((theirs, [])), ours) => assert_eq!(ours, Ok(theirs)),
            (Ok((_, rest)), ours) => {
                assert_eq!(ours, Err(DecodeFailure::LeftOver { bytes: rest.len() }))
            }
            (Err(_), ours) => assert!(matches!(ours, Err(DecodeFailure::Malformed(_))), "{ours:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trip_is_postcards(value in everything()) {
            let bytes = encoded(&value);
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&value).unwrap());
            prop_assert_eq!(decode::<Everything>(&bytes).unwrap(), value);
        }

        #[test]
        fn truncated_anywhere_is_malformed(value in shape()) {
            let bytes = encoded(&value);
            for len in 0..bytes.len() {
                prop_assert!(matches!(decode::<Shape>(&bytes[..len]), Err(DecodeFailure::Malformed(_))));
            }
        }

        #[test]
        fn arbitrary_bytes_mean_what_postcard_says(bytes in any::<Vec<u8>>()) {
            agrees_with_postcard::<Shape>(&bytes);
            agrees_with_postcard::<Vec<Shape>>(&bytes);
            agrees_with_postcard::<(char, String, Option<bool>)>(&bytes);
            agrees_with_postcard::<BTreeMap<u8, Vec<u128>>>(&bytes);
            agrees_with_postcard::<(f32, f64, i128, u16)>(&bytes);
            let _ = decode::<Everything>(&bytes);
            let _ = decode::<Vec<Tree>>(&bytes);
            let _ = decode::<HashMap<Vec<()>, Nest>>(&bytes);
        }

        #[test]
        fn size_of_what_is_too_large_is_exact(value in everything(), share in 0.0_f64..1.0) {
            let size = encoded(&value).len();
            let limit = (size as f64 * share) as usize;
            let mut out = b"before".to_vec();
            prop_assert_eq!(encode_into(&value, &mut out, limit), Err(EncodeFailure::TooLarge { size, limit }));
            prop_assert_eq!(&out, b"before");
            prop_assert_eq!(encode_into(&value, &mut out, size), Ok(()));
            prop_assert_eq!(out.len(), 6 + size);
        }
    }

    #[test]
    fn types_travel_in_their_compact_form() {
        let address = std::net::IpAddr::from([127, 0, 0, 1]);
        let bytes = encoded(&address);
        assert_eq!(bytes, [0, 127, 0, 0, 1]);
        assert_eq!(decode(&bytes), Ok(address));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[expect(clippy::large_enum_variant, reason = "a chain of boxes must be costly")]
    enum Tree {
        Leaf,
        Node(Box<Tree>, Box<Tree>),
        Chain(Box<Tree>),
        Wide([u64; 32]),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nest {
        inside: Vec<Nest>,
        next: Option<Box<Nest>>,
        keyed: BTreeMap<u8, Nest>,
    }

    /// Runs `f` on a stack far smaller than any that decodes in earnest.
    fn on_small_stack(f: impl FnOnce() + Send + 'static) {
        std::thread::Builder::new().stack_size(512 << 10).spawn(f).unwrap().join().unwrap();
    }

    #[test]
    fn nesting_stops_before_the_stack_does() {
        on_small_stack(|| {
            let too_deep = DecodeFailure::TooDeep { limit: limits::DECODE_DEPTH_MAX };
            assert_eq!(decode::<Tree>(&[2; 100_000]).unwrap_err(), too_deep);
            assert_eq!(decode::<Nest>(&[1; 100_000]).unwrap_err(), too_deep);
            assert_eq!(decode::<Nest>(&[0, 1].repeat(50_000)).unwrap_err(), too_deep);
            assert_eq!(decode::<Nest>(&[0, 0, 1, 7].repeat(25_000)).unwrap_err(), too_deep);
        });
    }

    /// A node of some 4 KiB, most of them its own fields.
    #[derive(Deserialize, Debug)]
    #[expect(dead_code, reason = "only its size matters")]
    struct Wide {
        fields: [[[u64; 8]; 8]; 8],
        next: Option<Box<Wide>>,
    }

    #[test]
    fn nesting_of_large_values_stops_before_a_runtimes_stack_does() {
        // As large as the threads of a runtime have.
        let stack = std::thread::Builder::new().stack_size(2 << 20);
        let decoded = stack.spawn(|| {
            let mut node = vec![0; 512];
            node.push(1);
            decode::<Wide>(&node.repeat(1000)).unwrap_err()
        });
        let too_deep = DecodeFailure::TooDeep { limit: limits::DECODE_DEPTH_MAX };
        assert_eq!(decoded.unwrap().join().unwrap(), too_deep);
    }

    #[test]
    fn large_values_count_for_more_levels() {
        // Six levels each: five for some 4 KiB, one for the option.
        let nested = |nodes: usize| {
            let mut bytes = [vec![0; 512], vec![1]].concat().repeat(nodes);
            *bytes.last_mut().unwrap() = 0;
            decode::<Wide>(&bytes).map(|_| ())
        };
        let too_deep = DecodeFailure::TooDeep { limit: limits::DECODE_DEPTH_MAX };
        assert_eq!(nested(19), Ok(()));
        assert_eq!(nested(22), Err(too_deep));
    }

    #[test]
    fn honest_nesting_is_decoded() {
        let levels = limits::DECODE_DEPTH_MAX as usize;
        let mut bytes = vec![2; levels - 1];
        bytes.push(0);
        let mut tree = &decode::<Tree>(&bytes).unwrap();
        let mut depth = 1;
        while let Tree::Chain(next) = tree {
            tree = next;
            depth += 1;
        }
        assert_eq!(depth, levels);
    }

    #[test]
    fn elements_without_size_are_counted() {
        let most = encoded(&u64::MAX);
        let failure = decode::<Vec<()>>(&most).unwrap_err();
        assert!(matches!(failure, DecodeFailure::TooLarge { .. }), "{failure}");
        let failure = decode::<Vec<[Unit; 3]>>(&most).unwrap_err();
        assert!(matches!(failure, DecodeFailure::TooLarge { .. }), "{failure}");
        let most = limits::DECODE_HEAP_BYTES_LEAST / limits::DECODE_UNIT_BYTES;
        assert_eq!(decode::<Vec<()>>(&encoded(&vec![(); most])).unwrap().len(), most);
    }

    #[test]
    fn short_elements_that_become_large_are_refused() {
        let mut bytes = encoded(&(8_u64 << 20));
        bytes.resize(bytes.len() + (8 << 20), 0);
        let failure = decode::<Vec<Option<[u64; 16]>>>(&bytes).unwrap_err();
        assert_eq!(
            failure,
            DecodeFailure::TooLarge {
                limit: limits::DECODE_HEAP_BYTES_LEAST + bytes.len() * limits::DECODE_HEAP_PER_BYTE
            }
        );
    }

    #[test]
    fn boxes_are_charged_for() {
        // 64 levels of nothing but boxes of 264 bytes, many times over.
        let mut one = vec![2; 64];
        one.push(0);
        let mut bytes = encoded(&10_000_u32);
        bytes.extend(one.repeat(10_000));
        let failure = decode::<Vec<Box<Tree>>>(&bytes).unwrap_err();
        assert!(matches!(failure, DecodeFailure::TooLarge { .. }), "{failure}");
    }

    #[test]
    fn values_inside_others_are_not_charged_twice() {
        #[derive(Serialize, Deserialize)]
        struct Outer {
            inner: Option<Newtype>,
        }

        // 24 bytes each and one on the wire, well within 32 for one.
        let none: Vec<Outer> = (0..2 << 20).map(|_| Outer { inner: None }).collect();
        assert_eq!(decode::<Vec<Outer>>(&encoded(&none)).unwrap().len(), none.len());
        let empty = vec![String::new(); 2 << 20];
        assert_eq!(decode::<Vec<String>>(&encoded(&empty)).unwrap().len(), empty.len());
    }

    #[test]
    fn values_of_one_payload_share_a_budget() {
        let all = limits::DECODE_HEAP_BYTES_LEAST / limits::DECODE_UNIT_BYTES;
        let half = vec![(); all / 2 + 1000];
        let bytes = encoded(&(&half, &half));
        let mut rest = &bytes[..];
        let mut budget = Budget::for_payload(bytes.len());
        assert_eq!(decode_front::<Vec<()>>(&mut rest, &mut budget).unwrap(), half);
        let before = rest;
        assert!(matches!(
            decode_front::<Vec<()>>(&mut rest, &mut budget),
            Err(DecodeFailure::TooLarge { .. })
        ));
        assert_eq!(rest, before);
    }

    #[test]
    fn a_swallowed_error_does_not_lift_the_limit() {
        #[derive(Debug)]
        struct Whatever;

        impl<'de> Deserialize<'de> for Whatever {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let _ = Vec::<()>::deserialize(deserializer);
                Ok(Whatever)
            }
        }

        let mut bytes = encoded(&u64::MAX);
        bytes.extend(encoded(&u64::MAX).repeat(100));
        assert!(matches!(decode::<Vec<Whatever>>(&bytes), Err(DecodeFailure::TooLarge { .. })));
    }

    #[test]
    fn hints_promise_no_more_than_there_can_be() {
        #[derive(Debug)]
        struct Hint(Option<usize>);

        impl<'de> Deserialize<'de> for Hint {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = Hint;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a sequence")
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(
                        self,
                        seq: A,
                    ) -> Result<Hint, A::Error> {
                        Ok(Hint(seq.size_hint()))
                    }
                }

                deserializer.deserialize_seq(Visitor)
            }
        }

        let hint = |bytes: &[u8]| {
            decode_front::<Hint>(&mut &*bytes, &mut Budget::for_payload(0)).unwrap().0
        };
        assert_eq!(hint(&[3, 0, 0, 0]), Some(3));
        assert_eq!(hint(&[100, 0, 0, 0]), Some(3));
        assert_eq!(
            hint(&[0xff; 9].iter().chain(&[1; 1 << 20]).copied().collect::<Vec<_>>()),
            Some(4096)
        );
    }

    #[test]
    fn left_over_bytes_are_an_error() {
        assert_eq!(decode::<u8>(&[1, 2, 3]), Err(DecodeFailure::LeftOver { bytes: 2 }));
        assert_eq!(decode::<()>(&[]), Ok(()));
        let mut bytes = &[1, 2, 3][..];
        assert_eq!(decode_front::<u8>(&mut bytes, &mut Budget::for_payload(3)), Ok(1));
        assert_eq!(bytes, [2, 3]);
    }

    #[test]
    fn failures_read_well() {
        let text = |failure: DecodeFailure| failure.to_string();
        assert_eq!(
            text(decode::<String>(&[5, b'a']).unwrap_err()),
            "malformed payload: it ends in the middle of a value"
        );
        assert_eq!(
            text(decode::<String>(&[1, 0xff]).unwrap_err()),
            "malformed payload: a string is not UTF-8"
        );
        assert_eq!(
            text(decode::<Tree>(&[2; 1000]).unwrap_err()),
            "payload nests deeper than the limit of 128 levels"
        );
        assert_eq!(text(decode::<u8>(&[1, 2]).unwrap_err()), "1 byte is left over after the value");
        let needs_more = decode::<IgnoredAny>(&[1]).unwrap_err();
        assert_eq!(
            text(needs_more),
            "malformed payload: its type needs a self-describing format, which postcard is not"
        );
    }

    #[test]
    fn a_types_own_error_is_kept_but_not_at_any_length() {
        #[derive(Debug)]
        struct Picky;

        impl<'de> Deserialize<'de> for Picky {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Err(serde::de::Error::custom(format_args!("I dislike {text}")))
            }
        }

        let failure = decode::<Picky>(&encoded(&"tea")).unwrap_err();
        assert_eq!(failure, DecodeFailure::Malformed("I dislike tea".to_owned()));
        let Err(DecodeFailure::Malformed(text)) = decode::<Picky>(&encoded(&"é".repeat(1 << 20)))
        else {
            panic!("it liked that");
        };
        assert_eq!(text.len(), limits::REPORT_TEXT_BYTES_MAX);
    }
}
