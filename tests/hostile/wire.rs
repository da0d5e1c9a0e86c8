//! The protocol written by hand, from the byte diagram: frames, the few
//! messages of a worker, and the status page as a file. Calls nothing of the
//! crate, and checks nothing: it is what an attacker would write.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Of the protocol that these scripts speak.
pub(crate) const VERSION: u32 = 6;

/// Frame kinds as they are on the wire.
pub(crate) const SETUP: u8 = 1;
pub(crate) const BYE: u8 = 3;
pub(crate) const HELLO: u8 = 16;
pub(crate) const READY: u8 = 17;
pub(crate) const INIT_FAILED: u8 = 18;
pub(crate) const DONE: u8 = 19;
pub(crate) const FAILED: u8 = 20;
pub(crate) const SKIPPED: u8 = 21;
pub(crate) const ITEM: u8 = 22;
pub(crate) const BEGAN: u8 = 23;
pub(crate) const TRACE: u8 = 24;

/// Flag of a frame that only brings descriptors for the next.
pub(crate) const MORE: u8 = 0x80;

pub(crate) const HEADER: usize = 16;

/// A frame with a header that says anything.
pub(crate) fn frame_of_length(length: u32, kind: u8, flags: u8, seq: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend([kind, flags, 0, 0]);
    bytes.extend(seq.to_le_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn frame(kind: u8, flags: u8, seq: u64, body: &[u8]) -> Vec<u8> {
    frame_of_length(body.len() as u32, kind, flags, seq, body)
}

pub(crate) fn hello(version: u32, fingerprint: u64, pid: i32) -> Vec<u8> {
    let zigzag = (pid << 1) ^ (pid >> 31);
    let body = [varint(version.into()), varint(fingerprint), varint((zigzag as u32).into())];
    frame(HELLO, 0, 0, &body.concat())
}

pub(crate) fn ready() -> Vec<u8> {
    frame(READY, 0, 0, &[])
}

/// An answer that covers `answered` calls and says that it took a microsecond.
pub(crate) fn done(seq: u64, answered: u32, payload: &[u8]) -> Vec<u8> {
    done_after(seq, 1_000, answered, payload)
}

pub(crate) fn done_after(seq: u64, run_nanos: u64, answered: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = run_nanos.to_le_bytes().to_vec();
    body.extend(answered.to_le_bytes());
    body.extend(payload);
    frame(DONE, 0, seq, &body)
}

pub(crate) fn skipped(seq: u64) -> Vec<u8> {
    frame(SKIPPED, 0, seq, &[])
}

pub(crate) fn item(seq: u64, payload: &[u8]) -> Vec<u8> {
    frame(ITEM, 0, seq, payload)
}

/// News of a worker's `tracing`: what was dropped, what has closed, a record.
pub(crate) fn trace(seq: u64, dropped: u64, closed: &[u64], record: Option<&[u8]>) -> Vec<u8> {
    let mut body = varint(dropped);
    body.extend(varint(closed.len() as u64));
    closed.iter().for_each(|&id| body.extend(varint(id)));
    body.push(record.is_some().into());
    body.extend(record.unwrap_or_default());
    frame(TRACE, 0, seq, &body)
}

/// An event within a span, with a message.
pub(crate) fn event(span: u64, target: &str, message: &[u8]) -> Vec<u8> {
    [varint(0), varint(span), scene(target, message)].concat()
}

/// A new span.
pub(crate) fn span(id: u64, parent: u64, target: &str) -> Vec<u8> {
    [varint(1), varint(id), varint(parent), scene(target, b"")].concat()
}

/// Name, target, the level of a warning, no file, and one field, which is a text.
fn scene(target: &str, message: &[u8]) -> Vec<u8> {
    let place = [text(b"event"), text(target.as_bytes()), varint(1), vec![0; 3]].concat();
    [place, varint(1), text(b"message"), vec![1, 6], text(message)].concat()
}

/// A failure's encoding: which it is, and its fields.
pub(crate) fn failed(seq: u64, variant: u8, fields: &[u8]) -> Vec<u8> {
    let mut body = varint(1_000);
    body.push(variant);
    body.extend(fields);
    frame(FAILED, 0, seq, &body)
}

/// Variants of a failure.
pub(crate) const PANICKED: u8 = 0;
pub(crate) const ARGUMENTS: u8 = 1;
pub(crate) const RESULT: u8 = 2;
pub(crate) const RESULT_TOO_LARGE: u8 = 3;
pub(crate) const UNKNOWN_FUNCTION: u8 = 4;
pub(crate) const SETTING: u8 = 5;

/// Bytes that say how long they are.
pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    [&varint(bytes.len() as u64), bytes].concat()
}

pub(crate) fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// Reads a number from the front.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut n = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a number");
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    n
}

/// Phases of a slot word.
pub(crate) const EMPTY: u8 = 0;
pub(crate) const QUEUED: u8 = 1;
pub(crate) const RUNNING: u8 = 2;
pub(crate) const CANCEL_REQ: u8 = 3;
pub(crate) const FINISHED: u8 = 4;
pub(crate) const REVOKED: u8 = 5;

/// Where things are in the status page, in this version of it.
pub(crate) const LAYOUT_VERSION: u32 = 11;
pub(crate) const MAGIC_AT: u64 = 0;
pub(crate) const VERSION_AT: u64 = 8;
pub(crate) const BELL_AT: u64 = 12;
pub(crate) const FILLED_AT: u64 = 64;
pub(crate) const HELD_FROM_AT: u64 = 72;
pub(crate) const SETTLED_AT: u64 = 80;
pub(crate) const AWAKE_AT: u64 = 88;
pub(crate) const WORDS_AT: u64 = 4096;
pub(crate) const STARTED_AT: u64 = 12288;
pub(crate) const SLOTS_AT: u64 = 20480;
pub(crate) const SLOTS: u64 = 1024;
pub(crate) const RING_AT: u64 = SLOTS_AT + SLOTS * 64;
pub(crate) const RING_BYTES: u64 = 64 << 10;
pub(crate) const PUT_DOWN_AT: u64 = RING_AT + RING_BYTES;
pub(crate) const PAGE_BYTES: u64 = PUT_DOWN_AT + (16 << 10);
/// And in a slot.
pub(crate) const ITEM_AT: u64 = 0;
pub(crate) const CREDIT_AT: u64 = 4;
pub(crate) const NUDGE_AT: u64 = 8;
pub(crate) const POLITE_AT: u64 = 16;
pub(crate) const CLAIMED_AT: u64 = 24;
pub(crate) const TALLY_AT: u64 = 32;

/// The status page, as the file that it is. Every write lands in the parent's
/// mapping.
#[derive(Debug)]
pub(crate) struct Page(pub(crate) File);

impl Page {
    /// Where the task's word is.
    pub(crate) fn word_at(seq: u64) -> u64 {
        WORDS_AT + seq % SLOTS * 8
    }

    /// Where it says when the task's body began.
    pub(crate) fn started_at(seq: u64) -> u64 {
        STARTED_AT + seq % SLOTS * 8
    }

    /// Where the rest of its slot is.
    pub(crate) fn slot(seq: u64) -> u64 {
        SLOTS_AT + seq % SLOTS * 64
    }

    pub(crate) fn u64_at(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn u32_at(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn word(&self, seq: u64) -> (u64, u8) {
        let word = self.u64_at(Page::word_at(seq));
        (word >> 8, word as u8)
    }

    pub(crate) fn set_word(&self, seq: u64, phase: u8) {
        self.write(Page::word_at(seq), &(seq << 8 | u64::from(phase)).to_le_bytes());
    }
}
