//! What can be wrong with a queue, and with what goes through it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{DecodeError, EncodeError};
use crate::queue_state::Corrupt;

/// A queue that cannot be used: the system refused a call that it takes, or its
/// memory was damaged, by a process that was taken over or has gone mad.
#[derive(Clone)]
pub struct QueueFault(Fault);

#[derive(Clone)]
enum Fault {
    Corrupt(&'static str),
    System(Arc<io::Error>),
}

impl QueueFault {
    /// Whether what the processes share was damaged. That is for good; otherwise
    /// it may work the next time.
    pub fn is_corrupt(&self) -> bool {
        matches!(self.0, Fault::Corrupt(_))
    }
}

impl From<Corrupt> for QueueFault {
    fn from(corrupt: Corrupt) -> Self {
        QueueFault(Fault::Corrupt(corrupt.0))
    }
}

impl From<io::Error> for QueueFault {
    fn from(error: io::Error) -> Self {
        QueueFault(Fault::System(Arc::new(error)))
    }
}

impl fmt::Display for QueueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fault::Corrupt(what) => write!(f, "the queue's memory was damaged: {what}"),
            Fault::System(_) => f.write_str("the system refused what a queue takes"),
        }
    }
}

impl fmt::Debug for QueueFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fault::Corrupt(what) => f.debug_tuple("Corrupt").field(what).finish(),
            Fault::System(error) => f.debug_tuple("System").field(error).finish(),
        }
    }
}

impl std::error::Error for QueueFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Fault::Corrupt(_) => None,
            Fault::System(error) => Some(error),
        }
    }
}

/// Why an item was not put. It can be had back.
#[derive(Clone)]
pub struct PutError<T> {
    item: T,
    kind: PutErrorKind,
}

/// Why something was not put into a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PutErrorKind {
    /// The queue is full, and nobody wanted to wait. Python's `queue.Full`.
    Full,
    /// The queue was full for all the time that somebody wanted to wait.
    TimedOut {
        /// How long that was.
        after: Duration,
    },
    /// The queue was closed.
    Closed,
    /// Nobody is left who could take anything out of it.
    Abandoned,
    /// The item could not be encoded.
    Encode(EncodeError),
    /// The item is longer than half of what the queue may hold; see
    /// [`bytes_max`](crate::QueueBuilder::bytes_max).
    TooLarge {
        /// Its encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The queue cannot be used.
    Fault(QueueFault),
}

impl<T> PutError<T> {
    pub(crate) fn new(item: T, kind: PutErrorKind) -> Self {
        PutError { item, kind }
    }

    /// The item.
    pub fn into_inner(self) -> T {
        self.item
    }

    /// Why it was not put.
    pub fn kind(&self) -> &PutErrorKind {
        &self.kind
    }

    /// Both.
    pub fn into_parts(self) -> (T, PutErrorKind) {
        (self.item, self.kind)
    }

    /// Whether the queue was full, for as long as somebody wanted to wait.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, PutErrorKind::Full | PutErrorKind::TimedOut { .. })
    }

    /// Whether nothing can be put any more: the queue was closed, or nobody is
    /// left who could take it.
    pub fn is_closed(&self) -> bool {
        matches!(self.kind, PutErrorKind::Closed | PutErrorKind::Abandoned)
    }
}

impl fmt::Display for PutErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutErrorKind::Full => f.write_str("the queue is full"),
            PutErrorKind::TimedOut { after } => write!(f, "the queue was full for {after:?}"),
            PutErrorKind::Closed => f.write_str("the queue was closed"),
            PutErrorKind::Abandoned => {
                f.write_str("nobody is left to take anything out of the queue")
            }
            PutErrorKind::Encode(_) => f.write_str("the item cannot be put into a queue"),
            PutErrorKind::TooLarge { size, limit } => {
                write!(f, "the item takes {size} bytes, over the queue's limit of {limit}")
            }
            PutErrorKind::Fault(_) => f.write_str("the queue cannot be used"),
        }
    }
}

impl std::error::Error for PutErrorKind {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PutErrorKind::Encode(error) => Some(error),
            PutErrorKind::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

/// Without the item, which may be large.
impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<T> std::error::Error for PutError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

/// Why there is no item.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GetError {
    /// The queue is empty, and nobody wanted to wait. Python's `queue.Empty`.
    Empty,
    /// The queue was empty for all the time that somebody wanted to wait.
    TimedOut {
        /// How long that was.
        after: Duration,
    },
    /// The queue is empty for good: it was closed, or nobody is left who could
    /// put anything into it.
    Closed,
    /// The item could not be decoded: what was put is of another type. It is gone.
    Decode(DecodeError),
    /// The queue cannot be used.
    Fault(QueueFault),
}

impl GetError {
    /// Whether the queue was empty, for as long as somebody wanted to wait.
    pub fn is_empty(&self) -> bool {
        matches!(self, GetError::Empty | GetError::TimedOut { .. })
    }

    /// Whether there will never be an item again.
    pub fn is_closed(&self) -> bool {
        matches!(self, GetError::Closed)
    }
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GetError::Empty => f.write_str("the queue is empty"),
            GetError::TimedOut { after } => write!(f, "the queue was empty for {after:?}"),
            GetError::Closed => f.write_str("the queue is empty, and nobody can fill it any more"),
            GetError::Decode(_) => {
                f.write_str("what was taken out of the queue is of another type")
            }
            GetError::Fault(_) => f.write_str("the queue cannot be used"),
        }
    }
}

impl std::error::Error for GetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GetError::Decode(error) => Some(error),
            GetError::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<QueueFault> for GetError {
    fn from(fault: QueueFault) -> Self {
        GetError::Fault(fault)
    }
}

impl From<QueueFault> for PutErrorKind {
    fn from(fault: QueueFault) -> Self {
        PutErrorKind::Fault(fault)
    }
}
