//! Bytes on their way to a worker: frames, long payloads that are not copied, and what
//! goes beside them. Filled by the supervisor, sent by whoever has it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;

use crate::attached::{Attached, Count};
use crate::limits::KEEP_BYTES_LEAST;
use crate::proto::draft::Payload;
use crate::proto::frame::header::headers_before;
use crate::proto::message::{CallContext, Shape, put_run};
use crate::sys::{descriptor, fd};

/// Slices given to one write.
const SLICES_MAX: usize = 16;

/// All of them, in order.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Complete pieces, before `tail`.
    pieces: VecDeque<Piece>,
    tail: Vec<u8>,
    /// Bytes of the first piece, or of `tail` if there is none, already written.
    written: usize,
    /// Something has been written since it was made.
    touched: bool,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Goes with the first of them.
    load: Option<Load>,
}

/// Part of what is attached to a frame.
#[derive(Debug)]
struct Load {
    attached: Arc<[Attached]>,
    part: Range<usize>,
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tail.is_empty()
    }

    /// Whether no byte of what there is has been sent.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Where frame headers and short bodies are appended.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends a whole `Run`, and what is attached to it.
    pub(crate) fn push_run(
        &mut self,
        seq: u64,
        function: u64,
        shape: Shape,
        context: Option<&CallContext>,
        args: &Payload,
    ) {
        let attached = args.attached();
        if attached.is_some() {
            self.end_piece();
        }
        let count = attached.map_or(Count::NONE, |attached| Count::of(attached));
        put_run(&mut self.tail, seq, function, shape, context, args.len(), count);
        if let Some(attached) = attached {
            let head = Bytes::from(std::mem::take(&mut self.tail));
            self.pieces.extend(laden(head, attached));
        }
        self.push_payload(args);
    }

    /// What begins with a whole frame, and what is attached to that.
    pub(crate) fn of_frame(frame: &Payload) -> Self {
        let mut outgoing = Outgoing::default();
        outgoing.push_payload(frame);
        if let Some(attached) = frame.attached() {
            outgoing.end_piece();
            if let Some(first) = outgoing.pieces.pop_front() {
                for piece in laden(first.bytes, attached).into_iter().rev() {
                    outgoing.pieces.push_front(piece);
                }
            }
        }
        outgoing
    }

    fn push_payload(&mut self, payload: &Payload) {
        let pieces = match payload {
            Payload::Short(short) => return self.tail.extend_from_slice(short),
            Payload::Pieces(pieces) => &pieces[..],
            Payload::Laden(laden) => laden.pieces(),
        };
        for piece in pieces {
            if piece.len() < KEEP_BYTES_LEAST {
                self.tail.extend_from_slice(piece);
            } else {
                self.end_piece();
                self.pieces.push_back(Piece { bytes: piece.clone(), load: None });
            }
        }
    }

    /// Makes a piece of the tail, if there is any.
    fn end_piece(&mut self) {
        debug_assert!(self.written == 0 || !self.pieces.is_empty());
        if !self.tail.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.tail));
            self.pieces.push_back(Piece { bytes, load: None });
        }
    }

    /// Sends short frames at once, in place of the link that would write them.
    /// What the socket does not take stays. Returns whether nothing does.
    pub(crate) fn send_now(&mut self, socket: &OwnedFd) -> bool {
        if self.pieces.is_empty() && self.written == 0 {
            // If it fails, the link will meet the same, and know what to do.
            if let Ok(sent) = fd::send_slices(socket.as_fd(), &[IoSlice::new(&self.tail)]) {
                self.tail.drain(..sent);
            }
        }
        self.is_empty()
    }

    /// Writes all there is to a socket, without waiting, however that is set. What it
    /// does not take stays, and is an error.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while !self.is_empty() {
            match self.send_once(socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Writes once, without waiting.
    pub(super) fn send_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = self.slices(&mut slices);
        let slices = &slices[..count];
        let sent = match self.load() {
            None => fd::send_slices(socket, slices)?,
            Some(Load { attached, part }) => {
                descriptor::send_now(socket, slices, attached, part.clone())?
            }
        };
        self.advance(sent);
        Ok(())
    }

    /// Fills in what can be sent at once: up to the next piece that something is
    /// attached to.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut count = 0;
        let mut skip = self.written;
        let pieces = self.pieces.iter().map(|piece| (&piece.bytes[..], piece.load.is_some()));
        for (piece, is_laden) in pieces.chain([(&self.tail[..], false)]) {
            if count == SLICES_MAX || (is_laden && count > 0) {
                break;
            }
            slices[count] = IoSlice::new(&piece[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// What goes with the next byte. With the first one that is taken it is sent.
    fn load(&self) -> Option<&Load> {
        self.pieces.front().filter(|_| self.written == 0)?.load.as_ref()
    }

    fn advance(&mut self, mut n: usize) {
        self.touched |= n > 0;
        while let Some(first) = self.pieces.front() {
            let left = first.bytes.len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.pieces.pop_front();
        }
        self.written += n;
        if self.written == self.tail.len() {
            self.tail.clear();
            self.written = 0;
        }
    }
}

/// What begins with the header of a frame, with what is attached to that, and before it
/// the frames that it takes for more than fits.
fn laden(head: Bytes, attached: &Arc<[Attached]>) -> Vec<Piece> {
    let count = Count::of(attached);
    let header = head.first_chunk().expect("a frame begins with its header");
    let before = headers_before(header, count).map(|header| Bytes::copy_from_slice(&header));
    let pieces = before.collect::<Vec<_>>().into_iter().chain([head]).enumerate();
    let load = |index| Load { attached: Arc::clone(attached), part: count.range_of_part(index) };
    pieces.map(|(index, bytes)| Piece { bytes, load: Some(load(index)) }).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::attached::Passed;
    use crate::proto::codec;
    use crate::proto::draft::Draft;
    use crate::proto::frame::FrameReader;
    use crate::sys::cast::Sharing;
    use crate::sys::memfd::Unsealed;

    fn written(outgoing: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outgoing.slices(&mut slices);
            let before = bytes.len();
            bytes.extend(slices[..count].iter().flat_map(|slice| slice.iter()).take(step));
            outgoing.advance(bytes.len() - before);
        }
        bytes
    }

    /// As if it had come through a socket.
    #[derive(Debug)]
    struct Sent(Attached);

    impl crate::attached::Open for Sent {
        fn to_memory(&self) -> Option<crate::attached::Shared> {
            self.0.memory().cloned()
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn what_is_attached_leaves_with_the_first_byte_of_its_run() {
        let mut draft = Draft::default();
        let shared = Unsealed::zeroed(NonZeroUsize::MIN).unwrap().seal().unwrap();
        codec::draft::<Sharing, _>(&(shared, 1_u8), &mut draft, 1000).unwrap();
        let laden = Payload::from(draft);
        let plain = Payload::from(vec![7; KEEP_BYTES_LEAST]);
        for step in [1, 7, 1 << 20] {
            let mut outgoing = Outgoing::default();
            outgoing.push_run(1, 0, Shape::One, None, &plain);
            outgoing.push_run(2, 0, Shape::One, None, &laden);
            outgoing.push_run(3, 0, Shape::One, None, &laden);
            outgoing.push_run(4, 0, Shape::One, None, &plain);
            let mut reader = FrameReader::new(1 << 20);
            let mut runs = Vec::new();
            while !outgoing.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = outgoing.slices(&mut slices);
                let bytes = slices[..count].iter().flat_map(|slice| slice.iter());
                let bytes: Vec<u8> = bytes.copied().take(step).collect();
                reader.buffer().extend_from_slice(&bytes);
                let load = outgoing.load();
                let part = load.map_or(&[][..], |load| &load.attached[load.part.clone()]);
                let came = part.iter().map(|one| Passed::new(Sent(one.clone())));
                reader.attach(came.collect(), false);
                outgoing.advance(bytes.len());
                while let Some(frame) = reader.next_frame().unwrap() {
                    runs.push((frame.seq, frame.arrived.memory(0).is_some()));
                }
            }
            assert_eq!(runs, [(1, false), (2, true), (3, true), (4, false)], "{step} at a time");
        }
    }

    #[test]
    fn pieces_leave_in_order_however_they_are_cut() {
        let large = Payload::from(vec![7; KEEP_BYTES_LEAST]);
        for step in
            [1, 2, 3, 5, KEEP_BYTES_LEAST - 1, KEEP_BYTES_LEAST, KEEP_BYTES_LEAST + 3, 1 << 20]
        {
            let mut outgoing = Outgoing::default();
            let mut expected = Vec::new();
            for (head, payload) in
                [(&b"ab"[..], &large), (b"", &Payload::from(b"xyz".to_vec())), (b"c", &large)]
            {
                outgoing.tail().extend_from_slice(head);
                outgoing.push_payload(payload);
                expected.extend_from_slice(head);
                expected.extend(payload.slices().flatten());
            }
            outgoing.tail().extend_from_slice(b"end");
            expected.extend_from_slice(b"end");
            assert_eq!(written(&mut outgoing, step), expected, "in steps of {step}");
            assert!(outgoing.is_empty());
        }
    }
}
