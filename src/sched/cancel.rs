//! Ending tasks: the fence before any signal, what happens to those that wait
//! behind the one that is ended, and what a worker's death means for each task
//! that it had. The reasons are in each step; the order matters everywhere.

use super::key::TaskKey;
use super::slot::{Flight, Holds, Stage, Worker};
use super::task::{Ending, Intent, Place};
use super::{Action, Mode, PROOF_OF_LIFE, Scheduler, Words, WorkerKey};
use crate::exit::Exit;
use crate::limits::{EOF_TO_DEATH_WAIT, LEAVE_WAIT, REPLY_WAIT};
use crate::proto::peer::{ProtocolError, Violation};
use crate::slot_word::Phase;
use crate::time::Time;

/// A word moves forward only, so a few looks always settle where it is. A
/// worker that moves it back is hostile.
pub(super) const LOOKS: usize = 4;

/// A task with which this many workers have died before they had started it, or
/// anything else, is not given to another: receiving it may be what kills them.
pub(super) const FATAL_DELIVERIES_MAX: u8 = 3;

impl<T> Scheduler<T> {
    /// Somebody wants the task to end.
    pub(crate) fn handle_cancel(
        &mut self,
        now: Time,
        task: TaskKey,
        intent: Intent,
        words: &impl Words,
    ) {
        let Some(entry) = self.tasks.get_mut(task) else { return };
        if entry.intent.is_some() {
            return;
        }
        match entry.place() {
            Place::Queued => {
                let ending = entry.ending(intent, false, None);
                self.finish(task, ending);
            }
            Place::Sent { worker, seq } => {
                entry.intent = Some(intent);
                self.end_sent(now, task, worker, seq, words);
            }
        }
        // A pool that is closed may just have lost its last reason to be.
        self.dismiss_idle(now);
    }

    /// Ends everything: what waits now, what runs like a cancelled task.
    pub(crate) fn handle_terminate(&mut self, now: Time, words: &impl Words) {
        if matches!(self.mode, Mode::Open | Mode::Closed) {
            self.mode = Mode::Terminated;
        }
        self.finish_queued(Ending::Terminated { started: false });
        let grace = self.settings.grace_period;
        for seat in 0..self.seats.len() as u32 {
            let Some(key) = self.key(seat) else { continue };
            let Some(slot) = self.worker_mut(key) else { continue };
            match slot.stage {
                Stage::Starting => {
                    slot.unwanted = true;
                    self.doom(now, key, None, None, words);
                }
                Stage::Ready => {
                    let tasks: Vec<_> = slot.flights.iter().copied().collect();
                    // Newest first: what has not started never does.
                    for flight in tasks.into_iter().rev() {
                        if let Holds::Task(task) = flight.holds {
                            self.handle_cancel(now, task, Intent::Terminate, words);
                        }
                    }
                    let Some(slot) = self.worker_mut(key) else { continue };
                    if slot.stage == Stage::Ready && slot.held() == 0 {
                        // It may be stopped, and then does not even skip what
                        // was taken back.
                        self.dismiss(now, seat);
                        let slot = self.worker_mut(key).expect("found just above");
                        slot.timers.stage_until = now + grace.min(LEAVE_WAIT);
                    }
                }
                Stage::Leaving | Stage::Doomed | Stage::Abandoned => {}
            }
        }
        self.dismiss_idle(now);
    }

    /// Ends everything now, without waiting for the workers, which the caller
    /// kills: nobody will call again.
    pub(crate) fn handle_abandon(&mut self, words: &impl Words) {
        let in_order = self.mode == Mode::Closed && self.is_drained();
        if self.mode != Mode::Broken && !in_order {
            self.mode = Mode::Terminated;
        }
        for task in self.tasks.keys() {
            let started = match self.place(task) {
                Some(Place::Sent { worker, seq }) => {
                    let revoked = words.swap(worker, seq, Phase::Queued, Phase::Revoked);
                    !revoked || !self.settings.trusted
                }
                _ => false,
            };
            self.finish(task, Ending::Terminated { started });
        }
        for seat in &mut self.seats {
            seat.worker = None;
            seat.abandoned = None;
        }
        self.census.set(None);
    }

    /// The worker broke the protocol.
    pub(crate) fn handle_violation(
        &mut self,
        now: Time,
        worker: WorkerKey,
        error: ProtocolError,
        words: &impl Words,
    ) {
        let Some(slot) = self.worker_mut(worker) else { return };
        // Nothing more is believed of what it says, so its death is blamed on
        // this even where the kill was for another reason.
        slot.verdict.get_or_insert(error);
        if slot.stage == Stage::Doomed {
            return;
        }
        self.doom(now, worker, None, None, words);
    }

    /// The worker's socket closed. Death is told by the process's own
    /// descriptor; a grandchild could have kept, or the worker closed, this one.
    pub(crate) fn handle_eof(&mut self, now: Time, worker: WorkerKey) {
        let Some(slot) = self.worker_mut(worker) else { return };
        if slot.timers.death_until == Time::FAR {
            slot.timers.death_until = now + EOF_TO_DEATH_WAIT;
        }
    }

    /// The worker's process has ended, and [`handle_death`](Self::handle_death)
    /// will follow once it has been collected. Its silence until then is no
    /// fault of its own.
    pub(crate) fn handle_ended(&mut self, worker: WorkerKey) {
        if let Some(slot) = self.worker_mut(worker) {
            slot.timers.drop_verdicts();
        }
    }

    /// The worker is dead, its socket drained. Its words tell what it started.
    pub(crate) fn handle_death(
        &mut self,
        now: Time,
        worker: WorkerKey,
        exit: Exit,
        words: &impl Words,
    ) {
        self.census.set(None);
        let seat = &mut self.seats[worker.seat as usize];
        if seat.abandoned.as_ref().is_some_and(|slot| slot.id == worker.id) {
            seat.abandoned = None;
            // Another may have waited for this.
            if let Some(next) = seat.worker.take_if(|slot| slot.stage == Stage::Abandoned) {
                seat.abandoned = Some(next);
                seat.restarts += 1;
            }
            return self.fill_seats(now);
        }
        let Some(dead) = seat.worker.take_if(|slot| slot.id == worker.id) else { return };
        seat.restarts += 1;
        if dead.stage == Stage::Abandoned {
            return self.fill_seats(now);
        }
        self.part_with(now, worker, &dead, Some(exit), words);
    }

    /// The worker was killed, its socket is drained, and it does not die. It
    /// will not run on either: the pool goes on without it, as if it were dead.
    pub(crate) fn handle_overdue(&mut self, now: Time, worker: WorkerKey, words: &impl Words) {
        self.census.set(None);
        let seat = &mut self.seats[worker.seat as usize];
        let is_it = |slot: &mut Worker| slot.id == worker.id && slot.stage != Stage::Abandoned;
        let Some(undead) = seat.worker.take_if(is_it) else { return };
        let left = undead.abandoned();
        if seat.abandoned.is_none() {
            seat.abandoned = Some(left);
            seat.restarts += 1;
        } else {
            seat.worker = Some(left);
        }
        self.part_with(now, worker, &undead, None, words);
    }

    /// What the end of a worker means for its tasks and its successor. `exit`:
    /// none if it did not end, but was given up.
    fn part_with(
        &mut self,
        now: Time,
        worker: WorkerKey,
        dead: &Worker,
        exit: Option<Exit>,
        words: &impl Words,
    ) {
        let waited = |flight: &Flight| {
            let word = words.load(worker, flight.seq);
            let waits = matches!(word.phase(), Some(Phase::Queued | Phase::Revoked));
            let believed = self.settings.trusted && flight.started.is_none();
            believed && word.seq() == flight.seq && waits
        };
        let mut had_work = false;
        let mut back = Vec::new();
        let mut lost = Vec::new();
        for flight in &dead.flights {
            let Holds::Task(task) = flight.holds else { continue };
            if waited(flight) {
                back.push(task);
            } else {
                had_work = true;
                lost.push((task, flight.seq));
            }
        }
        // Nothing had started: receiving the first of them may be what killed
        // the worker, and would kill the next one.
        if let (false, Some(&first)) = (had_work, back.first()) {
            let entry = self.tasks.get_mut(first).expect("in flight");
            entry.fatal_deliveries += 1;
            if entry.fatal_deliveries >= FATAL_DELIVERIES_MAX {
                let seq = dead.flights.front().map_or(0, |flight| flight.seq);
                lost.push((first, seq));
                back.remove(0);
            }
        }
        // Newest first, so that what goes back to the front of the queue ends
        // up there in its old order.
        for task in back.into_iter().rev() {
            self.take_back(task);
        }
        for (task, seq) in lost.into_iter().rev() {
            let ending = Ending::Lost { worker, seq, exit: exit.unwrap_or(Exit::UNKNOWN) };
            self.lose(task, exit, ending, dead.verdict);
        }
        if dead.listed {
            self.idle.retain(|&seat| seat != worker.seat);
        }
        match dead.ready_at {
            _ if dead.unwanted => {}
            None => self.handle_failed_start(now, dead),
            // It had done nothing, and may be the first of many.
            Some(at) if dead.answered == 0 && !had_work && now - at < PROOF_OF_LIFE => {
                self.respawn.handle_early_death(now);
            }
            Some(_) => {}
        }
        self.spread(now, words);
        self.fill_seats(now);
        // It may have had the last tasks of a closed pool.
        self.dismiss_idle(now);
    }

    /// Ends a task that a worker has, started or not.
    fn end_sent(
        &mut self,
        now: Time,
        task: TaskKey,
        worker: WorkerKey,
        seq: u64,
        words: &impl Words,
    ) {
        let grace = self.settings.grace_period;
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(worker) else { return };
        if slot.stage == Stage::Doomed {
            // Resolved by the death that is on its way.
            return;
        }
        for _ in 0..LOOKS {
            match words.load(worker, seq).phase() {
                Some(Phase::Queued) if !slot.has_started(seq) => {
                    if words.swap(worker, seq, Phase::Queued, Phase::Revoked) {
                        if !trusted {
                            // Only the worker says that it has not started.
                            return self.doom(now, worker, Some(seq), None, words);
                        }
                        slot.revoke(seq);
                        slot.watch_skip(now);
                        self.census.set(None);
                        self.take_back(task);
                        return;
                    }
                }
                Some(Phase::Running) if words.is_polite(worker, seq) && !grace.is_zero() => {
                    if words.swap(worker, seq, Phase::Running, Phase::CancelReq) {
                        slot.note_started(seq, now);
                        slot.timers.expect_end(seq, now + grace);
                        self.actions.push_back(Action::Ring { worker, seq });
                        return;
                    }
                }
                Some(phase @ (Phase::Running | Phase::CancelReq)) => {
                    if words.swap(worker, seq, phase, Phase::Killing) {
                        let grace = Some(grace).filter(|grace| !grace.is_zero());
                        self.doom(now, worker, Some(seq), grace, words);
                        return;
                    }
                }
                Some(Phase::Done) => {
                    // The answer is on its way; nobody is killed for a task
                    // that is over.
                    slot.note_started(seq, now);
                    slot.timers.expect_answer(seq, now + REPLY_WAIT);
                    self.actions.push_back(Action::Probe(worker));
                    return;
                }
                Some(Phase::Empty | Phase::Queued | Phase::Revoked | Phase::Killing) | None => {
                    break;
                }
            }
        }
        self.handle_violation(now, worker, ProtocolError(Violation::Page), words);
    }

    /// The grace period of a task that was asked to end is over.
    pub(super) fn end_polite(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        words: &impl Words,
    ) {
        if words.swap(worker, seq, Phase::CancelReq, Phase::Killing) {
            self.doom(now, worker, Some(seq), None, words);
        } else if words.load(worker, seq).phase() == Some(Phase::Done) {
            let Some(slot) = self.worker_mut(worker) else { return };
            slot.timers.expect_answer(seq, now + REPLY_WAIT);
            self.actions.push_back(Action::Probe(worker));
        } else {
            self.handle_violation(now, worker, ProtocolError(Violation::Page), words);
        }
    }

    /// Stops a worker. `fenced` is the task that has just been swapped to
    /// `Killing`; without one, whatever runs is fenced here. After the fence
    /// the worker can start nothing else, so what it had not started goes back
    /// to the queue now and does not wait for its death.
    pub(super) fn doom(
        &mut self,
        now: Time,
        worker: WorkerKey,
        fenced: Option<u64>,
        grace: Option<std::time::Duration>,
        words: &impl Words,
    ) {
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(worker) else { return };
        slot.stage = Stage::Doomed;
        slot.timers = Default::default();
        self.census.set(None);
        let slot = self.worker_mut(worker).expect("found just above");
        let mut back = Vec::new();
        for flight in slot.flights.iter_mut().rev() {
            let Holds::Task(task) = flight.holds else { continue };
            if Some(flight.seq) == fenced {
                continue;
            }
            for _ in 0..LOOKS {
                // What an untrusted worker says it has not started, it may have.
                let believed = trusted && flight.started.is_none();
                if believed && words.swap(worker, flight.seq, Phase::Queued, Phase::Revoked) {
                    flight.holds = Holds::Nothing;
                    back.push(task);
                    break;
                }
                let fence = |phase| words.swap(worker, flight.seq, phase, Phase::Killing);
                if fence(Phase::Running) || fence(Phase::CancelReq) {
                    break;
                }
                if words.load(worker, flight.seq).phase() == Some(Phase::Done) {
                    break;
                }
            }
        }
        self.actions.push_back(Action::Stop { worker, grace });
        for task in back {
            self.take_back(task);
        }
        self.spread(now, words);
        self.dismiss_idle(now);
    }

    /// A task that is known not to have started: back to the front of the
    /// queue, or to its end, if somebody asked for that.
    pub(super) fn take_back(&mut self, task: TaskKey) {
        let Some(entry) = self.tasks.get_mut(task) else { return };
        match (entry.intent, self.mode) {
            (Some(intent), _) => {
                let ending = entry.ending(intent, false, None);
                self.finish(task, ending);
            }
            (None, Mode::Terminated) => self.finish(task, Ending::Terminated { started: false }),
            (None, Mode::Broken) => self.finish(task, Ending::Broken),
            (None, Mode::Open | Mode::Closed) => self.tasks.requeue(task),
        }
    }

    /// A task that may have started and whose worker is dead, or does not die:
    /// there, it is not certain enough that the task has ended to run it again.
    fn lose(
        &mut self,
        task: TaskKey,
        exit: Option<Exit>,
        lost: Ending,
        verdict: Option<ProtocolError>,
    ) {
        let going_on = matches!(self.mode, Mode::Open | Mode::Closed);
        let Some(entry) = self.tasks.get_mut(task) else { return };
        match (entry.intent, verdict) {
            (Some(intent), _) => {
                let ending = entry.ending(intent, true, exit);
                self.finish(task, ending);
            }
            (None, _) if going_on && exit.is_some() && entry.retries > 0 => {
                entry.retries -= 1;
                self.tasks.requeue(task);
            }
            (None, Some(error)) => self.finish(task, Ending::Violated { error }),
            (None, None) => self.finish(task, lost),
        }
    }

    /// No worker can be started: everything that waits ends.
    pub(super) fn break_up(&mut self) {
        self.mode = Mode::Broken;
        self.finish_queued(Ending::Broken);
    }

    fn finish_queued(&mut self, ending: Ending) {
        while let Some(task) = self.tasks.front() {
            self.finish(task, ending.clone());
        }
    }
}
