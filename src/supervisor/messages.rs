//! What a worker says, once it is known to be legal: told to the scheduler, under the
//! pool's lock, and how its end is written down.

use std::sync::Arc;

use super::call::{Answer, Call, Failed, failure_error};
use super::effects::Effects;
use super::intake::Intake;
use super::{Core, Supervisor};
use crate::error::{Cause, RemotePanic, SpawnError};
use crate::exit::Exit;
use crate::id::TaskId;
use crate::observe::MEASURES;
use crate::proto::message::{Failure, FromWorker, Shape};
use crate::proto::peer::{ProtocolError, Violation};
use crate::sched::{self, Stage, Words, WorkerKey};
use crate::sys::clock::monotonic_nanos;
use crate::time::Time;

impl Supervisor {
    /// Takes in all whole messages that a worker's transport holds.
    pub(super) fn take_messages(
        self: &Arc<Self>,
        intake: &mut Intake,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let mut messages = std::mem::take(&mut intake.messages);
        let mut result = intake.gather(self, &mut messages, self.plan.init_check.as_ref());
        let mut core = self.core();
        let now = Time(monotonic_nanos());
        for message in messages.drain(..) {
            if let FromWorker::Ready { ears, .. } = message {
                self.ears.note(ears);
            }
            if let Err(error) = core.take_message(now, intake.worker, message, effects) {
                result = Err(error);
                break;
            }
        }
        core.perform(self, effects);
        drop(core);
        intake.messages = messages;
        result
    }
}

impl Core {
    fn take_message(
        &mut self,
        now: Time,
        worker: WorkerKey,
        message: FromWorker,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        if let (Some(seq), Some(link)) = (message.seq(), self.links.get_mut(worker)) {
            // A worker that does not read, and answers all the same, would have
            // us gather frames for it without end.
            if link.unsent_from.is_some_and(|first| seq >= first) {
                return Err(ProtocolError(Violation::NotSent { seq }));
            }
            if let FromWorker::Done { run_nanos, .. } | FromWorker::Failed { run_nanos, .. } =
                message
            {
                link.run_nanos = run_nanos;
            }
        }
        match message {
            FromWorker::Hello(_) => {
                if let Some(link) = self.links.get_mut(worker) {
                    link.greeted = true;
                }
            }
            FromWorker::Ready { ears, .. } => {
                if let Some(link) = self.links.get_mut(worker) {
                    link.listens = ears.listens;
                    #[cfg(feature = "sandbox")]
                    {
                        link.sandbox = link.page.sandbox();
                    }
                }
                self.sched.handle_ready(now, worker, &self.links);
            }
            FromWorker::InitFailed(failure) => {
                let cause = match failure.clipped() {
                    Failure::Panicked(report) => {
                        Cause::InitPanicked(RemotePanic::new(report, None))
                    }
                    Failure::Setting(reason) => Cause::InitRefused(reason),
                    other => Cause::InitRefused(format!("its initializer: {other:?}")),
                };
                self.last_failure = Some(SpawnError::new(cause));
                self.sched.handle_init_failed(now, worker, &self.links);
            }
            FromWorker::Skipped { seq } => {
                let answer = sched::Answer::Skipped;
                self.sched.handle_answer(now, worker, seq, answer, &self.links)?;
            }
            FromWorker::Done { seq, run_nanos, answered, retire, payload } => {
                // Looked at first: with a wrong answer the task stays with its
                // worker, and ends with it.
                let fits = |call: &Call| match call.shape() {
                    Shape::One => answered == 1,
                    Shape::Batch { count, .. } => (1..=count).contains(&answered),
                    Shape::Stream => payload.is_empty(),
                };
                if !self.sched.due(worker, seq).is_none_or(fits) {
                    return Err(ProtocolError(Violation::WrongAnswer));
                }
                let answer = sched::Answer::Ran { run_nanos, retire };
                let Some((id, call)) =
                    self.sched.handle_answer(now, worker, seq, answer, &self.links)?
                else {
                    effects.discard(payload);
                    return Ok(());
                };
                self.measure(now, worker, seq, run_nanos, id, &call, effects);
                let ended = Ok(Answer { payload, answered, run_nanos });
                self.close_call(id, call, ended, effects);
            }
            FromWorker::Failed { seq, run_nanos, retire, failure } => {
                let answer = sched::Answer::Ran { run_nanos, retire };
                let answered = self.sched.handle_answer(now, worker, seq, answer, &self.links)?;
                if let Some((id, call)) = answered {
                    self.measure(now, worker, seq, run_nanos, id, &call, effects);
                    let started =
                        !matches!(failure, Failure::Arguments(_) | Failure::UnknownFunction);
                    let error = failure_error(failure, Some(call.info(id)));
                    self.close_call(id, call, Err(Failed::new(error, started)), effects);
                }
            }
            FromWorker::Began { seq } => {
                let began = self.sched.handle_began(now, worker, seq, &self.links)?;
                let Some((call, may_run_again)) = began else { return Ok(()) };
                // Whoever has been given fewer than there were cannot tell what was
                // memory from the rest.
                if call.args.attached().is_none() {
                    return Err(ProtocolError(Violation::WrongAnswer));
                }
                if !may_run_again && call.has_descriptors() {
                    effects.release(std::mem::take(&mut call.args));
                }
            }
            FromWorker::Trace { .. } => unreachable!("told where it was parsed"),
            FromWorker::Item { seq, payload } => {
                let Some(call) = self.sched.handle_item(now, worker, seq, &self.links)? else {
                    effects.discard(payload);
                    return Ok(());
                };
                let Some(items) = call.items() else {
                    return Err(ProtocolError(Violation::WrongAnswer));
                };
                match items.push(payload) {
                    Ok(waker) => effects.wake(waker),
                    Err(()) => return Err(ProtocolError(Violation::ItemsPastCredit)),
                }
            }
        }
        Ok(())
    }

    /// Notes how long a call that was answered has waited and run.
    #[expect(clippy::too_many_arguments, reason = "all that is known of it")]
    fn measure(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        run_nanos: u64,
        id: TaskId,
        call: &Call,
        effects: &mut Effects,
    ) {
        if MEASURES {
            let times = call.times(now, self.links.started_at(worker, seq), run_nanos);
            self.ledger.note(now, times, || call.info(id));
            effects.measure(times);
        }
    }

    /// Writes down how a worker ended, for those who will ask. Returns whether
    /// that was wanted.
    pub(super) fn note_death(
        &mut self,
        worker: WorkerKey,
        exit: Exit,
        tail: String,
        greeted: bool,
    ) -> bool {
        if let Some(link) = self.links.get_mut(worker) {
            link.stderr.clone_from(&tail);
        }
        match self.sched.stage(worker) {
            // One that was ready may count as a failed start all the same, if
            // it has done nothing.
            Some(Stage::Starting | Stage::Ready) => {
                let cause = Cause::Died { exit, greeted, output: tail };
                self.last_failure = Some(SpawnError::new(cause));
                self.counts.workers_lost += 1;
                false
            }
            Some(Stage::Leaving | Stage::Doomed | Stage::Abandoned) | None => true,
        }
    }

    /// As `note_death`, for a worker that does not die.
    pub(super) fn note_abandoned(&mut self, worker: WorkerKey, tail: String) {
        if let Some(link) = self.links.get_mut(worker) {
            link.stderr = tail;
            self.last_failure = Some(SpawnError::new(Cause::SeatTaken { pid: link.pid }));
        }
        self.counts.workers_abandoned += 1;
    }
}
