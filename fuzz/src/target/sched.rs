//! `sched`: the scheduler under arbitrary operations, against workers of a few
//! lines each and a ledger of what became of every task.
//!
//! An input is a pool's settings and then operations, two bytes each. At its
//! end the pool is closed, terminated or abandoned, everything is let run out,
//! and nothing may be left. What must hold is said where it is checked; whatever
//! does not is a panic that tells the whole story.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::exit::Exit;
use crate::id::TaskId;
use crate::limits::{EOF_TO_DEATH_WAIT, LEAVE_WAIT, REPLY_WAIT, SKIP_WAIT, SLOTS, START_WAIT_MAX};
use crate::proto::peer::{ProtocolError, Violation};
use crate::sched::{
    Action, Answer, Ending, Entrant, Intent, Mode, Scheduler, Settings, Stage, TaskKey, Terms,
    Words, WorkerKey,
};
use crate::slot_word::{Phase, SlotWord};
use crate::time::Time;

/// More would only be slower.
const OPS_MAX: usize = 400;

/// Workers that may die of a task before it has started.
const FATAL_DELIVERIES_MAX: u32 = 3;

#[derive(Arbitrary, Debug)]
struct Header {
    workers: u8,
    depth_max: u8,
    /// Bits: not trusted, no grace period, workers have a limited life, idle
    /// ones leave; two for the number of spare workers.
    options: u8,
    life: u8,
    idle_millis: u8,
    restart_limit: u8,
    /// How the pool ends, and whether who is killed then dies of it.
    end: u8,
}

impl Header {
    fn settings(&self) -> Settings {
        let option = |bit: u8| self.options & 1 << bit != 0;
        let trusted = !option(0);
        Settings {
            workers: usize::from(self.workers % 4) + 1,
            spares: usize::from(self.options >> 4 & 3),
            // Of a worker that is not trusted nothing can be taken back, so it
            // is given one task at a time.
            depth_max: if trusted { usize::from(self.depth_max) % SLOTS + 1 } else { 1 },
            trusted,
            grace_period: if option(1) { Duration::ZERO } else { Duration::from_millis(100) },
            start_timeout: Duration::from_secs(10),
            restart_limit: u32::from(self.restart_limit % 4) + 1,
            tasks_per_worker_max: option(2).then_some(u64::from(self.life % 8) + 1),
            idle_timeout: option(3).then_some(Duration::from_millis(self.idle_millis.into())),
            age_max: option(6).then_some(Duration::from_millis(u64::from(self.life) + 1)),
        }
    }
}

/// What can happen. Workers and tasks are numbers among those that there are.
#[derive(Clone, Copy, Debug)]
enum Op {
    Submit {
        terms: Terms,
        call: Call,
    },
    /// A call comes that is taken in later, as long as all workers are busy.
    Enter(Call),
    Cancel(u8),
    CancelNewest,
    Close,
    Terminate,
    Linger(bool),
    Resize(usize),
    /// Time passes until the next timer.
    Tick,
    /// Time passes.
    Wait(Duration),
    /// Time passes, and nobody looks at the timers.
    Late(Duration),
    Ready(u8),
    StartFailed(u8),
    InitFailed(u8),
    /// A worker does the next thing.
    Step(u8),
    /// The parent takes in a worker's next answer.
    Deliver(u8),
    /// A worker takes in some of a long frame.
    Progress(u8),
    /// A worker sends nonsense.
    Violate(u8),
    /// A worker's socket closes.
    Eof(u8),
    /// A worker ends by itself.
    Crash(u8),
    /// A worker ends by the signal that it was sent.
    Die(u8),
    /// The parent hears of a worker's end.
    Bury(u8),
    /// The parent gives a worker up that was sent a signal and does not die.
    GiveUp(u8),
    /// It hears of the end of one that it has given up.
    BuryLate(u8),
    /// In the next decision of the scheduler's, before its look number `at` at
    /// a slot word, a worker takes some steps.
    Meddle {
        at: u8,
        worker: u8,
        steps: u8,
    },
    /// All workers do all they can, and all of it is heard.
    Pump,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    /// It watches for requests to end.
    polite: bool,
    /// Its worker asks to be replaced afterwards.
    retire: bool,
}

impl Op {
    fn decode(data: &mut Unstructured<'_>) -> arbitrary::Result<Op> {
        let (op, arg) = <(u8, u8)>::arbitrary(data)?;
        let bits = |at: u8, count: u8| arg >> at & ((1 << count) - 1);
        let wait = || match bits(0, 3) {
            0 => Duration::from_micros(10),
            1 => Duration::from_micros(500),
            2 => Duration::from_millis(1),
            3 => Duration::from_millis(20),
            4 => Duration::from_millis(100),
            5 => Duration::from_secs(1),
            6 => Duration::from_secs(5),
            _ => Duration::from_secs(12),
        };
        Ok(match op % 32 {
            0..=4 => Op::Submit {
                terms: Terms {
                    timeout: match bits(0, 3) {
                        0 => Some(Duration::from_micros(100)),
                        1 => Some(Duration::from_millis(5)),
                        2 => Some(Duration::from_millis(200)),
                        _ => None,
                    },
                    retries: u32::from(bits(3, 2).saturating_sub(1)),
                    alone: arg == 7,
                },
                call: Call { polite: bits(5, 1) == 1, retire: bits(6, 2) == 3 },
            },
            5..=10 => Op::Step(arg),
            11..=14 => Op::Deliver(arg),
            15 => Op::Cancel(arg),
            16 => Op::CancelNewest,
            17..=18 => Op::Tick,
            19 => Op::Wait(wait()),
            20 => Op::Late(wait()),
            21..=22 => Op::Ready(arg),
            23 => Op::Die(arg),
            24 => Op::Bury(arg),
            25 => Op::Crash(arg),
            26 => match bits(6, 2) {
                0 => Op::Eof(bits(0, 6)),
                1 => Op::Violate(bits(0, 6)),
                2 => Op::StartFailed(bits(0, 6)),
                _ => Op::InitFailed(bits(0, 6)),
            },
            27..=28 => Op::Meddle { at: bits(0, 3), worker: bits(3, 2), steps: bits(5, 2) + 1 },
            29 => match bits(0, 3) {
                0 => Op::Close,
                1 => Op::Terminate,
                2 => Op::Enter(Call { polite: bits(3, 1) == 1, retire: false }),
                5 => Op::BuryLate(bits(3, 5)),
                6 => Op::GiveUp(bits(3, 5)),
                7 => Op::Progress(bits(3, 5)),
                _ => Op::Linger(bits(3, 1) == 1),
            },
            30 => Op::Resize(usize::from(arg % 6) + 1),
            _ => Op::Pump,
        })
    }
}

/// A call, and what became of it.
struct Task {
    key: TaskKey,
    terms: Terms,
    call: Call,
    retries_left: u32,
    /// Its caller has cancelled it.
    cancelled: bool,
    /// Its body has begun, on a worker that it has not been taken from since.
    begun: Option<Time>,
    /// Workers that died of it, for all anybody can know, before it had begun.
    fatal_deliveries: u32,
    has_ended: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    Starting,
    Alive,
    Dead(Exit),
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    /// The task is `None` if it had ended before the frame was written.
    Run {
        seq: u64,
        task: Option<usize>,
    },
    Bye,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Body {
    None,
    Runs {
        seq: u64,
        task: usize,
    },
    /// Its word is `Done`, its answer not given yet.
    Over {
        seq: u64,
        task: usize,
    },
    /// The parent did not let it end: it waits for the signal.
    Parked,
}

#[derive(Clone, Copy, Debug)]
struct Reply {
    seq: u64,
    /// The task that ran, or `None` if it was skipped.
    ran: Option<usize>,
}

struct Process {
    key: WorkerKey,
    life: Life,
    /// As in a status page, where a slot is used again and again.
    words: [SlotWord; SLOTS],
    polite: [bool; SLOTS],
    started_at: [Time; SLOTS],
    inbox: VecDeque<Frame>,
    body: Body,
    replies: VecDeque<Reply>,
    /// Frames that have not been answered, as far as the parent has heard.
    flying: VecDeque<(u64, Option<usize>)>,
    frames: u64,
    starts: u64,
    began: Time,
    heard: Time,
    /// The running task was asked to end: its number, and when.
    rung: Option<(u64, Time)>,
    dismissed: Option<Time>,
    eof: Option<Time>,
    stopped: bool,
    /// It said what makes no sense, or that it cannot start.
    is_guilty: bool,
    /// It was stopped for something that it had not done in time.
    is_late: bool,
    /// It ended by itself.
    crashed: bool,
}

impl Process {
    fn slot(seq: u64) -> usize {
        (seq % SLOTS as u64) as usize
    }

    fn phase(&self, seq: u64) -> Option<Phase> {
        let word = self.words[Self::slot(seq)];
        (word.seq() == seq).then(|| word.phase()).flatten()
    }

    fn swap(&mut self, seq: u64, from: Phase, to: Phase) -> bool {
        let word = &mut self.words[Self::slot(seq)];
        let there = word.0 == SlotWord::new(seq, from).0;
        if there {
            *word = SlotWord::new(seq, to);
        }
        there
    }

    /// The task behind a number in flight.
    fn task_of(&self, seq: u64) -> Option<usize> {
        self.flying.iter().find(|flight| flight.0 == seq)?.1
    }

    /// Whether this task has begun here.
    fn has_begun(&self, task: usize) -> bool {
        let began = [Phase::Running, Phase::CancelReq, Phase::Killing, Phase::Done];
        let mut flying = self.flying.iter();
        flying.any(|&(seq, its)| {
            its == Some(task) && self.phase(seq).is_some_and(|phase| began.contains(&phase))
        })
    }

    /// Whether it has a task in flight in one of these phases.
    fn has_one_of(&self, phases: &[Phase]) -> bool {
        let mut flying = self.flying.iter();
        flying.any(|(seq, _)| self.phase(*seq).is_some_and(|phase| phases.contains(&phase)))
    }
}

#[derive(Clone, Copy)]
struct Meddling {
    at: u8,
    worker: u8,
    steps: u8,
}

/// Everything beside the scheduler.
struct World {
    trusted: bool,
    life_max: u64,
    now: Time,
    processes: Vec<Process>,
    /// Those that were given up, and have not died.
    undying: Vec<WorkerKey>,
    tasks: Vec<Task>,
    terminated: bool,
    /// Nothing that runs ends by itself.
    endless: bool,
    looks: u8,
    meddling: Option<Meddling>,
}

impl World {
    fn find(&mut self, key: WorkerKey) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.key == key)
    }

    /// The worker's half of the protocol, as its loop has it.
    fn step(&mut self, index: usize) {
        let World { processes, tasks, now, trusted, life_max, .. } = self;
        let process = &mut processes[index];
        if process.life != Life::Alive {
            return;
        }
        match process.body {
            Body::None => match process.inbox.pop_front() {
                None => {}
                Some(Frame::Bye) => process.life = Life::Dead(Exit::from_code(0)),
                Some(Frame::Run { seq, task }) => {
                    process.started_at[Process::slot(seq)] = *now;
                    if !process.swap(seq, Phase::Queued, Phase::Running) {
                        process.replies.push_back(Reply { seq, ran: None });
                        return;
                    }
                    let Some(task) = task else { panic!("frame {seq} is empty and is to be run") };
                    process.body = Body::Runs { seq, task };
                    process.starts += 1;
                    assert!(process.starts <= *life_max, "a worker runs more than it may");
                    // A fence holds against all that comes after it. What an
                    // untrusted worker says is no fence.
                    assert!(!process.stopped || !*trusted, "{task} starts after the signal");
                    let task = &mut tasks[task];
                    process.polite[Process::slot(seq)] = task.call.polite;
                    assert!(!task.has_ended, "{:?} starts after its end", task.key);
                    assert!(task.begun.is_none(), "{:?} starts again", task.key);
                    task.begun = Some(*now);
                }
            },
            Body::Runs { seq, task } => {
                let done = process.swap(seq, Phase::Running, Phase::Done)
                    || process.swap(seq, Phase::CancelReq, Phase::Done);
                process.body = if done { Body::Over { seq, task } } else { Body::Parked };
            }
            Body::Over { seq, task } => {
                process.replies.push_back(Reply { seq, ran: Some(task) });
                process.body = Body::None;
            }
            Body::Parked => {}
        }
    }

    fn can_step(&self, index: usize) -> bool {
        let process = &self.processes[index];
        process.life == Life::Alive
            && match process.body {
                Body::None => !process.inbox.is_empty(),
                Body::Runs { .. } => !self.endless,
                Body::Over { .. } => true,
                Body::Parked => false,
            }
    }

    /// The scheduler is about to look at a word.
    fn look(&mut self) {
        let Some(Meddling { at, worker, steps }) = self.meddling else { return };
        if self.looks == at && !self.processes.is_empty() {
            self.meddling = None;
            for _ in 0..steps {
                self.step(usize::from(worker) % self.processes.len());
            }
        }
        self.looks = self.looks.saturating_add(1);
    }

    /// Whether somebody, or the clock, wants this task to end.
    fn is_to_end(&self, task: usize) -> bool {
        let Task { cancelled, terms, begun, .. } = &self.tasks[task];
        let over = |after| begun.is_some_and(|begun| begun + after <= self.now);
        *cancelled
            || self.terminated
            || terms.timeout.is_some_and(|after| over(after) || !self.trusted)
    }

    /// Whether a worker that has done nothing wrong may be stopped all the same,
    /// as it has not done in time what it must.
    fn is_late(&self, index: usize, grace: Duration) -> bool {
        let process = &self.processes[index];
        let since = |time: Option<Time>, wait| time.is_some_and(|time| time + wait <= self.now);
        let leave = if self.terminated { grace.min(LEAVE_WAIT) } else { LEAVE_WAIT };
        let first = process.flying.front().and_then(|flight| process.phase(flight.0));
        let began = [Phase::Running, Phase::CancelReq, Phase::Done];
        let stuck = first == Some(Phase::Revoked)
            && !(self.trusted && process.has_one_of(&began))
            && process.heard + SKIP_WAIT <= self.now;
        let asleep = first == Some(Phase::Queued) && process.heard + START_WAIT_MAX <= self.now;
        let silent = match process.body {
            Body::Over { task, .. } => {
                let begun = self.tasks[task].begun;
                self.is_to_end(task) && since(begun, REPLY_WAIT)
            }
            _ => false,
        };
        since(process.eof, EOF_TO_DEATH_WAIT)
            || since(process.dismissed, leave)
            || (stuck || asleep || silent) && process.replies.is_empty()
    }

    /// What must hold of any ending.
    fn end(&mut self, task: usize, ending: &str, fits: impl FnOnce(&World, &Task) -> bool) {
        let entry = &self.tasks[task];
        assert!(!entry.has_ended, "{task} ends twice, now as {ending}");
        assert!(fits(self, entry), "{task} ends as {ending}; begun: {:?}", entry.begun);
        self.tasks[task].has_ended = true;
    }
}

/// The slot words, as the scheduler sees them.
struct Outside(RefCell<World>);

impl Words for Outside {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
        let mut world = self.0.borrow_mut();
        world.look();
        world.find(worker).map_or(SlotWord(0), |process| process.words[Process::slot(seq)])
    }

    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
        let mut world = self.0.borrow_mut();
        world.look();
        world.find(worker).is_some_and(|process| process.swap(seq, from, to))
    }

    fn enqueue(&self, worker: WorkerKey, seq: u64) {
        let mut world = self.0.borrow_mut();
        let process = world.find(worker).expect("tasks go to workers that there are");
        let slot = Process::slot(seq);
        let before = process.words[slot];
        assert!(
            !process.flying.iter().any(|(seq, _)| *seq == before.seq()),
            "the slot of {before:?} is taken from it"
        );
        process.words[slot] = SlotWord::new(seq, Phase::Queued);
        process.polite[slot] = false;
        process.started_at[slot] = Time::default();
    }

    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool {
        let mut world = self.0.borrow_mut();
        world.look();
        world.find(worker).is_some_and(|process| process.polite[Process::slot(seq)])
    }

    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time {
        let mut world = self.0.borrow_mut();
        world.find(worker).map_or(Time::default(), |process| process.started_at[Process::slot(seq)])
    }
}

pub fn sched(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(header) = Header::arbitrary(&mut data) else { return };
    let mut pool = Pool::new(header);
    for _ in 0..OPS_MAX {
        // Of what is missing `arbitrary` makes zeros.
        if data.is_empty() {
            break;
        }
        let Ok(op) = Op::decode(&mut data) else { break };
        pool.apply(op);
    }
    pool.end();
}

/// The scheduler and its world. Tells what happened when a promise is broken.
struct Pool {
    header: Header,
    story: Vec<Op>,
    sched: Scheduler<usize>,
    outside: Outside,
    /// Tasks that have come and are to be taken in.
    waiting: Vec<Entrant<usize>>,
    /// Some were, and nobody has looked yet who could be given them.
    entered: bool,
    /// The worker whose death is being taken in.
    buried: Option<WorkerKey>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.header);
            self.story.iter().for_each(|op| eprintln!("  {op:?}"));
        }
    }
}

impl Pool {
    fn new(header: Header) -> Self {
        let settings = header.settings();
        let now = Time(1 << 40);
        let world = World {
            trusted: settings.trusted,
            life_max: settings.tasks_per_worker_max.unwrap_or(u64::MAX),
            now,
            processes: Vec::new(),
            undying: Vec::new(),
            tasks: Vec::new(),
            terminated: false,
            endless: false,
            looks: 0,
            meddling: None,
        };
        let sched = Scheduler::new(now, settings);
        let outside = Outside(RefCell::new(world));
        let mut pool = Pool {
            header,
            story: Vec::new(),
            sched,
            outside,
            waiting: Vec::new(),
            entered: false,
            buried: None,
        };
        pool.perform();
        pool
    }

    fn world(&mut self) -> &mut World {
        self.outside.0.get_mut()
    }

    /// The place of a worker among those that there are.
    fn pick(&mut self, worker: u8) -> Option<usize> {
        let count = self.world().processes.len();
        (count > 0).then(|| usize::from(worker) % count)
    }

    fn apply(&mut self, op: Op) {
        self.story.push(op);
        self.world().looks = 0;
        // They may come just before anything happens, and just after.
        if self.story.len() % 3 > 0 {
            self.take_in();
        }
        match op {
            Op::Submit { terms, call } => self.submit(terms, call),
            Op::Enter(call) => self.enter(call),
            Op::Cancel(task) => {
                let count = self.world().tasks.len();
                if count > 0 {
                    self.cancel(usize::from(task) % count);
                }
            }
            Op::CancelNewest => {
                if let Some(newest) = self.world().tasks.len().checked_sub(1) {
                    self.cancel(newest);
                }
            }
            Op::Close => {
                let now = self.world().now;
                self.sched.handle_close(now, &self.outside);
            }
            Op::Terminate => self.terminate(),
            Op::Linger(linger) => {
                let now = self.world().now;
                self.sched.handle_linger(now, linger);
            }
            Op::Resize(workers) => {
                let now = self.world().now;
                self.sched.handle_resize(now, workers, &self.outside);
            }
            Op::Tick => drop(self.tick()),
            Op::Wait(wait) => {
                let world = self.world();
                world.now = world.now + wait;
                self.look_at_timers();
            }
            Op::Late(wait) => {
                let world = self.world();
                world.now = world.now + wait;
            }
            Op::Meddle { at, worker, steps } => {
                self.world().meddling = Some(Meddling { at, worker, steps });
                return;
            }
            Op::Pump => while self.pump() {},
            Op::BuryLate(worker) => drop(self.bury_late(worker)),
            Op::Ready(worker)
            | Op::StartFailed(worker)
            | Op::InitFailed(worker)
            | Op::Step(worker)
            | Op::Deliver(worker)
            | Op::Progress(worker)
            | Op::Violate(worker)
            | Op::Eof(worker)
            | Op::Crash(worker)
            | Op::Die(worker)
            | Op::Bury(worker)
            | Op::GiveUp(worker) => {
                if let Some(index) = self.pick(worker) {
                    self.apply_to_worker(op, index);
                }
            }
        }
        self.perform();
        self.check();
        // It was for this operation, or there was no occasion.
        self.world().meddling = None;
    }

    fn apply_to_worker(&mut self, op: Op, index: usize) {
        let world = self.world();
        let now = world.now;
        let process = &mut world.processes[index];
        let key = process.key;
        match (op, process.life) {
            (Op::Ready(_), Life::Starting) if !process.is_guilty => {
                process.life = Life::Alive;
                process.heard = now;
                self.sched.handle_ready(now, key, &self.outside);
            }
            (Op::StartFailed(_), Life::Starting) => {
                world.processes.remove(index);
                self.sched.handle_start_failed(now, key);
            }
            (Op::InitFailed(_), Life::Starting) => {
                process.is_guilty = true;
                self.sched.handle_init_failed(now, key, &self.outside);
            }
            (Op::Step(_), _) => world.step(index),
            (Op::Deliver(_), _) => drop(self.deliver(index)),
            (Op::Progress(_), Life::Alive) => {
                process.heard = now;
                self.sched.handle_progress(now, key);
            }
            (Op::Violate(_), Life::Starting | Life::Alive) => {
                process.is_guilty = true;
                let error = ProtocolError(Violation::WrongAnswer);
                self.sched.handle_violation(now, key, error, &self.outside);
            }
            (Op::Eof(_), _) => {
                process.eof.get_or_insert(now);
                self.sched.handle_eof(now, key);
            }
            (Op::Crash(_), Life::Starting | Life::Alive) => {
                process.crashed = true;
                process.life = Life::Dead(Exit::from_signal(11));
            }
            (Op::Die(_), Life::Starting | Life::Alive) if process.stopped => {
                process.life = Life::Dead(Exit::from_signal(9));
            }
            (Op::Bury(_), Life::Dead(exit)) => self.part_with(index, Some(exit)),
            (Op::GiveUp(_), Life::Starting | Life::Alive) if process.stopped => {
                self.part_with(index, None);
            }
            _ => {}
        }
    }

    fn submit(&mut self, terms: Terms, call: Call) {
        let now = self.world().now;
        let task = self.world().tasks.len();
        // Looked at by nobody before the scheduler has answered: no worker has
        // been sent it yet.
        let id = TaskId(task as u64 + 1);
        self.take_in();
        let (only_queues, next) = (self.sched.only_queues(), self.sched.poll_timeout());
        let key = self.sched.handle_submit(now, id, task, terms, &self.outside);
        self.note(key, terms, call);
        if only_queues {
            assert_eq!(self.sched.poll_timeout(), next);
            assert!(self.sched.only_queues());
            assert!(self.sched.poll_action().is_none(), "{key:?} was to wait only");
        }
    }

    fn enter(&mut self, call: Call) {
        if !self.sched.is_busy() {
            return;
        }
        let task = self.world().tasks.len();
        let ticket = self.sched.give_ticket();
        let id = TaskId(task as u64 + 1);
        let entrant = Entrant::new(ticket, id, task, Terms::default());
        self.note(entrant.key(), Terms::default(), call);
        self.waiting.push(entrant);
        let unused = self.sched.give_ticket();
        self.sched.handle_return(unused);
    }

    /// Whoever looks for a task does this first.
    fn take_in(&mut self) {
        for entrant in self.waiting.drain(..) {
            self.sched.handle_entry(entrant);
            self.entered = true;
        }
    }

    fn note(&mut self, key: TaskKey, terms: Terms, call: Call) {
        self.world().tasks.push(Task {
            key,
            terms,
            call,
            retries_left: terms.retries,
            cancelled: false,
            begun: None,
            fatal_deliveries: 0,
            has_ended: false,
        });
    }

    fn cancel(&mut self, task: usize) {
        let now = self.world().now;
        let entry = &mut self.world().tasks[task];
        entry.cancelled |= !entry.has_ended;
        let key = entry.key;
        self.take_in();
        self.sched.handle_cancel(now, key, Intent::Cancel, &self.outside);
    }

    fn terminate(&mut self) {
        let now = self.world().now;
        self.world().terminated = true;
        self.sched.handle_terminate(now, &self.outside);
    }

    /// Time passes until the next timer. Returns whether there is one.
    fn tick(&mut self) -> bool {
        let Some(next) = self.sched.poll_timeout() else { return false };
        let world = self.world();
        world.now = world.now.max(next);
        self.look_at_timers();
        true
    }

    /// What the driver does when timers are due.
    fn look_at_timers(&mut self) {
        for _ in 0..64 {
            let now = self.world().now;
            if self.sched.poll_timeout().is_none_or(|next| next > now) {
                return;
            }
            // Nobody is judged for silence before what it has said is heard.
            for key in self.sched.verdicts_due(now) {
                while let Some(index) = self.position(key).filter(|&index| self.deliver(index)) {
                    debug_assert!(index < self.world().processes.len());
                }
            }
            let grace = self.sched.settings().grace_period;
            for index in 0..self.world().processes.len() {
                let is_late = self.world().is_late(index, grace);
                self.world().processes[index].is_late |= is_late;
            }
            self.sched.handle_timeout(now, &self.outside);
            self.perform();
        }
        panic!("timers are due for ever at one moment");
    }

    fn position(&mut self, key: WorkerKey) -> Option<usize> {
        self.world().processes.iter().position(|process| process.key == key)
    }

    /// Takes in one answer. Returns whether there was any.
    fn deliver(&mut self, index: usize) -> bool {
        let world = self.outside.0.get_mut();
        let now = world.now;
        let process = &mut world.processes[index];
        if process.is_guilty {
            // Whatever else it says is not heard.
            return false;
        }
        let Some(Reply { seq, ran }) = process.replies.pop_front() else { return false };
        let key = process.key;
        process.heard = now;
        assert_eq!(process.flying.pop_front().map(|flight| flight.0), Some(seq));
        let answer = match ran {
            Some(task) => {
                let Task { call, begun, .. } = &world.tasks[task];
                let run_nanos = begun.map_or(0, |begun| (now - begun).as_nanos() as u64);
                Answer::Ran { run_nanos, retire: call.retire }
            }
            None => Answer::Skipped,
        };
        let answered = self.sched.handle_answer(now, key, seq, answer, &self.outside);
        let answered =
            answered.unwrap_or_else(|error| panic!("an honest worker is accused: {error}"));
        if let Some((id, task)) = answered {
            assert_eq!(Some(task), ran, "a task is given another one's answer");
            self.world().end(task, "answered", |_, entry| {
                entry.key.id == id && entry.begun.is_some() && !entry.cancelled
            });
        }
        self.perform();
        if let Some(task) = ran {
            assert!(self.world().tasks[task].has_ended, "{task} was answered and has not ended");
        }
        true
    }

    /// A worker is dead, or given up: what it has left is heard, then that.
    fn part_with(&mut self, index: usize, exit: Option<Exit>) {
        while self.deliver(index) {}
        let world = self.outside.0.get_mut();
        let (now, trusted) = (world.now, world.trusted);
        let process = &world.processes[index];
        let key = process.key;
        let flying = process.flying.clone();
        let began = [Phase::Running, Phase::CancelReq, Phase::Killing, Phase::Done];
        if trusted && !process.has_one_of(&began) {
            let waits = |seq| process.phase(seq) == Some(Phase::Queued);
            let first = flying.iter().find(|(seq, _)| waits(*seq)).and_then(|flight| flight.1);
            if let Some(task) = first {
                world.tasks[task].fatal_deliveries += 1;
            }
        }
        self.buried = Some(key);
        match exit {
            Some(exit) => self.sched.handle_death(now, key, exit, &self.outside),
            None => {
                self.outside.0.get_mut().undying.push(key);
                self.sched.handle_overdue(now, key, &self.outside);
            }
        }
        self.perform();
        self.buried = None;
        let world = self.world();
        for task in flying.iter().filter_map(|flight| flight.1) {
            let entry = &mut world.tasks[task];
            let on_it = world.processes[index].has_begun(task);
            if on_it && !entry.has_ended {
                // It will run again, which it may so many times; but not while it
                // may still run there.
                let again = entry.retries_left > 0 && exit.is_some();
                assert!(again, "{task} had started, and is not over");
                entry.retries_left -= 1;
                entry.begun = None;
            }
        }
        world.processes.remove(index);
    }

    /// One that was given up has died after all. Returns whether there is any.
    fn bury_late(&mut self, worker: u8) -> bool {
        let world = self.outside.0.get_mut();
        let now = world.now;
        let Some(index) = usize::from(worker).checked_rem(world.undying.len()) else {
            return false;
        };
        let key = world.undying.swap_remove(index);
        self.sched.handle_death(now, key, Exit::from_signal(9), &self.outside);
        self.perform();
        true
    }

    /// Does what the scheduler wants done, and checks that it may want it.
    fn perform(&mut self) {
        let now = self.world().now;
        if std::mem::take(&mut self.entered) {
            self.sched.handle_entered(now, &[], &self.outside);
        }
        if !self.waiting.is_empty() && !self.sched.is_busy() {
            let waiting = std::mem::take(&mut self.waiting).into_iter();
            let tasks: Vec<_> = waiting.map(|entrant| self.sched.handle_entry(entrant)).collect();
            self.sched.handle_entered(now, &tasks, &self.outside);
        }
        while let Some(action) = self.sched.poll_action() {
            match action {
                Action::Start(key) => self.start(key),
                Action::Run { worker, seq, task } => {
                    let task = self.sched.data(task).copied();
                    let depth = self.sched.settings().depth_max;
                    let process = self.world().find(worker).expect("tasks go to workers");
                    process.frames += 1;
                    assert_eq!(process.frames, seq, "numbers are consecutive");
                    process.flying.push_back((seq, task));
                    assert!(process.flying.len() <= depth, "more in flight than may be");
                    let takes = process.life != Life::Starting && process.dismissed.is_none();
                    assert!(takes && !process.stopped, "{worker:?} is given a task");
                    process.inbox.push_back(Frame::Run { seq, task });
                }
                Action::Dismiss(worker) => {
                    let now = self.world().now;
                    let process = self.world().find(worker).expect("dismissed workers exist");
                    let revoked = |seq: u64| process.phase(seq) == Some(Phase::Revoked);
                    let has_none = process.flying.iter().all(|(seq, _)| revoked(*seq));
                    assert!(has_none, "{worker:?} has tasks and is told to leave");
                    process.dismissed = Some(now);
                    process.inbox.push_back(Frame::Bye);
                }
                Action::Stop { worker, grace } => self.stop(worker, grace),
                Action::Ring { worker, seq } => {
                    let grace = self.sched.settings().grace_period;
                    let world = self.world();
                    let now = world.now;
                    let process = world.find(worker).expect("workers that are rung exist");
                    let asked = [Some(Phase::CancelReq), Some(Phase::Done)];
                    assert!(asked.contains(&process.phase(seq)) && !grace.is_zero());
                    assert!(process.polite[Process::slot(seq)], "{seq} does not watch");
                    process.rung = Some((seq, now));
                    let task = process.task_of(seq).expect("in flight");
                    assert!(world.is_to_end(task), "{task} is asked to end");
                }
                Action::Probe(_) => {}
                Action::Finish { task, data, ending } => {
                    assert_eq!(
                        self.world().tasks.get(data).map_or(task, |entry| entry.key.id),
                        task
                    );
                    self.finish(data, ending);
                }
            }
        }
    }

    fn start(&mut self, key: WorkerKey) {
        let wanted = self.sched.settings().seats();
        let buried = self.buried;
        let world = self.world();
        assert!((key.seat as usize) < wanted, "{key:?} is more than is wanted");
        let taken = world
            .processes
            .iter()
            .any(|process| process.key.seat == key.seat && Some(process.key) != buried);
        assert!(!taken, "{key:?} is started beside another");
        let undying = world.undying.iter().filter(|undying| undying.seat == key.seat).count();
        assert!(undying < 2, "{key:?} is started beside two that do not die");
        let now = world.now;
        world.processes.push(Process {
            key,
            life: Life::Starting,
            words: [SlotWord(0); SLOTS],
            polite: [false; SLOTS],
            started_at: [Time::default(); SLOTS],
            inbox: VecDeque::new(),
            body: Body::None,
            replies: VecDeque::new(),
            flying: VecDeque::new(),
            frames: 0,
            starts: 0,
            began: now,
            heard: now,
            rung: None,
            dismissed: None,
            eof: None,
            stopped: false,
            is_guilty: false,
            is_late: false,
            crashed: false,
        });
    }

    /// A signal is sent: after the fence, to nobody who does not deserve it, and
    /// in order: a request, where the task watches for it, then SIGTERM, then
    /// SIGKILL.
    fn stop(&mut self, worker: WorkerKey, how: Option<Duration>) {
        let Settings { grace_period, start_timeout, .. } = *self.sched.settings();
        let wanted = self.sched.settings().seats();
        let world = self.world();
        let now = world.now;
        let (terminated, trusted) = (world.terminated, world.trusted);
        let process = world.find(worker).expect("workers that are stopped exist");
        process.stopped = true;
        if let Body::Runs { seq, .. } = process.body {
            assert_eq!(process.phase(seq), Some(Phase::Killing), "a signal before the fence");
        }
        let with = |phase| {
            let mut flying = process.flying.iter();
            flying.find(|flight| process.phase(flight.0) == Some(phase)).copied()
        };
        let fenced = with(Phase::Killing);
        // That it has not started only the worker says.
        let disbelieved = with(Phase::Revoked).filter(|_| !trusted);
        match process.life {
            Life::Dead(_) => return,
            Life::Starting => {
                let unwanted = terminated || worker.seat as usize >= wanted;
                let late = process.began + start_timeout <= now;
                assert!(
                    process.is_guilty || process.is_late || unwanted || late,
                    "{worker:?} is stopped"
                );
                return;
            }
            Life::Alive if process.is_guilty || process.is_late => return,
            Life::Alive => {}
        }
        let rung = process.rung;
        let Some((seq, Some(task))) = fenced.or(disbelieved) else {
            panic!("{worker:?} is stopped for nothing")
        };
        assert!(world.is_to_end(task), "{task} is killed, and nobody wanted its end");
        match rung {
            _ if grace_period.is_zero() || fenced.is_none() => assert_eq!(how, None),
            Some((rung, at)) if rung == seq => {
                assert!(how.is_none() && at + grace_period <= now, "it still had time");
            }
            _ => assert_eq!(how, Some(grace_period), "SIGTERM comes before SIGKILL"),
        }
    }

    fn finish(&mut self, task: usize, ending: Ending) {
        let mode = self.sched.mode();
        let buried = self.buried;
        let world = self.world();
        // Of a worker that is not trusted only its answers count.
        let truthful = |world: &World, entry: &Task, said: bool| {
            said == entry.begun.is_some() || (said && !world.trusted)
        };
        let died_of_it = |world: &World, entry: &Task| {
            let delivered = entry.fatal_deliveries >= FATAL_DELIVERIES_MAX;
            entry.begun.is_some() || delivered || !world.trusted
        };
        let name = format!("{ending:?}");
        world.end(task, &name, |world, entry| {
            let buried = world.processes.iter().find(|process| Some(process.key) == buried);
            match ending {
                Ending::Cancelled { started, .. } => {
                    entry.cancelled && truthful(world, entry, started)
                }
                Ending::Terminated { started } => {
                    world.terminated && truthful(world, entry, started)
                }
                Ending::TimedOut { after, .. } => {
                    let over = entry.begun.is_some_and(|begun| begun + after <= world.now);
                    entry.terms.timeout == Some(after) && (over || !world.trusted)
                }
                Ending::Lost { worker, exit, .. } => {
                    let crashed = buried.is_some_and(|process| {
                        process.key == worker && process.crashed && process.life == Life::Dead(exit)
                    });
                    crashed && died_of_it(world, entry)
                }
                Ending::Violated { .. } => {
                    let blamed = buried.is_some_and(|process| process.is_guilty || process.is_late);
                    blamed && died_of_it(world, entry)
                }
                Ending::Broken => mode == Mode::Broken,
            }
        });
    }

    /// What must hold at any time.
    fn check(&mut self) {
        let world = self.outside.0.get_mut();
        let (open, queued) = self.sched.task_counts();
        let waiting = self.waiting.len();
        let unended = world.tasks.iter().filter(|task| !task.has_ended).count();
        assert_eq!(open + waiting, unended, "tasks that have not ended");
        assert!(waiting == 0 || self.sched.is_busy());
        let mut sent = 0;
        let wanted = self.sched.settings().seats();
        let serving = self.sched.workers().filter(|view| {
            let goes_on = view.stage == Stage::Ready && (view.key.seat as usize) < wanted;
            let process = world.processes.iter().find(|process| process.key == view.key);
            goes_on && process.is_some_and(|process| !process.flying.is_empty())
        });
        // The others are spares.
        let may_begin = serving.count() < self.sched.settings().workers;
        let mut undying = 0;
        for view in self.sched.workers() {
            if view.stage == Stage::Abandoned {
                undying += 1;
                assert!(world.undying.contains(&view.key) && view.in_flight.is_empty());
                continue;
            }
            sent += view.in_flight.len();
            let process = world.processes.iter().find(|process| process.key == view.key);
            let process = process.expect("every worker is a process");
            let idle = view.stage == Stage::Ready && process.flying.is_empty();
            assert!(
                queued == 0 || !idle || !may_begin,
                "a task waits, and {:?} has none",
                view.key
            );
        }
        assert_eq!(undying, world.undying.len(), "workers that do not die");
        assert_eq!(self.sched.has_abandoned(), undying > 0);
        assert_eq!(queued + sent, open, "each task waits or is at one worker");
        if self.sched.mode() == Mode::Terminated || self.sched.mode() == Mode::Broken {
            assert_eq!(queued, 0, "nothing waits for the end of what is over");
        }
    }

    /// Every worker does what it can without time passing. Returns whether
    /// anything happened.
    fn pump(&mut self) -> bool {
        let mut progress = false;
        let mut index = 0;
        while index < self.world().processes.len() {
            let world = self.world();
            let process = &world.processes[index];
            let (key, life, stopped) = (process.key, process.life, process.stopped);
            let number = index as u8;
            match life {
                _ if stopped && !matches!(life, Life::Dead(_)) => {
                    let dies = self.header.end < 128;
                    let op = if dies { Op::Die(number) } else { Op::GiveUp(number) };
                    self.apply_to_worker(op, index);
                    progress = true;
                }
                Life::Starting if !process.is_guilty => {
                    self.apply_to_worker(Op::Ready(number), index);
                    progress = true;
                }
                Life::Starting => {}
                Life::Alive if world.can_step(index) => {
                    world.step(index);
                    progress = true;
                }
                Life::Alive => progress |= self.deliver(index),
                Life::Dead(exit) => {
                    self.part_with(index, Some(exit));
                    progress = true;
                }
            }
            self.perform();
            if self.world().processes.get(index).is_some_and(|process| process.key == key) {
                index += 1;
            }
        }
        progress
    }

    /// The pool's end: all is let run out, and nothing may be left.
    fn end(&mut self) {
        match self.header.end % 3 {
            0 => {
                self.apply(Op::Linger(false));
                self.apply(Op::Close);
            }
            1 => {
                self.world().endless = true;
                self.apply(Op::Terminate);
            }
            _ => return self.abandon(),
        }
        let mut rounds = 0;
        while !self.sched.is_drained() {
            rounds += 1;
            assert!(rounds < 10_000, "the pool does not come to its end");
            // A seat with two workers that do not die waits for one that does.
            let happened = self.pump() || self.tick() || self.bury_late(0);
            assert!(happened, "nothing will happen any more, and the pool is not at its end");
            self.check();
        }
        while self.bury_late(0) {
            self.check();
        }
        let world = self.outside.0.get_mut();
        assert!(world.tasks.iter().all(|task| task.has_ended));
        assert!(world.processes.is_empty(), "a process is forgotten");
        self.tick();
        assert_eq!(self.sched.poll_timeout(), None, "an ended pool wants to be woken for ever");
    }

    fn abandon(&mut self) {
        self.world().terminated = true;
        self.sched.handle_abandon(&self.outside);
        self.perform();
        assert!(self.world().tasks.iter().all(|task| task.has_ended));
        assert!(self.sched.is_drained());
        // Only the kills are under way: no worker starts anything any more.
        let trusted = self.world().trusted;
        for index in 0..self.world().processes.len() {
            while trusted && self.world().can_step(index) {
                self.world().step(index);
            }
        }
    }
}
