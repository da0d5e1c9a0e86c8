//! `decode`: bytes that are no honest result are refused, whatever type they
//! are decoded into, before they cost much heap or stack; and what they mean is
//! what postcard says they mean.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::num::NonZeroU16;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::by_type::Sharing;
use crate::heap;
use crate::limits::{
    DECODE_DEPTH_MAX, DECODE_HEAP_BYTES_LEAST, DECODE_HEAP_PER_BYTE, DECODE_HINT_ELEMENTS_MAX,
};
use crate::proto::codec::{Budget, DecodeFailure, EncodeFailure};
use crate::proto::codec::{decode as decode_all, decode_front, decode_shared, draft, encode_into};
use crate::proto::draft::{Draft, Payload, Whole};

/// Longest payload that is made of an input.
const PAYLOAD_BYTES_MAX: usize = 128 << 10;

/// A payload is `head` bytes once and the rest over and over, so that a short
/// input can be a long one: heap and depth are spent by repeating.
#[derive(Arbitrary, Debug)]
struct Plan {
    as_type: u8,
    head: u8,
    /// The rest comes once, or 2 to the power of what this is above 240: long
    /// payloads take long.
    doublings: u8,
}

pub fn decode(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(plan) = Plan::arbitrary(&mut data) else { return };
    let bytes = data.take_rest();
    let (head, rest) = bytes.split_at(bytes.len().min(plan.head.into()));
    let times =
        (1 << plan.doublings.saturating_sub(240)).min(PAYLOAD_BYTES_MAX / rest.len().max(1));
    let payload = [head, &rest.repeat(times)].concat();

    let as_type = TYPES[usize::from(plan.as_type) % TYPES.len()];
    as_type(&payload);
}

const TYPES: [fn(&[u8]); 13] = [
    |bytes| drop(check::<Scalars>(bytes, LISTS)),
    |bytes| drop(check::<Texts>(bytes, LISTS)),
    |bytes| drop(check::<Vec<bytes::Bytes>>(bytes, LISTS)),
    |bytes| drop(check::<Nothings>(bytes, LISTS)),
    |bytes| drop(check::<Vec<Option<Wide>>>(bytes, LISTS)),
    |bytes| drop(check::<Vec<Box<Tree>>>(bytes, LISTS)),
    |bytes| drop(check::<Options>(bytes, LISTS)),
    |bytes| drop(check::<Keyed>(bytes, MAPS)),
    |bytes| drop(check::<Std>(bytes, LISTS)),
    |bytes| drop(check::<Vec<Shape>>(bytes, LISTS)),
    |bytes| {
        if let Some(tree) = check::<Tree>(bytes, LISTS) {
            assert!(tree.levels() <= DECODE_DEPTH_MAX);
        }
    },
    |bytes| {
        if let Some(nest) = check::<Nest>(bytes, MAPS) {
            assert!(nest.levels() <= DECODE_DEPTH_MAX);
        }
    },
    |bytes| {
        if let Some(heavy) = check::<Heavy>(bytes, LISTS) {
            // Each counts for as many levels as it has KiB, and one more.
            assert!(heavy.levels() <= DECODE_DEPTH_MAX / 3);
        }
    },
];

/// A value may take more heap than what is charged for it, so many times: a
/// list that grows is there twice, and has room for twice what it holds; a map
/// makes room for eleven entries where it has one.
const LISTS: usize = 4;
const MAPS: usize = 12;

/// Decodes a `T`, checks what comes of it, and returns it.
fn check<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8], factor: usize) -> Option<T> {
    let (decoded, heap) = heap::peak_of(|| decode_all::<T>(bytes));
    assert!(heap <= heap_max(bytes.len(), factor), "{} bytes took {heap}", bytes.len());

    match &decoded {
        Ok(_) | Err(DecodeFailure::Malformed(_) | DecodeFailure::LeftOver { .. }) => {
            check_front(bytes, &decoded);
            agree_with_postcard(bytes, &decoded);
        }
        // Which postcard might not survive.
        Err(DecodeFailure::TooDeep { .. } | DecodeFailure::TooLarge { .. }) => {}
    }
    shares_alike(bytes, &decoded);
    let value = decoded.ok()?;
    survives_the_way_back(bytes, &value);

    let longer = [bytes, &[0]].concat();
    let failure = decode_all::<T>(&longer).expect_err("one byte is left over");
    assert_eq!(failure, DecodeFailure::LeftOver { bytes: 1 });
    Some(value)
}

/// The most heap that decoding may take at a time: `factor` times what is
/// charged for, and what containers that lie about their length make room for,
/// one in the other.
fn heap_max(len: usize, factor: usize) -> usize {
    const SERDES_OWN_MAX: usize = 1 << 20;
    let charged = DECODE_HEAP_BYTES_LEAST + len * DECODE_HEAP_PER_BYTE;
    let hinted = (len.min(DECODE_HINT_ELEMENTS_MAX) * size_of::<Nest>()).min(SERDES_OWN_MAX);
    factor * charged + hinted * DECODE_DEPTH_MAX as usize
}

/// One value from the front of the bytes is the same value, or the same
/// failure.
fn check_front<T: DeserializeOwned + Debug>(bytes: &[u8], whole: &Result<T, DecodeFailure>) {
    let mut rest = bytes;
    let front = decode_front::<T>(&mut rest, &mut Budget::for_payload(bytes.len()));
    match whole {
        Ok(_) => assert!(front.is_ok() && rest.is_empty()),
        Err(DecodeFailure::LeftOver { bytes }) => {
            assert!(front.is_ok() && rest.len() == *bytes && *bytes > 0);
        }
        Err(failure) => {
            assert_eq!(&front.expect_err("as before"), failure);
            assert_eq!(rest, bytes, "a failure moves nothing");
        }
    }
}

/// Whether long bytes are copied or not, it is the same value, or the same
/// failure.
fn shares_alike<T: DeserializeOwned + Debug>(bytes: &[u8], copied: &Result<T, DecodeFailure>) {
    let payload = bytes::Bytes::copy_from_slice(bytes);
    let shared = decode_shared::<Sharing, T>(&payload, Whole::from(&payload));
    assert_eq!(format!("{shared:?}"), format!("{copied:?}"));
}

fn agree_with_postcard<T: Serialize + DeserializeOwned + Debug>(
    bytes: &[u8],
    ours: &Result<T, DecodeFailure>,
) {
    match (postcard::take_from_bytes::<T>(bytes), ours) {
        (Ok((theirs, [])), Ok(ours)) => {
            // Compared as text: two NaN are the same here.
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        }
        (Ok((_, rest)), Err(DecodeFailure::LeftOver { bytes })) => assert_eq!(rest.len(), *bytes),
        (Err(_), Err(DecodeFailure::Malformed(_))) => {}
        (theirs, ours) => panic!("postcard says {theirs:?}, we say {ours:?}"),
    }
}

/// What was decoded is encoded, and decoded again to the same.
fn survives_the_way_back<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8], value: &T) {
    let mut out = Vec::new();
    encode_into(value, &mut out, usize::MAX).expect("it was decoded, so it is plain data");
    assert!(out.len() <= bytes.len(), "there is no shorter form than ours");
    let mut kept = Draft::default();
    draft::<Sharing, T>(value, &mut kept, out.len()).expect("as above");
    assert!(Payload::from(kept).slices().flatten().eq(&out), "kept or copied, it is the same");
    match decode_all::<T>(&out) {
        Ok(again) => assert_eq!(format!("{again:?}"), format!("{value:?}")),
        // Numbers can be written longer than need be, and a longer payload may
        // take more heap.
        Err(DecodeFailure::TooLarge { .. }) if out.len() < bytes.len() => {}
        Err(failure) => panic!("{failure} on the way back"),
    }
    if let Some(limit) = out.len().checked_sub(1) {
        let too_large = EncodeFailure::TooLarge { size: out.len(), limit };
        let failure = encode_into(value, &mut Vec::new(), limit).expect_err("over the limit");
        assert_eq!(failure, too_large);
        let mut kept = Draft::default();
        let failure = draft::<Sharing, T>(value, &mut kept, limit).expect_err("over the limit");
        assert_eq!((failure, kept.len()), (too_large, 0));
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Scalars {
    small: (bool, u8, i8, u16, i16, u32, i32),
    large: (u64, i64, u128, i128, usize, isize),
    floats: (f32, f64),
    letters: Vec<char>,
    longest: Vec<i128>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Texts {
    one: String,
    many: Vec<String>,
    boxed: Box<str>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Unit;

/// Elements that take no byte on the wire and none in memory.
#[derive(Debug, Serialize, Deserialize)]
enum Nothings {
    One(Vec<()>),
    Three(Vec<[Unit; 3]>),
    Many(Vec<Vec<()>>),
    Keyed(BTreeMap<(), ()>, HashMap<(), Unit>),
    Set(BTreeSet<()>),
    Queue(VecDeque<Unit>),
}

/// A KiB that is a byte on the wire where there is none of it.
#[derive(Debug, Serialize, Deserialize)]
struct Wide([[u64; 32]; 4]);

#[derive(Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a chain of boxes must be costly")]
enum Tree {
    Leaf,
    Node(Box<Tree>, Box<Tree>),
    Chain(Box<Tree>),
    Wide([u64; 32]),
}

impl Tree {
    fn levels(&self) -> u32 {
        match self {
            Tree::Leaf | Tree::Wide(_) => 1,
            Tree::Node(left, right) => 1 + left.levels().max(right.levels()),
            Tree::Chain(next) => 1 + next.levels(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Nest {
    inside: Vec<Nest>,
    next: Option<Box<Nest>>,
    keyed: BTreeMap<u8, Nest>,
}

impl Nest {
    /// The struct is one, and so is what holds the next.
    fn levels(&self) -> u32 {
        let inside = self.inside.iter().chain(self.next.as_deref()).chain(self.keyed.values());
        2 + inside.map(Nest::levels).max().unwrap_or(0)
    }
}

/// More than two KiB at each level.
#[derive(Debug, Serialize, Deserialize)]
struct Heavy {
    fields: [[[u64; 8]; 8]; 4],
    more: [u64; 8],
    next: Option<Box<Heavy>>,
}

impl Heavy {
    fn levels(&self) -> u32 {
        1 + self.next.as_ref().map_or(0, |next| next.levels())
    }
}

type Options = Vec<Option<Option<Option<Result<Option<u8>, Option<Box<Option<()>>>>>>>>;

type Sets = BTreeMap<char, BTreeSet<Vec<bool>>>;

#[derive(Debug, Serialize, Deserialize)]
struct Keyed {
    texts: BTreeMap<String, Vec<Option<u16>>>,
    // At most one entry, or their order would differ between two equal ones.
    numbers: Vec<HashMap<(), (Unit, [u8; 4])>>,
    nested: BTreeMap<u16, BTreeMap<i16, Sets>>,
}

/// What the standard library's own impls make of bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Std {
    duration: Duration,
    address: std::net::SocketAddr,
    path: std::path::PathBuf,
    text: std::ffi::CString,
    range: std::ops::Range<u8>,
    bound: std::ops::Bound<i8>,
    queue: VecDeque<NonZeroU16>,
    time: std::time::SystemTime,
}

#[derive(Debug, Serialize, Deserialize)]
enum Shape {
    Empty,
    One(String),
    Two(i64, Option<char>),
    Named { width: f32, height: f64, tags: Vec<String> },
    Bytes(bytes::Bytes),
}
