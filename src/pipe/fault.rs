//! What can go wrong with a message.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{DecodeError, EncodeError};

/// Why a message was not sent. It can be had back.
pub struct SendError<T> {
    message: Option<T>,
    kind: SendErrorKind,
}

/// What kept a message from being sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// There was no room, and nobody wanted to wait.
    Full,
    /// There was no room for it for all the time that somebody wanted to wait.
    TimedOut {
        /// How long that was.
        after: Duration,
    },
    /// Nobody has the other end any more, or this one was closed.
    Closed,
    /// It could not be encoded.
    Encode(EncodeError),
    /// It is longer than the limit.
    TooLarge {
        /// Its encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The system refused what it takes.
    Io(Arc<io::Error>),
}

impl<T> SendError<T> {
    pub(super) fn new(message: impl Into<Option<T>>, kind: SendErrorKind) -> Self {
        SendError { message: message.into(), kind }
    }

    /// The message. `None` if what failed is to send those before: by way of
    /// [`Sink`](futures_util::Sink), or when flushing and closing.
    pub fn into_inner(self) -> Option<T> {
        self.message
    }

    /// Why it was not sent.
    pub fn kind(&self) -> &SendErrorKind {
        &self.kind
    }

    /// Whether nobody has the other end any more.
    pub fn is_closed(&self) -> bool {
        matches!(self.kind, SendErrorKind::Closed)
    }

    /// Whether there was no room, and nobody wanted to wait.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, SendErrorKind::Full)
    }

    /// Whether it took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, SendErrorKind::TimedOut { .. })
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            SendErrorKind::Full => f.write_str("there is no room for the message"),
            SendErrorKind::TimedOut { after } => {
                write!(f, "there was no room for the message for {after:?}")
            }
            SendErrorKind::Closed => f.write_str("nobody has the other end any more"),
            SendErrorKind::Encode(error) => error.fmt(f),
            SendErrorKind::TooLarge { size, limit } => {
                write!(f, "the message of {size} bytes is over the limit of {limit}")
            }
            SendErrorKind::Io(_) => f.write_str("the message could not be sent"),
        }
    }
}

impl<T> std::error::Error for SendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            SendErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Why no message was received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// None is there, and nobody wanted to wait.
    Empty,
    /// None came for all the time that somebody wanted to wait.
    TimedOut {
        /// How long that was.
        after: Duration,
    },
    /// The sender ended in the middle of a message. What follows is the end.
    CutOff,
    /// A message that is something else than was expected: of another type, or a byte
    /// string where a value was to come, or the other way round. It is gone; those behind
    /// it are not affected.
    Decode(DecodeError),
    /// A byte string that is longer than was expected. Those behind it are not
    /// affected.
    TooLong {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// What came is not a message, or longer than the limit. What follows is the end.
    Malformed(String),
    /// The system refused what it takes.
    Io(Arc<io::Error>),
}

impl RecvError {
    /// Whether no message is there, and nobody wanted to wait.
    pub fn is_empty(&self) -> bool {
        matches!(self, RecvError::Empty)
    }

    /// Whether it took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self, RecvError::TimedOut { .. })
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Empty => f.write_str("there is no message"),
            RecvError::TimedOut { after } => write!(f, "there was no message for {after:?}"),
            RecvError::CutOff => f.write_str("the sender ended in the middle of a message"),
            RecvError::Decode(error) => error.fmt(f),
            RecvError::TooLong { size, limit } => {
                write!(f, "a byte string of {size} bytes is over the limit of {limit}")
            }
            RecvError::Malformed(what) => write!(f, "what came is not a message: {what}"),
            RecvError::Io(_) => f.write_str("a message could not be received"),
        }
    }
}

impl std::error::Error for RecvError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecvError::Io(error) => Some(error),
            _ => None,
        }
    }
}
