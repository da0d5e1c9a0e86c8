//! Both directions in one, and how ends are made and sent.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::sink::Sink;
use futures_util::stream::{FusedStream, Stream};
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

use super::fault::{RecvError, SendError};
use super::half::{Receiver, Sender, unread_of};
use super::socket::Socket;
use crate::fd::{Descriptor, Fd};
use crate::sys::fd::{self, Direction};

/// One of two connected ends: what one sends the other receives. Python's
/// `Connection`.
///
/// Made by [`pipe`], or by a [`Listener`](crate::Listener). Sends an `S` and receives
/// an `R`. An end goes to another process in an argument, a result or a message; then
/// this process has it no more, and if its holder ends, by SIGKILL too, the other end
/// is told: it receives what was sent before, and then the end.
///
/// It works in any runtime, and by its `blocking_` methods without one. To send and
/// receive at once, see [`halves`](Self::halves) and [`into_split`](Self::into_split).
///
/// # Examples
///
/// ```standalone_crate
/// use procession::{Connection, Pool, pipe};
///
/// fn square(mut end: Connection<u64>) {
///     while let Ok(Some(n)) = end.blocking_recv() {
///         end.blocking_send(n * n).unwrap();
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let pool = Pool::builder().workers(1).build()?;
///         let (mut ours, theirs) = pipe::<u64>()?;
///         let squaring = pool.apply_async(square, theirs);
///         ours.send(7).await?;
///         assert_eq!(ours.recv().await?, Some(49));
///         drop(ours);
///         squaring.await?;
///         Ok(())
///     })
/// }
/// ```
pub struct Connection<S, R = S> {
    sender: Sender<S>,
    receiver: Receiver<R>,
}

/// Makes two connected ends, of which each sends what the other receives. Python's
/// `Pipe()`. For different types each way, see [`Connection::pair`].
///
/// # Errors
///
/// If there is no descriptor left.
pub fn pipe<T>() -> io::Result<(Connection<T>, Connection<T>)> {
    Connection::pair()
}

/// Makes the two ends of a channel that goes one way. Python's `Pipe(duplex=False)`.
///
/// It has one sender and one receiver. For more of either there is a queue.
///
/// # Errors
///
/// If there is no descriptor left.
pub fn channel<T>() -> io::Result<(Sender<T>, Receiver<T>)> {
    let (ours, theirs) = fd::socket_pair()?;
    // Who receives has nothing to say.
    fd::end(theirs.as_fd(), Direction::Write);
    Ok((Sender::new(Socket::new(ours)?), Receiver::new(Socket::new(theirs)?)))
}

impl<S, R> Connection<S, R> {
    /// Makes two connected ends with types of their own for each direction.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn pair() -> io::Result<(Connection<S, R>, Connection<R, S>)> {
        let (ours, theirs) = fd::socket_pair()?;
        Ok((Connection::of(Socket::new(ours)?), Connection::of(Socket::new(theirs)?)))
    }

    pub(super) fn of(socket: Arc<Socket>) -> Self {
        Connection { sender: Sender::new(Arc::clone(&socket)), receiver: Receiver::new(socket) }
    }

    /// Both directions, for as long as they are borrowed.
    pub fn halves(&mut self) -> (&mut Sender<S>, &mut Receiver<R>) {
        (&mut self.sender, &mut self.receiver)
    }

    /// Both directions. Dropping the sender ends the stream of messages, for the other
    /// end; dropping the receiver lets the other end's sending fail. Neither half can be
    /// sent to another process, since the other half would keep the connection open.
    /// What a forked copy of this program drops ends nothing.
    pub fn into_split(self) -> (Sender<S>, Receiver<R>) {
        let Connection { mut sender, mut receiver } = self;
        (sender.is_half, receiver.is_half) = (true, true);
        (sender, receiver)
    }

    /// Puts together what [`into_split`](Self::into_split) has taken apart.
    ///
    /// # Errors
    ///
    /// If they are not of the same connection. Both are in the error.
    #[expect(clippy::result_large_err, reason = "both are given back, and nobody is in a hurry")]
    pub fn reunite(
        mut sender: Sender<S>,
        mut receiver: Receiver<R>,
    ) -> Result<Self, ReuniteError<S, R>> {
        if !Arc::ptr_eq(&sender.socket, &receiver.socket) {
            return Err(ReuniteError(sender, receiver));
        }
        (sender.is_half, receiver.is_half) = (false, false);
        Ok(Connection { sender, receiver })
    }

    /// Longest message that is sent and received, in bytes as encoded. Default:
    /// 256 MiB.
    pub fn set_message_limit(&mut self, bytes: usize) {
        self.sender.set_message_limit(bytes);
        self.receiver.set_message_limit(bytes);
    }

    /// See [`Sender::flush`].
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more.
    pub async fn flush(&mut self) -> Result<(), SendError<S>> {
        self.sender.flush().await
    }

    /// Sends what is left, and lets the other end know that this is all. What it sends
    /// can still be received. See [`Sender::close`].
    ///
    /// # Errors
    ///
    /// If nobody has the other end any more.
    pub async fn close(&mut self) -> Result<(), SendError<S>> {
        self.sender.close().await
    }

    /// See [`Sender::send_bytes`].
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub async fn send_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), SendError<Bytes>> {
        self.sender.send_bytes(bytes).await
    }

    /// See [`Sender::blocking_send_bytes`].
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub fn blocking_send_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), SendError<Bytes>> {
        self.sender.blocking_send_bytes(bytes)
    }

    /// See [`Receiver::recv_bytes`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv_bytes`].
    pub async fn recv_bytes(&mut self, most: usize) -> Result<Option<Bytes>, RecvError> {
        self.receiver.recv_bytes(most).await
    }

    /// See [`Receiver::blocking_recv_bytes`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv_bytes`].
    pub fn blocking_recv_bytes(&mut self, most: usize) -> Result<Option<Bytes>, RecvError> {
        self.receiver.blocking_recv_bytes(most)
    }

    /// See [`Receiver::is_readable`].
    pub fn is_readable(&mut self) -> bool {
        self.receiver.is_readable()
    }

    /// See [`Receiver::readable`].
    pub async fn readable(&mut self) {
        self.receiver.readable().await;
    }

    /// See [`Receiver::blocking_readable`].
    pub fn blocking_readable(&mut self, most: Duration) -> bool {
        self.receiver.blocking_readable(most)
    }
}

impl<S: Serialize, R> Connection<S, R> {
    /// See [`Sender::send`].
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub async fn send(&mut self, message: S) -> Result<(), SendError<S>> {
        self.sender.send(message).await
    }

    /// See [`Sender::try_send`].
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`].
    pub fn try_send(&mut self, message: S) -> Result<(), SendError<S>> {
        self.sender.try_send(message)
    }

    /// See [`Sender::send_timeout`].
    ///
    /// # Errors
    ///
    /// As [`Sender::send_timeout`].
    pub async fn send_timeout(&mut self, message: S, after: Duration) -> Result<(), SendError<S>> {
        self.sender.send_timeout(message, after).await
    }

    /// See [`Sender::blocking_send`].
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub fn blocking_send(&mut self, message: S) -> Result<(), SendError<S>> {
        self.sender.blocking_send(message)
    }

    /// See [`Sender::blocking_send_timeout`].
    ///
    /// # Errors
    ///
    /// As [`Sender::send_timeout`].
    pub fn blocking_send_timeout(
        &mut self,
        message: S,
        after: Duration,
    ) -> Result<(), SendError<S>> {
        self.sender.blocking_send_timeout(message, after)
    }
}

impl<S, R: DeserializeOwned> Connection<S, R> {
    /// See [`Receiver::recv`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<R>, RecvError> {
        self.receiver.recv().await
    }

    /// See [`Receiver::try_recv`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_recv`].
    pub fn try_recv(&mut self) -> Result<Option<R>, RecvError> {
        self.receiver.try_recv()
    }

    /// See [`Receiver::recv_timeout`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv_timeout`].
    pub async fn recv_timeout(&mut self, after: Duration) -> Result<Option<R>, RecvError> {
        self.receiver.recv_timeout(after).await
    }

    /// See [`Receiver::blocking_recv`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`].
    pub fn blocking_recv(&mut self) -> Result<Option<R>, RecvError> {
        self.receiver.blocking_recv()
    }

    /// See [`Receiver::blocking_recv_timeout`].
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv_timeout`].
    pub fn blocking_recv_timeout(&mut self, after: Duration) -> Result<Option<R>, RecvError> {
        self.receiver.blocking_recv_timeout(after)
    }
}

impl<S: Serialize, R> Sink<S> for Connection<S, R> {
    type Error = SendError<S>;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError<S>>> {
        Pin::new(&mut self.sender).poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: S) -> Result<(), SendError<S>> {
        Pin::new(&mut self.sender).start_send(message)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError<S>>> {
        Pin::new(&mut self.sender).poll_flush(cx)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError<S>>> {
        Pin::new(&mut self.sender).poll_close(cx)
    }
}

impl<S, R: DeserializeOwned> Stream for Connection<S, R> {
    type Item = Result<R, RecvError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<R, RecvError>>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}

impl<S, R: DeserializeOwned> FusedStream for Connection<S, R> {
    fn is_terminated(&self) -> bool {
        self.receiver.is_terminated()
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Two halves that are not of the same connection.
pub struct ReuniteError<S, R>(pub Sender<S>, pub Receiver<R>);

impl<S, R> fmt::Debug for ReuniteError<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReuniteError").finish_non_exhaustive()
    }
}

impl<S, R> fmt::Display for ReuniteError<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the halves are not of the same connection")
    }
}

impl<S, R> Error for ReuniteError<S, R> {}

/// An end on the way to another process.
#[derive(Serialize, Deserialize)]
struct Traveller {
    fd: Fd<End>,
    send_limit: u64,
    receive_limit: u64,
    unread: Bytes,
}

/// The socket of an end.
struct End(Arc<OwnedFd>);

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for End {
    fn from(fd: OwnedFd) -> Self {
        End(Arc::new(fd))
    }
}

impl Descriptor for End {
    fn check(fd: BorrowedFd<'_>) -> io::Result<()> {
        <UnixStream as Descriptor>::check(fd)
    }
}

impl Traveller {
    fn new<S, R, E: ser::Error>(
        sender: Option<&Sender<S>>,
        receiver: Option<&Receiver<R>>,
    ) -> Result<Self, E> {
        let is_half = sender.is_some_and(|sender| sender.is_half)
            || receiver.is_some_and(|receiver| receiver.is_half);
        if is_half {
            return Err(E::custom(
                "half of a connection cannot be sent: the other half keeps it open; see `reunite`",
            ));
        }
        if sender.is_some_and(Sender::has_left) {
            return Err(E::custom(
                "an end cannot be sent before all it has sent has left; flush it",
            ));
        }
        let socket = sender.map(|sender| &sender.socket);
        let socket = socket.or(receiver.map(|receiver| &receiver.socket)).expect("one of them");
        Ok(Traveller {
            fd: Fd::new(End(socket.to_fd())),
            send_limit: sender.map_or(0, |sender| sender.limit() as u64),
            receive_limit: receiver.map_or(0, |receiver| receiver.limit() as u64),
            unread: receiver.map_or(Ok(Bytes::new()), unread_of)?,
        })
    }

    fn socket<E: de::Error>(&self) -> Result<Arc<Socket>, E> {
        let fd = Arc::clone(&self.fd.0);
        Socket::shared(fd).map_err(E::custom)
    }

    fn sender<T>(&self, socket: Arc<Socket>) -> Sender<T> {
        let mut sender = Sender::new(socket);
        sender.set_message_limit(self.send_limit as usize);
        sender
    }

    fn receiver<T>(&self, socket: Arc<Socket>) -> Receiver<T> {
        let mut receiver = Receiver::new(socket);
        receiver.resume(self.receive_limit as usize, &self.unread);
        receiver
    }
}

impl<S, R> Serialize for Connection<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        Traveller::new(Some(&self.sender), Some(&self.receiver))?.serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let traveller = Traveller::deserialize(deserializer)?;
        let socket = traveller.socket()?;
        let sender = traveller.sender(Arc::clone(&socket));
        Ok(Connection { sender, receiver: traveller.receiver(socket) })
    }
}

impl<T> Serialize for Sender<T> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        Traveller::new(Some(self), None::<&Receiver<()>>)?.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let traveller = Traveller::deserialize(deserializer)?;
        let socket = traveller.socket()?;
        Ok(traveller.sender(socket))
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        Traveller::new(None::<&Sender<()>>, Some(self))?.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let traveller = Traveller::deserialize(deserializer)?;
        let socket = traveller.socket()?;
        Ok(traveller.receiver(socket))
    }
}
