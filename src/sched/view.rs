//! What others may ask of the scheduler: about the pool, its tasks and its workers.
//! Changes nothing.

use super::slot::{Holds, Seat, Stage, Worker};
use super::task::Place;
use super::{Mode, Scheduler, Settings, TaskKey, WorkerKey};
use crate::id::WorkerId;
use crate::time::Time;

impl<T> Scheduler<T> {
    /// Whether the worker has nothing in flight but number `seq`.
    pub(crate) fn is_alone(&self, worker: WorkerKey, seq: u64) -> bool {
        let slot = self.seats.get(worker.seat as usize).and_then(|seat| seat.worker.as_ref());
        slot.is_some_and(|slot| {
            slot.id == worker.id && slot.flights.len() == 1 && slot.flights[0].seq == seq
        })
    }

    /// How many workers have something in flight.
    pub(crate) fn busy_workers(&self) -> usize {
        let workers = self.seats.iter().filter_map(|seat| seat.worker.as_ref());
        workers.filter(|slot| !slot.flights.is_empty()).count()
    }

    /// The task with number `seq`, if that is the one whose answer is due.
    pub(crate) fn due(&self, worker: WorkerKey, seq: u64) -> Option<&T> {
        let slot = self.seats.get(worker.seat as usize)?.worker.as_ref()?;
        let flight = slot.flights.front().filter(|flight| flight.seq == seq)?;
        match flight.holds {
            Holds::Task(key) if slot.id == worker.id => self.data(key),
            _ => None,
        }
    }

    /// The task with number `seq`, if the worker has it.
    pub(crate) fn in_flight(&self, worker: WorkerKey, seq: u64) -> Option<&T> {
        let slot = self.seats.get(worker.seat as usize)?.worker.as_ref()?;
        match slot.flights[slot.index_of(seq)?].holds {
            Holds::Task(key) if slot.id == worker.id => self.data(key),
            _ => None,
        }
    }

    /// Tasks that the worker has, or may be given yet.
    pub(crate) fn ahead_of(&self, worker: WorkerKey) -> impl Iterator<Item = &T> {
        let ahead = self.tasks.iter().filter(move |task| match task.place() {
            Place::Queued => true,
            Place::Sent { worker: its, .. } => its == worker,
        });
        ahead.map(|task| &task.data)
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tasks that have not ended, and those of them that wait in the queue.
    pub(crate) fn task_counts(&self) -> (usize, usize) {
        (self.tasks.len(), self.tasks.queued())
    }

    /// The task's place, or `None` once it has ended.
    pub(crate) fn place(&self, task: TaskKey) -> Option<Place> {
        self.tasks.get(task).map(|task| task.place())
    }

    pub(crate) fn data(&self, task: TaskKey) -> Option<&T> {
        self.tasks.get(task).map(|task| &task.data)
    }

    /// The worker with this id, if it is still there.
    pub(crate) fn find(&self, id: WorkerId) -> Option<WorkerKey> {
        let has = |seat: &Seat| seat.workers().any(|slot| slot.id == id);
        let seat = self.seats.iter().position(has)? as u32;
        Some(WorkerKey { seat, id })
    }

    /// Where each worker is in its life, and whether it has tasks.
    pub(crate) fn stages(&self) -> impl Iterator<Item = (Stage, bool)> {
        let workers = self.seats.iter().flat_map(Seat::workers);
        workers.map(|slot| (slot.stage, !slot.flights.is_empty()))
    }

    /// Whether the worker has the place of another.
    pub(crate) fn is_respawn(&self, worker: WorkerKey) -> bool {
        self.seats.get(worker.seat as usize).is_some_and(|seat| seat.restarts > 0)
    }

    /// Where a worker is in its life.
    pub(crate) fn stage(&self, worker: WorkerKey) -> Option<Stage> {
        let mut workers = self.seats.get(worker.seat as usize)?.workers();
        workers.find(|slot| slot.id == worker.id).map(|slot| slot.stage)
    }

    /// Whether any task waits or is on its way.
    pub(crate) fn has_tasks(&self) -> bool {
        self.tasks.len() > 0
    }

    /// Whether nothing is left: no task, no worker but those that do not die.
    pub(crate) fn is_drained(&self) -> bool {
        let mut seats = self.seats.iter();
        let gone = |slot: &Worker| slot.stage == Stage::Abandoned;
        self.tasks.len() == 0 && seats.all(|seat| seat.worker.as_ref().is_none_or(gone))
    }

    /// Whether the death of a worker that was given up is still to come.
    pub(crate) fn has_abandoned(&self) -> bool {
        let mut workers = self.seats.iter().flat_map(Seat::workers);
        workers.any(|slot| slot.stage == Stage::Abandoned)
    }

    /// Whether every worker that the pool wants is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.seats.iter().take(self.settings.seats()).all(|seat| match &seat.worker {
            Some(slot) => slot.stage == Stage::Ready,
            None => seat.dormant,
        })
    }

    /// Whether workers cannot start: not for now, where others keep the pool
    /// from being broken, or where one that does not die has their seat.
    pub(crate) fn cannot_start(&self) -> bool {
        let taken =
            |seat: &Seat| seat.worker.as_ref().is_some_and(|slot| slot.stage == Stage::Abandoned);
        self.respawn.is_at_limit() || self.seats.iter().take(self.settings.seats()).any(taken)
    }

    /// All workers there are, with how often their seat was taken before.
    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerView> + '_ {
        let seats = self.seats.iter().enumerate();
        seats.flat_map(|(index, seat)| seat.workers().map(move |slot| (index, seat, slot))).map(
            |(index, seat, slot)| WorkerView {
                key: WorkerKey { seat: index as u32, id: slot.id },
                stage: slot.stage,
                began: slot.began,
                answered: slot.answered,
                restarts: seat.restarts,
                in_flight: slot
                    .flights
                    .iter()
                    .filter_map(|flight| match flight.holds {
                        Holds::Task(key) => Some((flight.seq, key)),
                        Holds::Nothing => None,
                    })
                    .collect(),
            },
        )
    }
}

/// A worker as status reports show it.
#[derive(Debug)]
pub(crate) struct WorkerView {
    pub(crate) key: WorkerKey,
    pub(crate) stage: Stage,
    pub(crate) began: Time,
    pub(crate) answered: u64,
    pub(crate) restarts: u64,
    pub(crate) in_flight: Vec<(u64, TaskKey)>,
}
