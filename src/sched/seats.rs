//! Who sits where: when workers are started, told to leave and replaced, and which of
//! them count for what. Called whenever something about one has changed.

use super::slot::{self, Stage, Worker};
use super::{Action, Mode, Scheduler, Seat, Words, WorkerKey};
use crate::id::WorkerId;
use crate::limits::LEAVE_WAIT;
use crate::time::Time;

/// How many workers are what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Census {
    pub(super) ready: usize,
    /// Of those that the pool should have.
    pub(super) serving: usize,
    /// Seats of the pool's without a worker.
    pub(super) empty: usize,
}

impl<T> Scheduler<T> {
    pub(super) fn worker_mut(&mut self, key: WorkerKey) -> Option<&mut Worker> {
        let slot = self.seats.get_mut(key.seat as usize)?.worker.as_mut()?;
        (slot.id == key.id).then_some(slot)
    }

    /// How many workers are what. Counted anew only when one has become something
    /// else: each task asks for it, and there may be many workers.
    pub(super) fn census(&self) -> Census {
        let known = self.census.get();
        debug_assert!(known.is_none_or(|census| census == self.count()), "somebody has changed");
        let census = known.unwrap_or_else(|| self.count());
        self.census.set(Some(census));
        census
    }

    pub(super) fn count(&self) -> Census {
        let mut census = Census::default();
        for (index, seat) in self.seats.iter().enumerate() {
            // Those that are too many for a smaller pool get no more tasks.
            let is_wanted = index < self.settings.seats();
            let is = |what: fn(&Worker) -> bool| seat.worker.as_ref().is_some_and(what);
            census.ready += usize::from(is(|slot| slot.stage == Stage::Ready));
            census.serving += usize::from(is_wanted && is(Worker::serves));
            census.empty += usize::from(is_wanted && seat.worker.is_none());
        }
        census
    }

    pub(super) fn key(&self, seat: u32) -> Option<WorkerKey> {
        let slot = self.seats[seat as usize].worker.as_ref()?;
        Some(WorkerKey { seat, id: slot.id })
    }

    /// Something about this worker changed that may let it work, or leave.
    pub(super) fn settle(&mut self, now: Time, seat: u32, words: &impl Words) {
        let Some(slot) = &mut self.seats[seat as usize].worker else { return };
        if slot.stage != Stage::Ready {
            return;
        }
        let spent = self.settings.tasks_per_worker_max.is_some_and(|max| slot.given >= max);
        if spent {
            slot.retiring = true;
        }
        slot.watch_skip(now);
        let probe = slot.flights.len() > 1;
        slot.timers.probe_soon(now, probe);
        if !slot.flights.is_empty() {
            slot.watch_start(now);
        } else {
            slot.timers.start_until = Time::FAR;
            slot.timers.timeout_at = Time::FAR;
            slot.idle_since = now;
            if slot.retiring {
                self.dismiss(now, seat);
                self.spread(now, words);
                return;
            }
            if !slot.listed {
                slot.listed = true;
                let at = if slot.is_new() { 0 } else { self.idle.len() };
                self.idle.insert(at, seat);
            }
        }
        self.full = false;
        self.assign(now, Some(seat), words);
        let Some(slot) = &mut self.seats[seat as usize].worker else { return };
        if slot.is_idle() {
            let wait = self.settings.idle_timeout;
            slot.timers.idle_until = wait.map_or(Time::FAR, |wait| slot.idle_since + wait);
            self.steal(now, words);
        }
        self.dismiss_idle(now);
    }

    /// Once the pool is closed, lets workers leave for which there is nothing
    /// left: no task waits, neither in the queue nor behind another.
    pub(super) fn dismiss_idle(&mut self, now: Time) {
        if self.mode == Mode::Open || (self.mode == Mode::Closed && self.linger) {
            return;
        }
        // Not counted as long as there are more than could run: each answer asks.
        let busy = |seat: &&Seat| seat.worker.as_ref().is_some_and(|slot| slot.held() > 0);
        let tasks = self.tasks.len();
        if tasks > self.seats.len() || tasks > self.seats.iter().filter(busy).count() {
            return;
        }
        for seat in 0..self.seats.len() as u32 {
            if self.seats[seat as usize].worker.as_ref().is_some_and(Worker::is_idle) {
                self.dismiss(now, seat);
            }
        }
    }

    /// Tells a worker without tasks to leave.
    pub(super) fn dismiss(&mut self, now: Time, seat: u32) {
        let Some(key) = self.key(seat) else { return };
        let Some(slot) = self.worker_mut(key) else { return };
        debug_assert_eq!(slot.held(), 0);
        slot.stage = Stage::Leaving;
        slot.unwanted = true;
        slot.timers = slot::Timers { stage_until: now + LEAVE_WAIT, ..Default::default() };
        self.census.set(None);
        self.actions.push_back(Action::Dismiss(key));
    }

    /// Lets a worker finish what it has, and leave, as has been noted with it.
    pub(super) fn retire(&mut self, now: Time, seat: u32, words: &impl Words) {
        let Some(key) = self.key(seat) else { return };
        let Some(slot) = self.worker_mut(key) else { return };
        match slot.stage {
            Stage::Starting => {
                slot.unwanted = true;
                self.doom(now, key, None, None, words);
            }
            Stage::Ready => self.settle(now, seat, words),
            Stage::Leaving | Stage::Doomed | Stage::Abandoned => {}
        }
    }

    /// Whether any seat of the pool's is empty.
    pub(crate) fn has_empty_seat(&self) -> bool {
        self.census().empty > 0
    }

    /// Whether a seat is empty that should not be.
    pub(super) fn wants_worker(&self) -> bool {
        self.empty_seat().is_some()
    }

    fn empty_seat(&self) -> Option<usize> {
        if !matches!(self.mode, Mode::Open | Mode::Closed) || self.census().empty == 0 {
            return None;
        }
        let mut empty = None;
        let mut asleep = None;
        for (index, seat) in self.seats.iter().enumerate().take(self.settings.seats()) {
            if seat.worker.is_none() {
                let rests = seat.dormant || self.mode == Mode::Closed;
                let first = if rests { &mut asleep } else { &mut empty };
                *first = first.or(Some(index));
            }
        }
        empty.or(asleep.filter(|_| self.usable_workers() < self.workers_needed()))
    }

    /// How many workers the pool cannot do without now: one for each task, as
    /// far as they may be busy at a time, and the spares. A closed pool has none.
    pub(super) fn workers_needed(&self) -> usize {
        let spares = if self.mode == Mode::Open { self.settings.spares } else { 0 };
        self.tasks_to_serve().min(self.settings.workers) + spares
    }

    pub(super) fn usable_workers(&self) -> usize {
        let seats = self.seats.iter().take(self.settings.seats());
        seats.filter(|seat| seat.worker.as_ref().is_some_and(Worker::is_usable)).count()
    }

    /// Tasks that usable workers have, or may get. What a retiring worker runs
    /// and what one has that is being killed is theirs to the end: a worker
    /// started for that would find nothing to do, leave, and be started again.
    pub(super) fn tasks_to_serve(&self) -> usize {
        let wanted = self.settings.seats();
        let kept = self.seats.iter().enumerate().filter_map(|(index, seat)| {
            let slot = seat.worker.as_ref()?;
            if slot.stage == Stage::Doomed {
                return Some(slot.held());
            }
            (index >= wanted || !slot.is_usable()).then(|| slot.held().min(1))
        });
        self.tasks.len() - kept.sum::<usize>()
    }

    /// Starts workers for empty seats, as far as it is time.
    pub(super) fn fill_seats(&mut self, now: Time) {
        if now < self.respawn.not_before() {
            return;
        }
        while let Some(index) = self.empty_seat() {
            let id = WorkerId(self.next_worker);
            self.next_worker += 1;
            let seat = &mut self.seats[index];
            seat.dormant = false;
            let until = now + self.settings.start_timeout;
            seat.worker = Some(Worker::new(id, now, until, self.respawn.round()));
            self.census.set(None);
            self.actions.push_back(Action::Start(WorkerKey { seat: index as u32, id }));
        }
    }

    /// A worker never came up.
    pub(super) fn handle_failed_start(&mut self, now: Time, failed: &Worker) {
        let at_limit = self.respawn.handle_failure(now, failed.round);
        let has = |stage| {
            self.seats.iter().filter_map(|seat| seat.worker.as_ref()).any(|w| w.stage == stage)
        };
        // One that is still starting may yet save the pool, but not for ever.
        let hope = has(Stage::Starting) && !self.respawn.is_hopeless();
        if at_limit && self.mode != Mode::Terminated && !has(Stage::Ready) && !hope {
            self.break_up();
        }
    }
}
