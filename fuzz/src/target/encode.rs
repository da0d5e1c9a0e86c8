//! `encode`: a value of any depth and make is encoded if it nests no deeper
//! than would be decoded, exactly as postcard would, and what is encoded is
//! decoded to the same value. Nothing of a value that is refused stays behind.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use serde::{Deserialize, Serialize};

use crate::limits::DECODE_DEPTH_MAX;
use crate::proto::codec::{DecodeFailure, EncodeFailure, decode, encode_into};

/// More levels than are allowed, and fewer than would hurt us.
const LEVELS_MAX: u32 = 2 * DECODE_DEPTH_MAX;

/// One of everything that nests.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Value {
    Unit,
    Number(i128),
    Char(char),
    Text(String),
    Bytes(bytes::Bytes),
    Newtype(Box<Value>),
    Tuple(u8, Box<Value>),
    Struct { next: Box<Value>, after: u16 },
    Option(Option<Box<Value>>),
    Seq(Vec<Value>),
    Map(BTreeMap<u8, Value>),
    Result(Result<Box<Value>, (u8, Box<Value>)>),
}

pub fn encode(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(limit) = data.arbitrary::<u16>().map(usize::from) else { return };
    let (value, levels) = build(&mut data);

    let mut out = b"before".to_vec();
    let encoded = encode_into(&value, &mut out, limit);
    let too_deep = levels > DECODE_DEPTH_MAX;
    let plain = postcard::to_stdvec(&value).expect("plain data");
    match encoded {
        Ok(()) => {
            assert!(!too_deep && plain.len() <= limit);
            assert_eq!(out[6..], plain);
        }
        Err(EncodeFailure::TooLarge { size, limit: said }) => {
            assert!(!too_deep);
            assert_eq!((size, said), (plain.len(), limit));
            assert!(size > limit);
        }
        Err(EncodeFailure::TooDeep { limit }) => {
            assert!(too_deep);
            assert_eq!(limit, DECODE_DEPTH_MAX);
        }
        Err(EncodeFailure::Refused(why)) => panic!("refused: {why}"),
    }
    if encoded.is_err() {
        assert_eq!(out, b"before");
    }

    match decode::<Value>(&plain) {
        Ok(decoded) => {
            assert!(!too_deep);
            assert_eq!(decoded, value);
        }
        Err(failure) => {
            assert_eq!(failure, DecodeFailure::TooDeep { limit: DECODE_DEPTH_MAX });
            assert!(too_deep);
        }
    }
}

/// A value, from the inside out, and how many levels it has.
fn build(data: &mut Unstructured<'_>) -> (Value, u32) {
    let mut value = leaf(data);
    // An enum is a level, and so is what it holds if that has parts.
    let mut levels = 1;
    while !data.is_empty() {
        let op = data.arbitrary::<u8>().expect("there is data");
        let (wrapped, more) = match op % 8 {
            0 => (Value::Newtype(value.into()), 1),
            1 => (Value::Tuple(op, value.into()), 1),
            2 => (Value::Struct { next: value.into(), after: op.into() }, 1),
            3 => (Value::Option(Some(value.into())), 2),
            4 => {
                let beside = (0..op / 64).map(|_| leaf(data));
                (Value::Seq(beside.chain([value]).collect()), 2)
            }
            5 => {
                let beside = (0..op / 64).map(|key| (key, leaf(data)));
                (Value::Map(beside.chain([(op, value)]).collect()), 2)
            }
            6 => (Value::Result(Ok(value.into())), 2),
            _ => (Value::Result(Err((op, value.into()))), 3),
        };
        value = wrapped;
        levels += more;
        if levels >= LEVELS_MAX {
            break;
        }
    }
    (value, levels)
}

/// A value of one level.
fn leaf(data: &mut Unstructured<'_>) -> Value {
    let leaf = data.arbitrary::<u8>().and_then(|op| {
        Ok(match op % 5 {
            0 => Value::Unit,
            1 => Value::Number(data.arbitrary()?),
            2 => Value::Char(data.arbitrary()?),
            3 => Value::Text(data.arbitrary()?),
            _ => Value::Bytes(data.arbitrary::<Vec<u8>>()?.into()),
        })
    });
    leaf.unwrap_or(Value::Unit)
}
