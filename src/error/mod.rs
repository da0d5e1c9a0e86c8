//! What callers are told when there is no answer: `TaskError` for one call,
//! `SpawnError` for workers that do not start. Built by the supervisor and the
//! pool, never shown to the pure modules.

mod spawn;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub(crate) use self::spawn::Cause;
pub use self::spawn::SpawnError;
use crate::exit::Exit;
use crate::id::TaskId;
use crate::proto::codec::{DecodeFailure, EncodeFailure};
use crate::proto::message::PanicReport;
use crate::proto::peer::ProtocolError;

/// Why a call has no answer.
///
/// Branch on the variants, or ask the predicates. A task's own `Result` is not
/// an error here but its answer: `pool.apply(parse, text).await??`.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum TaskError {
    /// The task panicked. Its worker lives on.
    Panicked(RemotePanic),
    /// The worker's process ended while it ran the task: a crash, an
    /// [`exit`](std::process::exit), a signal from outside, the kernel's
    /// out-of-memory killer. Nobody had asked for it.
    WorkerLost {
        /// How the process ended.
        exit: Exit,
        /// The process that ended.
        pid: u32,
        /// The task that it ran.
        task: TaskInfo,
        /// The last lines of its standard error, up to 4 KiB, if that is
        /// [piped](crate::Stdio::piped); else empty.
        stderr: String,
        /// That it was over the pool's
        /// [`memory_limit`](crate::PoolBuilder::memory_limit), if it was.
        memory: Option<Box<MemoryExceeded>>,
    },
    /// The call was cancelled. `exit` is how the worker ended for it, or
    /// `None` if the task had not started or ended politely, or if its worker
    /// was killed and [does not die](crate::WorkerState::Abandoned).
    Cancelled {
        /// The ending of the worker.
        exit: Option<Exit>,
    },
    /// The task ran for longer than its timeout and was stopped.
    TimedOut {
        /// The timeout.
        after: Duration,
        /// The ending of the worker, or `None` if the task ended politely, or if
        /// its worker was killed and [does not
        /// die](crate::WorkerState::Abandoned).
        exit: Option<Exit>,
    },
    /// The arguments or the result could not be encoded.
    Encode(EncodeError),
    /// The arguments or the result could not be decoded.
    Decode(DecodeError),
    /// The arguments or the result are larger than the pool's
    /// [`frame_limit`](crate::PoolBuilder::frame_limit).
    TooLarge {
        /// Their encoded size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The pool was closed before the call was made.
    Closed,
    /// The pool was terminated, its last handle dropped, or its runtime shut
    /// down.
    Terminated,
    /// The worker broke the protocol and was killed: its memory was damaged, or
    /// it was taken over. Counts as a lost worker.
    Protocol(ProtocolError),
    /// No worker can be started; or the process of a
    /// [`Process`](crate::Process) ended before it came to its function.
    Broken(SpawnError),
}

impl TaskError {
    /// Whether the call was cancelled, or ended with its pool.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, TaskError::Cancelled { .. })
    }

    /// Whether the task ran for too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self, TaskError::TimedOut { .. })
    }

    /// Whether the worker died under the task without having been asked to.
    pub fn is_worker_lost(&self) -> bool {
        matches!(self, TaskError::WorkerLost { .. } | TaskError::Protocol(_))
    }

    /// Whether, and how far, the task was over the pool's
    /// [`memory_limit`](crate::PoolBuilder::memory_limit), for which its worker
    /// was ended.
    pub fn memory_exceeded(&self) -> Option<MemoryExceeded> {
        match self {
            TaskError::WorkerLost { memory, .. } => memory.as_deref().copied(),
            _ => None,
        }
    }

    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self, TaskError::Panicked(_))
    }

    /// How the worker ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        match self {
            TaskError::WorkerLost { exit, .. } => Some(*exit),
            TaskError::Cancelled { exit } | TaskError::TimedOut { exit, .. } => *exit,
            TaskError::Broken(error) => error.exit(),
            _ => None,
        }
    }

    /// Whether the task's body may have begun: `Some(false)` means that it
    /// certainly has not and that calling again is safe, `None` that the error
    /// does not tell. For a call with [`retry`](crate::Apply::retry), this is
    /// about its last attempt.
    pub fn started(&self) -> Option<bool> {
        match self {
            TaskError::Panicked(_)
            | TaskError::WorkerLost { .. }
            | TaskError::TimedOut { .. }
            | TaskError::Protocol(_) => Some(true),
            TaskError::Cancelled { exit } => exit.map(|_| true),
            TaskError::Encode(EncodeError { side, .. })
            | TaskError::Decode(DecodeError { side, .. }) => Some(*side == Side::Result),
            TaskError::TooLarge { .. } | TaskError::Terminated => None,
            TaskError::Closed | TaskError::Broken(_) => Some(false),
        }
    }

    /// Which item failed, for an error of [`map`](crate::Pool::map): its
    /// position in the input. `None` for single calls and where it is unknown.
    pub fn index(&self) -> Option<usize> {
        match self {
            TaskError::Panicked(panic) => panic.index,
            TaskError::WorkerLost { task, .. } => task.index,
            TaskError::Encode(error) => error.index,
            TaskError::Decode(error) => error.index,
            _ => None,
        }
    }

    /// Says which item of a `map` this was.
    pub(crate) fn at_index(mut self, position: usize) -> Self {
        match &mut self {
            TaskError::Panicked(panic) => panic.index = Some(position),
            TaskError::WorkerLost { task, .. } => task.index = Some(position),
            TaskError::Encode(error) => error.index = Some(position),
            TaskError::Decode(error) => error.index = Some(position),
            _ => {}
        }
        self
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Panicked(panic) => panic.fmt(f),
            TaskError::WorkerLost { exit, pid, task, stderr, memory } => {
                write!(f, "worker (pid {pid}) {} while it ran {task}", Was(*exit))?;
                if let Some(memory) = memory {
                    write!(f, ", {memory}")?;
                }
                match stderr.trim_end() {
                    "" => Ok(()),
                    tail => write!(f, "; its last output: {tail}"),
                }
            }
            TaskError::Cancelled { exit: None } => f.write_str("the task was cancelled"),
            TaskError::Cancelled { exit: Some(exit) } => {
                write!(f, "the task was cancelled (its worker {})", Was(*exit))
            }
            TaskError::TimedOut { after, exit: None } => {
                write!(f, "the task ran for more than {after:?}")
            }
            TaskError::TimedOut { after, exit: Some(exit) } => {
                write!(f, "the task ran for more than {after:?} (its worker {})", Was(*exit))
            }
            TaskError::Encode(error) => error.fmt(f),
            TaskError::Decode(error) => error.fmt(f),
            TaskError::TooLarge { size, limit } => {
                write!(f, "a payload of {size} bytes is over the frame limit of {limit}")
            }
            TaskError::Closed => f.write_str("the pool is closed"),
            TaskError::Terminated => f.write_str("the pool was terminated"),
            TaskError::Protocol(error) => error.fmt(f),
            TaskError::Broken(_) => f.write_str("no worker can be started"),
        }
    }
}

impl std::error::Error for TaskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TaskError::Broken(error) => Some(error),
            _ => None,
        }
    }
}

/// An exit as part of a sentence.
struct Was(Exit);

impl fmt::Display for Was {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.signal().is_some() {
            f.write_str("was ")?;
        }
        self.0.fmt(f)
    }
}

/// How much memory a worker had that was ended for it, see
/// [`PoolBuilder::memory_limit`](crate::PoolBuilder::memory_limit). `Display` says
/// it as part of a sentence: `over its memory limit of 64 MiB, with 71 MiB`.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemoryExceeded {
    /// The pool's limit, in bytes.
    pub limit: u64,
    /// What the worker had, in bytes of resident memory.
    pub resident: u64,
}

impl fmt::Display for MemoryExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MemoryExceeded { limit, resident } = *self;
        write!(f, "over its memory limit of {}, with {}", Memory(limit), Memory(resident))
    }
}

/// Bytes, in the largest unit of which they are ten or more, or a whole number.
struct Memory(u64);

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let fits = |unit: u64| self.0 >= 10 * unit || (self.0 >= unit && self.0 % unit == 0);
        match units.into_iter().find(|(unit, _)| fits(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Which call it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TaskInfo {
    pub(crate) id: TaskId,
    pub(crate) name: &'static str,
    #[serde(serialize_with = "serialize_label")]
    pub(crate) label: Option<Arc<str>>,
    pub(crate) index: Option<usize>,
}

/// Without the feature of serde's that knows `Arc`.
fn serialize_label<S: Serializer>(
    label: &Option<Arc<str>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    label.as_deref().serialize(serializer)
}

impl TaskInfo {
    /// The call's id.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The function's path, as the compiler names it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the caller [called it](crate::Apply::label).
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (task {}", self.name, self.id)?;
        if let Some(label) = &self.label {
            write!(f, ", {label}")?;
        }
        if let Some(index) = self.index {
            write!(f, ", item {index}")?;
        }
        f.write_str(")")
    }
}

/// A panic of a task, as it was seen in the worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemotePanic {
    report: Box<PanicReport>,
    task: Option<Box<TaskInfo>>,
    index: Option<usize>,
}

impl RemotePanic {
    pub(crate) fn new(report: PanicReport, task: Option<TaskInfo>) -> Self {
        let index = task.as_ref().and_then(|task| task.index);
        RemotePanic { report: Box::new(report), task: task.map(Box::new), index }
    }

    /// The panic's message. Texts in this report are cut at 16 KiB.
    pub fn message(&self) -> &str {
        &self.report.message
    }

    /// File, line and column, as in `src/thumb.rs:12:5`. `None` if the task
    /// replaced the panic hook.
    pub fn location(&self) -> Option<&str> {
        self.report.location.as_deref()
    }

    /// The worker's stack at the panic. Always captured; symbols need debug
    /// information in the executable.
    pub fn backtrace(&self) -> &str {
        &self.report.backtrace
    }

    /// The call. `None` for a panic of a pool's initializer.
    pub fn task(&self) -> Option<&TaskInfo> {
        self.task.as_deref()
    }
}

impl fmt::Display for RemotePanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.task {
            Some(task) => {
                write!(f, "{}", task.name)?;
                if let Some(index) = self.index {
                    write!(f, " (item {index})")?;
                }
            }
            None => f.write_str("the initializer")?,
        }
        f.write_str(" panicked")?;
        if let Some(location) = self.location() {
            write!(f, " at {location}")?;
        }
        write!(f, ": {}", self.report.message)
    }
}

impl std::error::Error for RemotePanic {}

/// Which half of a call a codec error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Arguments,
    Result,
    Message,
    /// Of a queue.
    Item,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Arguments => "arguments",
            Side::Result => "result",
            Side::Message => "message",
            Side::Item => "item",
        })
    }
}

/// A value that its own `Serialize` refused to write, or that nests deeper than
/// 128 levels: structs, enums, `Option`s, sequences and maps inside each other.
/// Texts of a type's own errors are cut at 16 KiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodeError {
    pub(crate) side: Side,
    pub(crate) reason: String,
    pub(crate) index: Option<usize>,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} could not be encoded: {}", self.side, self.reason)
    }
}

impl std::error::Error for EncodeError {}

/// Bytes that are not the value they should be, or a value that is deeper or
/// larger than the decoder allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecodeError {
    pub(crate) side: Side,
    pub(crate) reason: String,
    pub(crate) index: Option<usize>,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} could not be decoded: {}", self.side, self.reason)
    }
}

impl std::error::Error for DecodeError {}

impl TaskError {
    pub(crate) fn from_encode(failure: EncodeFailure, side: Side) -> Self {
        match failure {
            EncodeFailure::TooLarge { size, limit } => TaskError::TooLarge { size, limit },
            EncodeFailure::TooDeep { .. } | EncodeFailure::Refused(_) => {
                TaskError::Encode(EncodeError { side, reason: failure.to_string(), index: None })
            }
        }
    }

    pub(crate) fn from_decode(failure: DecodeFailure, side: Side) -> Self {
        TaskError::Decode(DecodeError { side, reason: failure.to_string(), index: None })
    }
}
