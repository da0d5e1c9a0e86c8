//! Which task goes to which worker, how many at a time, and what is taken back
//! from a worker that is stuck in a long one.
//!
//! Breadth before depth: no worker gets a second task while another has none,
//! and none gets more than its share of what there is. But only so many have
//! tasks at a time: the others are spares, and have their turn when one of these
//! ends, or is being ended.

use std::time::Duration;

use super::key::WorkerKey;
use super::slot::{Holds, Stage, Worker};
use super::task::Place;
use super::{Action, Scheduler, Words};
use crate::limits::{SLOTS, START_WAIT, START_WAIT_MAX};
use crate::proto::peer::{ProtocolError, Violation};
use crate::slot_word::{Phase, SlotWord};
use crate::time::Time;

/// Tasks in flight to one worker should last about this long: long enough for
/// some to wait while answers gather for half a millisecond and the next ones are
/// fetched, short enough that little has to be taken back.
const WINDOW: Duration = Duration::from_millis(2);

/// Tasks longer than this are worth taking back at once for an idle worker:
/// fetching one costs a swap and a frame.
const LONG_TASK: Duration = Duration::from_micros(100);

/// What waits behind a task is taken back after four times what tasks take, but
/// not sooner than the first (taking back costs the worker a round trip) and not
/// later than the last, by which even a person begins to notice.
const RELIEF_FIRST: Duration = Duration::from_millis(10);
const RELIEF_LAST: Duration = Duration::from_millis(100);

/// A worker that has said nothing for this long is in a long task.
const SILENT: Duration = Duration::from_micros(500);

impl<T> Scheduler<T> {
    /// Sends waiting tasks to workers that have room. `prefer` has just made
    /// some.
    pub(super) fn assign(&mut self, now: Time, prefer: Option<u32>, words: &impl Words) {
        while let Some(task) = self.tasks.front() {
            let alone = self.tasks.get(task).is_some_and(|task| task.alone);
            let Some(seat) = self.next_seat(prefer, alone) else { return };
            let key = self.key(seat).expect("a seat with room has a worker");
            let slot = self.worker_mut(key).expect("a seat with room has a worker");
            if slot.flights.is_empty() {
                slot.heard = now;
                slot.timers.idle_until = Time::FAR;
                self.census.set(None);
            }
            let slot = self.worker_mut(key).expect("a seat with room has a worker");
            let seq = slot.launch(now, task);
            slot.watch_start(now);
            if slot.flights.len() > 1 {
                slot.timers.probe_soon(now, true);
            }
            if let Some(timeout) = self.tasks.get(task).and_then(|task| task.timeout()) {
                let slot = self.worker_mut(key).expect("launched just above");
                slot.timers.timeout_at = slot.timers.timeout_at.min(now + timeout);
            }
            self.tasks.send(task, Place::Sent { worker: key, seq });
            words.enqueue(key, seq);
            self.actions.push_back(Action::Run { worker: key, seq, task });
        }
    }

    /// The worker that should get the next task.
    fn next_seat(&mut self, prefer: Option<u32>, alone: bool) -> Option<u32> {
        if self.full && self.idle.is_empty() {
            return None;
        }
        let serving = self.census().serving;
        while serving < self.settings.workers {
            let Some(seat) = self.idle.pop() else { break };
            if let Some(slot) = &mut self.seats[seat as usize].worker {
                slot.listed = false;
                if slot.is_idle() {
                    return Some(seat);
                }
            }
        }
        if alone || self.full {
            return None;
        }
        let share = self.share();
        if prefer.is_some_and(|seat| self.room(seat, share, serving) > 0) {
            return prefer;
        }
        let seats = 0..self.seats.len() as u32;
        let best = seats.filter(|&seat| self.room(seat, share, serving) > 0).min_by_key(|&seat| {
            let slot = self.seats[seat as usize].worker.as_ref();
            slot.map_or(0, |slot| slot.flights.len())
        });
        self.full = best.is_none();
        best
    }

    /// How many tasks one worker may have in flight now.
    fn share(&self) -> usize {
        let workers = self.census().ready.clamp(1, self.settings.workers);
        self.depth().min(self.tasks.len().div_ceil(workers))
    }

    /// How many tasks make a full window at the pace of late.
    fn depth(&self) -> usize {
        let depth = match self.run_nanos {
            // Nothing is known yet: one that runs and one that is ready to.
            0 => 2,
            nanos => (WINDOW.as_nanos() as u64 / nanos).clamp(2, SLOTS as u64) as usize,
        };
        depth.min(self.settings.depth_max)
    }

    /// How many more tasks the worker at `seat` may be given, with so many that
    /// serve.
    fn room(&self, seat: u32, share: usize, serving: usize) -> usize {
        let Some(slot) = &self.seats[seat as usize].worker else { return 0 };
        if slot.stage != Stage::Ready || slot.retiring || slot.stuck {
            return 0;
        }
        if serving - usize::from(slot.serves()) >= self.settings.workers {
            return 0;
        }
        let room = share.saturating_sub(slot.flights.len());
        match self.settings.tasks_per_worker_max {
            Some(max) => room.min(max.saturating_sub(slot.given) as usize),
            None => room,
        }
    }

    /// One worker fewer may have tasks: a spare takes some over.
    pub(super) fn spread(&mut self, now: Time, words: &impl Words) {
        self.assign(now, None, words);
        self.steal(now, words);
    }

    /// Takes unstarted tasks back from workers that are stuck in long ones, for
    /// those that have nothing to do.
    pub(super) fn steal(&mut self, now: Time, words: &impl Words) {
        if !self.settings.trusted {
            return;
        }
        while self.tasks.queued() == 0 && self.may_begin() {
            let (victim, more_later) = self.victim(now, words);
            let taken = victim.is_some_and(|(waiting, seat)| {
                self.take_from(now, seat, 1, waiting.div_ceil(2), words)
            });
            if !taken {
                if victim.is_some() || more_later {
                    self.steal_at = self.steal_at.min(now + 2 * SILENT);
                }
                return;
            }
            self.assign(now, None, words);
        }
    }

    /// Whether a worker that has no task may get one.
    fn may_begin(&self) -> bool {
        let mut workers = self.seats.iter().filter_map(|seat| seat.worker.as_ref());
        self.census().serving < self.settings.workers && workers.any(Worker::is_idle)
    }

    /// The worker behind whose task most others wait, and how many, if it is a
    /// long one; and whether tasks wait behind others that may be.
    fn victim(&self, now: Time, words: &impl Words) -> (Option<(usize, u32)>, bool) {
        let tasks_are_long = u128::from(self.run_nanos) >= LONG_TASK.as_nanos();
        let mut victim: Option<(usize, u32)> = None;
        let mut more_later = false;
        for (index, seat) in self.seats.iter().enumerate() {
            let Some(slot) = &seat.worker else { continue };
            let waiting = slot.held().saturating_sub(1);
            if slot.stage != Stage::Ready || waiting == 0 {
                continue;
            }
            // The newest tells for all: it starts last. Those before it may be
            // over, with their answers still to come.
            let newest = slot.flights.iter().rev().find(|flight| flight.holds != Holds::Nothing);
            let key = WorkerKey { seat: index as u32, id: slot.id };
            let phase = newest.and_then(|flight| words.load(key, flight.seq).phase());
            if phase != Some(Phase::Queued) {
                continue;
            }
            if !tasks_are_long && now - slot.heard < SILENT {
                // It will probably be done before anything could be moved.
                more_later = true;
            } else if victim.is_none_or(|(most, _)| waiting > most) {
                victim = Some((waiting, index as u32));
            }
        }
        (victim, more_later)
    }

    /// Takes back up to `wanted` of the tasks that wait at a worker behind the
    /// first `kept`, newest first. Returns whether there was any that it had not
    /// started meanwhile.
    fn take_from(
        &mut self,
        now: Time,
        seat: u32,
        kept: usize,
        wanted: usize,
        words: &impl Words,
    ) -> bool {
        let key = self.key(seat).expect("a victim is a worker");
        let slot = self.worker_mut(key).expect("a victim is a worker");
        let mut taken = Vec::new();
        for index in (kept..slot.flights.len()).rev() {
            if taken.len() == wanted {
                break;
            }
            let flight = slot.flights[index];
            let Holds::Task(task) = flight.holds else { continue };
            // One that was seen to run does, whatever its word says now.
            let seen = flight.started.is_some();
            if seen || !words.swap(key, flight.seq, Phase::Queued, Phase::Revoked) {
                break;
            }
            slot.revoke(flight.seq);
            taken.push(task);
        }
        slot.watch_skip(now);
        self.census.set(None);
        let any = !taken.is_empty();
        for task in taken {
            self.take_back(task);
        }
        any
    }

    /// A worker has been in one task since `since`. Once that is long, whatever
    /// waits behind it waits for any worker instead, even if all have work: it
    /// came before what is in the queue.
    pub(super) fn relieve(&mut self, now: Time, key: WorkerKey, since: Time, words: &impl Words) {
        let usual = Duration::from_nanos(self.run_nanos);
        let patience = (usual * 4).clamp(RELIEF_FIRST, RELIEF_LAST);
        let others = self.seats.iter().filter_map(|seat| seat.worker.as_ref());
        let others = others.filter(|slot| slot.stage == Stage::Ready && slot.id != key.id).count();
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(key) else { return };
        slot.timers.probe_at = Time::FAR;
        if !trusted || others == 0 || slot.held() < 2 {
            return;
        }
        if now - since < patience {
            slot.timers.probe_at = since + patience;
            return;
        }
        slot.stuck = true;
        let waiting = slot.held() - 1;
        if self.take_from(now, key.seat, 1, waiting, words) {
            self.assign(now, None, words);
        }
    }

    /// Looks whether a worker begins what it was sent. One that is stopped, or
    /// does not read, would keep it for ever, and a timeout that counts from
    /// the start would never end it.
    pub(super) fn check_start(&mut self, now: Time, key: WorkerKey, words: &impl Words) {
        let trusted = self.settings.trusted;
        let fresh = |slot: &Worker| slot.stage == Stage::Ready && !slot.retiring && !slot.stuck;
        let mut others = self.seats.iter().filter_map(|seat| seat.worker.as_ref());
        let elsewhere = trusted && others.any(|slot| fresh(slot) && slot.id != key.id);
        let Some(slot) = self.worker_mut(key) else { return };
        let due = std::mem::replace(&mut slot.timers.start_until, Time::FAR);
        let Some(&first) = slot.flights.front() else { return };
        let waits = first.holds != Holds::Nothing
            && first.started.is_none()
            && words.load(key, first.seq) == SlotWord::new(first.seq, Phase::Queued);
        if !waits {
            // Whatever is behind that has its turn once the first has landed.
            return;
        }
        if now - due > START_WAIT {
            // We have been kept from looking, and perhaps from sending; so
            // may the worker have been from everything.
            slot.heard = now;
        }
        let silent = now - slot.heard.max(first.sent);
        if elsewhere && silent >= START_WAIT {
            slot.stuck = true;
            let all = slot.flights.len();
            self.take_from(now, key.seat, 0, all, words);
            self.assign(now, None, words);
        } else if silent >= START_WAIT_MAX {
            let error = ProtocolError(Violation::NotStarted);
            self.handle_violation(now, key, error, words);
        } else {
            slot.watch_start(now);
        }
    }

    /// Learns from a task that took this long.
    pub(super) fn note_run_time(&mut self, nanos: u64) {
        let nanos = nanos.clamp(1, Duration::from_secs(3600).as_nanos() as u64);
        self.run_nanos = match self.run_nanos {
            0 => nanos,
            // One part in eight is new.
            average => (average - average / 8 + nanos / 8).max(1),
        };
    }
}
