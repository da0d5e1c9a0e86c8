//! What one worker says, on its way from bytes to the scheduler. The link takes it
//! in, or a caller that looks out for its answer, whoever comes first.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::call::Call;
use super::effects::Effects;
use super::{InitCheck, Supervisor};
use crate::error::{Cause, SpawnError};
use crate::limits::SOCKET_BYTES_MAX;
use crate::observe::{self, Echo, HeldSpan};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::message::{Failure, FromWorker};
use crate::proto::peer::{Peer, ProtocolError};
use crate::proto::trace::News;
use crate::sched::WorkerKey;
use crate::sys::clock::monotonic_nanos;
use crate::sys::descriptor::Room;
use crate::time::Time;
use crate::transport::Transport;

/// How far a worker has been listened to.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) worker: WorkerKey,
    pub(super) transport: Transport,
    pub(super) peer: Peer,
    pub(super) span: Arc<HeldSpan>,
    pub(super) echo: Echo,
    /// Messages between parsing and handling; kept for its memory.
    pub(super) messages: Vec<FromWorker>,
    /// It is dead, or broke the protocol: whatever else it says is not heard.
    pub(super) is_deaf: bool,
}

impl Intake {
    /// Reads once, and takes in the messages. `Ok(false)` at the end of the stream.
    pub(super) fn poll_read(
        &mut self,
        supervisor: &Arc<Supervisor>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let read = self.transport.poll_read(cx);
        if let Poll::Ready(Ok(true)) = read {
            self.take_messages(supervisor, true);
        }
        read
    }

    /// Fetches answers that the worker has not sent.
    pub(super) fn fetch(&mut self, supervisor: &Arc<Supervisor>, alive: bool) {
        if self.is_deaf {
            return;
        }
        match self.transport.fetch_outbox(alive) {
            Ok(()) => self.take_messages(supervisor, false),
            Err(error) => self.condemn(supervisor, error),
        }
    }

    /// Takes answers from the status page that the worker has yet to send.
    pub(super) fn take(
        &mut self,
        supervisor: &Arc<Supervisor>,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        if self.is_deaf {
            return Ok(());
        }
        let taken = self.transport.take_outbox();
        let taken = taken.and_then(|()| supervisor.take_messages(self, effects));
        self.is_deaf = taken.is_err();
        taken
    }

    /// Takes in all that the worker has sent so far, whether the runtime has
    /// noticed yet or not. What it has sent waits for those who are to take descriptors,
    /// unless it `has_waited`; returns whether nothing does.
    pub(super) fn catch_up(&mut self, supervisor: &Arc<Supervisor>, has_waited: bool) -> bool {
        // At most one frame can be under way, and what the ring and the
        // socket's own buffer hold beside it. Somebody outside the worker's
        // group could have kept the other end and go on writing for ever.
        let most = supervisor.plan().frame_bytes_max + SOCKET_BYTES_MAX;
        let mut read = 0;
        while !self.is_deaf && read <= most {
            match self.transport.room_for_a_read() {
                Room::Scarce if !has_waited && !self.transport.is_full_of_parts() => return false,
                Room::Enough | Room::Scarce => {}
                // It had its time. Of one that has not, what is left is lost.
                Room::Nowhere => break,
            }
            match self.transport.read_now() {
                Ok(0) | Err(_) => break,
                Ok(n) => read += n,
            }
            self.take_messages(supervisor, false);
        }
        true
    }

    /// Takes in all whole messages that have arrived. `is_polled`: by a link's poll, which
    /// lets those go first whom it wakes.
    fn take_messages(&mut self, supervisor: &Arc<Supervisor>, is_polled: bool) {
        let mut effects = Effects::of_link(is_polled);
        let taken = supervisor.take_messages(self, &mut effects);
        effects.run(supervisor);
        if let Err(error) = taken {
            self.condemn(supervisor, error);
        }
    }

    /// Parses what has arrived, up to the first thing that makes no sense. Runs
    /// the check of what the initializer returned here, without the pool's
    /// lock: it is the user's code.
    pub(super) fn gather(
        &mut self,
        supervisor: &Supervisor,
        messages: &mut Vec<FromWorker>,
        check: Option<&InitCheck>,
    ) -> Result<(), ProtocolError> {
        while let Some(message) = self.transport.next_message()? {
            self.peer.accept(&message)?;
            if let FromWorker::Trace { seq, body } = message {
                self.tell(supervisor, seq, &body)?;
                continue;
            }
            let problem = match (&message, check) {
                (FromWorker::Ready { outcome, .. }, Some(check)) => check(outcome).err(),
                _ => None,
            };
            if problem.is_none() && matches!(message, FromWorker::Ready { .. }) {
                observe::worker_ready(&self.span);
            }
            messages.push(match problem {
                Some(problem) => FromWorker::InitFailed(Failure::Setting(problem)),
                None => message,
            });
        }
        Ok(())
    }

    /// Tells what the worker's `tracing` was told. The call that it is about has not
    /// ended here: its answer comes behind this.
    fn tell(
        &mut self,
        supervisor: &Supervisor,
        seq: u64,
        body: &[u8],
    ) -> Result<(), ProtocolError> {
        if !self.echo.admits(Time(monotonic_nanos()), body.len() + HEADER_BYTES)? {
            return Ok(());
        }
        let news = News::decode(body)?;
        let core = supervisor.core();
        let span = core.sched.in_flight(self.worker, seq).and_then(Call::span);
        drop(core);
        self.echo.tell(news, span.as_deref().unwrap_or(&self.span));
        Ok(())
    }

    fn condemn(&mut self, supervisor: &Arc<Supervisor>, error: ProtocolError) {
        self.is_deaf = true;
        supervisor.condemn(self.worker, &self.span, error);
    }
}

impl Supervisor {
    /// Ends a worker that broke the protocol, and is not heard any more.
    pub(super) fn condemn(
        self: &Arc<Self>,
        worker: WorkerKey,
        span: &HeldSpan,
        error: ProtocolError,
    ) {
        observe::worker_misbehaved(span, &error);
        let mut core = self.core();
        // Why there are no workers any more, if it comes to that.
        core.last_failure = Some(SpawnError::new(Cause::Protocol(error)));
        drop(core);
        self.act(|sched, now, links| sched.handle_violation(now, worker, error, links));
    }
}
