//! What the scheduler decides, one event at a time: a pool whose workers do
//! what a test says, and that notes what the scheduler wants. Workers are named
//! by their seats, tasks by the order of their submission.

mod assigning;
mod cancelling;
mod deaths;
mod endings;
mod entering;
mod spares;
mod starting;
mod timeouts;
mod workers;

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use self::Deed::{Dismiss, End, Probe, Ring, Send, Start, Stop};
use super::model::settings;
use super::slot::{Holds, Worker};
use super::view::WorkerView;
use super::{Action, Answer, Ending, Intent, Mode, Place, Scheduler, Settings, Stage};
use super::{TaskKey, Terms, Words, WorkerKey};
use crate::exit::Exit;
use crate::id::{TaskId, WorkerId};
use crate::limits::{EOF_TO_DEATH_WAIT, LEAVE_WAIT, REPLY_WAIT, SKIP_WAIT};
use crate::limits::{START_WAIT, START_WAIT_MAX};
use crate::proto::peer::{ProtocolError, Violation};
use crate::slot_word::{Phase, SlotWord};
use crate::time::Time;

// As `settings` has them.
const GRACE: Duration = Duration::from_millis(100);
const START_TIMEOUT: Duration = Duration::from_secs(10);

const KILLED: Exit = Exit::from_signal(9);
const GARBAGE: ProtocolError = ProtocolError(Violation::WrongAnswer);

/// What a caller hears who cancelled: before the start, too late, in time.
const UNSTARTED: Ending = Ending::Cancelled { started: false, exit: None };
const ANSWERED: Ending = Ending::Cancelled { started: true, exit: None };
const STOPPED: Ending = Ending::Cancelled { started: true, exit: Some(KILLED) };

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn timeout(after: Duration) -> Terms {
    Terms { timeout: Some(after), retries: 0, alone: false }
}

fn retries(retries: u32) -> Terms {
    Terms { timeout: None, retries, alone: false }
}

fn untrusted(workers: usize) -> Pool {
    Pool::with(Settings { trusted: false, ..settings(workers, 1) }).ready()
}

/// One worker with `tasks` tasks, of which the first runs.
fn busy(tasks: usize) -> Pool {
    let mut pool = Pool::new(1, 64).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(tasks);
    pool.begin(0);
    pool.deeds();
    pool
}

/// The slot words, and what else a status page tells.
#[derive(Default)]
struct Board(RefCell<HashMap<(WorkerKey, u64), Slot>>);

#[derive(Clone, Copy)]
struct Slot {
    word: SlotWord,
    started: Time,
    polite: bool,
}

impl Board {
    fn slot(&self, worker: WorkerKey, seq: u64) -> Slot {
        let empty = Slot { word: SlotWord(0), started: Time::default(), polite: false };
        self.0.borrow().get(&(worker, seq)).copied().unwrap_or(empty)
    }

    fn set(&self, worker: WorkerKey, seq: u64, slot: Slot) {
        self.0.borrow_mut().insert((worker, seq), slot);
    }
}

impl Words for Board {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
        self.slot(worker, seq).word
    }

    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
        let slot = self.slot(worker, seq);
        let there = slot.word == SlotWord::new(seq, from);
        if there {
            self.set(worker, seq, Slot { word: SlotWord::new(seq, to), ..slot });
        }
        there
    }

    fn enqueue(&self, worker: WorkerKey, seq: u64) {
        let word = SlotWord::new(seq, Phase::Queued);
        self.set(worker, seq, Slot { word, started: Time::default(), polite: false });
    }

    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool {
        self.slot(worker, seq).polite
    }

    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time {
        self.slot(worker, seq).started
    }
}

/// What the scheduler wanted done.
#[derive(Clone, PartialEq, Debug)]
enum Deed {
    Start(u32),
    Send(u32, usize),
    Dismiss(u32),
    Stop(u32, Option<Duration>),
    Ring(u32, u64),
    Probe(u32),
    End(usize, Ending),
}

struct Pool {
    sched: Scheduler<usize>,
    board: Board,
    now: Time,
    keys: Vec<TaskKey>,
    /// Seat and task of everything that was sent.
    sent: Vec<(u32, usize)>,
    deeds: Vec<Deed>,
    /// Looks at the clock that found it where it was.
    looks: u32,
}

impl Pool {
    fn new(workers: usize, depth_max: usize) -> Self {
        Pool::with(settings(workers, depth_max))
    }

    fn with(settings: Settings) -> Self {
        let now = Time(1 << 40);
        let sched = Scheduler::new(now, settings);
        let (board, keys) = (Board::default(), Vec::new());
        let mut pool =
            Pool { sched, board, now, keys, sent: Vec::new(), deeds: Vec::new(), looks: 0 };
        pool.drain();
        pool
    }

    /// With all its workers ready.
    fn ready(mut self) -> Self {
        for seat in 0..self.sched.seats.len() as u32 {
            self.get_ready(seat);
        }
        self.deeds.clear();
        self
    }

    fn drain(&mut self) {
        while let Some(action) = self.sched.poll_action() {
            let deed = match action {
                Action::Start(worker) => Deed::Start(worker.seat),
                Action::Run { worker, task, .. } => {
                    let task = *self.sched.data(task).expect("what is sent has not ended");
                    self.sent.push((worker.seat, task));
                    Deed::Send(worker.seat, task)
                }
                Action::Dismiss(worker) => Deed::Dismiss(worker.seat),
                Action::Stop { worker, grace } => Deed::Stop(worker.seat, grace),
                Action::Ring { worker, seq } => Deed::Ring(worker.seat, seq),
                Action::Probe(worker) => Deed::Probe(worker.seat),
                Action::Finish { data, ending, .. } => Deed::End(data, ending),
            };
            self.deeds.push(deed);
        }
    }

    /// What the scheduler has wanted since this was last asked.
    fn deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    fn key(&self, seat: u32) -> WorkerKey {
        self.sched.key(seat).expect("somebody sits there")
    }

    fn worker(&self, seat: u32) -> &Worker {
        self.sched.seats[seat as usize].worker.as_ref().expect("somebody sits there")
    }

    fn flights(&self, seat: u32) -> usize {
        self.worker(seat).flights.len()
    }

    // What callers do -------------------------------------------------------

    fn submit(&mut self, count: usize) {
        for _ in 0..count {
            self.submit_with(Terms::default());
        }
    }

    fn submit_with(&mut self, terms: Terms) {
        let task = self.keys.len();
        let id = TaskId(task as u64 + 1);
        self.keys.push(self.sched.handle_submit(self.now, id, task, terms, &self.board));
        self.drain();
    }

    fn cancel(&mut self, task: usize) {
        self.sched.handle_cancel(self.now, self.keys[task], Intent::Cancel, &self.board);
        self.drain();
    }

    fn close(&mut self) {
        self.sched.handle_close(self.now, &self.board);
        self.drain();
    }

    fn linger(&mut self, linger: bool) {
        self.sched.handle_linger(self.now, linger);
        self.drain();
    }

    fn terminate(&mut self) {
        self.sched.handle_terminate(self.now, &self.board);
        self.drain();
    }

    fn abandon(&mut self) {
        self.sched.handle_abandon(&self.board);
        self.drain();
    }

    fn resize(&mut self, workers: usize) {
        self.sched.handle_resize(self.now, workers, &self.board);
        self.drain();
    }

    // What workers do -------------------------------------------------------

    fn get_ready(&mut self, seat: u32) {
        self.sched.handle_ready(self.now, self.key(seat), &self.board);
        self.drain();
    }

    fn fail_to_start(&mut self, seat: u32) {
        self.sched.handle_start_failed(self.now, self.key(seat));
        self.drain();
    }

    fn fail_to_init(&mut self, seat: u32) {
        self.sched.handle_init_failed(self.now, self.key(seat), &self.board);
        self.drain();
    }

    fn phase(&self, seat: u32, seq: u64) -> Option<Phase> {
        self.board.load(self.key(seat), seq).phase()
    }

    /// The word of the task under `seq` reads so from now on.
    fn scribble(&mut self, seat: u32, seq: u64, phase: Phase) {
        self.scribble_word(seat, seq, SlotWord::new(seq, phase));
    }

    fn scribble_word(&mut self, seat: u32, seq: u64, word: SlotWord) {
        let worker = self.key(seat);
        self.board.set(worker, seq, Slot { word, ..self.board.slot(worker, seq) });
    }

    /// The sequence number that is due.
    fn due(&self, seat: u32) -> u64 {
        self.worker(seat).flights[0].seq
    }

    /// The worker begins with what it has been given first.
    fn begin(&mut self, seat: u32) {
        self.begin_at(seat, self.now);
    }

    /// As `begin`, by the worker's own account at `started`.
    fn begin_at(&mut self, seat: u32, started: Time) {
        let (worker, seq) = (self.key(seat), self.due(seat));
        assert!(self.board.swap(worker, seq, Phase::Queued, Phase::Running));
        self.board.set(worker, seq, Slot { started, ..self.board.slot(worker, seq) });
    }

    /// The task that runs watches for requests to end.
    fn watch(&mut self, seat: u32) {
        let (worker, seq) = (self.key(seat), self.due(seat));
        self.board.set(worker, seq, Slot { polite: true, ..self.board.slot(worker, seq) });
    }

    /// The worker answers for what it has been given first.
    fn answer(&mut self, seat: u32, run_nanos: u64) -> Option<usize> {
        self.answer_and(seat, run_nanos, false)
    }

    /// As `answer`, and with `retire` the worker asks to be replaced.
    fn answer_and(&mut self, seat: u32, run_nanos: u64, retire: bool) -> Option<usize> {
        let flight = self.worker(seat).flights[0];
        let answer = match flight.holds {
            Holds::Task(_) => {
                self.scribble(seat, flight.seq, Phase::Done);
                Answer::Ran { run_nanos, retire }
            }
            Holds::Nothing => Answer::Skipped,
        };
        self.say(seat, flight.seq, answer).unwrap()
    }

    /// The worker sends this answer. Returns the task whose caller gets it.
    fn say(&mut self, seat: u32, seq: u64, answer: Answer) -> Result<Option<usize>, ProtocolError> {
        let worker = self.key(seat);
        let result = self.sched.handle_answer(self.now, worker, seq, answer, &self.board);
        self.drain();
        result.map(|answered| answered.map(|(_, task)| task))
    }

    /// The worker sends an item of a stream.
    fn item(&mut self, worker: WorkerKey, seq: u64) -> Result<Option<&mut usize>, ProtocolError> {
        self.sched.handle_item(self.now, worker, seq, &self.board)
    }

    /// Lets all tasks run, one after the other, on all workers.
    fn finish_all(&mut self, run_nanos: u64) {
        for round in 0.. {
            if self.sched.tasks.len() == 0 {
                return;
            }
            assert!(round < 1000, "tasks are left and nothing happens");
            for seat in 0..self.sched.seats.len() as u32 {
                if self.flights(seat) > 0 {
                    self.answer(seat, run_nanos);
                }
            }
        }
    }

    fn violate(&mut self, seat: u32, error: ProtocolError) {
        self.sched.handle_violation(self.now, self.key(seat), error, &self.board);
        self.drain();
    }

    /// Much comes of the worker's.
    fn arrival(&mut self, seat: u32) {
        self.sched.handle_arrival(self.now, self.key(seat));
        self.drain();
    }

    fn hang_up(&mut self, seat: u32) {
        self.sched.handle_eof(self.now, self.key(seat));
        self.drain();
    }

    /// The worker is dead and buried.
    fn die(&mut self, seat: u32) {
        self.sched.handle_death(self.now, self.key(seat), KILLED, &self.board);
        self.drain();
    }

    // What time does --------------------------------------------------------

    fn wait(&mut self, wait: Duration) {
        let until = self.now + wait;
        while self.sched.poll_timeout().is_some_and(|next| next <= until) {
            self.look();
        }
        self.now = until;
    }

    /// Lets time pass until the scheduler's next timer.
    fn look(&mut self) {
        let next = self.sched.poll_timeout().expect("a timer");
        // One moment may need several looks, as each does one thing at a worker.
        self.looks = if next > self.now { 0 } else { self.looks + 1 };
        assert!(self.looks < 100, "timers fire for ever at one moment");
        self.now = self.now.max(next);
        self.sched.handle_timeout(self.now, &self.board);
        self.drain();
    }

    /// Lets time pass until something is done, and says how long that took.
    fn wait_for_deeds(&mut self) -> (Duration, Vec<Deed>) {
        let began = self.now;
        self.deeds.clear();
        while self.deeds.is_empty() {
            if self.sched.poll_timeout().is_none() {
                break;
            }
            self.look();
        }
        (self.now - began, self.deeds())
    }
}
