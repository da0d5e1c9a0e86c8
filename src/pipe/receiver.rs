//! The direction that receives. The peer may be anybody: what it sends ends in a message
//! or an error.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FusedStream, Stream};
use serde::de::DeserializeOwned;
use serde::ser;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::fault::RecvError;
use super::sender::{BYTES, VALUE};
use super::socket::Socket;
use crate::error::{DecodeError, Side};
use crate::limits::{FRAME_BYTES_MAX_DEFAULT, FRAME_BYTES_MAX_MOST};
use crate::proto::codec;
use crate::proto::draft::Whole;
use crate::proto::frame::{Frame, FrameReader, Kind};
use crate::proto::message::{begin_item, finish_item_as};
use crate::sys::cast::Sharing;
use crate::sys::descriptor;
use crate::sys::fd::{self, Direction, Received};

/// The end of a [`channel`](crate::channel) that receives, or the receiving half of a
/// [`Connection`](crate::Connection).
///
/// Goes to another process in an argument, a result or a message, and what it has
/// received and nobody has taken with it. Works in any runtime, and by its `blocking_`
/// methods without one.
///
/// As a stream, it ends after an error that is the end of all messages.
///
/// # Cancel safety
///
/// Futures of all its methods may be dropped: no message is lost.
pub struct Receiver<T> {
    pub(super) socket: Arc<Socket>,
    reader: FrameReader,
    limit: usize,
    /// The next message, if it has come and was not taken.
    next: Option<Frame>,
    /// What went wrong while somebody only looked.
    failed: Option<RecvError>,
    is_over: bool,
    pub(super) is_half: bool,
    what: PhantomData<fn() -> T>,
}

impl<T> Receiver<T> {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Receiver {
            socket,
            reader: FrameReader::new(FRAME_BYTES_MAX_DEFAULT),
            limit: FRAME_BYTES_MAX_DEFAULT,
            next: None,
            failed: None,
            is_over: false,
            is_half: false,
            what: PhantomData,
        }
    }

    /// Longest message that is received, in bytes as encoded. Default: 256 MiB. A
    /// longer one is [`RecvError::Malformed`] and ends the stream of messages. For a
    /// sender that is not trusted it is as much memory as that can make us take.
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.limit = bytes.min(FRAME_BYTES_MAX_MOST);
        self.reader.set_payload_bytes_max(self.limit);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The next message, of what has come.
    fn parse(&mut self) -> Result<bool, RecvError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.next.is_some() {
            return Ok(true);
        }
        if self.is_over {
            return Ok(false);
        }
        let malformed = match self.reader.next_whole() {
            Ok(Some(frame)) if frame.kind == Kind::Item && frame.flags <= BYTES => {
                self.next = Some(frame);
                return Ok(true);
            }
            Ok(None) => return Ok(false),
            Ok(Some(_)) => "a frame that is none".to_owned(),
            Err(error) => error.to_string(),
        };
        self.is_over = true;
        self.forget();
        Err(RecvError::Malformed(malformed))
    }

    /// Lets go of what has come of a message that nobody will get: whoever is at the other
    /// ends of its descriptors is to hear of it.
    fn forget(&mut self) {
        self.reader = FrameReader::new(self.limit);
    }

    /// Takes in what came of a read.
    fn note_read(&mut self, read: io::Result<usize>) -> Result<(), RecvError> {
        match read {
            Ok(0) => self.is_over = true,
            Ok(_) => return Ok(()),
            // It has ended without having read all that we sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.is_over = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                return Err(RecvError::Io(Arc::new(error)));
            }
        }
        if self.reader.unread() == Some(&[]) {
            return Ok(());
        }
        self.forget();
        Err(RecvError::CutOff)
    }

    /// Whether the next message, or the end, has come; reads until it has.
    fn poll_next_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        // As tokio's channels do: who never waits lets others run.
        ready!(pin!(consume_budget()).poll(cx));
        loop {
            if self.parse()? || self.is_over {
                return Poll::Ready(Ok(()));
            }
            let Receiver { socket, reader, .. } = self;
            let read = socket.poll_io(cx, Direction::Read, || read_once(socket, reader));
            let read = match read {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    self.reader.give_back();
                    return Poll::Pending;
                }
            };
            self.note_read(read)?;
        }
    }

    fn block_next_message(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        loop {
            if self.parse()? || self.is_over {
                return Ok(());
            }
            let Receiver { socket, reader, .. } = self;
            let read = socket.block_io(deadline, Direction::Read, || read_once(socket, reader));
            match read {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(RecvError::Empty);
                }
                read => self.note_read(read)?,
            }
        }
    }

    /// Whether [`recv`](Self::recv) would not wait: there is a message, or the end, or
    /// an error. Python's `poll()`.
    pub fn is_readable(&mut self) -> bool {
        self.blocking_readable(Duration::ZERO)
    }

    /// Waits until [`recv`](Self::recv) would not wait.
    pub async fn readable(&mut self) {
        if let Err(error) = poll_fn(|cx| self.poll_next_message(cx)).await {
            self.failed = Some(error);
        }
    }

    /// As [`readable`](Self::readable), blocking the thread, but not for longer than
    /// `most`. Returns whether [`recv`](Self::recv) would not wait.
    pub fn blocking_readable(&mut self, most: Duration) -> bool {
        let deadline = Instant::now().checked_add(most);
        match self.block_next_message(deadline) {
            Ok(()) => true,
            Err(RecvError::Empty) => false,
            Err(error) => {
                self.failed = Some(error);
                true
            }
        }
    }

    fn take<V: DeserializeOwned>(&mut self, flags: u8) -> Result<Option<V>, RecvError> {
        let Some(frame) = self.next.take() else { return Ok(None) };
        if frame.flags != flags {
            return Err(decode_error(match flags {
                VALUE => "it is a byte string, for `recv_bytes`",
                _ => "it is a value, for `recv`",
            }));
        }
        let (bytes, arrived) = (frame.body.freeze(), frame.arrived);
        let whole = Whole { bytes: &bytes, arrived: &arrived };
        let value = codec::decode_shared::<Sharing, V>(&bytes, whole);
        value.map(Some).map_err(|failure| decode_error(&failure.to_string()))
    }

    fn take_bytes(&mut self, most: usize) -> Result<Option<Bytes>, RecvError> {
        let bytes: Option<Bytes> = self.take(BYTES)?;
        match bytes {
            Some(bytes) if bytes.len() > most => {
                Err(RecvError::TooLong { size: bytes.len(), limit: most })
            }
            bytes => Ok(bytes),
        }
    }

    /// The next byte string, sent by [`send_bytes`](crate::Sender::send_bytes); `None` at the
    /// end.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and if it is longer than `most` bytes: then it is
    /// dropped.
    pub async fn recv_bytes(&mut self, most: usize) -> Result<Option<Bytes>, RecvError> {
        poll_fn(|cx| self.poll_next_message(cx)).await?;
        self.take_bytes(most)
    }

    /// As [`recv_bytes`](Self::recv_bytes), blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Self::recv_bytes).
    pub fn blocking_recv_bytes(&mut self, most: usize) -> Result<Option<Bytes>, RecvError> {
        self.block_next_message(None)?;
        self.take_bytes(most)
    }

    /// The next byte string, if it has come.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Self::recv_bytes), and [`RecvError::Empty`].
    pub fn try_recv_bytes(&mut self, most: usize) -> Result<Option<Bytes>, RecvError> {
        self.block_next_message(Some(Instant::now()))?;
        self.take_bytes(most)
    }

    /// What has come and was not taken, as bytes.
    fn unread(&self) -> Result<Vec<u8>, &'static str> {
        let mut unread = Vec::new();
        if let Some(frame) = &self.next {
            if !frame.arrived.is_none() {
                return Err(TAKE_FIRST);
            }
            begin_item(&mut unread);
            unread.extend_from_slice(&frame.body);
            let len = unread.len();
            let none = crate::attached::Count::NONE;
            finish_item_as(&mut unread, len, none, 0, frame.flags);
        }
        unread.extend_from_slice(self.reader.unread().ok_or(TAKE_FIRST)?);
        Ok(unread)
    }
}

const TAKE_FIRST: &str =
    "an end that has received a message with descriptors cannot be sent before that is taken";

fn decode_error(reason: &str) -> RecvError {
    RecvError::Decode(DecodeError { side: Side::Message, reason: reason.to_owned(), index: None })
}

fn read_once(socket: &Socket, reader: &mut FrameReader) -> io::Result<usize> {
    let (buffer, most) = reader.next_read();
    let Received { len, fds, cut_short } = fd::receive_now(socket.as_fd(), buffer, most)?;
    if !fds.is_empty() || cut_short {
        reader.attach(descriptor::receive(fds, None).0, cut_short);
    }
    Ok(len)
}

impl<T: DeserializeOwned> Receiver<T> {
    /// The next message; `None` once all that were sent have been received and nobody
    /// can send any more, because the sender was closed, dropped, or killed.
    ///
    /// # Errors
    ///
    /// If the message is not one, is cut off, or is something else than a `T`:
    /// [`RecvError`] says which of them are the end.
    ///
    /// # Cancel safety
    ///
    /// No message is lost.
    pub async fn recv(&mut self) -> Result<Option<T>, RecvError> {
        poll_fn(|cx| self.poll_next_message(cx)).await?;
        self.take(VALUE)
    }

    /// The next message, if it has come.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`RecvError::Empty`].
    pub fn try_recv(&mut self) -> Result<Option<T>, RecvError> {
        self.block_next_message(Some(Instant::now()))?;
        self.take(VALUE)
    }

    /// The next message, if it comes within so long.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`RecvError::TimedOut`].
    ///
    /// # Panics
    ///
    /// In a runtime without a timer.
    pub async fn recv_timeout(&mut self, after: Duration) -> Result<Option<T>, RecvError> {
        match timeout(after, poll_fn(|cx| self.poll_next_message(cx))).await {
            Ok(came) => came?,
            Err(_) => return Err(RecvError::TimedOut { after }),
        }
        self.take(VALUE)
    }

    /// As [`recv`](Self::recv), blocking the thread: for tasks that are not async.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_recv(&mut self) -> Result<Option<T>, RecvError> {
        self.block_next_message(None)?;
        self.take(VALUE)
    }

    /// As [`recv_timeout`](Self::recv_timeout), blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and [`RecvError::TimedOut`].
    pub fn blocking_recv_timeout(&mut self, after: Duration) -> Result<Option<T>, RecvError> {
        match self.block_next_message(Instant::now().checked_add(after)) {
            Err(RecvError::Empty) => Err(RecvError::TimedOut { after }),
            came => came.and_then(|()| self.take(VALUE)),
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if !self.is_half || !self.socket.is_home() {
            return;
        }
        fd::end(self.socket.as_fd(), Direction::Read);
        // Whoever waits for room is not told of the end of one direction, but of room. No
        // more comes.
        self.forget();
        while read_once(&self.socket, &mut self.reader).is_ok_and(|read| read > 0) {}
    }
}

impl<T: DeserializeOwned> Stream for Receiver<T> {
    type Item = Result<T, RecvError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, RecvError>>> {
        let came = ready!(self.poll_next_message(cx));
        Poll::Ready(came.and_then(|()| self.take(VALUE)).transpose())
    }
}

impl<T: DeserializeOwned> FusedStream for Receiver<T> {
    fn is_terminated(&self) -> bool {
        self.is_over && self.next.is_none() && self.failed.is_none()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

/// What there is of a direction beside its socket, on the way to another process.
pub(super) fn unread_of<T, E: ser::Error>(receiver: &Receiver<T>) -> Result<Bytes, E> {
    receiver.unread().map(Bytes::from).map_err(E::custom)
}

impl<T> Receiver<T> {
    /// As it was in another process.
    pub(super) fn resume(&mut self, limit: usize, unread: &[u8]) {
        self.set_message_limit(limit);
        self.reader.buffer().extend_from_slice(unread);
    }
}
