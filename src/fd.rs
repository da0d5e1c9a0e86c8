//! Open descriptors as values: sockets, files, pipes and whatever else is open
//! travel in arguments, results and messages.
//!
//! [`Fd`] makes a value of a socket or a file that can be sent, anywhere in an
//! argument, a result, an item or a field. For a field of one of these types
//! itself there is `#[serde(with = "procession::fd")]`:
//!
//! ```
//! # use std::os::unix::net::UnixStream;
//! # use serde::{Deserialize, Serialize};
//! #[derive(Serialize, Deserialize)]
//! struct Visit {
//!     name: String,
//!     #[serde(with = "procession::fd")]
//!     socket: UnixStream,
//! }
//! ```
//!
//! What is received is a descriptor of the receiver's own, close-on-exec, of the same
//! open file or socket: its offset, and whether it is non-blocking, belong to all
//! that have it. Streams of tokio are non-blocking; make them of
//! [`std`]'s by `into_std` before they are sent and `from_std` after, or
//! `set_nonblocking(false)` for a task that is not async.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;

use nix::libc;
use serde::de;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser};

use crate::attached::Passed;
use crate::sys::descriptor::{self, Socket, held, take};

/// A type whose values are an open descriptor and nothing else.
///
/// Implemented for [`OwnedFd`], [`File`], and the sockets of [`std`]. For a type of
/// your own, say what it cannot be made of.
pub trait Descriptor: AsFd + From<OwnedFd> + Send + Sync + 'static {
    /// Whether such a value can be made of what was received. It may be anything: ask
    /// only what the kernel knows by itself, as a file system may not answer.
    ///
    /// # Errors
    ///
    /// Says what it is, or is not. Where it was to be received, that is an error.
    fn check(fd: BorrowedFd<'_>) -> io::Result<()>;
}

fn is_socket(fd: BorrowedFd<'_>, what: &str, fits: impl FnOnce(Socket) -> bool) -> io::Result<()> {
    match descriptor::socket(fd)? {
        Some(socket) if fits(socket) => Ok(()),
        _ => Err(wrong(&format!("the descriptor is not that of {what}"))),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn is_inet(socket: Socket) -> bool {
    matches!(socket.family, libc::AF_INET | libc::AF_INET6)
}

fn is_stream(socket: Socket) -> bool {
    socket.kind == libc::SOCK_STREAM
}

macro_rules! sockets {
    ($($Type:ty, $what:literal, $fits:expr;)*) => {$(
        impl Descriptor for $Type {
            fn check(fd: BorrowedFd<'_>) -> io::Result<()> {
                is_socket(fd, $what, $fits)
            }
        }
    )*};
}

sockets! {
    UnixStream, "a Unix stream",
        |socket| socket.family == libc::AF_UNIX && is_stream(socket) && !socket.listens;
    UnixListener, "a Unix listener",
        |socket| socket.family == libc::AF_UNIX && is_stream(socket) && socket.listens;
    UnixDatagram, "a Unix datagram socket",
        |socket| socket.family == libc::AF_UNIX && socket.kind == libc::SOCK_DGRAM;
    TcpStream, "a TCP stream",
        |socket| is_inet(socket) && is_stream(socket) && !socket.listens;
    TcpListener, "a TCP listener",
        |socket| is_inet(socket) && is_stream(socket) && socket.listens;
    UdpSocket, "a UDP socket",
        |socket| is_inet(socket) && socket.kind == libc::SOCK_DGRAM;
}

/// Anything.
impl Descriptor for OwnedFd {
    fn check(_fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Anything but a socket: what [`File`] is used for includes pipes and devices.
impl Descriptor for File {
    fn check(fd: BorrowedFd<'_>) -> io::Result<()> {
        match descriptor::socket(fd)? {
            None => Ok(()),
            Some(_) => Err(wrong("the descriptor is that of a socket and not of a file")),
        }
    }
}

/// A socket or a file as a value that can be sent to another process.
///
/// As an argument, a result, an item, a message, or in a field of any of them. The
/// receiver gets a descriptor of its own. The sender's is not duplicated: it is
/// closed when this and its clones are dropped and what they were sent with has left,
/// or, for an argument of a call, when the task has begun (with
/// [`retry`](crate::Apply::retry): has ended). So the other end of a socket or a pipe
/// sees its end once the receiver has dropped it. An [initializer's] arguments stay as
/// long as the pool, which starts workers with them.
///
/// A clone is the same descriptor. Sent in one value, or to several, each is one of
/// its own for the receiver. One value may hold 1024 descriptors, pieces of
/// [`SharedBytes`](crate::SharedBytes) included; with more it is an error of its
/// encoding. Both ends must have room for them: most programs may have 1024 in all,
/// unless told otherwise (`ulimit -n`).
///
/// Of the descriptors of one worker's answers, half as many as this program may have
/// can wait to be taken by awaiting them, 256 at the least and 2176 at the most. While
/// there is no room for 128 more, the worker has to wait. If somebody awaits what comes
/// behind them for five seconds, what is too much is closed and an error of those it was
/// for; a reader of a stream that is merely slow loses nothing.
///
/// The receiver checks that what came is a `T`: a
/// [`TaskError::Decode`](crate::TaskError::Decode) says if it is not. In a format
/// other than procession's own it cannot be encoded.
///
/// # Examples
///
/// ```standalone_crate
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// use procession::{Fd, Pool};
///
/// fn greet(stream: Fd<UnixStream>) -> std::io::Result<()> {
///     (&*stream).write_all(b"hello")
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let pool = Pool::builder().workers(1).build()?;
///         let (mut ours, theirs) = UnixStream::pair()?;
///         # fn text<E: ToString>(error: E) -> String { error.to_string() }
///         pool.apply(|stream| greet(stream).map_err(text), Fd::from(theirs)).await??;
///         let mut text = String::new();
///         ours.read_to_string(&mut text)?; // ends: nobody has the other end any more
///         assert_eq!(text, "hello");
///         Ok(())
///     })
/// }
/// ```
///
/// [initializer's]: crate::PoolBuilder::initializer
pub struct Fd<T> {
    passed: Passed,
    value: Arc<T>,
}

impl<T: Descriptor> Fd<T> {
    /// Makes a value of it that can be sent.
    pub fn new(value: T) -> Self {
        let value = Arc::new(value);
        Fd { passed: held(Arc::clone(&value) as _), value }
    }

    /// The socket or file itself.
    ///
    /// # Errors
    ///
    /// If a clone has it too, or something that has yet to be sent, and there is no
    /// descriptor left for a duplicate.
    pub fn into_inner(self) -> io::Result<T> {
        let Fd { passed, value } = self;
        drop(passed);
        match Arc::try_unwrap(value) {
            Ok(value) => Ok(value),
            Err(shared) => Ok(shared.as_fd().try_clone_to_owned()?.into()),
        }
    }
}

/// The same descriptor.
impl<T> Clone for Fd<T> {
    fn clone(&self) -> Self {
        Fd { passed: self.passed.clone(), value: Arc::clone(&self.value) }
    }
}

impl<T: Descriptor> From<T> for Fd<T> {
    fn from(value: T) -> Self {
        Fd::new(value)
    }
}

impl<T> Deref for Fd<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> AsRef<T> for Fd<T> {
    fn as_ref(&self) -> &T {
        &self.value
    }
}

impl<T: AsFd> AsFd for Fd<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.value.as_fd()
    }
}

impl<T: fmt::Debug> fmt::Debug for Fd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fd").field(&self.value).finish()
    }
}

impl<T> Serialize for Fd<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        pass(&self.passed, serializer)
    }
}

impl<'de, T: Descriptor> Deserialize<'de> for Fd<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Fd::new)
    }
}

const NAME: &str = "Fd";

/// The encoder looks at the parts of values only, so it is part of one.
fn pass<S: Serializer>(passed: &Passed, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(NAME, passed)
}

/// For `#[serde(with = "procession::fd")]`. What is sent is a duplicate, since
/// `value` stays here.
///
/// # Errors
///
/// If there is no descriptor left for it, or in a format other than procession's own.
pub fn serialize<T: Descriptor, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let duplicate = value.as_fd().try_clone_to_owned().map_err(|error| {
        ser::Error::custom(format_args!("a descriptor could not be duplicated: {error}"))
    })?;
    pass(&held(Arc::new(duplicate)), serializer)
}

/// For `#[serde(with = "procession::fd")]`.
///
/// # Errors
///
/// If no descriptor came, or not that of a `T`.
pub fn deserialize<'de, T: Descriptor, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Newtype;

    impl<'de> de::Visitor<'de> for Newtype {
        type Value = Passed;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a descriptor beside one of procession's own messages")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            deserializer: D,
        ) -> Result<Passed, D::Error> {
            Passed::deserialize(deserializer)
        }
    }

    let passed = deserializer.deserialize_newtype_struct(NAME, Newtype)?;
    // Whoever wrote this has named one twice.
    let fd = take(&passed).ok_or_else(|| de::Error::custom("a descriptor is named twice"))?;
    match T::check(fd.as_fd()) {
        Ok(()) => Ok(T::from(fd)),
        Err(error) => {
            descriptor::discard(fd);
            Err(de::Error::custom(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_say_why_they_cannot() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let theirs = Fd::new(theirs);
        let read = |text| serde_json::from_str::<Fd<UnixStream>>(text).unwrap_err().to_string();
        let many = vec![Some(theirs.clone())];
        for error in [
            serde_json::to_string(&theirs).unwrap_err().to_string(),
            serde_json::to_string(&many).unwrap_err().to_string(),
            read("3"),
            read("\"3\""),
            read("null"),
        ] {
            assert!(error.contains("only with procession's own messages"), "{error}");
        }
    }

    #[test]
    fn what_is_not_shared_is_taken_out_as_it_is() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&stream);
        let alone = Fd::new(stream);
        let stream = alone.into_inner().unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&stream), number);
        let shared = Fd::new(stream);
        let clone = shared.clone();
        let duplicate = shared.into_inner().unwrap();
        assert_ne!(std::os::fd::AsRawFd::as_raw_fd(&duplicate), number);
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&*clone), number);
    }
}
