//! One process's socket, and what was said over it: its settings and its task on
//! the one side, how that went on the other. Used by the post, which says when to
//! look.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use tracing::Span;

use super::life::Life;
use super::streams::Tap;
use crate::error::{Cause, RemotePanic, SpawnError, TaskError};
use crate::exit::Exit;
use crate::limits::{FRAME_OVERHEAD_BYTES, SOCKET_BYTES_MAX, WRITE_AGAIN_WAIT};
use crate::observe::{Echo, HeldSpan};
use crate::proto::draft::{Payload, Reply};
use crate::proto::frame::{FrameReader, HEADER_BYTES};
use crate::proto::message::{Failure, FromWorker, Setup, Shape, put_setup};
use crate::proto::peer::{Peer, ProtocolError, Violation};
use crate::proto::trace::News;
use crate::supervisor::failure_error;
use crate::sys::clock::monotonic_nanos;
use crate::sys::descriptor;
use crate::sys::fd::{self, Received};
use crate::time::Time;
use crate::transport::Outgoing;

/// Reads in one go before other processes get their turn.
const READS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Line {
    pub(super) life: Arc<Life>,
    pub(super) socket: UnixStream,
    outgoing: Outgoing,
    reader: FrameReader,
    peer: Peer,
    heard: Heard,
    echo: Echo,
    /// The span that the process was made in.
    caller: HeldSpan,
    /// What the process has printed last, if anybody can know.
    tap: Option<Arc<Tap>>,
    frame_bytes_max: usize,
}

/// What the process has said of its task.
#[derive(Debug)]
enum Heard {
    Nothing,
    Answer(Reply),
    Failed(Failure),
    NotSetUp(Failure),
    Nonsense(ProtocolError),
    /// There was nobody to hear it.
    NotServed(io::Error),
}

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wants {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Line {
    /// Number of the only task.
    pub(super) const SEQ: u64 = 1;

    /// `socket` does not wait.
    pub(super) fn new(
        life: Arc<Life>,
        socket: UnixStream,
        setup: &Setup,
        tap: Option<Arc<Tap>>,
    ) -> Self {
        let mut outgoing = Outgoing::default();
        put_setup(outgoing.tail(), setup, &[]);
        let limit = setup.frame_bytes_max + FRAME_OVERHEAD_BYTES;
        Line {
            peer: Peer::new(setup.fingerprint, life.pid() as i32),
            echo: Echo::new(Time(monotonic_nanos()), life.name().to_owned(), life.pid(), true),
            caller: HeldSpan::open(Span::current),
            life,
            socket,
            outgoing,
            reader: FrameReader::new(limit),
            heard: Heard::Nothing,
            tap,
            frame_bytes_max: setup.frame_bytes_max,
        }
    }

    /// Adds the task.
    pub(super) fn run(&mut self, function: u64, args: &Payload) {
        self.outgoing.push_run(Line::SEQ, function, Shape::One, None, args);
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self) -> Wants {
        match self.outgoing.send(self.socket.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Nobody says when the kernel has memory again.
            Err(error) if fd::is_passing(&error) => thread::sleep(WRITE_AGAIN_WAIT),
            // It reads no more. What counts is its end, which is told elsewhere.
            Err(_) => self.outgoing = Outgoing::default(),
            Ok(()) => {}
        }
        self.wants()
    }

    /// Writes and reads.
    pub(super) fn work(&mut self) -> Wants {
        if !self.outgoing.is_empty() {
            self.write();
        }
        for _ in 0..READS_MAX {
            match self.read_once() {
                Err(error) if fd::is_passing(&error) => break,
                Ok(0) | Err(_) => return Wants { read: false, write: false },
                Ok(_) => {}
            }
        }
        self.wants()
    }

    /// It cannot be served, and is of no use.
    pub(super) fn handle_unserved(&mut self, error: io::Error) {
        self.heard = Heard::NotServed(error);
        self.life.kill_unasked();
    }

    fn wants(&self) -> Wants {
        let is_sane = !matches!(self.heard, Heard::Nonsense(_));
        Wants { read: is_sane, write: is_sane && !self.outgoing.is_empty() }
    }

    fn read_once(&mut self) -> io::Result<usize> {
        let (buffer, most) = self.reader.next_read();
        let Received { len, fds, cut_short } = fd::receive_into(self.socket.as_fd(), buffer, most)?;
        if !fds.is_empty() || cut_short {
            // One answer is all there may be, so they need not be counted.
            self.reader.attach(descriptor::receive(fds, None).0, cut_short);
        }
        if let Err(error) = self.take_messages() {
            self.heard = Heard::Nonsense(error);
            self.life.kill_unasked();
            return Ok(0);
        }
        Ok(len)
    }

    fn take_messages(&mut self) -> Result<(), ProtocolError> {
        while let Some(frame) = self.reader.next_whole()? {
            let message = FromWorker::parse(frame)?;
            self.peer.accept(&message)?;
            self.take(message)?;
        }
        Ok(())
    }

    fn take(&mut self, message: FromWorker) -> Result<(), ProtocolError> {
        let wrong = || Err(ProtocolError(Violation::WrongAnswer));
        if let Some(seq) = message.seq() {
            if seq != Line::SEQ || !matches!(self.heard, Heard::Nothing) {
                let due = matches!(self.heard, Heard::Nothing).then_some(Line::SEQ);
                return Err(ProtocolError(Violation::WrongTask { seq, due }));
            }
            if !self.outgoing.is_empty() {
                return Err(ProtocolError(Violation::NotSent { seq }));
            }
        }
        self.heard = match message {
            FromWorker::Hello(_) => return Ok(()),
            FromWorker::Ready { outcome, .. } if outcome.is_empty() => return Ok(()),
            FromWorker::Trace { body, .. } => return self.tell(&body),
            // Its arguments are not kept here.
            FromWorker::Began { .. } => return Ok(()),
            FromWorker::InitFailed(failure) => Heard::NotSetUp(failure.clipped()),
            FromWorker::Done { answered: 1, retire: false, payload, .. } => Heard::Answer(payload),
            FromWorker::Failed { retire: false, failure, .. } => Heard::Failed(failure),
            FromWorker::Ready { .. }
            | FromWorker::Done { .. }
            | FromWorker::Failed { .. }
            | FromWorker::Skipped { .. }
            | FromWorker::Item { .. } => return wrong(),
        };
        Ok(())
    }

    /// Tells what the process's `tracing` was told.
    fn tell(&mut self, body: &[u8]) -> Result<(), ProtocolError> {
        if self.echo.admits(Time(monotonic_nanos()), body.len() + HEADER_BYTES)? {
            self.echo.tell(News::decode(body)?, &self.caller);
        }
        Ok(())
    }

    /// Whether the process has ended, or is not to be waited for any longer.
    pub(super) fn is_over(&self) -> bool {
        self.life.verdict().is_over
    }

    /// It is over: takes in what the process has left, and tells.
    pub(super) fn end(mut self) {
        let verdict = self.life.verdict();
        // Its socket may be open in a process that has left its group, and that may
        // write for ever.
        let most = self.frame_bytes_max + SOCKET_BYTES_MAX;
        let mut read = 0;
        while read <= most && !matches!(self.heard, Heard::Nonsense(_)) {
            match self.read_once() {
                Ok(0) | Err(_) => break,
                Ok(len) => read += len,
            }
        }
        let outcome = self.outcome(verdict.exit, verdict.is_unwanted);
        self.life.finish(outcome);
    }

    fn outcome(&mut self, exit: Option<Exit>, is_unwanted: bool) -> Result<Reply, TaskError> {
        let task = self.life.task();
        match mem::replace(&mut self.heard, Heard::Nothing) {
            Heard::Answer(reply) => Ok(reply),
            Heard::Failed(failure) => Err(failure_error(failure, Some(task))),
            Heard::NotSetUp(Failure::Panicked(report)) => {
                let cause = Cause::InitPanicked(RemotePanic::new(report, Some(task)));
                Err(TaskError::Broken(SpawnError::new(cause)))
            }
            Heard::NotSetUp(Failure::Setting(reason)) => {
                Err(TaskError::Broken(SpawnError::new(Cause::InitRefused(reason))))
            }
            Heard::NotSetUp(other) => {
                let cause = Cause::InitRefused(format!("its settings: {other:?}"));
                Err(TaskError::Broken(SpawnError::new(cause)))
            }
            Heard::Nonsense(error) => Err(TaskError::Protocol(error)),
            Heard::NotServed(error) => {
                let cause = Cause::Os { what: "talk to a process", error };
                Err(TaskError::Broken(SpawnError::new(cause)))
            }
            Heard::Nothing => {
                let Some(exit) = exit.filter(|_| !is_unwanted) else {
                    return Err(TaskError::Cancelled { exit });
                };
                let stderr = self.tap.as_ref().map(|tap| tap.tail()).unwrap_or_default();
                if exit.code().is_some() && !self.peer.is_greeted() {
                    let cause = Cause::Died { exit, greeted: false, output: stderr };
                    return Err(TaskError::Broken(SpawnError::new(cause)));
                }
                Err(TaskError::WorkerLost {
                    exit,
                    pid: self.life.pid(),
                    task,
                    stderr,
                    memory: None,
                })
            }
        }
    }
}
