//! Why there is no worker, or no pool.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{RemotePanic, TaskError, Was};
use crate::exit::Exit;
use crate::proto::peer::ProtocolError;

/// Why no worker started, or the pool was not built.
///
/// Cheap to clone: every call that was waiting gets the same one.
#[derive(Clone)]
pub struct SpawnError(Arc<Cause>);

#[derive(Debug)]
pub(crate) enum Cause {
    NotInitialised,
    /// Of a process, which was not started for them.
    Arguments(Box<TaskError>),
    NoRuntime,
    NoDrivers,
    Setting {
        option: &'static str,
        problem: String,
    },
    Os {
        what: &'static str,
        error: io::Error,
    },
    Died {
        exit: Exit,
        greeted: bool,
        output: String,
    },
    InitPanicked(RemotePanic),
    InitRefused(String),
    TimedOut {
        after: Duration,
        greeted: bool,
        output: String,
    },
    Protocol(ProtocolError),
    /// This process was killed, does not die, and is the second such in its
    /// worker's place.
    SeatTaken {
        pid: u32,
    },
    /// The pool was closed before its workers were ready.
    Closed,
}

impl SpawnError {
    pub(crate) fn new(cause: Cause) -> Self {
        SpawnError(Arc::new(cause))
    }

    /// Whether an option of the builder had a value that makes no sense.
    pub fn is_setting(&self) -> bool {
        matches!(*self.0, Cause::Setting { .. })
    }

    /// Whether [`init`](crate::init) has not been called in this process.
    pub fn is_not_initialised(&self) -> bool {
        matches!(*self.0, Cause::NotInitialised)
    }

    /// Whether the worker did not get ready in time.
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Cause::TimedOut { .. })
    }

    /// The panic of the pool's initializer, if that is the cause.
    pub fn panic(&self) -> Option<&RemotePanic> {
        match &*self.0 {
            Cause::InitPanicked(panic) => Some(panic),
            _ => None,
        }
    }

    /// How the worker that did not start ended, if that is the cause.
    pub fn exit(&self) -> Option<Exit> {
        match &*self.0 {
            Cause::Died { exit, .. } => Some(*exit),
            _ => None,
        }
    }
}

/// With the sentence: `unwrap`, and a `main` that returns the error, print this,
/// and the sentence says what to do.
impl fmt::Debug for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpawnError").field(&self.0).field(&self.to_string()).finish()
    }
}

const INIT_HINT: &str = "is `procession::init()` the first line of main?";

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Cause::NotInitialised => f.write_str(
                "this process never called `procession::init()`, so it cannot start workers: \
                 make it the first line of main, or in tests write \
                 `procession::test_worker!();` once in the test binary",
            ),
            Cause::Arguments(_) => f.write_str("the arguments cannot be sent"),
            Cause::NoRuntime => f.write_str(
                "there is no tokio runtime here: build the pool inside one, \
                 for example in an async fn or after `Runtime::enter`",
            ),
            Cause::NoDrivers => f.write_str(
                "the tokio runtime here has no I/O or no timers: build it with `enable_all`",
            ),
            Cause::Setting { option, problem } => write!(f, "{option}: {problem}"),
            Cause::Os { what, error } if is_ours(error) => write!(f, "could not {what}: {error}"),
            Cause::Os { what, .. } => write!(f, "could not {what}"),
            Cause::Died { exit, greeted, output } => {
                write!(f, "a worker {} before it was ready", Was(*exit))?;
                if !greeted {
                    write!(f, "; {INIT_HINT}")?;
                }
                tail(f, output)
            }
            Cause::InitPanicked(panic) => panic.fmt(f),
            Cause::InitRefused(reason) => write!(f, "a worker could not start: {reason}"),
            Cause::TimedOut { after, greeted, output } => {
                write!(f, "a worker was not ready after {after:?}")?;
                if !greeted {
                    write!(f, "; {INIT_HINT}")?;
                }
                tail(f, output)
            }
            Cause::Protocol(error) => error.fmt(f),
            Cause::SeatTaken { pid } => {
                write!(f, "the worker (pid {pid}) was killed and does not die")
            }
            Cause::Closed => f.write_str("the pool was closed before its workers were ready"),
        }
    }
}

/// Whether it says what this crate has found, and not what the system has answered: then
/// it is the sentence's second half.
fn is_ours(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

fn tail(f: &mut fmt::Formatter<'_>, output: &str) -> fmt::Result {
    match output.trim_end() {
        "" => Ok(()),
        output => write!(f, "; its last output: {output}"),
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Cause::Os { error, .. } if !is_ours(error) => Some(error),
            Cause::Arguments(error) => Some(&**error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unwrap_prints_says_what_to_do() {
        let error = SpawnError::new(Cause::NotInitialised);
        let printed = format!("{:?}", TaskError::Broken(error));
        assert!(printed.contains("make it the first line of main"), "{printed}");
    }
}
