//! The direction that sends.
//!
//! A message is an `Item` frame (`proto`), whose flags say whether it is a value or a
//! byte string.

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
use serde::Serialize;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::fault::{SendError, SendErrorKind};
use super::socket::Socket;
use super::timer::Timer;
use crate::error::{EncodeError, Side};
use crate::limits::{FRAME_BYTES_MAX_DEFAULT, FRAME_BYTES_MAX_MOST, WRITE_AGAIN_WAIT};
use crate::proto::codec::{self, EncodeFailure};
use crate::proto::draft::{Draft, Payload};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::message::{begin_item, finish_item_as};
use crate::sys::cast::Sharing;
use crate::sys::fd::{self, Direction};
use crate::transport::Outgoing;

/// Flags of a message.
pub(super) const VALUE: u8 = 0;
pub(super) const BYTES: u8 = 1;

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
/// that the message was [cut off](crate::RecvError::CutOff).
pub struct Sender<T> {
    pub(super) socket: Arc<Socket>,
    outgoing: Outgoing,
    limit: usize,
    is_closed: bool,
    /// Half of a connection, whose other half keeps the socket open.
    pub(super) is_half: bool,
    /// Until then the kernel may have no memory.
    pause: Option<Timer>,
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
                ready!(pause.poll(cx));
                self.pause = None;
            }
            let Sender { socket, outgoing, .. } = self;
            let sent = socket.poll_io(cx, Direction::Write, || outgoing.send(socket.as_fd()));
            match ready!(sent) {
                Err(error) if fd::is_passing(&error) => {
                    self.pause = Some(Timer::after(WRITE_AGAIN_WAIT));
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

    /// As [`flush`](Self::flush), blocking the thread.
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more.
    pub fn blocking_flush(&mut self) -> Result<(), SendError<T>> {
        self.block_drain(None).map_err(|kind| SendError::new(None, kind))
    }

    /// As [`close`](Self::close), blocking the thread.
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more.
    pub fn blocking_close(&mut self) -> Result<(), SendError<T>> {
        let flushed = self.blocking_flush();
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

    /// Sends a byte string, which [`recv_bytes`](crate::Receiver::recv_bytes) receives. One of
    /// 32 KiB and more is not copied.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), SendError<Bytes>> {
        self.send_as(bytes.into(), BYTES).await
    }

    /// As [`try_send`](Self::try_send), for a byte string.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    pub fn try_send_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), SendError<Bytes>> {
        self.send_blocking(bytes.into(), BYTES, Some(Duration::ZERO))
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
        if self.is_half {
            // The other half keeps the socket.
            self.socket.forget_writing();
            if !self.is_closed {
                self.end();
            }
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
