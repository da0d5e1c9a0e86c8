//! `frame`: however a stream of bytes is cut, the same frames come out of it,
//! the same error at the same place, and the buffer stays small. What is attached
//! to a frame comes with its first byte.

use std::any::Any;

use arbitrary::{Arbitrary, Unstructured};

use crate::attached::{Open, Passed, Shared};
use crate::limits::{FRAME_ATTACHED_MAX, SPARE_BYTES_MAX};
use crate::proto::frame::{Frame, FrameError, FrameReader, HEADER_BYTES, Kind, REPORT_BYTES_MAX};

/// What a stream says.
#[derive(PartialEq, Debug)]
enum Event {
    Frame { kind: Kind, flags: u8, seq: u64, attached: usize, body: Vec<u8> },
    Error(FrameError),
}

/// An event, and how many bytes it takes to know of it: a frame to its last,
/// an error to the last of the header that is wrong.
type Placed = (usize, Event);

#[derive(Arbitrary, Debug)]
struct Plan {
    payload_bytes_max: u32,
    /// How the stream is cut: in pieces of these lengths and one more, over and
    /// over.
    cuts: [u8; 4],
    /// What this is above 192, so many times 4 KiB of zeros follow. They are a
    /// body that was announced, or no frame.
    fill: u8,
}

pub fn frame(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(plan) = Plan::arbitrary(&mut data) else { return };
    let fill = usize::from(plan.fill.saturating_sub(192)) * (4 << 10);
    let stream = &[data.take_rest(), &vec![0; fill]].concat()[..];
    let limit = plan.payload_bytes_max as usize;

    let expected = read_simply(stream, limit);
    let cuts: Vec<_> = plan.cuts.iter().map(|&cut| usize::from(cut) + 1).collect();
    if fill == 0 {
        check(stream, limit, &[1], &expected);
    }
    check(stream, limit, &cuts, &expected);
    check(stream, limit, &[usize::MAX], &expected);
}

/// As memory it is empty.
#[derive(Debug)]
struct Anything;

impl Open for Anything {
    fn to_memory(&self) -> Option<Shared> {
        Some(Shared::empty())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What the drawing in `proto/mod.rs` says, and nothing else.
fn read_simply(stream: &[u8], payload_bytes_max: usize) -> Vec<Placed> {
    let mut events = Vec::new();
    let mut start = 0;
    while let Some(header) = stream.get(start..start + HEADER_BYTES) {
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let seq = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        let at = start + HEADER_BYTES;
        let limit = match header[4] {
            // Setup, Run, Done, Item
            1 | 2 | 19 | 22 => payload_bytes_max,
            // Bye, Hello, Ready, InitFailed, Failed, Skipped, Began, Trace
            3 | 16 | 17 | 18 | 20 | 21 | 23 | 24 => REPORT_BYTES_MAX,
            other => {
                events.push((at, Event::Error(FrameError::UnknownKind(other))));
                break;
            }
        };
        let attached = usize::from(header[6]) + usize::from(header[7]);
        // Setup, Run, Done, Item
        let most = if matches!(header[4], 1 | 2 | 19 | 22) { FRAME_ATTACHED_MAX } else { 0 };
        if attached > most {
            let error = FrameError::Attached { announced: attached, limit: most };
            events.push((at, Event::Error(error)));
            break;
        }
        if len > limit {
            events.push((at, Event::Error(FrameError::TooLong { size: len, limit })));
            break;
        }
        let Some(body) = stream.get(at..at + len) else { break };
        let (kind, flags) = (Kind::from_byte(header[4]).expect("listed above"), header[5]);
        start = at + len;
        events.push((start, Event::Frame { kind, flags, seq, attached, body: body.to_vec() }));
    }
    events
}

/// Where frames begin, and what the reader may be sent with their first byte.
fn heads(stream: &[u8]) -> Vec<(usize, usize)> {
    let mut heads = Vec::new();
    let mut at = 0;
    while let Some(header) = stream.get(at..at + HEADER_BYTES) {
        let attached = usize::from(header[6]) + usize::from(header[7]);
        heads.push((at, attached.min(FRAME_ATTACHED_MAX)));
        at += HEADER_BYTES;
        at += u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    }
    heads
}

/// Gives `stream` to a reader piece by piece, no more at a time than it makes
/// room for, as `read` would. With each piece must come what is `expected` by
/// then.
fn check(stream: &[u8], payload_bytes_max: usize, cuts: &[usize], expected: &[Placed]) {
    let mut reader = FrameReader::new(payload_bytes_max);
    let mut cuts = cuts.iter().cycle();
    let heads = heads(stream);
    let mut expected = expected.iter();
    // Kept, as answers are that nobody has taken yet.
    let mut kept: Vec<Frame> = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let buffer = reader.buffer();
        let room = buffer.capacity() - buffer.len();
        assert!(room > 0, "a read into no room looks like the end of the stream");
        assert!(buffer.capacity() <= SPARE_BYTES_MAX + 2 * buffer.len(), "{}", buffer.capacity());
        let piece = room.min(*cuts.next().expect("endless")).min(stream.len() - at);
        // As a read does, which ends before the next bytes with something attached.
        let next = heads.iter().map(|(head, _)| *head).find(|head| *head > at);
        let piece = piece.min(next.unwrap_or(stream.len()) - at);
        buffer.extend_from_slice(&stream[at..at + piece]);
        if let Some((_, attached)) = heads.iter().find(|(head, _)| *head == at) {
            reader.attach((0..*attached).map(|_| Passed::new(Anything)).collect(), false);
        }
        at += piece;
        loop {
            let event = match reader.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let Frame { kind, flags, seq, ref body, ref arrived } = frame;
                    let memory = (0..).take_while(|&n| arrived.memory(n).is_some()).count();
                    let others = (0..).take_while(|&n| arrived.descriptor(n).is_some()).count();
                    let attached = memory + others;
                    let body = body.to_vec();
                    if seq % 2 == 1 {
                        kept.push(frame);
                    }
                    Event::Frame { kind, flags, seq, attached, body }
                }
                Err(error) => Event::Error(error),
            };
            assert_eq!(Some(&event), expected.next().map(|(_, event)| event), "at {at}");
            if matches!(event, Event::Error(_)) {
                return;
            }
        }
        let late = expected.as_slice().first().filter(|(place, _)| *place <= at);
        assert_eq!(late, None, "after {at} bytes");
    }
}
