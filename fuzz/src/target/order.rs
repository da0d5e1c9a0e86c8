//! `order`: whatever a fork server is sent, or sends, reading it never panics and takes
//! little memory; and what is written is read. What is no pid is not taken for one.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::heap;
use crate::limits::{DECODE_HEAP_BYTES_LEAST, DECODE_HEAP_PER_BYTE};
use crate::start::order::{
    ANNOUNCEMENT_BYTES, Answer, FDS_MAX, FIXED_FDS, LENGTH_BYTES, Order, announced, decode, encode,
};

pub fn order(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else { return };
    match what % 3 {
        0 => {
            if let Some(Order::Fork(fork)) = check::<Order>(bytes) {
                let fds = FIXED_FDS + fork.streams.iter().filter(|is_sent| **is_sent).count();
                assert!(fds <= FDS_MAX);
            }
        }
        1 => drop(check::<Answer>(bytes)),
        _ => {
            let Some(bytes) = bytes.first_chunk::<ANNOUNCEMENT_BYTES>() else { return };
            let pid = announced(*bytes);
            assert!(pid.is_none_or(|pid| pid > 0 && pid.to_le_bytes() == *bytes));
        }
    }
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let (decoded, taken) = heap::peak_of(|| decode::<T>(bytes));
    // Lists and texts that grow are there twice.
    let most = 4 * (DECODE_HEAP_BYTES_LEAST + bytes.len() * DECODE_HEAP_PER_BYTE);
    assert!(taken <= most, "{} bytes took {taken}", bytes.len());
    let decoded = decoded.ok()?;
    let written = encode(&decoded).expect("plain data");
    let (length, body) = written.split_at(LENGTH_BYTES);
    assert_eq!(length, (body.len() as u32).to_le_bytes());
    assert_eq!(decode::<T>(body).as_ref(), Ok(&decoded));
    Some(decoded)
}
