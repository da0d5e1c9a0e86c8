//! One direction: a `Sender` and a `Receiver`, and the messages between them.
//!
//! A message is an `Item` frame (`proto`), whose flags say whether it is a value or a
//! byte string. The peer may be anybody: what it sends ends in a message or an error.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::sink::Sink;
use futures_util::stream::{FusedStream, Stream};
use serde::de::DeserializeOwned;
use serde::{Serialize, ser};
use tokio::task::coop::consume_budget;
use tokio::time::{Sleep, sleep, timeout};

use super::fault::{RecvError, SendError, SendErrorKind};
use super::socket::Socket;
use crate::error::{DecodeError, EncodeError, Side};
use crate::limits::{FRAME_BYTES_MAX_DEFAULT, FRAME_BYTES_MAX_MOST, WRITE_AGAIN_WAIT};
use crate::proto::codec::{self, EncodeFailure};
use crate::proto::draft::{Draft, Payload, Whole};
use crate::proto::frame::{Frame, FrameReader, HEADER_BYTES, Kind};
use crate::proto::message::{begin_item, finish_item_as};
use crate::sys::cast::Sharing;
use crate::sys::descriptor;
use crate::sys::fd::{self, Direction, Received};
use crate::transport::Outgoing;

/// Flags of a message.
const VALUE: u8 = 0;
const BYTES: u8 = 1;

/// The end of a [`channel`](crate::channel) that sends, or the sending half of a
/// [`Connection`](crate::Connection).
///
/// Goes to another process in an argument, a result or a message. Works in any
/// runtime, and by its `blocking_` methods without one.
///
/// # Cancel safety
///
/// What a future of `send` that is dropped has not begun to write is not sent. Once a
/// byte of it has left, the message is sent: the rest goes before the next one, or on
/// [`flush`](Self::flush). If the sender is dropped before that, the receiver is told
/// that the message was [cut off](RecvError::CutOff).
pub struct Sender<T> {
    pub(super) socket: Arc<Socket>,
    outgoing: Outgoing,
    limit: usize,
    is_closed: bool,
    /// Half of a connection, whose other half keeps the socket open.
    pub(super) is_half: bool,
    /// Until then the kernel may have no memory.
    pause: Option<Pin<Box<Sleep>>>,
    what: PhantomData<fn(T)>,
}

impl<T> Sender<T> {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Sender {
            socket,
            outgoing: Outgoing::default(),
            limit: FRAME_BYTES_MAX_DEFAULT,
            is_closed: false,
            is_half: false,
            pause: None,
            what: PhantomData,
        }
    }

    /// Longest message that is sent, in bytes as encoded. Default: 256 MiB, as the
    /// receiver has it. At most 2 GiB.
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.limit = bytes.min(FRAME_BYTES_MAX_MOST);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    fn encode<V: Serialize>(&self, value: &V, flags: u8) -> Result<Payload, SendErrorKind> {
        if self.is_closed {
            return Err(SendErrorKind::Closed);
        }
        let mut draft = Draft::default();
        begin_item(draft.tail());
        if let Err(failure) = codec::draft::<Sharing, V>(value, &mut draft, self.limit) {
            return Err(match failure {
                EncodeFailure::TooLarge { size, limit } => SendErrorKind::TooLarge { size, limit },
                failure => SendErrorKind::Encode(EncodeError {
                    side: Side::Message,
                    reason: failure.to_string(),
                    index: None,
                }),
            });
        }
        let (len, attached) = (draft.len(), draft.attached_count());
        finish_item_as(draft.head_mut(HEADER_BYTES), len, attached, 0, flags);
        Ok(draft.into())
    }

    /// Writes all there is.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendErrorKind>> {
        // As tokio's channels do: who never waits lets others run.
        ready!(pin!(consume_budget()).poll(cx));
        while !self.outgoing.is_empty() {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let Sender { socket, outgoing, .. } = self;
            let sent = socket.poll_io(cx, Direction::Write, || outgoing.send(socket.as_fd()));
            match ready!(sent) {
                Err(error) if fd::is_passing(&error) => {
                    self.pause = Some(Box::pin(sleep(WRITE_AGAIN_WAIT)));
                }
                sent => self.note_sent(sent)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn block_drain(&mut self, deadline: Option<Instant>) -> Result<(), SendErrorKind> {
        while !self.outgoing.is_empty() {
            let Sender { socket, outgoing, .. } = self;
            let sent =
                socket.block_io(deadline, Direction::Write, || outgoing.send(socket.as_fd()));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(SendErrorKind::Full);
                }
                Err(error) if fd::is_passing(&error) => thread::sleep(WRITE_AGAIN_WAIT),
                sent => self.note_sent(sent)?,
            }
        }
        Ok(())
    }

    fn note_sent(&mut self, sent: io::Result<()>) -> Result<(), SendErrorKind> {
        sent.map_err(|error| {
            // Nobody would understand what comes behind half a message.
            self.is_closed = true;
            self.outgoing = Outgoing::default();
            match error.kind() {
                io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::NotConnected => SendErrorKind::Closed,
                _ => SendErrorKind::Io(Arc::new(error)),
            }
        })
    }

    /// Takes back a message of which nothing has left. Returns whether it could.
    fn take_back(&mut self) -> bool {
        let is_untouched = self.outgoing.is_untouched();
        if is_untouched {
            self.outgoing = Outgoing::default();
        }
        is_untouched
    }

    async fn send_as<V: Serialize>(&mut self, value: V, flags: u8) -> Result<(), SendError<V>> {
        let frame = match self.encode(&value, flags) {
            Ok(frame) => frame,
            Err(kind) => return Err(SendError::new(value, kind)),
        };
        if let Err(kind) = poll_fn(|cx| self.poll_drain(cx)).await {
            return Err(SendError::new(value, kind));
        }
        self.send_frame(frame).await.map_err(|kind| SendError::new(value, kind))
    }

    async fn send_within<V: Serialize>(
        &mut self,
        value: V,
        flags: u8,
        after: Duration,
    ) -> Result<(), SendError<V>> {
        let frame = match self.encode(&value, flags) {
            Ok(frame) => frame,
            Err(kind) => return Err(SendError::new(value, kind)),
        };
        let mut is_begun = false;
        let sent = timeout(after, async {
            poll_fn(|cx| self.poll_drain(cx)).await?;
            is_begun = true;
            self.send_frame(frame).await
        });
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(kind)) => Err(SendError::new(value, kind)),
            // What has begun to leave is sent.
            Err(_) if is_begun && self.has_left() => Ok(()),
            Err(_) => Err(SendError::new(value, SendErrorKind::TimedOut { after })),
        }
    }

    /// Sends a frame, with nothing before it.
    async fn send_frame(&mut self, frame: Payload) -> Result<(), SendErrorKind> {
        self.outgoing = Outgoing::of_frame(&frame);
        drop(frame);
        let mut sending = Sending { sender: self, is_done: false };
        let sent = poll_fn(|cx| sending.sender.poll_drain(cx)).await;
        sending.is_done = true;
        sent
    }

    fn send_blocking<V: Serialize>(
        &mut self,
        value: V,
        flags: u8,
        after: Option<Duration>,
    ) -> Result<(), SendError<V>> {
        let frame = match self.encode(&value, flags) {
            Ok(frame) => frame,
            Err(kind) => return Err(SendError::new(value, kind)),
        };
        let deadline = after.and_then(|after| Instant::now().checked_add(after));
        let too_late = |kind| match (kind, after) {
            (SendErrorKind::Full, Some(Duration::ZERO)) => SendErrorKind::Full,
            (SendErrorKind::Full, Some(after)) => SendErrorKind::TimedOut { after },
            (kind, _) => kind,
        };
        if let Err(kind) = self.block_drain(deadline) {
            return Err(SendError::new(value, too_late(kind)));
        }
        self.outgoing = Outgoing::of_frame(&frame);
        match self.block_drain(deadline) {
            Ok(()) => Ok(()),
            Err(SendErrorKind::Full) if !self.take_back() => Ok(()),
            Err(kind) => Err(SendError::new(value, too_late(kind))),
        }
    }

    /// Waits until all of what was sent has left, which is only not so after a future
    /// of `send` was dropped, or a timeout.
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more.
    pub async fn flush(&mut self) -> Result<(), SendError<T>> {
        poll_fn(|cx| self.poll_drain(cx)).await.map_err(|kind| SendError::new(None, kind))
    }

    /// Sends what is left, and ends the stream of messages: the receiver gets those
    /// that were sent, and then the end. So does dropping it, but for what is left.
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more.
    pub async fn close(&mut self) -> Result<(), SendError<T>> {
        let flushed = self.flush().await;
        self.end();
        flushed
    }

    fn end(&mut self) {
        self.is_closed = true;
        fd::end(self.socket.as_fd(), Direction::Write);
    }

    /// Whether something is left to be sent.
    pub(super) fn has_left(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends a byte string, which [`recv_bytes`](Receiver::recv_bytes) receives. One of
    /// 32 KiB and more is not copied.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), SendError<Bytes>> {
        self.send_as(bytes.into(), BYTES).await
    }

    /// As [`send_bytes`](Self::send_bytes), blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), SendError<Bytes>> {
        self.send_blocking(bytes.into(), BYTES, None)
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends a message. Waits while the receiver does not keep up.
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more, or the message cannot be encoded: it is
    /// in the error. That a message was sent does not mean that it was received.
    ///
    /// # Cancel safety
    ///
    /// See [`Sender`]: dropped before the first byte has left, nothing is sent.
    pub async fn send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.send_as(message, VALUE).await
    }

    /// Sends a message if there is room for its first byte. What there is no room for
    /// goes before the next one, or on [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`SendErrorKind::Full`].
    pub fn try_send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.send_blocking(message, VALUE, Some(Duration::ZERO))
    }

    /// Sends a message, unless there is no room for its first byte for so long.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`SendErrorKind::TimedOut`].
    ///
    /// # Panics
    ///
    /// In a runtime without a timer.
    pub async fn send_timeout(&mut self, message: T, after: Duration) -> Result<(), SendError<T>> {
        self.send_within(message, VALUE, after).await
    }

    /// As [`send`](Self::send), blocking the thread: for tasks that are not async.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&mut self, message: T) -> Result<(), SendError<T>> {
        self.send_blocking(message, VALUE, None)
    }

    /// As [`send_timeout`](Self::send_timeout), blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`SendErrorKind::TimedOut`].
    pub fn blocking_send_timeout(
        &mut self,
        message: T,
        after: Duration,
    ) -> Result<(), SendError<T>> {
        self.send_blocking(message, VALUE, Some(after))
    }
}

/// A message on its way. Dropped before anything of it has left, it is not sent.
struct Sending<'a, T> {
    sender: &'a mut Sender<T>,
    is_done: bool,
}

impl<T> Drop for Sending<'_, T> {
    fn drop(&mut self) {
        if !self.is_done {
            self.sender.take_back();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if !self.socket.is_home() {
            return;
        }
        if !self.outgoing.is_empty() {
            // As much as there is room for.
            let _ = self.outgoing.send(self.socket.as_fd());
        }
        if self.is_half && !self.is_closed {
            self.end();
        }
    }
}

/// Messages that are fed leave when it is flushed, or the next one is fed.
impl<T: Serialize> Sink<T> for Sender<T> {
    type Error = SendError<T>;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError<T>>> {
        self.poll_drain(cx).map_err(|kind| SendError::new(None, kind))
    }

    fn start_send(mut self: Pin<&mut Self>, message: T) -> Result<(), SendError<T>> {
        match self.encode(&message, VALUE) {
            Ok(_) if self.has_left() => Err(SendError::new(message, SendErrorKind::Full)),
            Ok(frame) => {
                self.outgoing = Outgoing::of_frame(&frame);
                Ok(())
            }
            Err(kind) => Err(SendError::new(message, kind)),
        }
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError<T>>> {
        self.poll_drain(cx).map_err(|kind| SendError::new(None, kind))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError<T>>> {
        let drained = ready!(self.poll_drain(cx));
        self.end();
        Poll::Ready(drained.map_err(|kind| SendError::new(None, kind)))
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("is_closed", &self.is_closed).finish_non_exhaustive()
    }
}

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
        let malformed = match self.reader.next_frame() {
            Ok(Some(frame)) if frame.kind == Kind::Item && frame.flags <= BYTES => {
                self.next = Some(frame);
                return Ok(true);
            }
            Ok(None) => return Ok(false),
            Ok(Some(_)) => "a frame that is none".to_owned(),
            Err(error) => error.to_string(),
        };
        self.is_over = true;
        Err(RecvError::Malformed(malformed))
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
        if self.reader.unread() == Some(&[]) { Ok(()) } else { Err(RecvError::CutOff) }
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
        let Some(frame) = self.next.take_if(|next| next.flags == flags) else {
            return match &self.next {
                None => Ok(None),
                Some(_) => Err(decode_error(match flags {
                    VALUE => "it is a byte string, for `recv_bytes`",
                    _ => "it is a value, for `recv`",
                })),
            };
        };
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

    /// The next byte string, sent by [`send_bytes`](Sender::send_bytes); `None` at the
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
        if self.is_half && self.socket.is_home() {
            fd::end(self.socket.as_fd(), Direction::Read);
        }
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
