//! Which memory large frames are received into, and how long it is kept.

use bytes::BytesMut;

use super::super::buffer::READ_BYTES;
use super::super::{FrameReader, HEADER_BYTES, Kind, put_header};
use super::{drain, stream};
use crate::limits::{LARGE_BYTES_LEAST, SPARE_LARGE_BYTES_MAX, SPARES_MAX};

/// Feeds one frame in pieces as a socket would, and returns its body.
fn receive(reader: &mut FrameReader, byte: u8, len: usize) -> BytesMut {
    let bytes = stream(&[vec![byte; len]]);
    let mut rest = &bytes[..];
    loop {
        let (buffer, most) = reader.next_read();
        let room = buffer.capacity() - buffer.len();
        let (now, later) = rest.split_at(rest.len().min(room).min(most).min(200_000));
        assert!(!now.is_empty(), "no room, and nothing complete");
        buffer.extend_from_slice(now);
        rest = later;
        if let Some(frame) = reader.next_frame().unwrap() {
            assert!(rest.is_empty() && reader.is_empty());
            return frame.body;
        }
    }
}

const LARGE: usize = 4 * LARGE_BYTES_LEAST;

#[test]
fn a_large_buffer_is_used_again_once_nobody_holds_it() {
    let mut reader = FrameReader::new(1 << 30);
    let first = receive(&mut reader, 1, LARGE);
    let place = first.as_ptr();
    assert!(reader.has_spares() && reader.has_new_spare() && !reader.has_new_spare());
    let second = receive(&mut reader, 2, LARGE);
    assert_ne!(second.as_ptr(), place, "the first is still held");
    assert!(first.iter().all(|byte| *byte == 1));
    // As long as any part of it is held, by whomever.
    let part = first.freeze().slice(LARGE - 1..);
    assert_ne!(receive(&mut reader, 3, LARGE).as_ptr(), place);
    assert_eq!(part[..], [1]);
    drop(part);
    drop(second);
    let mut reader = FrameReader::new(1 << 30);
    let place = receive(&mut reader, 1, LARGE).as_ptr();
    for round in 0..5 {
        // Short ones between them do not matter.
        assert_eq!(receive(&mut reader, 9, round).len(), round);
        let body = receive(&mut reader, 2, LARGE);
        assert_eq!((body.as_ptr(), body.len()), (place, LARGE));
        assert!(body.iter().all(|byte| *byte == 2));
    }
}

#[test]
fn one_large_buffer_is_filled_while_another_is_held() {
    let mut reader = FrameReader::new(1 << 30);
    let mut held = receive(&mut reader, 0, LARGE);
    let mut places = vec![held.as_ptr()];
    for round in 1..10 {
        held = receive(&mut reader, round, LARGE);
        places.push(held.as_ptr());
    }
    assert!(held.iter().all(|byte| *byte == 9));
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 2);
}

#[test]
fn a_frame_does_not_keep_a_buffer_far_larger_than_itself() {
    let mut reader = FrameReader::new(1 << 30);
    let place = receive(&mut reader, 1, 4 * LARGE).as_ptr();
    let small = receive(&mut reader, 2, LARGE);
    assert_ne!(small.as_ptr(), place);
    let other = receive(&mut reader, 3, 3 * LARGE);
    assert_eq!(other.as_ptr(), place, "and it waits for one that suits it");
}

#[test]
fn large_buffers_are_given_back() {
    let mut reader = FrameReader::new(1 << 30);
    let body = receive(&mut reader, 1, LARGE).freeze();
    assert!(!body.is_unique());
    reader.give_back();
    assert!(body.is_unique() && !reader.has_spares());
    // So are all but the latest, however many are held.
    let held: Vec<_> = (0..9).map(|n| receive(&mut reader, n, LARGE).freeze()).collect();
    assert_eq!(held.iter().filter(|body| !body.is_unique()).count(), SPARES_MAX);
    let mut reader = FrameReader::new(1 << 30);
    assert!(receive(&mut reader, 1, SPARE_LARGE_BYTES_MAX + 1).freeze().is_unique());
}

#[test]
fn a_length_alone_takes_no_memory_but_what_is_there() {
    let mut reader = FrameReader::new(1 << 30);
    let mut header = Vec::new();
    put_header(&mut header, Kind::Done, 0, 1, 1 << 30);
    reader.buffer().extend_from_slice(&header);
    assert!(reader.next_frame().unwrap().is_none());
    let (buffer, most) = reader.next_read();
    assert!(buffer.capacity() <= 2 * READ_BYTES);
    assert_eq!(most, 1 << 30);
}

#[test]
fn a_frame_that_nobody_has_taken_leaves_room_for_the_next_read() {
    // The first fills what is made room for at first.
    for len in [READ_BYTES - HEADER_BYTES, LARGE] {
        let bytes = stream(&[vec![1; len]]);
        let mut reader = FrameReader::new(LARGE);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (buffer, most) = reader.next_read();
            let room = buffer.capacity() - buffer.len();
            let (now, later) = rest.split_at(rest.len().min(room).min(most));
            buffer.extend_from_slice(now);
            rest = later;
        }
        let (buffer, most) = reader.next_read();
        assert!(buffer.capacity() - buffer.len() >= READ_BYTES / 4, "behind {len}");
        assert_eq!(most, usize::MAX);
        assert_eq!(drain(&mut reader).len(), 1);
    }
}

#[test]
fn what_follows_a_short_frame_is_read_with_it() {
    let bytes = stream(&[vec![1; 300]]);
    for there in [1, HEADER_BYTES, bytes.len() - 1] {
        let mut reader = FrameReader::new(1000);
        assert!(reader.is_empty());
        reader.buffer().extend_from_slice(&bytes[..there]);
        assert!(!reader.is_empty());
        assert_eq!(reader.next_read().1, usize::MAX);
    }
}

#[test]
fn what_comes_behind_a_large_frame_is_not_lost() {
    let bytes = stream(&[vec![1; LARGE], vec![2; 300], vec![3; LARGE]]);
    for step in [1000, 77_777, LARGE, bytes.len()] {
        let mut reader = FrameReader::new(1 << 30);
        let mut frames = Vec::new();
        for piece in bytes.chunks(step) {
            reader.buffer().extend_from_slice(piece);
            frames.extend(drain(&mut reader));
        }
        let lengths: Vec<_> = frames.iter().map(|(_, body)| (body[0], body.len())).collect();
        assert_eq!(lengths, [(1, LARGE), (2, 300), (3, LARGE)], "in steps of {step}");
    }
}
