//! The protocol over one worker's socket, as the parent holds it: bytes out,
//! messages in. Used by the supervisor's links. Knows nothing of tasks.
//!
//! What a worker has answered can reach the parent in two ways: through the
//! socket, or, where the worker is busy or dead before it has sent it, through
//! the ring in its status page. Both are the same stream of bytes; positions
//! in it say which bytes are news.

mod outgoing;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::unix::AsyncFd;

pub(crate) use self::outgoing::Outgoing;
use crate::limits::{FRAME_ATTACHED_MAX, WAITING_FDS_LEAST, WAITING_FDS_MAX};
use crate::proto::frame::FrameReader;
use crate::proto::message::FromWorker;
use crate::proto::peer::{ProtocolError, Violation};
use crate::seat::{Seat, until_readable, until_writable};
use crate::sys::descriptor::{self, Room, Untaken};
use crate::sys::fd::{self, Received};
use crate::sys::page::Page;

/// One worker's socket.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: Arc<OwnedFd>,
    reading: Seat,
    /// While there was no room.
    writing: Option<AsyncFd<OwnedFd>>,
    page: Arc<Page>,
    reader: FrameReader,
    /// Of descriptors that have come and nobody has taken.
    untaken: Arc<Untaken>,
    /// Being written; what is new gathers elsewhere until this is through.
    outgoing: Outgoing,
    /// Whether some of it was since this was last asked.
    has_written: bool,
    /// Position of the next byte from the socket when this was last asked for.
    read_before: u64,
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
            reading: until_readable(Arc::clone(&socket))?,
            writing: None,
            socket,
            page,
            reader: FrameReader::new(frame_bytes_max),
            untaken: Untaken::new(waiting_fds_max()),
            outgoing: Outgoing::default(),
            has_written: false,
            read_before: 0,
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

    /// How many bytes the socket has brought, since this was last asked, of a message that
    /// is not whole yet.
    pub(crate) fn arrived(&mut self) -> u64 {
        let arrived = self.read - std::mem::replace(&mut self.read_before, self.read);
        arrived.min(self.reader.under_way() as u64)
    }

    /// Trades what has been written (nothing is left of it but its memory) for
    /// what has gathered since.
    pub(crate) fn swap_outgoing(&mut self, gathered: &mut Outgoing) {
        debug_assert!(self.outgoing.is_empty());
        std::mem::swap(&mut self.outgoing, gathered);
    }

    /// Writes as much as the socket takes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_full = |sent: &io::Result<()>| matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        while !self.outgoing.is_empty() {
            let socket = self.socket.as_fd();
            let sent = match &self.writing {
                None => {
                    let sent = self.outgoing.send_once(socket);
                    if is_full(&sent) {
                        self.writing = Some(until_writable(self.socket.as_fd())?);
                    }
                    sent
                }
                Some(writing) => match writing.poll_write_ready(cx)? {
                    Poll::Ready(mut guard) => {
                        let sent = self.outgoing.send_once(socket);
                        if is_full(&sent) {
                            guard.clear_ready();
                        }
                        sent
                    }
                    // Seldom, and nobody would call again if that were a mistake.
                    Poll::Pending => {
                        let sent = self.outgoing.send_once(socket);
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
                    sent?;
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

/// How many descriptors of one worker may wait to be taken in this process.
fn waiting_fds_max() -> usize {
    let half = fd::descriptors_max() / 2;
    half.clamp(WAITING_FDS_LEAST, WAITING_FDS_MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::limits::OUTBOX_BYTES;
    use crate::proto::frame::{HEADER_BYTES, Kind, put_header};

    /// A frame that is longer than half of the ring goes past it. Its last part
    /// was once taken from there all the same.
    #[tokio::test]
    async fn a_long_frame_is_not_looked_for_in_the_outbox() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
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
        let (ours, mut theirs) = UnixStream::pair().unwrap();
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

    /// Or a worker that goes on saying something could keep away an answer for ever.
    #[tokio::test]
    async fn what_was_said_before_is_not_on_its_way() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (page, _fd) = Page::create().unwrap();
        let mut transport = Transport::new(ours, Arc::new(page), 1 << 20).unwrap();

        let mut whole = Vec::new();
        put_header(&mut whole, Kind::Item, 0, 1, 1000);
        whole.resize(HEADER_BYTES + 1000, 0);
        for _ in 0..100 {
            theirs.write_all(&whole).unwrap();
            transport.read_now().unwrap();
            assert!(transport.next_message().unwrap().is_some());
        }
        assert_eq!(transport.arrived(), 0);

        let (first, last) = whole.split_at(700);
        theirs.write_all(&whole).unwrap();
        theirs.write_all(first).unwrap();
        transport.read_now().unwrap();
        while transport.next_message().unwrap().is_some() {}
        assert_eq!((transport.arrived(), transport.arrived()), (700, 0));
        theirs.write_all(&last[..100]).unwrap();
        transport.read_now().unwrap();
        assert_eq!(transport.arrived(), 100);
    }

    /// Whatever it says, it says nothing any more: not how long a frame will be.
    #[tokio::test]
    async fn what_comes_a_second_time_is_not_taken_for_a_long_frame() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
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
}
