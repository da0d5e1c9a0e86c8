//! What is due on a worker: it has been idle or there for too long, a task is over its
//! time, an answer or a death stays away. Called by the scheduler's `handle_timers`; what
//! comes of a task or a worker then is in `cancel`.

use super::cancel::LOOKS;
use super::slot::Holds;
use super::task::Intent;
use super::{Action, Scheduler, Words, WorkerKey};
use crate::limits::{ANSWER_WAIT, REPLY_WAIT, SKIP_WAIT};
use crate::proto::peer::{ProtocolError, Violation};
use crate::slot_word::Phase;
use crate::time::Time;

impl<T> Scheduler<T> {
    /// Looks at what is due on one worker.
    pub(super) fn check_timers(&mut self, now: Time, seat: u32, words: &impl Words) {
        let Some(key) = self.key(seat) else { return };
        let Some(slot) = self.worker_mut(key) else { return };
        let timers = &mut slot.timers;
        if timers.stage_until <= now {
            timers.stage_until = Time::FAR;
            return self.doom(now, key, None, None, words);
        }
        if timers.death_until <= now {
            timers.death_until = Time::FAR;
            let error = ProtocolError(Violation::ClosedButAlive);
            return self.handle_violation(now, key, error, words);
        }
        if timers.skip_until <= now {
            return self.check_skip(now, key, words);
        }
        if timers.answer_until.1 <= now {
            return self.check_answer(now, key, words);
        }
        if timers.start_until <= now {
            return self.check_start(now, key, words);
        }
        if timers.polite_until.1 <= now {
            let seq = timers.polite_until.0;
            timers.polite_until = (0, Time::FAR);
            return self.end_polite(now, key, seq, words);
        }
        if timers.age_until <= now {
            timers.age_until = Time::FAR;
            slot.retiring = true;
            return self.retire(now, seat, words);
        }
        if timers.idle_until <= now {
            timers.idle_until = Time::FAR;
            if slot.is_idle() {
                self.let_rest(now, seat);
            }
            return;
        }
        if timers.timeout_at <= now {
            timers.timeout_at = Time::FAR;
            self.check_timeout(now, key, words);
        }
        self.check_probe(now, key, words);
    }

    /// Lets a worker go that has been idle for too long, if others suffice.
    fn let_rest(&mut self, now: Time, seat: u32) {
        if self.usable_workers() > self.workers_needed() {
            self.seats[seat as usize].dormant = true;
            return self.dismiss(now, seat);
        }
        // It is a spare, or about to take over what waits behind a long task. In
        // a pool that has nothing to do it is the one, and stays that.
        let looks_again = self.tasks_to_serve() > 0;
        if let (true, Some(wait)) = (looks_again, self.settings.idle_timeout) {
            let slot = self.seats[seat as usize].worker.as_mut().expect("it is idle");
            slot.timers.idle_until = now + wait.max(super::slot::PROBE_FIRST);
        }
    }

    /// A task that was taken back has not been skipped.
    fn check_skip(&mut self, now: Time, key: WorkerKey, words: &impl Words) {
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(key) else { return };
        if trusted && slot.went_on_after(0, words, key.seat) {
            slot.timers.skip_until = now + SKIP_WAIT;
            self.actions.push_back(Action::Probe(key));
        } else {
            let error = ProtocolError(Violation::NotSkipped);
            self.handle_violation(now, key, error, words);
        }
    }

    /// An answer that somebody waits for has not come.
    fn check_answer(&mut self, now: Time, key: WorkerKey, words: &impl Words) {
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(key) else { return };
        let due = slot.timers.answer_until.0;
        let went_on = trusted && slot.went_on_after(due, words, key.seat);
        if went_on && slot.timers.answer_looks < LOOKS {
            // What it went on after is in its outbox or in the socket, and both
            // are read before this is asked again.
            slot.timers.answer_looks += 1;
            slot.timers.expect_answer(due, now + REPLY_WAIT);
            self.actions.push_back(Action::Probe(key));
        } else {
            let error = ProtocolError(Violation::AnswerMissing);
            self.handle_violation(now, key, error, words);
        }
    }

    /// Ends the running task if it is over its time, else looks again later.
    ///
    /// The timer is armed when a task is sent, and is not put off when an
    /// answer comes: a look too early costs little, one for each answer much.
    fn check_timeout(&mut self, now: Time, key: WorkerKey, words: &impl Words) {
        let Some(slot) = self.worker_mut(key) else { return };
        let flights = slot.flights.clone();
        // One whose end is asked for has other timers.
        let timeout = |task| self.tasks.get(task).filter(|task| task.intent.is_none())?.timeout();
        let mut next = Time::FAR;
        let mut over = None;
        // The last that is over without its answer having come.
        let mut owed = None;
        let mut first_looks = Vec::new();
        for flight in flights {
            let Holds::Task(task) = flight.holds else { continue };
            let Some(after) = timeout(task) else { continue };
            let word = words.load(key, flight.seq);
            let until = match word.phase().filter(|_| word.seq() == flight.seq) {
                // One task at a time, so it could start when it was sent.
                _ if !self.settings.trusted => flight.sent + after,
                // Nobody has asked for its end: the worker wrote that itself.
                Some(Phase::Running | Phase::CancelReq) => {
                    let started = flight.began(now, key, words);
                    first_looks.push((flight.seq, started));
                    started + after
                }
                Some(Phase::Queued) if flight.started.is_none() => {
                    // Not started: it cannot be over before this. What waits
                    // behind a long task must not keep us awake, however short
                    // its timeout.
                    next = next.min(now + after.max(super::slot::PROBE_FIRST));
                    continue;
                }
                Some(Phase::Done) => {
                    owed = Some((flight.seq, after));
                    continue;
                }
                Some(Phase::Empty | Phase::Queued | Phase::Revoked | Phase::Killing) | None => {
                    let error = ProtocolError(Violation::Page);
                    return self.handle_violation(now, key, error, words);
                }
            };
            if until <= now {
                over = Some(task);
            } else {
                next = next.min(until);
            }
        }
        let slot = self.worker_mut(key).expect("found just above");
        slot.timers.timeout_at = next;
        for (seq, started) in first_looks {
            slot.note_started(seq, started);
        }
        match (owed, slot.timers.answer_until.1) {
            (None, _) => {}
            // It was in time, but that is no reason to wait for ever.
            (Some((seq, after)), Time::FAR) => {
                slot.timers.expect_answer(seq, now + after.max(ANSWER_WAIT));
                self.actions.push_back(Action::Probe(key));
            }
            // Another answer is waited for, perhaps one before it.
            (Some(_), until) => slot.timers.timeout_at = next.min(until),
        }
        if let Some(task) = over {
            self.handle_cancel(now, task, Intent::TimeOut, words);
        }
    }

    /// Fetches answers that the worker has not sent, or looks again later.
    fn check_probe(&mut self, now: Time, key: WorkerKey, words: &impl Words) {
        let Some(slot) = self.worker_mut(key) else { return };
        if slot.timers.probe_at > now {
            return;
        }
        // A skipped task's word stays `Revoked`, so it does not tell whether the
        // worker has come past it: the first other one does.
        let mut phases = slot
            .flights
            .iter()
            .enumerate()
            .map(|(index, flight)| (index, flight.seq, words.load(key, flight.seq).phase()));
        let first = phases.find(|&(.., phase)| phase != Some(Phase::Revoked));
        let mut running_since = None;
        if let Some((index, seq, phase @ Some(Phase::Running | Phase::Done))) = first {
            // Its own end will be long after its start, and a worker sends the
            // answer of a long task at once.
            let started = words.started_at(key, seq).min(now);
            let long = phase == Some(Phase::Running) && now - started >= super::slot::PROBE_FIRST;
            running_since = long.then_some(started);
            if phase == Some(Phase::Done) || (long && index > 0) {
                self.actions.push_back(Action::Probe(key));
            }
        }
        match running_since {
            Some(since) => self.relieve(now, key, since, words),
            None => {
                let slot = self.worker_mut(key).expect("found just above");
                slot.timers.probe_later(now);
            }
        }
    }
}
