//! Decides which waiting task goes to which worker, when workers are started
//! and dismissed, and when a cancellation becomes a kill. Called by the pool
//! driver and its handles, under the pool's lock. Knows nothing of sockets,
//! processes or clocks.
//!
//! Two verb families: `handle_*` for what happened, `poll_*` for what to do
//! next. The slot words are reached through [`Words`]: a swap is part of a
//! decision and has to be known at once.
//!
//! - `task` and `queue`: the tasks, their states and their order; `entry`: tasks that come
//!   while there is nothing to decide;
//! - `slot`: the workers and their timers; `seats`: when they come and go;
//! - `assign`: which task goes where, and what is taken back;
//! - `cancel`: ending tasks, and what a worker's death means for its tasks; `due`: what
//!   is due on a worker;
//! - `respawn`: backoff and giving up;
//! - `view`: what others may ask.

mod assign;
mod cancel;
mod due;
mod entry;
mod key;
mod queue;
mod respawn;
mod seats;
mod slot;
mod task;
mod view;

#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use self::entry::{Entrant, Ticket};
pub(crate) use self::key::{TaskKey, WorkerKey};
pub(crate) use self::slot::Stage;
pub(crate) use self::task::{Ending, Intent, Place, Terms};

use self::queue::Tasks;
use self::respawn::Respawn;
use self::seats::Census;
use self::slot::{Holds, Seat, Worker};
use crate::id::TaskId;
use crate::limits::{REPLY_WAIT, SKIP_WAIT, START_WAIT};
use crate::proto::peer::{ProtocolError, Violation};
use crate::slot_word::{Phase, SlotWord};
use crate::time::Time;

/// The slot words of all workers, as the scheduler uses them.
pub(crate) trait Words {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord;
    /// Swaps `(seq, from)` for `(seq, to)` if it is there.
    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool;
    /// Prepares the slot of a task that is about to be sent.
    fn enqueue(&self, worker: WorkerKey, seq: u64);
    /// Whether the task said that it watches for a request to end.
    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool;
    /// When the task's body started, as the worker says.
    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time;
}

/// How a pool wants its work done. Checked by the pool's builder.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Most workers that have tasks at a time.
    pub(crate) workers: usize,
    /// Workers beyond that, which are kept ready to take others' places. Who
    /// they are is not said: whoever has no task while so many have.
    pub(crate) spares: usize,
    /// Most tasks in flight to one worker.
    pub(crate) depth_max: usize,
    /// Whether the status page is believed after a worker's death.
    pub(crate) trusted: bool,
    pub(crate) grace_period: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) restart_limit: u32,
    pub(crate) tasks_per_worker_max: Option<u64>,
    pub(crate) idle_timeout: Option<Duration>,
    /// How long a worker that is ready stays.
    pub(crate) age_max: Option<Duration>,
}

impl Settings {
    /// How many workers there are, if all that are wanted are there.
    pub(crate) fn seats(&self) -> usize {
        self.workers + self.spares
    }

    /// How old a worker in this seat gets: less by up to an eighth, so that
    /// those that have come together do not leave together.
    fn age_in(&self, seat: u32) -> Option<Duration> {
        let seats = self.seats().max(1) as u32;
        self.age_max.map(|most| most - most / 8 / seats * (seat % seats))
    }
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub(crate) enum Action<T> {
    /// Start a process for this worker.
    Start(WorkerKey),
    /// Send the task. It may have ended since: then send it empty, the worker
    /// will skip it.
    Run { worker: WorkerKey, seq: u64, task: TaskKey },
    /// Tell a worker without tasks to leave.
    Dismiss(WorkerKey),
    /// Stop the worker: SIGTERM and SIGKILL after the grace period, or SIGKILL
    /// at once.
    Stop { worker: WorkerKey, grace: Option<Duration> },
    /// Wake the worker's watcher: a task has been asked to end.
    Ring { worker: WorkerKey, seq: u64 },
    /// Look into the worker's outbox for answers that it has not sent yet.
    Probe(WorkerKey),
    /// Tell the caller.
    Finish { task: TaskId, data: T, ending: Ending },
}

/// What the worker says became of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Ran { run_nanos: u64, retire: bool },
    Skipped,
}

/// Why the pool takes no more tasks, if it does not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Mode {
    Open,
    /// No new calls; what has begun goes on.
    Closed,
    Terminated,
    Broken,
}

/// The successor of a worker that neither did anything nor lived this long has
/// to wait a moment.
const PROOF_OF_LIFE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Scheduler<T> {
    settings: Settings,
    mode: Mode,
    tasks: Tasks<T>,
    seats: Vec<Seat>,
    /// What was last counted of them, until one changes.
    census: Cell<Option<Census>>,
    /// Seats that may be idle, most recently busy last: it gets the next task,
    /// and one that has just been started the last.
    idle: Vec<u32>,
    /// No worker had room when last looked; cleared when one may have.
    full: bool,
    /// When to take back what waits behind a long task, for an idle worker.
    steal_at: Time,
    /// Moving average of the time tasks take, in nanoseconds. 0: unknown.
    run_nanos: u64,
    respawn: Respawn,
    /// Idle workers stay even when the pool is closed: more is to come.
    linger: bool,
    next_worker: u64,
    actions: VecDeque<Action<T>>,
}

impl<T> Scheduler<T> {
    pub(crate) fn new(now: Time, settings: Settings) -> Self {
        let mut scheduler = Scheduler {
            mode: Mode::Open,
            tasks: Tasks::new(),
            seats: Vec::new(),
            census: Cell::new(None),
            idle: Vec::new(),
            full: true,
            steal_at: Time::FAR,
            run_nanos: 0,
            respawn: Respawn::new(settings.restart_limit),
            linger: false,
            next_worker: 1,
            actions: VecDeque::new(),
            settings,
        };
        scheduler.seats.resize_with(scheduler.settings.seats(), Seat::default);
        scheduler.fill_seats(now);
        scheduler
    }

    // What happened ---------------------------------------------------------

    /// A call came in, with an id that no other has. The caller has checked
    /// [`mode`](Self::mode).
    pub(crate) fn handle_submit(
        &mut self,
        now: Time,
        id: TaskId,
        data: T,
        terms: Terms,
        words: &impl Words,
    ) -> TaskKey {
        let task = self.tasks.submit(id, data, terms);
        self.welcome(now, &[task], words);
        task
    }

    /// These tasks were added to the queue.
    fn welcome(&mut self, now: Time, tasks: &[TaskKey], words: &impl Words) {
        let ending = match self.mode {
            Mode::Open | Mode::Closed => {
                self.assign(now, None, words);
                return self.fill_seats(now);
            }
            Mode::Terminated => Ending::Terminated { started: false },
            Mode::Broken => Ending::Broken,
        };
        for &task in tasks {
            self.finish(task, ending.clone());
        }
    }

    /// A worker is ready for tasks.
    pub(crate) fn handle_ready(&mut self, now: Time, worker: WorkerKey, words: &impl Words) {
        let Some(slot) = self.worker_mut(worker) else { return };
        if slot.stage != Stage::Starting {
            return;
        }
        slot.stage = Stage::Ready;
        self.census.set(None);
        let age = self.settings.age_in(worker.seat);
        let slot = self.worker_mut(worker).expect("found just above");
        slot.ready_at = Some(now);
        slot.timers.age_until = age.map_or(Time::FAR, |age| now + age);
        slot.timers.stage_until = Time::FAR;
        let round = slot.round;
        self.respawn.handle_success(round);
        self.settle(now, worker.seat, words);
    }

    /// A worker said that it cannot start. Its process still has to end.
    pub(crate) fn handle_init_failed(&mut self, now: Time, worker: WorkerKey, words: &impl Words) {
        self.doom(now, worker, None, None, words);
    }

    /// There is no process for this worker.
    pub(crate) fn handle_start_failed(&mut self, now: Time, worker: WorkerKey) {
        if self.worker_mut(worker).is_none() {
            return;
        }
        let seat = &mut self.seats[worker.seat as usize];
        let failed = seat.worker.take().expect("found just above");
        seat.restarts += 1;
        self.census.set(None);
        // One that was taken back has not failed.
        if !failed.unwanted {
            self.handle_failed_start(now, &failed);
        }
        self.fill_seats(now);
        self.dismiss_idle(now);
    }

    /// A worker answered for the task with number `seq`. Returns the task's
    /// data if its caller gets the answer.
    pub(crate) fn handle_answer(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        answer: Answer,
        words: &impl Words,
    ) -> Result<Option<(TaskId, T)>, ProtocolError> {
        let Some(slot) = self.worker_mut(worker) else { return Ok(None) };
        let due = slot.flights.front().copied();
        let Some(flight) = due.filter(|flight| flight.seq == seq) else {
            let due = due.map(|flight| flight.seq);
            return Err(ProtocolError(Violation::WrongTask { seq, due }));
        };
        let (run_nanos, retire) = match (flight.holds, answer) {
            (Holds::Nothing, Answer::Skipped) => {
                slot.land();
                slot.heard = now;
                self.census.set(None);
                self.settle(now, worker.seat, words);
                return Ok(None);
            }
            (Holds::Nothing, Answer::Ran { .. }) => {
                return Err(ProtocolError(Violation::RevokedTaskRan { seq }));
            }
            // An untrusted one, whose task was taken back: it ends with the worker.
            (Holds::Task(_), Answer::Skipped) if slot.stage == Stage::Doomed => return Ok(None),
            (Holds::Task(_), Answer::Skipped) => {
                return Err(ProtocolError(Violation::WrongAnswer));
            }
            (Holds::Task(_), Answer::Ran { run_nanos, retire }) => (run_nanos, retire),
        };
        let Holds::Task(key) = flight.holds else { unreachable!("matched above") };
        if !words.swap(worker, seq, Phase::Done, Phase::Empty) {
            return Err(ProtocolError(Violation::Page));
        }
        slot.land();
        slot.answered += 1;
        slot.heard = now;
        slot.retiring |= retire;
        let goes_on = slot.serves();
        if !goes_on {
            self.census.set(None);
        }
        self.note_run_time(run_nanos);
        let asked = self.tasks.get(key);
        let ending = asked.and_then(|task| Some(task.ending(task.intent?, true, None)));
        let answered = match ending {
            Some(ending) => {
                self.finish(key, ending);
                None
            }
            None => self.tasks.remove(key).map(|task| (task.id, task.data)),
        };
        self.settle(now, worker.seat, words);
        Ok(answered)
    }

    /// A worker sent one item of the stream with number `seq`. Returns the
    /// task's data, unless the item is not wanted any more.
    pub(crate) fn handle_item(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        words: &impl Words,
    ) -> Result<Option<&mut T>, ProtocolError> {
        // Another worker would send the same items again, and be blamed for their
        // number.
        let Some(key) = self.note_begun(now, worker, seq, words)? else { return Ok(None) };
        let task = self.tasks.get_mut(key);
        Ok(task.filter(|task| task.intent.is_none()).map(|task| &mut task.data))
    }

    /// A worker said that the body of the task with number `seq` has begun. Returns the
    /// task's data, and whether it may have to be sent again all the same.
    pub(crate) fn handle_began(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        words: &impl Words,
    ) -> Result<Option<(&mut T, bool)>, ProtocolError> {
        let Some(key) = self.note_begun(now, worker, seq, words)? else { return Ok(None) };
        Ok(self.tasks.get_mut(key).map(|task| (&mut task.data, task.retries > 0)))
    }

    /// A worker says something that only one that runs the task with number `seq` can
    /// say: it runs, whatever its word says.
    fn note_begun(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        words: &impl Words,
    ) -> Result<Option<TaskKey>, ProtocolError> {
        let Some(slot) = self.worker_mut(worker) else { return Ok(None) };
        let due = slot.flights.front().copied();
        let Some(flight) = due.filter(|flight| flight.seq == seq) else {
            let due = due.map(|flight| flight.seq);
            return Err(ProtocolError(Violation::WrongTask { seq, due }));
        };
        let Holds::Task(key) = flight.holds else {
            return Err(ProtocolError(Violation::RevokedTaskRan { seq }));
        };
        slot.note_started(seq, flight.began(now, worker, words));
        Ok(Some(key))
    }

    /// The worker has taken in some of what it was sent: its silence is that of
    /// one who reads.
    pub(crate) fn handle_progress(&mut self, now: Time, worker: WorkerKey) {
        let Some(slot) = self.worker_mut(worker) else { return };
        slot.heard = now;
        if slot.timers.skip_until != Time::FAR {
            slot.timers.skip_until = now + SKIP_WAIT;
        }
    }

    /// What the worker sends is not read for now: its silence is not its own.
    pub(crate) fn handle_hold(&mut self, now: Time, worker: WorkerKey) {
        self.handle_progress(now, worker);
        let Some(slot) = self.worker_mut(worker) else { return };
        let timers = &mut slot.timers;
        for (until, wait) in
            [(&mut timers.answer_until.1, REPLY_WAIT), (&mut timers.start_until, START_WAIT)]
        {
            if *until != Time::FAR {
                *until = (*until).max(now + wait);
            }
        }
    }

    /// Much has come, since the worker was last looked at, of a message that is not whole:
    /// an answer that is long may be on its way.
    pub(crate) fn handle_arrival(&mut self, now: Time, worker: WorkerKey) {
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(worker) else { return };
        let until = &mut slot.timers.answer_until.1;
        if trusted && *until != Time::FAR {
            *until = (*until).max(now + REPLY_WAIT);
        }
    }

    /// No new calls; what has begun goes on, then the workers leave.
    pub(crate) fn handle_close(&mut self, now: Time, words: &impl Words) {
        if self.mode == Mode::Open {
            self.mode = Mode::Closed;
            for seat in 0..self.seats.len() as u32 {
                self.settle(now, seat, words);
            }
        }
    }

    /// Calls that have begun will submit more, or will not.
    pub(crate) fn handle_linger(&mut self, now: Time, linger: bool) {
        self.linger = linger;
        self.dismiss_idle(now);
    }

    /// The pool should have another number of workers.
    pub(crate) fn handle_resize(&mut self, now: Time, workers: usize, words: &impl Words) {
        self.settings.workers = workers;
        self.census.set(None);
        let wanted = self.settings.seats();
        if self.seats.len() < wanted {
            self.seats.resize_with(wanted, Seat::default);
        }
        let surplus = wanted as u32..self.seats.len() as u32;
        // All before the first is let go: nobody is to take over from another.
        for seat in &mut self.seats[wanted..] {
            if let Some(slot) = &mut seat.worker {
                slot.retiring = true;
            }
        }
        for seat in surplus {
            self.retire(now, seat, words);
        }
        self.fill_seats(now);
        self.spread(now, words);
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Time, words: &impl Words) {
        for seat in 0..self.seats.len() as u32 {
            let due = |slot: &Worker| slot.timers.next() <= now;
            if self.seats[seat as usize].worker.as_ref().is_some_and(due) {
                self.check_timers(now, seat, words);
            }
        }
        if self.steal_at <= now {
            self.steal_at = Time::FAR;
            self.steal(now, words);
        }
        self.fill_seats(now);
    }

    // What to do next -------------------------------------------------------

    pub(crate) fn poll_action(&mut self) -> Option<Action<T>> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        let workers = self.seats.iter().filter_map(|seat| seat.worker.as_ref());
        let mut next = workers.map(|slot| slot.timers.next()).min().unwrap_or(Time::FAR);
        next = next.min(self.steal_at);
        if self.wants_worker() {
            next = next.min(self.respawn.not_before());
        }
        (next != Time::FAR).then_some(next)
    }

    /// Workers of which [`handle_timeout`](Self::handle_timeout) would now say
    /// that they have not said something in time. They may have: read what they
    /// sent first, for as long as the driver was kept from it.
    pub(crate) fn verdicts_due(&self, now: Time) -> Vec<WorkerKey> {
        let seats = self.seats.iter().enumerate();
        let key = |(index, seat): (usize, &Seat)| {
            let slot = seat.worker.as_ref().filter(|slot| slot.timers.next_verdict() <= now)?;
            Some(WorkerKey { seat: index as u32, id: slot.id })
        };
        seats.filter_map(key).collect()
    }

    // Endings ---------------------------------------------------------------

    fn finish(&mut self, key: TaskKey, ending: Ending) {
        if let Some(task) = self.tasks.remove(key) {
            self.actions.push_back(Action::Finish { task: task.id, data: task.data, ending });
        }
    }
}
