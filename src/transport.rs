//! The protocol over one worker's socket, as the parent holds it: bytes out,
//! messages in. Used by the supervisor's links. Knows nothing of tasks.
//!
//! What a worker has answered can reach the parent in two ways: through the
//! socket, or, where the worker is busy or dead before it has sent it, through
//! the ring in its status page. Both are the same stream of bytes; positions
//! in it say which bytes are news.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::attached::{Attached, Count};
use crate::limits::{FRAME_ATTACHED_MAX, KEEP_BYTES_LEAST, WAITING_FDS_LEAST, WAITING_FDS_MAX};
use crate::proto::draft::Payload;
use crate::proto::frame::FrameReader;
use crate::proto::frame::header::headers_before;
use crate::proto::message::{CallContext, FromWorker, Shape, put_run};
use crate::proto::peer::{ProtocolError, Violation};
use crate::sys::descriptor::{self, Room, Untaken};
use crate::sys::fd::{self, Received};
use crate::sys::page::Page;

/// Slices given to one write.
const SLICES_MAX: usize = 16;

/// Bytes on their way to a worker, in order.
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
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.slices(&mut slices);
            let slices = &slices[..count];
            let sent = match self.load() {
                None => fd::send_slices(socket, slices),
                Some(Load { attached, part }) => {
                    descriptor::send_now(socket, slices, attached, part.clone())
                }
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => self.advance(sent?),
            }
        }
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

/// How many descriptors of one worker may wait to be taken in this process.
fn waiting_fds_max() -> usize {
    let half = fd::descriptors_max() / 2;
    half.clamp(WAITING_FDS_LEAST, WAITING_FDS_MAX)
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

/// One worker's socket.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Arc<OwnedFd>,
    /// Where the runtime says that there is something to read. Nothing else: whenever
    /// the worker reads there is more room to write, and it would tell of that, too.
    reading: AsyncFd<Arc<OwnedFd>>,
    /// Where it says that there is room, while there was none.
    writing: Option<AsyncFd<OwnedFd>>,
    page: Arc<Page>,
    reader: FrameReader,
    /// Of descriptors that have come and nobody has taken.
    untaken: Arc<Untaken>,
    /// Being written; what is new gathers elsewhere until this is through.
    outgoing: Outgoing,
    /// Whether some of it was since this was last asked.
    has_written: bool,
    /// Position of the next byte that `reader` wants.
    wanted: u64,
    /// Position of the next byte from the socket.
    read: u64,
    /// Whether nothing was there when it was last read from.
    was_empty: bool,
    news: News,
}

/// What the runtime has said of the socket's readability. It tells once, when
/// bytes arrive, and a read that fails takes that back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    /// Nothing was read since.
    Fresh,
    Used,
    /// It was taken back although there was something: read on without asking.
    Mistaken,
}

impl Transport {
    pub(crate) fn new(
        stream: std::os::unix::net::UnixStream,
        page: Arc<Page>,
        frame_bytes_max: usize,
    ) -> io::Result<Self> {
        let socket = Arc::new(OwnedFd::from(stream));
        Ok(Transport {
            reading: register(Arc::clone(&socket), Interest::READABLE)?,
            writing: None,
            socket,
            page,
            reader: FrameReader::new(frame_bytes_max),
            untaken: Untaken::new(waiting_fds_max()),
            outgoing: Outgoing::default(),
            has_written: false,
            wanted: 0,
            read: 0,
            was_empty: false,
            news: News::Fresh,
        })
    }

    /// The socket, for [`Outgoing::send_now`].
    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Whether the last bytes given were all written. Then the next ones can
    /// be swapped in.
    pub(crate) fn is_written(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Whether the socket has taken anything since this was last asked.
    pub(crate) fn has_written(&mut self) -> bool {
        std::mem::take(&mut self.has_written)
    }

    /// Trades what has been written (nothing is left of it but its memory) for
    /// what has gathered since.
    pub(crate) fn swap_outgoing(&mut self, gathered: &mut Outgoing) {
        debug_assert!(self.outgoing.is_empty());
        std::mem::swap(&mut self.outgoing, gathered);
    }

    /// Writes as much as the socket takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.outgoing.slices(&mut slices);
            let (socket, slices, load) =
                (self.socket.as_fd(), &slices[..count], self.outgoing.load());
            let send = || match load {
                None => fd::send_slices(socket, slices),
                Some(Load { attached, part }) => {
                    descriptor::send(socket, slices, attached, part.clone())
                }
            };
            let is_full = |sent: &io::Result<usize>| matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            let sent = match &self.writing {
                None => {
                    let sent = send();
                    if is_full(&sent) {
                        self.writing = Some(until_writable(&self.socket)?);
                    }
                    sent
                }
                Some(writing) => match writing.poll_write_ready(cx)? {
                    Poll::Ready(mut guard) => {
                        let sent = send();
                        if is_full(&sent) {
                            guard.clear_ready();
                        }
                        sent
                    }
                    // Seldom, and nobody would call again if that were a mistake.
                    Poll::Pending => {
                        let sent = send();
                        if is_full(&sent) {
                            return Poll::Pending;
                        }
                        sent
                    }
                },
            };
            match sent {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                sent => {
                    self.outgoing.advance(sent?);
                    self.has_written = true;
                }
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    /// Reads once. `Ok(false)` at the end of the stream.
    ///
    /// Not by tokio's own reading: that takes a short read for an empty socket
    /// and then waits for news. But a read also ends where descriptors were
    /// attached or urgent bytes were, and what is behind them is no news.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let read = if self.news == News::Mistaken {
                self.read_now()
            } else {
                let Poll::Ready(mut guard) = self.reading.poll_read_ready(cx)? else {
                    self.news = News::Fresh;
                    return Poll::Pending;
                };
                let (buffer, most) = self.reader.next_read();
                let before = buffer.len();
                let read = fd::receive_into(self.socket.as_fd(), buffer, most);
                if matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                    guard.clear_ready();
                }
                drop(guard);
                read.map(|received| self.account(before, received))
            };
            let blocked = matches!(&read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            self.news = match self.news {
                News::Fresh if blocked => News::Mistaken,
                News::Mistaken if !blocked => News::Mistaken,
                News::Fresh | News::Used | News::Mistaken => News::Used,
            };
            if !blocked {
                return Poll::Ready(read.map(|n| n > 0));
            }
        }
    }

    /// Reads once, without waiting for the runtime to say that it can: what a
    /// dead worker has sent may not have reached the runtime yet.
    pub(crate) fn read_now(&mut self) -> io::Result<usize> {
        let (buffer, most) = self.reader.next_read();
        let before = buffer.len();
        let received = fd::receive_into(self.socket.as_fd(), buffer, most);
        self.was_empty = received.is_err();
        Ok(self.account(before, received?))
    }

    /// Takes note of what was read behind the first `before` bytes of the buffer,
    /// and returns how many bytes it was.
    fn account(&mut self, before: usize, received: Received) -> usize {
        let Received { len: n, fds, cut_short } = received;
        if !fds.is_empty() || cut_short {
            let (came, is_short) = descriptor::receive(fds, Some(&self.untaken));
            self.reader.attach(came, is_short || cut_short);
        }
        self.was_empty = n == 0;
        let start = self.read;
        self.read += n as u64;
        if start < self.wanted {
            // These came through the ring already.
            let known = (self.wanted - start).min(n as u64) as usize;
            self.reader.remove(before, known);
        }
        self.wanted = self.wanted.max(self.read);
        n
    }

    /// Whether there is room for the descriptors that the next read may bring.
    pub(crate) fn room_for_a_read(&self) -> Room {
        self.untaken.room(FRAME_ATTACHED_MAX)
    }

    /// The same. If there is not, `cx` is woken when there is more.
    pub(crate) fn poll_room_for_a_read(&self, cx: &Context<'_>) -> Room {
        self.untaken.room_or_wait(FRAME_ATTACHED_MAX, cx.waker())
    }

    /// Whether nobody can make room by taking what has come: all of it is part of what
    /// is yet to come.
    pub(crate) fn is_full_of_parts(&self) -> bool {
        self.untaken.kept() <= self.reader.arrived()
    }

    /// The next whole message of what has been read.
    pub(crate) fn next_message(&mut self) -> Result<Option<FromWorker>, ProtocolError> {
        match self.reader.next_whole()? {
            Some(frame) => Ok(Some(FromWorker::parse(frame)?)),
            None => Ok(None),
        }
    }

    /// Whether there are large buffers to give back.
    pub(crate) fn has_spares(&self) -> bool {
        self.reader.has_spares()
    }

    /// Whether there is one more than when this was last asked.
    pub(crate) fn has_new_spare(&mut self) -> bool {
        self.reader.has_new_spare()
    }

    /// Stops waiting for large buffers to be of use again.
    pub(crate) fn give_back(&mut self) {
        self.reader.give_back();
    }

    /// Takes what the worker has put into its outbox, which it then does not send;
    /// if it has begun to, it comes once more, and is not heard twice.
    pub(crate) fn take_outbox(&mut self) -> Result<(), ProtocolError> {
        let from = self.wanted;
        self.fetch_outbox(true)?;
        // What is still in the socket comes before it. Else all up to `from` was sent and
        // read; and if that is how far it is settled, nothing behind it was sent or will be.
        if self.read == from && self.page.outbox_settle(from, self.wanted).is_ok() {
            self.read = self.wanted;
        }
        Ok(())
    }

    /// Fetches what the worker has put into its outbox and not sent.
    pub(crate) fn fetch_outbox(&mut self, alive: bool) -> Result<(), ProtocolError> {
        match self.page.outbox_fetch(self.wanted) {
            Some(bytes) => {
                self.reader.buffer().extend_from_slice(&bytes);
                self.wanted += bytes.len() as u64;
                Ok(())
            }
            // In the socket, or about to be; unless the worker is dead and the
            // socket empty. It may not have been read to the end: then it is not
            // for the page to answer for what is missing.
            None if alive || !self.was_empty => Ok(()),
            None => Err(ProtocolError(Violation::Page)),
        }
    }
}

/// Where the runtime says that this can be written to. By another descriptor: it waits
/// for each only once, and for this one to be readable.
fn until_writable(socket: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let waiting = socket.try_clone().and_then(|socket| register(socket, Interest::WRITABLE));
    // There may be one a moment later.
    waiting.map_err(|_| Errno::ENOBUFS.into())
}

#[allow(deprecated, reason = "what its successor asks of the type is so; older versions have none")]
fn register<F: AsRawFd>(fd: F, interest: Interest) -> io::Result<AsyncFd<F>> {
    AsyncFd::with_interest(fd, interest)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::attached::Passed;
    use crate::limits::OUTBOX_BYTES;
    use crate::proto::codec;
    use crate::proto::draft::Draft;
    use crate::proto::frame::{HEADER_BYTES, Kind, put_header};
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

    /// A frame that is longer than half of the ring goes past it. Its last part
    /// was once taken from there all the same.
    #[tokio::test]
    async fn a_long_frame_is_not_looked_for_in_the_outbox() {
        use std::io::Write;

        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (page, _fd) = Page::create().unwrap();
        let page = Arc::new(page);
        let mut transport = Transport::new(ours, Arc::clone(&page), 1 << 20).unwrap();

        let long = vec![7; OUTBOX_BYTES];
        let (first, last) = long.split_at(long.len() - 100);
        theirs.write_all(first).unwrap();
        while transport.wanted < first.len() as u64 {
            transport.read_now().unwrap();
        }
        // The rest is in the socket, and the worker says so.
        theirs.write_all(last).unwrap();
        page.outbox_skip(long.len() as u64);
        page.outbox_publish(long.len() as u64);
        transport.fetch_outbox(true).unwrap();
        assert_eq!(transport.wanted, first.len() as u64);
        while transport.wanted < long.len() as u64 {
            transport.read_now().unwrap();
        }

        // What follows is in the ring again.
        page.outbox_write(long.len() as u64, b"next");
        page.outbox_publish(long.len() as u64 + 4);
        transport.fetch_outbox(true).unwrap();
        assert_eq!(transport.reader.buffer()[..], [&long[..], b"next"].concat());
    }

    /// There may be no room for the descriptors of a dead worker, so that it is not
    /// read to the end. What is not in the ring is in the socket then.
    #[tokio::test]
    async fn what_was_left_in_the_socket_is_not_held_against_the_page() {
        use std::io::Write;

        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (page, _fd) = Page::create().unwrap();
        let page = Arc::new(page);
        let mut transport = Transport::new(ours, Arc::clone(&page), 1 << 20).unwrap();

        theirs.write_all(&[7; 100]).unwrap();
        page.outbox_skip(100);
        page.outbox_publish(100);
        drop(theirs);
        transport.fetch_outbox(false).unwrap();
        assert_eq!(transport.wanted, 0);
        while transport.read_now().unwrap() > 0 {}
        transport.fetch_outbox(false).unwrap();
        assert_eq!(transport.wanted, 100);

        // Of this there is nothing anywhere.
        page.outbox_skip(200);
        page.outbox_publish(200);
        let error = transport.fetch_outbox(false).unwrap_err();
        assert_eq!(error, ProtocolError(Violation::Page));
    }

    /// Whatever it says, it says nothing any more: not how long a frame will be.
    #[tokio::test]
    async fn what_comes_a_second_time_is_not_taken_for_a_long_frame() {
        use std::io::Write;

        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (page, _fd) = Page::create().unwrap();
        let page = Arc::new(page);
        let mut transport = Transport::new(ours, Arc::clone(&page), 1 << 30).unwrap();

        // Its body begins as a frame of a MiB would.
        let mut frame = Vec::new();
        put_header(&mut frame, Kind::Item, 0, 1, 100);
        frame.extend((1_u32 << 20).to_le_bytes());
        frame.resize(HEADER_BYTES + 100, 0);
        theirs.write_all(&frame[..HEADER_BYTES]).unwrap();
        transport.read_now().unwrap();
        page.outbox_write(0, &frame);
        page.outbox_publish(frame.len() as u64);
        transport.fetch_outbox(true).unwrap();
        assert!(matches!(transport.next_message(), Ok(Some(FromWorker::Item { seq: 1, .. }))));

        theirs.write_all(&frame[HEADER_BYTES..]).unwrap();
        transport.read_now().unwrap();
        assert!(matches!(transport.next_message(), Ok(None)));
        theirs.write_all(&frame).unwrap();
        transport.read_now().unwrap();
        assert!(matches!(transport.next_message(), Ok(Some(FromWorker::Item { seq: 1, .. }))));
        assert!(!transport.has_spares());
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
