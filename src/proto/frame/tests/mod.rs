//! Bytes cut anywhere, and what no honest end would send. Beside it: what is done with
//! the memory of large frames, and what is attached to frames.

mod attached;
mod large;

use proptest::prelude::*;

use super::buffer::READ_BYTES;
use super::{FrameError, FrameReader, HEADER_BYTES, Kind, REPORT_BYTES_MAX, put_header};
use crate::limits::{FRAME_ATTACHED_MAX, SPARE_BYTES_MAX};

fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (seq, body) in bodies.iter().enumerate() {
        put_header(&mut out, Kind::Done, 1, seq as u64, body.len());
        out.extend_from_slice(body);
    }
    out
}

fn drain(reader: &mut FrameReader) -> Vec<(u64, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        frames.push((frame.seq, frame.body.to_vec()));
    }
    frames
}

#[test]
fn any_two_way_split_gives_the_same_frames() {
    let bytes = stream(&[vec![], vec![1], vec![2; 300], vec![]]);
    for cut in 0..=bytes.len() {
        let mut reader = FrameReader::new(1000);
        reader.buffer().extend_from_slice(&bytes[..cut]);
        let mut frames = drain(&mut reader);
        reader.buffer().extend_from_slice(&bytes[cut..]);
        frames.extend(drain(&mut reader));
        assert_eq!(frames.len(), 4, "cut at {cut}");
        assert_eq!(frames[2].1, vec![2; 300]);
        assert!(reader.buffer().is_empty());
    }
}

#[test]
fn a_giant_length_is_refused_before_its_body() {
    let mut bytes = Vec::new();
    put_header(&mut bytes, Kind::Done, 0, 1, u32::MAX as usize);
    let mut reader = FrameReader::new(1000);
    reader.buffer().extend_from_slice(&bytes);
    assert_eq!(
        reader.next_frame().unwrap_err(),
        FrameError::TooLong { size: u32::MAX as usize, limit: 1000 }
    );
}

#[test]
fn the_buffer_grows_with_what_arrives_not_with_what_is_announced() {
    let mut bytes = Vec::new();
    put_header(&mut bytes, Kind::Done, 0, 1, 1 << 30);
    let mut reader = FrameReader::new(2 << 30);
    reader.buffer().extend_from_slice(&bytes);
    assert!(reader.next_frame().unwrap().is_none());
    assert!(reader.buffer().capacity() <= 2 * READ_BYTES);
}

#[test]
fn a_frame_may_be_as_long_as_its_limit_and_no_longer() {
    for (kind, limit) in [
        (Kind::Setup, 100_000),
        (Kind::Run, 100_000),
        (Kind::Done, 100_000),
        (Kind::Item, 100_000),
        (Kind::Bye, REPORT_BYTES_MAX),
        (Kind::Hello, REPORT_BYTES_MAX),
        (Kind::Ready, REPORT_BYTES_MAX),
        (Kind::InitFailed, REPORT_BYTES_MAX),
        (Kind::Failed, REPORT_BYTES_MAX),
        (Kind::Skipped, REPORT_BYTES_MAX),
        (Kind::Began, REPORT_BYTES_MAX),
    ] {
        for (len, fits) in [(limit, true), (limit + 1, false)] {
            let mut bytes = Vec::new();
            put_header(&mut bytes, kind, 3, u64::MAX - 1, len);
            bytes.resize(bytes.len() + len, 7);
            let mut reader = FrameReader::new(100_000);
            reader.buffer().extend_from_slice(&bytes);
            match reader.next_frame() {
                Ok(Some(frame)) if fits => {
                    assert_eq!((frame.kind, frame.flags, frame.seq), (kind, 3, u64::MAX - 1));
                    assert_eq!(frame.body, vec![7; len]);
                }
                Err(error) if !fits => {
                    assert_eq!(error, FrameError::TooLong { size: len, limit });
                }
                other => panic!("{kind:?} of {len} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn headers_that_nobody_writes_are_refused() {
    let refused = |at: usize, byte| {
        let mut bytes = stream(&[vec![]]);
        bytes[at] = byte;
        let mut reader = FrameReader::new(1000);
        reader.buffer().extend_from_slice(&bytes);
        reader.next_frame().unwrap_err()
    };
    let most = FRAME_ATTACHED_MAX;
    assert_eq!(refused(6, most as u8), FrameError::Missing);
    for (at, byte, announced) in [(6, most as u8 + 1, most + 1), (7, 255, 255)] {
        assert_eq!(refused(at, byte), FrameError::Attached { announced, limit: most });
    }
    for byte in (0..=255).filter(|byte| !matches!(byte, 1..=3 | 16..=24)) {
        assert_eq!(refused(4, byte), FrameError::UnknownKind(byte));
    }
}

#[test]
fn a_long_frame_arrives_in_any_pieces_and_leaves_no_large_buffer() {
    let body = vec![5; SPARE_BYTES_MAX + 100_000];
    let bytes = stream(&[body.clone(), vec![1, 2]]);
    let mut reader = FrameReader::new(body.len());
    let (mut capacity, mut grown) = (0, 0);
    for piece in bytes.chunks(5_000) {
        let buffer = reader.buffer();
        let (have, room) = (buffer.len(), buffer.capacity() - buffer.len());
        let missing = (HEADER_BYTES + body.len()).saturating_sub(have);
        assert!(room >= missing.clamp(1, READ_BYTES / 4), "{room} with {missing} missing");
        assert!(buffer.capacity() <= 2 * (2 * have + READ_BYTES), "far more than has arrived");
        grown += usize::from(buffer.capacity() > capacity);
        capacity = buffer.capacity();
        buffer.extend_from_slice(piece);
    }
    assert!(grown < 12, "it is copied {grown} times");
    // Frames that wait to be taken do not keep others from arriving.
    assert!(reader.buffer().capacity() > bytes.len());
    assert_eq!(drain(&mut reader), [(0, body), (1, vec![1, 2])]);
    // Its room is used again now and then, but not kept.
    let short = stream(&[vec![1; 4000]]);
    let mut large = 0;
    for _ in 0..4000 {
        large += usize::from(reader.buffer().capacity() > SPARE_BYTES_MAX);
        reader.buffer().extend_from_slice(&short);
        assert_eq!(drain(&mut reader).len(), 1);
    }
    assert!(large < 10, "{large} times");
}

#[test]
fn errors_read_well() {
    let texts = [
        (FrameError::UnknownKind(99), "unknown frame kind 99"),
        (
            FrameError::Attached { announced: 9, limit: 0 },
            "9 descriptors are over the frame's limit of 0",
        ),
        (FrameError::Missing, "descriptors that it announced did not come"),
        (FrameError::Unannounced, "descriptors came that it did not announce"),
        (FrameError::Unsendable, "a descriptor is not one of sealed memory"),
        (FrameError::TooLong { size: 7, limit: 5 }, "frame of 7 bytes is over the limit of 5"),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        cuts in prop::collection::vec(1usize..97, 1..40),
    ) {
        let bytes = stream(&bodies);
        let mut reader = FrameReader::new(1000);
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            reader.buffer().extend_from_slice(now);
            frames.extend(drain(&mut reader));
            rest = later;
        }
        prop_assert_eq!(frames.into_iter().map(|(_, body)| body).collect::<Vec<_>>(), bodies);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut reader = FrameReader::new(100);
        reader.buffer().extend_from_slice(&bytes);
        while let Ok(Some(_)) = reader.next_frame() {}
    }
}
