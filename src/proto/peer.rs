//! Which message is legal when, from the parent's side: a worker says hello
//! once, then that it is ready once, and only then answers. What belongs to a
//! task (sequence numbers, credit) the scheduler checks, which knows the tasks.

use std::fmt;

use super::VERSION;
use super::frame::FrameError;
use super::message::{FromWorker, Hello, MessageError};

/// A worker's place in the conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Silent,
    Greeted,
    Ready,
    /// It said that it cannot start; nothing may follow.
    Failed,
}

/// Follows one worker's side of the conversation.
#[derive(Debug)]
pub(crate) struct Peer {
    stage: Stage,
    fingerprint: u64,
    pid: i32,
}

impl Peer {
    /// A worker that must know the tasks behind `fingerprint` and was started
    /// as process `pid`.
    pub(crate) fn new(fingerprint: u64, pid: i32) -> Self {
        Peer { stage: Stage::Silent, fingerprint, pid }
    }

    pub(crate) fn is_greeted(&self) -> bool {
        self.stage != Stage::Silent
    }

    /// Checks `message` against the stage, and moves on.
    pub(crate) fn accept(&mut self, message: &FromWorker) -> Result<(), ProtocolError> {
        self.stage = match (self.stage, message) {
            (Stage::Silent, FromWorker::Hello(hello)) => {
                self.check(hello)?;
                Stage::Greeted
            }
            (Stage::Greeted, FromWorker::Ready { .. }) => Stage::Ready,
            (stage @ (Stage::Greeted | Stage::Ready), FromWorker::Trace { .. }) => stage,
            (Stage::Greeted, FromWorker::InitFailed(_)) => Stage::Failed,
            (
                Stage::Ready,
                FromWorker::Done { .. }
                | FromWorker::Failed { .. }
                | FromWorker::Skipped { .. }
                | FromWorker::Item { .. }
                | FromWorker::Began { .. },
            ) => Stage::Ready,
            (stage, message) => {
                return Err(ProtocolError(Violation::Unexpected {
                    message: name(message),
                    stage: match stage {
                        Stage::Silent => "before its hello",
                        Stage::Greeted => "before it was ready",
                        Stage::Ready => "after it was ready",
                        Stage::Failed => "after it had failed to start",
                    },
                }));
            }
        };
        Ok(())
    }

    fn check(&self, hello: &Hello) -> Result<(), ProtocolError> {
        if hello.version != VERSION {
            return Err(ProtocolError(Violation::Version { theirs: hello.version }));
        }
        if hello.fingerprint != self.fingerprint {
            return Err(ProtocolError(Violation::Fingerprint));
        }
        // Inside another pid namespace a worker would see another number; ours
        // never leaves ours.
        if hello.pid != self.pid {
            return Err(ProtocolError(Violation::Pid { theirs: hello.pid }));
        }
        Ok(())
    }
}

fn name(message: &FromWorker) -> &'static str {
    match message {
        FromWorker::Hello(_) => "hello",
        FromWorker::Ready { .. } => "ready",
        FromWorker::InitFailed(_) => "init failed",
        FromWorker::Done { .. } => "done",
        FromWorker::Failed { .. } => "failed",
        FromWorker::Skipped { .. } => "skipped",
        FromWorker::Item { .. } => "item",
        FromWorker::Began { .. } => "began",
        FromWorker::Trace { .. } => "trace",
    }
}

/// A worker broke the protocol: it was killed and its task failed.
///
/// Never the fault of the task's arguments. It means that the worker's memory
/// was damaged, or that something else wrote to its socket or its status page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolError(pub(crate) Violation);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    Message(MessageError),
    Version {
        theirs: u32,
    },
    Fingerprint,
    Pid {
        theirs: i32,
    },
    Unexpected {
        message: &'static str,
        stage: &'static str,
    },
    /// An answer for another task than the one that is due.
    WrongTask {
        seq: u64,
        due: Option<u64>,
    },
    /// An answer for a task of which not one byte has been sent.
    NotSent {
        seq: u64,
    },
    /// An answer that does not fit the call: its count, or its kind.
    WrongAnswer,
    /// A task that had been taken back was answered all the same.
    RevokedTaskRan {
        seq: u64,
    },
    /// More stream items than were asked for.
    ItemsPastCredit,
    /// More for `tracing` than any honest worker sends.
    TooMuchSaid,
    /// The status page holds what its protocol cannot lead to.
    Page,
    /// The socket closed and the process did not end.
    ClosedButAlive,
    /// An answer that was announced in the status page never came.
    AnswerMissing,
    /// A task that was taken back was not skipped.
    NotSkipped,
    /// A task that was sent was not begun, though nothing was before it.
    NotStarted,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Violation::Message(MessageError::Frame(FrameError::UnknownKind(kind))) => {
                write!(f, "the worker sent a frame of unknown kind {kind}")
            }
            Violation::Message(MessageError::Frame(error)) => {
                write!(f, "the worker's bytes are not a frame: {error}")
            }
            Violation::Message(MessageError::Malformed(what)) => {
                write!(f, "the worker sent a malformed message ({what})")
            }
            Violation::Message(MessageError::WrongWay(kind)) => {
                write!(f, "the worker sent {kind:?}, which only a parent may")
            }
            Violation::Version { theirs } => {
                write!(f, "the worker speaks protocol version {theirs}, not {VERSION}")
            }
            Violation::Fingerprint => {
                f.write_str("the worker knows other tasks: it is not this executable")
            }
            Violation::Pid { theirs } => write!(f, "the worker says that its pid is {theirs}"),
            Violation::Unexpected { message, stage } => {
                write!(f, "the worker sent {message} {stage}")
            }
            Violation::WrongTask { seq, due: Some(due) } => {
                write!(f, "the worker answered task {seq} where {due} was due")
            }
            Violation::WrongTask { seq, due: None } => {
                write!(f, "the worker answered task {seq}, which it was not given")
            }
            Violation::NotSent { seq } => {
                write!(f, "the worker answered task {seq} before it was sent")
            }
            Violation::WrongAnswer => f.write_str("the worker's answer does not fit the call"),
            Violation::RevokedTaskRan { seq } => {
                write!(f, "the worker ran task {seq}, which had been taken back")
            }
            Violation::ItemsPastCredit => {
                f.write_str("the worker sent more stream items than it was asked for")
            }
            Violation::TooMuchSaid => f.write_str("the worker said more to `tracing` than it may"),
            Violation::Page => f.write_str("the worker's status page is damaged"),
            Violation::ClosedButAlive => {
                f.write_str("the connection to the worker broke, and it did not end")
            }
            Violation::NotStarted => f.write_str("it did not begin what it was given"),
            Violation::NotSkipped => {
                f.write_str("the worker does not go on after a task that was taken back")
            }
            Violation::AnswerMissing => {
                f.write_str("the worker finished the task and did not send its answer")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

impl From<MessageError> for ProtocolError {
    fn from(error: MessageError) -> Self {
        ProtocolError(Violation::Message(error))
    }
}

impl From<FrameError> for ProtocolError {
    fn from(error: FrameError) -> Self {
        ProtocolError(Violation::Message(MessageError::Frame(error)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::message::{Ears, Failure};
    use super::*;
    use crate::proto::draft::Reply;

    const HELLO: Hello = Hello { version: VERSION, fingerprint: 7, pid: 42 };

    fn messages() -> Vec<FromWorker> {
        let failure = Failure::UnknownFunction;
        let payload = Reply::default();
        let (seq, run_nanos, answered, retire) = (1, 2, 1, false);
        vec![
            FromWorker::Hello(HELLO),
            FromWorker::Ready { ears: Ears::default(), outcome: BytesMut::new() },
            FromWorker::InitFailed(failure.clone()),
            FromWorker::Done { seq, run_nanos, answered, retire, payload: payload.clone() },
            FromWorker::Failed { seq, run_nanos, retire, failure },
            FromWorker::Skipped { seq },
            FromWorker::Item { seq, payload },
            FromWorker::Trace { seq, body: BytesMut::new() },
        ]
    }

    #[test]
    fn every_message_in_every_stage() {
        use Stage::{Failed, Greeted, Ready, Silent};
        let next = |stage, message| match (stage, message) {
            (Silent, "hello") => Some(Greeted),
            (Greeted, "ready") => Some(Ready),
            (Greeted, "init failed") => Some(Failed),
            (Ready, "done" | "failed" | "skipped" | "item" | "trace") => Some(Ready),
            (Greeted, "trace") => Some(Greeted),
            _ => None,
        };
        for stage in [Silent, Greeted, Ready, Failed] {
            for message in messages() {
                let mut peer = Peer { stage, ..Peer::new(7, 42) };
                let accepted = peer.accept(&message);
                match next(stage, name(&message)) {
                    Some(next) => {
                        assert_eq!(accepted, Ok(()), "{} when {stage:?}", name(&message));
                        assert_eq!(peer.stage, next);
                    }
                    None => {
                        let error = accepted.unwrap_err();
                        assert!(matches!(error.0, Violation::Unexpected { .. }));
                        assert!(error.to_string().contains(name(&message)));
                        assert_eq!(peer.stage, stage, "a refused message changes nothing");
                    }
                }
                assert_eq!(peer.is_greeted(), peer.stage != Silent);
            }
        }
    }

    #[test]
    fn a_stranger_is_refused() {
        for (hello, violation) in [
            (Hello { version: VERSION + 1, ..HELLO }, Violation::Version { theirs: VERSION + 1 }),
            (Hello { fingerprint: 8, ..HELLO }, Violation::Fingerprint),
            (Hello { pid: 43, ..HELLO }, Violation::Pid { theirs: 43 }),
        ] {
            let mut peer = Peer::new(7, 42);
            assert_eq!(peer.accept(&FromWorker::Hello(hello)), Err(ProtocolError(violation)));
            assert!(!peer.is_greeted());
        }
    }
}
