//! `boot`: whatever is in the socket of a new worker, reading it as a boot message never
//! panics and takes little memory; and what is written is read.

use crate::heap;
use crate::limits::{DECODE_HEAP_BYTES_LEAST, DECODE_HEAP_PER_BYTE};
use crate::start::message::{HEADER_BYTES, decode_birth, decode_header, encode};

pub fn boot(data: &[u8]) {
    let header = &data[..data.len().min(HEADER_BYTES)];
    let Some((flags, len)) = decode_header(header) else { return };
    assert_eq!(header.len(), HEADER_BYTES, "a header is whole");
    // As much as is announced, and there.
    let body = &data[HEADER_BYTES..];
    let body = &body[..body.len().min(len)];
    let (birth, taken) = heap::peak_of(|| decode_birth(body));
    // Lists and texts that grow are there twice.
    let most = 4 * (DECODE_HEAP_BYTES_LEAST + body.len() * DECODE_HEAP_PER_BYTE);
    assert!(taken <= most, "{} bytes took {taken}", body.len());
    let Some(birth) = birth else { return };
    let written = encode(flags, &birth);
    let (header, body) = written.split_at(HEADER_BYTES);
    assert_eq!(decode_header(header), Some((flags, body.len())));
    assert_eq!(decode_birth(body), Some(birth));
}
