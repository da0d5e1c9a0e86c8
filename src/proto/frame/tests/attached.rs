//! What is attached to frames goes to the frame that announced it, or is refused.

use std::any::Any;
use std::io;
use std::ops::Range;

use super::super::header::{MORE, header, headers_before};
use super::super::{Frame, FrameError, FrameReader, HEADER_BYTES, Kind};
use crate::attached::{Count, Memory, Open, Passed, Shared};
use crate::limits::{FRAME_ATTACHED_MAX, LADEN_ATTACHED_MAX};

/// Memory of a length, or what is none.
#[derive(Clone, Debug)]
struct Fake(Option<usize>);

impl Memory for Fake {
    fn len(&self) -> usize {
        self.0.unwrap()
    }

    fn open(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &[]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Open for Fake {
    fn to_memory(&self) -> Option<Shared> {
        self.0.map(|_| Shared::new(self.clone()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn fakes(lengths: &[usize]) -> Vec<Passed> {
    lengths.iter().map(|&len| Passed::new(Fake(Some(len)))).collect()
}

fn laden(kind: Kind, memory: usize, body: &[u8]) -> Vec<u8> {
    let count = Count { memory, descriptors: 0 };
    [&header(kind, 0, 1, body.len(), count)[..], body].concat()
}

fn lengths(frame: &Frame) -> Vec<usize> {
    (0..).map_while(|index| frame.arrived.memory(index)).map(Shared::len).collect()
}

/// Cut anywhere: what is attached comes with the piece that the first byte of
/// its frame is in.
#[test]
fn each_frame_gets_what_is_attached_to_it() {
    let frames = [
        laden(Kind::Done, 2, b"first"),
        laden(Kind::Skipped, 0, b""),
        laden(Kind::Item, 1, b""),
        laden(Kind::Run, 0, b"last but one"),
        laden(Kind::Run, 3, b"last"),
    ];
    let attached = [&[1, 2][..], &[], &[3], &[], &[4, 5, 6]];
    for cut in 0..=frames.concat().len() {
        let mut reader = FrameReader::new(1000);
        let mut got = Vec::new();
        let mut at = 0;
        for (frame, attached) in frames.iter().zip(attached) {
            // A read ends behind bytes that something is attached to.
            let (now, later) = frame.split_at(cut.saturating_sub(at).min(frame.len()));
            at += frame.len();
            let mut attached = Some(fakes(attached));
            for piece in [now, later].into_iter().filter(|piece| !piece.is_empty()) {
                reader.buffer().extend_from_slice(piece);
                reader.attach(attached.take().unwrap_or_default(), false);
                while let Some(frame) = reader.next_frame().unwrap() {
                    assert!(!frame.arrived.is_short());
                    got.push(lengths(&frame));
                }
            }
        }
        assert_eq!(got, attached, "cut at {cut}");
    }
}

#[test]
fn what_is_attached_must_be_as_the_frame_says() {
    let first = |bytes: &[u8], attached: Vec<Passed>| {
        let mut reader = FrameReader::new(1000);
        reader.buffer().extend_from_slice(bytes);
        reader.attach(attached, false);
        reader.next_frame().map(|frame| frame.map(|frame| lengths(&frame)))
    };
    let frame = laden(Kind::Done, 2, b"body");
    let (part, header) = (&frame[..HEADER_BYTES + 1], &frame[..HEADER_BYTES - 1]);
    for bytes in [&frame[..], part] {
        assert_eq!(first(bytes, fakes(&[1])), Err(FrameError::Missing));
        assert_eq!(first(bytes, fakes(&[1, 2, 3])), Err(FrameError::Unannounced));
    }
    assert_eq!(first(part, fakes(&[1, 2])), Ok(None));
    // Nobody knows yet what it will say.
    for count in [0, 1, FRAME_ATTACHED_MAX] {
        assert_eq!(first(header, fakes(&vec![1; count])), Ok(None));
    }
    let too_many = fakes(&[1; FRAME_ATTACHED_MAX + 1]);
    assert_eq!(first(header, too_many), Err(FrameError::Unannounced));
    assert_eq!(first(b"", fakes(&[1])), Err(FrameError::Unannounced));
    let skipped = laden(Kind::Skipped, 0, b"");
    assert_eq!(first(&skipped, fakes(&[1])), Err(FrameError::Unannounced));
    let refused = [fakes(&[1]), vec![Passed::new(Fake(None))]].concat();
    assert_eq!(first(&frame, refused), Err(FrameError::Unsendable));

    for kind in [Kind::Bye, Kind::Hello, Kind::Ready, Kind::Failed, Kind::Began] {
        let refused = FrameError::Attached { announced: 1, limit: 0 };
        assert_eq!(first(&laden(kind, 1, b""), fakes(&[1])), Err(refused));
    }
    // Together with the body.
    assert_eq!(first(&frame, fakes(&[500, 496])), Ok(Some(vec![500, 496])));
    let too_long = FrameError::TooLong { size: 1001, limit: 1000 };
    assert_eq!(first(&frame, fakes(&[500, 497])), Err(too_long));
    let endless = first(&frame, fakes(&[usize::MAX, usize::MAX]));
    assert_eq!(endless, Err(FrameError::TooLong { size: usize::MAX, limit: 1000 }));
}

#[test]
fn descriptors_are_behind_the_memory_and_may_be_anything() {
    let count = Count { memory: 1, descriptors: 2 };
    let frame = |kind| [&header(kind, 0, 1, 1, count)[..], b"x"].concat();
    let anything = || vec![Passed::new(Fake(None)), Passed::new(Fake(Some(5000)))];
    let mut reader = FrameReader::new(1000);
    for kind in [Kind::Setup, Kind::Run, Kind::Done, Kind::Item] {
        reader.buffer().extend_from_slice(&frame(kind));
        reader.attach([fakes(&[7]), anything()].concat(), false);
        let frame = reader.next_frame().unwrap().unwrap();
        let descriptors = (0..).map_while(|index| frame.arrived.descriptor(index)).count();
        assert_eq!((lengths(&frame), descriptors), (vec![7], 2));
    }
    // What is announced as memory must be some.
    reader.buffer().extend_from_slice(&frame(Kind::Done));
    reader.attach([anything(), fakes(&[7])].concat(), false);
    assert_eq!(reader.next_frame().unwrap_err(), FrameError::Unsendable);
}

#[test]
fn what_there_was_no_room_for_is_nobodys_fault() {
    let mut reader = FrameReader::new(1000);
    reader.buffer().extend_from_slice(&laden(Kind::Done, 3, b"x"));
    reader.attach(fakes(&[7]), true);
    let frame = reader.next_frame().unwrap().unwrap();
    assert_eq!((lengths(&frame), frame.arrived.is_short()), (vec![7], true));
    assert!(!frame.arrived.is_none());
    // That is over with this frame.
    reader.buffer().extend_from_slice(&laden(Kind::Done, 1, b""));
    assert_eq!(reader.next_frame().unwrap_err(), FrameError::Missing);
}

/// A frame of which part comes with the next, whose descriptors are its own.
#[test]
fn what_there_was_no_room_for_is_not_taken_from_the_next_frame() {
    let frame = laden(Kind::Item, 2, b"body");
    for there in 0..2 {
        let mut reader = FrameReader::new(1000);
        let mut next = |bytes: &[u8], attached: &[usize], is_short| {
            reader.buffer().extend_from_slice(bytes);
            reader.attach(fakes(attached), is_short);
            std::iter::from_fn(|| reader.next_frame().unwrap())
                .map(|frame| (lengths(&frame), frame.arrived.is_short()))
                .collect::<Vec<_>>()
        };
        let (first, rest) = frame.split_at(HEADER_BYTES);
        assert_eq!(next(first, &[7, 8][..there], true), []);
        let rest_and_next = [rest, &frame].concat();
        let cut = ([7, 8][..there].to_vec(), true);
        assert_eq!(next(&rest_and_next, &[1, 2], false), [cut, (vec![1, 2], false)]);
        // And the other way round.
        assert_eq!(next(first, &[3, 4], false), []);
        let cut = ([9][..there].to_vec(), true);
        assert_eq!(next(&rest_and_next, &[9][..there], true), [(vec![3, 4], false), cut]);
    }
}

/// A frame to which so much is attached, as it is sent, and with what.
fn scattered(kind: Kind, count: Count, body: &[u8]) -> Vec<(Vec<u8>, Vec<usize>)> {
    let header = header(kind, 0, 1, body.len(), count);
    let mut pieces: Vec<_> = headers_before(&header, count).map(|header| header.to_vec()).collect();
    pieces.push([&header[..], body].concat());
    let sizes = |part: Range<usize>| part.collect();
    let parts = (0..pieces.len()).map(|index| sizes(count.range_of_part(index)));
    pieces.into_iter().zip(parts).collect()
}

#[test]
fn what_one_message_does_not_take_comes_before_its_frame() {
    const FULL: usize = FRAME_ATTACHED_MAX;
    for (memory, descriptors) in
        [(0, 1), (0, FULL), (0, FULL + 1), (FULL, 1), (200, 200), (3, LADEN_ATTACHED_MAX - 3)]
    {
        let count = Count { memory, descriptors };
        let pieces = scattered(Kind::Item, count, b"body");
        assert_eq!(pieces.len(), count.all().div_ceil(FULL));
        for step in [1, 7, 1000] {
            let mut reader = FrameReader::new(1 << 20);
            let mut frames = Vec::new();
            for (bytes, lengths) in &pieces {
                let mut arrived = Some(fakes(lengths));
                for bytes in bytes.chunks(step) {
                    assert!(frames.is_empty());
                    reader.buffer().extend_from_slice(bytes);
                    reader.attach(arrived.take().unwrap_or_default(), false);
                    assert!(!reader.is_empty() && reader.unread().is_none());
                    frames.extend(reader.next_whole().unwrap());
                }
            }
            let frame = &frames[0];
            assert_eq!((&frame.body[..], frame.flags), (&b"body"[..], 0));
            assert_eq!(lengths(frame), Vec::from_iter(0..memory));
            assert_eq!(frame.arrived.count(), count.all());
            assert!(reader.is_empty() && reader.next_whole().unwrap().is_none());
        }
    }
}

#[test]
fn what_comes_before_a_frame_must_be_its_own_and_no_less_than_can_come() {
    const FULL: usize = FRAME_ATTACHED_MAX;
    let first = |parts: &[(&[u8], usize, bool)]| {
        let mut reader = FrameReader::new(1 << 20);
        let mut outcome = Ok(None);
        for &(bytes, count, is_short) in parts {
            assert_eq!(outcome, Ok(None));
            reader.buffer().extend_from_slice(bytes);
            reader.attach(fakes(&vec![1; count]), is_short);
            outcome = reader
                .next_whole()
                .map(|frame| frame.map(|frame| (frame.arrived.count(), frame.arrived.is_short())));
        }
        outcome
    };
    let part = |kind: Kind, flags, seq: u64, count: usize, body: &[u8]| {
        let count = Count { memory: count, descriptors: 0 };
        let mut bytes = header(kind, flags, seq, body.len(), count).to_vec();
        bytes.extend_from_slice(body);
        bytes
    };
    let more = part(Kind::Item, MORE, 1, FULL, b"");
    let last = part(Kind::Item, 0, 1, 2, b"x");
    let full = (&more[..], FULL, false);
    assert_eq!(first(&[full, (&last, 2, false)]), Ok(Some((FULL + 2, false))));
    let scattered = Err(FrameError::Scattered);
    for other in [
        part(Kind::Item, 0, 2, 2, b"x"),
        part(Kind::Done, 0, 1, 2, b"x"),
        part(Kind::Item, MORE, 2, FULL, b""),
    ] {
        let count = other[6].into();
        assert_eq!(first(&[full, (&other, count, false)]), scattered);
    }
    // Not full; empty; with a body; with other flags.
    let fewer = part(Kind::Item, MORE, 1, FULL - 1, b"");
    assert_eq!(first(&[(&fewer, FULL - 1, false)]), scattered);
    assert_eq!(first(&[(&part(Kind::Item, MORE, 1, 0, b""), 0, false)]), scattered);
    assert_eq!(first(&[(&part(Kind::Item, MORE, 1, FULL, b"x"), FULL, false)]), scattered);
    assert_eq!(first(&[(&part(Kind::Item, MORE | 1, 1, FULL, b""), FULL, false)]), scattered);
    assert_eq!(first(&[full, (&part(Kind::Skipped, 0, 1, 0, b""), 0, false)]), scattered);
    // Without end, though each may be short.
    let most = LADEN_ATTACHED_MAX / FULL;
    for is_short in [false, true] {
        let there = if is_short { 0 } else { FULL };
        let mut parts = vec![(&more[..], there, is_short); most];
        assert_eq!(first(&parts), Ok(None));
        parts.extend([(&more[..], FULL, false)]);
        let announced = (most + 1) * FULL;
        let limit = LADEN_ATTACHED_MAX;
        assert_eq!(first(&parts), Err(FrameError::Attached { announced, limit }));
    }
    // All memory together, with the body.
    let mut reader = FrameReader::new(1000);
    for lengths in [vec![5; FULL], vec![5; FULL]] {
        reader.buffer().extend_from_slice(&more);
        reader.attach(fakes(&lengths), false);
    }
    let limit = 1000;
    assert_eq!(reader.next_whole().unwrap_err(), FrameError::TooLong { size: 1280, limit });
}

/// Nothing behind it is taken for what is missing.
#[test]
fn what_there_was_no_room_for_ends_what_came() {
    let count = Count { memory: 100, descriptors: 200 };
    let mut reader = FrameReader::new(1 << 20);
    let mut frame = None;
    for (index, (bytes, lengths)) in scattered(Kind::Run, count, b"").into_iter().enumerate() {
        let is_short = index == 1;
        reader.buffer().extend_from_slice(&bytes);
        reader.attach(fakes(&lengths[..if is_short { 7 } else { lengths.len() }]), is_short);
        frame = reader.next_whole().unwrap();
    }
    let frame = frame.unwrap();
    assert_eq!((frame.arrived.count(), frame.arrived.is_short()), (135, true));
    assert_eq!(lengths(&frame).len(), 100);
}
