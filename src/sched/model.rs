//! Who owns a task, as `slot_word` has it, as a model: the real scheduler against workers
//! that are a few lines each, in every order in which things can happen.
//!
//! A [`Model`] is one moment of a pool: the scheduler, its workers with their
//! slot words, and a ledger of what became of each task. [`explore`] visits
//! every moment that a [`Setup`] can reach and checks each of them; random
//! walks through larger setups (`properties`) use the same moments. A worker
//! may also take steps in the middle of one of the scheduler's decisions,
//! between any two looks at a slot word ([`Meddling`]).
//!
//! What is checked: each task ends once; a started task never starts again
//! unless it may be retried; what ended as not started never ran, and what had
//! started is not called unstarted; no task is lost to a kill that was meant
//! for another; nobody is killed before the fence; an honest worker is never
//! accused; and whenever only time can pass, nothing is left undone.
//!
//! A model that finds nothing proves little, so each [`Bug`] is a way to get
//! the protocol wrong, and must be found.

use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::cancel::FATAL_DELIVERIES_MAX;
use super::slot::{PROBE_FIRST, Seat};
use super::{Action, Answer, Ending, Intent, Mode, Scheduler, Settings, Stage, Terms};
use super::{TaskKey, Words, WorkerKey};
use crate::exit::Exit;
use crate::id::TaskId;
use crate::proto::peer::{ProtocolError, Violation};
use crate::slot_word::{Phase, SlotWord};
use crate::time::Time;

/// What a model is about.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) settings: Settings,
    pub(super) tasks: Vec<Call>,
    /// Run time that workers report.
    pub(super) run_nanos: u64,
    pub(super) budget: Budget,
    /// Workers send answers when they have time, not at once.
    pub(super) lazy: bool,
    /// Workers also step in the middle of the scheduler's decisions.
    pub(super) meddling: bool,
    /// Timers of workers that start or leave may run out.
    pub(super) slow_processes: bool,
    pub(super) bug: Bug,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Call {
    pub(super) terms: Terms,
    /// Its body does not end by itself.
    pub(super) endless: bool,
    /// It watches for requests to end.
    pub(super) polite: bool,
    /// Its worker asks to be replaced afterwards.
    pub(super) retire: bool,
    /// The parent lets go of its arguments once its worker says that it has begun.
    pub(super) laden: bool,
}

/// How often what need not happen may happen.
#[derive(Clone, Default, Hash, Debug)]
pub(super) struct Budget {
    pub(super) cancels: u8,
    pub(super) crashes: u8,
    /// A worker's bytes make no sense.
    pub(super) garbage: u8,
    pub(super) ticks: u8,
    pub(super) start_failures: u8,
    pub(super) eofs: u8,
    /// A worker that was killed does not die, or not soon.
    pub(super) overdue: u8,
    /// A worker is not read for a while.
    pub(super) holds: u8,
    pub(super) closes: u8,
    pub(super) terminates: u8,
    pub(super) resizes: Vec<usize>,
}

/// A mistake that the model has to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    None,
    /// The signal is sent without the swap to `Killing`.
    NoFence,
    /// After a death, `Queued` is read as started.
    QueuedTakenForStarted,
    /// After a death, `Running` is read as not started.
    RunningTakenForQueued,
    /// After a death, `Killing` is read as not started.
    KilledIsQueuedAgain,
    /// The worker runs what it is sent without asking the slot word.
    WorkerDoesNotAsk,
    /// The parent takes a task back although its swap failed.
    RevokeIgnoresFailure,
    /// The answer to a task that was taken back is given to its caller.
    RevokedAnswerTaken,
    /// The worker does not stop when its task's end was refused.
    WorkerDoesNotPark,
}

/// What can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Event {
    Submit,
    Cancel(usize),
    Close,
    Terminate,
    Resize(usize),
    /// Time passes until the scheduler's next timer.
    Tick,
    /// A worker is ready.
    Ready(WorkerKey),
    StartFailed(WorkerKey),
    InitFailed(WorkerKey),
    /// A worker does the next thing.
    Step(WorkerKey),
    /// A worker sends what it has answered.
    Flush(WorkerKey),
    /// The parent takes in one message.
    Deliver(WorkerKey),
    /// The parent looks into the outbox, as it was asked to.
    Fetch(WorkerKey),
    /// The signal arrives.
    Die(WorkerKey),
    /// It does not: the parent hears that, and takes in what there is.
    Overdue(WorkerKey),
    Crash(WorkerKey),
    Garbage(WorkerKey),
    /// The parent hears that the socket is closed.
    Eof(WorkerKey),
    /// The parent has no room for what it may send.
    Hold(WorkerKey),
    /// The parent hears of the death, and takes in what is left.
    Bury(WorkerKey),
}

/// A worker that takes `steps` just before the scheduler's look number `at`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Meddling {
    at: usize,
    worker: WorkerKey,
    steps: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Life {
    Starting,
    /// It said that it cannot start, and waits for its end.
    Failed,
    Alive,
    /// Killed: it does nothing any more, and is not dead.
    Overdue,
    Dead,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Frame {
    Run { seq: u64, task: Option<usize> },
    Bye,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Doing {
    Nothing,
    Running { seq: u64, task: usize },
    Done { seq: u64, task: usize },
    Parked,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reply {
    Began { seq: u64, task: usize },
    Ran { seq: u64, task: usize },
    Skipped { seq: u64 },
}

/// A worker process, with what is under way to it and from it.
#[derive(Clone, Hash, Debug)]
struct Process {
    key: WorkerKey,
    life: Life,
    /// Slot words by sequence number, from 1.
    words: Vec<u64>,
    inbox: VecDeque<Frame>,
    doing: Doing,
    /// Given to the outbox and not taken in by the parent.
    replies: VecDeque<Reply>,
    /// How many of these are in the socket.
    sent: usize,
    /// The parent was asked to look into the outbox.
    probe: bool,
    /// A signal is on its way.
    stopped: bool,
    /// It ended by itself before any signal did it.
    crashed: bool,
    /// It broke the protocol, or was late to start or to leave.
    accused: bool,
    eof: bool,
    dismissed: bool,
    /// Frames that were sent, and replies that were taken in.
    frames: u64,
    landed: u64,
    /// Bit `seq % 64`: that task watches for requests to end.
    polite: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    Answered,
    Cancelled { started: bool },
    TimedOut,
    Terminated { started: bool },
    Lost,
    Violated,
    Broken,
}

#[derive(Clone, Hash, Debug, Default)]
struct Entry {
    starts: u32,
    end: Option<End>,
    cancelled: bool,
    /// Its arguments are.
    gone: bool,
}

#[derive(Clone, Debug)]
struct World {
    setup: &'static Setup,
    now: Time,
    processes: Vec<Process>,
    /// Processes that died without having been asked to leave.
    deaths: u32,
    ledger: Vec<Entry>,
    /// When the bodies that run have started, by worker and number.
    started: Vec<(WorkerKey, u64, Time)>,
    looks: usize,
    meddling: Option<Meddling>,
    fault: Option<String>,
}

/// The processes as the scheduler sees them.
#[derive(Clone, Debug)]
struct Outside(RefCell<World>);

#[derive(Clone, Debug)]
pub(super) struct Model {
    setup: &'static Setup,
    pub(super) sched: Scheduler<usize>,
    outside: Outside,
    budget: Budget,
    keys: Vec<TaskKey>,
}

impl World {
    fn process(&mut self, key: WorkerKey) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.key == key)
    }

    fn fault(&mut self, what: impl fmt::Display) {
        if self.fault.is_none() {
            self.fault = Some(what.to_string());
        }
    }

    /// The worker's half of the protocol, as `worker::run` has it.
    fn step(&mut self, key: WorkerKey) {
        self.do_step(key);
        let lazy = self.setup.lazy;
        let process = self.process(key).expect("a process that steps exists");
        if !lazy {
            process.sent = process.replies.len();
        }
    }

    fn do_step(&mut self, key: WorkerKey) {
        let setup = self.setup;
        let now = self.now;
        let process = self.process(key).expect("a process that steps exists");
        match process.doing {
            Doing::Nothing => {
                let Some(frame) = process.inbox.pop_front() else { return };
                match frame {
                    Frame::Bye => {
                        process.sent = process.replies.len();
                        process.life = Life::Dead;
                    }
                    Frame::Run { seq, task } => {
                        let word = &mut process.words[seq as usize - 1];
                        let mine = *word == SlotWord::new(seq, Phase::Queued).0;
                        if !mine
                            && setup.bug != Bug::WorkerDoesNotAsk
                            && setup.bug != Bug::RevokedAnswerTaken
                        {
                            process.replies.push_back(Reply::Skipped { seq });
                            return;
                        }
                        *word = SlotWord::new(seq, Phase::Running).0;
                        let Some(task) = task else {
                            process.replies.push_back(Reply::Skipped { seq });
                            return self.fault(format_args!("empty frame {seq} is to be run"));
                        };
                        process.doing = Doing::Running { seq, task };
                        if setup.tasks[task].polite {
                            process.polite |= 1 << (seq % 64);
                        }
                        if setup.tasks[task].laden {
                            // It is sent at once, however lazy the worker is.
                            process.replies.push_back(Reply::Began { seq, task });
                            process.sent = process.replies.len();
                        }
                        self.started.push((key, seq, now));
                        self.note_start(task);
                    }
                }
            }
            Doing::Running { seq, task } => {
                let word = &mut process.words[seq as usize - 1];
                let phase = SlotWord(*word).phase();
                if setup.bug == Bug::WorkerDoesNotPark
                    || matches!(phase, Some(Phase::Running | Phase::CancelReq))
                {
                    *word = SlotWord::new(seq, Phase::Done).0;
                    process.doing = Doing::Done { seq, task };
                } else {
                    process.doing = Doing::Parked;
                }
            }
            Doing::Done { seq, task } => {
                process.replies.push_back(Reply::Ran { seq, task });
                process.doing = Doing::Nothing;
                // The answer of a long task is sent at once, however lazy it is.
                let all = process.replies.len();
                if now - self.start_of(key, seq) >= PROBE_FIRST {
                    self.process(key).expect("it steps").sent = all;
                }
            }
            Doing::Parked => {}
        }
    }

    fn can_step(&self, process: &Process) -> bool {
        if process.life != Life::Alive {
            return false;
        }
        match process.doing {
            Doing::Nothing => !process.inbox.is_empty(),
            Doing::Running { seq, task } => {
                let phase = SlotWord(process.words[seq as usize - 1]).phase();
                let call = &self.setup.tasks[task];
                !call.endless || (call.polite && phase == Some(Phase::CancelReq))
            }
            Doing::Done { .. } => true,
            Doing::Parked => false,
        }
    }

    /// When the body under `seq` started, long ago if it has not.
    fn start_of(&self, worker: WorkerKey, seq: u64) -> Time {
        let start = self.started.iter().find(|start| start.0 == worker && start.1 == seq);
        start.map_or(Time::default(), |start| start.2)
    }

    /// Whether it is in a task that only a request can end, if anything.
    fn is_in_endless(&self, process: &Process) -> bool {
        matches!(process.doing, Doing::Running { task, .. } if self.setup.tasks[task].endless)
    }

    fn note_start(&mut self, task: usize) {
        let entry = &mut self.ledger[task];
        entry.starts += 1;
        if self.setup.bug == Bug::RevokedAnswerTaken {
            // It is to be caught by its ending.
            return;
        }
        let (starts, end) = (entry.starts, entry.end);
        if starts > 1 + self.setup.tasks[task].terms.retries {
            self.fault(format_args!("task {task} starts again"));
        }
        if let Some(end) = end {
            self.fault(format_args!("task {task} starts after its end, {end:?}"));
        }
        self.check_running();
    }

    /// Those that are being ended may run beside as many as there may be.
    fn check_running(&mut self) {
        let goes_on = |process: &&Process| match process.doing {
            Doing::Running { seq, .. } => {
                let phase = SlotWord(process.words[seq as usize - 1]).phase();
                process.life == Life::Alive && !process.stopped && phase != Some(Phase::Killing)
            }
            _ => false,
        };
        let running = self.processes.iter().filter(goes_on).count();
        // When a pool gets smaller, what runs is finished.
        let is_resized = !self.setup.budget.resizes.is_empty();
        if running > self.setup.settings.workers && !is_resized {
            self.fault(format_args!("{running} tasks run at once"));
        }
    }

    fn note_end(&mut self, task: usize, end: End) {
        let trusted = self.setup.settings.trusted;
        let timeout = self.setup.tasks[task].terms.timeout;
        let entry = &mut self.ledger[task];
        let before = entry.end.replace(end);
        let started = entry.starts > 0;
        let retried = self.setup.tasks[task].terms.retries > 0;
        let cancelled = entry.cancelled;
        if let Some(before) = before {
            return self.fault(format_args!("task {task} ends twice: {before:?}, {end:?}"));
        }
        let right = match end {
            End::Answered => started,
            End::Cancelled { started: said } => {
                cancelled && (said == started || (retried && !said) || (!trusted && said))
            }
            End::Terminated { started: said } => {
                said == started || (retried && !said) || (!trusted && said)
            }
            End::TimedOut => timeout.is_some() && (started || !trusted),
            // Or this many died of receiving it, for all anybody can know.
            End::Lost | End::Violated => {
                started || !trusted || self.deaths >= u32::from(FATAL_DELIVERIES_MAX)
            }
            End::Broken => true,
        };
        if !right {
            self.fault(format_args!("task {task}, started: {started}, ends as {end:?}"));
        }
    }

    fn look(&mut self) {
        self.looks += 1;
        let Some(Meddling { at, worker, steps }) = self.meddling else { return };
        if at + 1 == self.looks {
            self.meddling = None;
            for _ in 0..steps {
                if self.processes.iter().any(|p| p.key == worker && self.can_step(p)) {
                    self.step(worker);
                }
            }
        }
    }
}

impl Words for Outside {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
        let mut world = self.0.borrow_mut();
        world.look();
        let bug = world.setup.bug;
        let Some(process) = world.process(worker) else { return SlotWord::new(seq, Phase::Empty) };
        let word = SlotWord(process.words[seq as usize - 1]);
        let dead = process.life == Life::Dead;
        let misread = match (bug, word.phase()) {
            (Bug::QueuedTakenForStarted, Some(Phase::Queued)) => Phase::Running,
            (Bug::RunningTakenForQueued, Some(Phase::Running)) => Phase::Queued,
            (Bug::KilledIsQueuedAgain, Some(Phase::Killing)) => Phase::Queued,
            _ => return word,
        };
        if dead { SlotWord::new(seq, misread) } else { word }
    }

    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
        let mut world = self.0.borrow_mut();
        world.look();
        let bug = world.setup.bug;
        let Some(process) = world.process(worker) else { return false };
        let word = &mut process.words[seq as usize - 1];
        let there = *word == SlotWord::new(seq, from).0;
        if there && !(bug == Bug::NoFence && to == Phase::Killing) {
            *word = SlotWord::new(seq, to).0;
        }
        there || (bug == Bug::RevokeIgnoresFailure && to == Phase::Revoked)
    }

    fn enqueue(&self, worker: WorkerKey, seq: u64) {
        let mut world = self.0.borrow_mut();
        let Some(process) = world.process(worker) else { return };
        process.words.resize(process.words.len().max(seq as usize), 0);
        process.words[seq as usize - 1] = SlotWord::new(seq, Phase::Queued).0;
        process.polite &= !(1 << (seq % 64));
    }

    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool {
        let mut world = self.0.borrow_mut();
        world.look();
        world.process(worker).is_some_and(|process| process.polite & (1 << (seq % 64)) != 0)
    }

    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time {
        self.0.borrow().start_of(worker, seq)
    }
}

impl Model {
    pub(super) fn new(setup: &'static Setup) -> Self {
        let now = Time(1 << 40);
        let mut model = Model {
            setup,
            sched: Scheduler::new(now, setup.settings.clone()),
            outside: Outside(RefCell::new(World {
                setup,
                now,
                processes: Vec::new(),
                deaths: 0,
                ledger: Vec::new(),
                started: Vec::new(),
                looks: 0,
                meddling: None,
                fault: None,
            })),
            budget: setup.budget.clone(),
            keys: Vec::new(),
        };
        model.perform();
        model
    }

    fn world(&mut self) -> &mut World {
        self.outside.0.get_mut()
    }

    fn fault(&mut self, what: impl fmt::Display) {
        self.world().fault(what);
    }

    /// Everything that can happen now: first what will, then what may.
    pub(super) fn events(&self) -> (Vec<Event>, Vec<Event>) {
        let world = self.outside.0.borrow();
        let (mut will, mut may) = (Vec::new(), Vec::new());
        let budget = &self.budget;
        for process in &world.processes {
            let key = process.key;
            match process.life {
                Life::Starting => {
                    will.push(Event::Ready(key));
                    if budget.start_failures > 0 {
                        may.extend([Event::StartFailed(key), Event::InitFailed(key)]);
                    }
                }
                Life::Alive => {
                    if world.can_step(process) {
                        will.push(Event::Step(key));
                    }
                    if process.sent < process.replies.len() && !world.is_in_endless(process) {
                        will.push(Event::Flush(key));
                    }
                    if budget.garbage > 0 && !process.accused {
                        may.push(Event::Garbage(key));
                    }
                    if budget.holds > 0 && !process.accused {
                        may.push(Event::Hold(key));
                    }
                }
                Life::Failed => {}
                Life::Overdue => may.push(Event::Die(key)),
                Life::Dead => {
                    will.push(Event::Bury(key));
                    if budget.eofs > 0 && !process.eof {
                        may.push(Event::Eof(key));
                    }
                }
            }
            if !process.accused {
                if process.sent > 0 {
                    will.push(Event::Deliver(key));
                }
                if process.probe {
                    will.push(Event::Fetch(key));
                }
            }
            if matches!(process.life, Life::Starting | Life::Failed | Life::Alive) {
                if process.stopped {
                    will.push(Event::Die(key));
                    if budget.overdue > 0 {
                        may.push(Event::Overdue(key));
                    }
                } else if budget.crashes > 0 {
                    may.push(Event::Crash(key));
                }
            }
        }
        if self.keys.len() < self.setup.tasks.len() && self.sched.mode() == Mode::Open {
            may.push(Event::Submit);
        }
        if budget.cancels > 0 {
            let open = |&task: &usize| world.ledger[task].end.is_none();
            may.extend((0..self.keys.len()).filter(open).map(Event::Cancel));
        }
        if budget.closes > 0 && self.sched.mode() == Mode::Open {
            may.push(Event::Close);
        }
        if budget.terminates > 0 && matches!(self.sched.mode(), Mode::Open | Mode::Closed) {
            may.push(Event::Terminate);
        }
        may.extend(budget.resizes.first().map(|&workers| Event::Resize(workers)));
        if budget.ticks > 0 && self.can_tick() {
            may.push(Event::Tick);
        }
        (will, may)
    }

    /// Whether time may pass until the next timer. What is sent arrives before
    /// anybody loses patience, and so does a worker that has nothing else to do.
    fn can_tick(&self) -> bool {
        let Some(next) = self.sched.poll_timeout() else { return false };
        let world = self.outside.0.borrow();
        self.sched.seats.iter().enumerate().all(|(seat, state)| {
            let Some(slot) = &state.worker else { return true };
            let key = WorkerKey { seat: seat as u32, id: slot.id };
            let process = world.processes.iter().find(|process| process.key == key);
            let Some(process) = process else { return true };
            let answers = !process.replies.is_empty()
                || matches!(process.doing, Doing::Done { .. })
                || (process.doing == Doing::Nothing && !process.inbox.is_empty())
                || process.life == Life::Dead;
            let patience = slot.timers.answer_until.1 == next && answers && !process.accused;
            let slow = slot.timers.stage_until == next && !self.setup.slow_processes;
            !patience && !slow
        })
    }

    /// Lets `event` happen. Returns how often the scheduler looked at words.
    pub(super) fn apply(&mut self, event: Event, meddling: Option<Meddling>) -> usize {
        let world = self.world();
        world.looks = 0;
        world.meddling = meddling;
        let now = world.now;
        let Model { sched, outside, budget, keys, setup } = self;
        match event {
            Event::Submit => {
                let task = keys.len();
                outside.0.get_mut().ledger.push(Entry::default());
                let id = TaskId(task as u64 + 1);
                let terms = setup.tasks[task].terms;
                keys.push(sched.handle_submit(now, id, task, terms, &*outside));
            }
            Event::Cancel(task) => {
                budget.cancels -= 1;
                outside.0.get_mut().ledger[task].cancelled = true;
                sched.handle_cancel(now, keys[task], Intent::Cancel, &*outside);
            }
            Event::Close => {
                budget.closes -= 1;
                sched.handle_close(now, &*outside);
            }
            Event::Terminate => {
                budget.terminates -= 1;
                sched.handle_terminate(now, &*outside);
            }
            Event::Resize(workers) => {
                budget.resizes.remove(0);
                sched.handle_resize(now, workers, &*outside);
            }
            Event::Tick => {
                budget.ticks = budget.ticks.saturating_sub(1);
                self.tick();
            }
            Event::Ready(key) => {
                outside.0.get_mut().process(key).expect("starting").life = Life::Alive;
                sched.handle_ready(now, key, &*outside);
            }
            Event::StartFailed(key) => {
                budget.start_failures -= 1;
                outside.0.get_mut().processes.retain(|process| process.key != key);
                sched.handle_start_failed(now, key);
            }
            Event::InitFailed(key) => {
                budget.start_failures -= 1;
                outside.0.get_mut().process(key).expect("starting").life = Life::Failed;
                sched.handle_init_failed(now, key, &*outside);
            }
            Event::Step(key) => self.world().step(key),
            Event::Flush(key) => {
                let process = outside.0.get_mut().process(key).expect("alive");
                process.sent = process.replies.len();
            }
            Event::Deliver(key) => {
                let process = outside.0.get_mut().process(key).expect("it has replies");
                process.sent -= 1;
                let reply = process.replies.pop_front().expect("it has replies");
                self.deliver(key, reply);
            }
            Event::Fetch(key) => {
                outside.0.get_mut().process(key).expect("it is probed").probe = false;
                self.deliver_all(key);
            }
            Event::Hold(key) => {
                budget.holds -= 1;
                sched.handle_hold(now, key);
            }
            Event::Die(key) => self.die(key),
            Event::Overdue(key) => {
                budget.overdue -= 1;
                let process = outside.0.get_mut().process(key).expect("killed");
                process.life = Life::Overdue;
                if !process.accused {
                    self.deliver_all(key);
                }
                self.sched.handle_overdue(now, key, &self.outside);
            }
            Event::Crash(key) => {
                budget.crashes -= 1;
                self.world().process(key).expect("alive").crashed = true;
                self.die(key);
            }
            Event::Garbage(key) => {
                budget.garbage -= 1;
                outside.0.get_mut().process(key).expect("alive").accused = true;
                let error = ProtocolError(Violation::WrongAnswer);
                sched.handle_violation(now, key, error, &*outside);
            }
            Event::Eof(key) => {
                budget.eofs -= 1;
                outside.0.get_mut().process(key).expect("dead").eof = true;
                sched.handle_eof(now, key);
            }
            Event::Bury(key) => {
                if !self.world().process(key).expect("dead").accused {
                    self.deliver_all(key);
                }
                let exit = Exit::from_signal(9);
                self.sched.handle_death(now, key, exit, &self.outside);
            }
        }
        self.perform();
        if let Event::Bury(key) = event {
            let world = self.world();
            world.processes.retain(|process| process.key != key);
            world.started.retain(|start| start.0 != key);
        }
        self.check();
        self.world().looks
    }

    fn die(&mut self, key: WorkerKey) {
        self.world().deaths += 1;
        let process = self.world().process(key).expect("alive");
        process.life = Life::Dead;
        // The outbox survives; the socket is closed by the kernel.
        process.sent = process.sent.min(process.replies.len());
    }

    fn tick(&mut self) {
        let Some(next) = self.sched.poll_timeout() else { return };
        let now = self.world().now.max(next);
        self.world().now = now;
        for _ in 0..32 {
            self.sched.handle_timeout(now, &self.outside);
            if self.sched.poll_timeout().is_none_or(|next| next > now) {
                return self.check_timeouts();
            }
        }
        self.fault("timers fire for ever at one moment");
    }

    /// What runs must not be over its time, as far as anybody looks.
    fn check_timeouts(&mut self) {
        let setup = self.setup;
        let world = self.world();
        let overdue = |process: &&Process| {
            let Doing::Running { seq, task } = process.doing else { return false };
            let Some(timeout) = setup.tasks[task].terms.timeout else { return false };
            let phase = SlotWord(process.words[seq as usize - 1]).phase();
            let until = world.start_of(process.key, seq) + timeout.max(PROBE_FIRST);
            let left_alone = process.life == Life::Alive && !process.stopped;
            phase == Some(Phase::Running) && left_alone && until <= world.now
        };
        if let Some(process) = world.processes.iter().find(overdue) {
            let what = format!("a task is over its time: {process:?}");
            self.fault(what);
        }
    }

    fn deliver_all(&mut self, key: WorkerKey) {
        while let Some(process) = self.world().process(key) {
            let Some(reply) = process.replies.pop_front() else {
                process.sent = 0;
                return;
            };
            self.deliver(key, reply);
        }
    }

    fn deliver(&mut self, key: WorkerKey, reply: Reply) {
        let run_nanos = self.setup.run_nanos;
        let world = self.world();
        let (now, bug) = (world.now, world.setup.bug);
        if let Reply::Began { seq, task } = reply {
            return self.deliver_began(key, seq, task);
        }
        if let Some(process) = world.process(key) {
            process.landed += 1;
        }
        let (seq, answer, ran) = match reply {
            Reply::Began { .. } => unreachable!("see above"),
            Reply::Ran { seq, task } => {
                let retire = self.setup.tasks[task].retire;
                (seq, Answer::Ran { run_nanos, retire }, Some(task))
            }
            Reply::Skipped { seq } => (seq, Answer::Skipped, None),
        };
        let result = self.sched.handle_answer(now, key, seq, answer, &self.outside);
        let accepted = match (result, bug, ran) {
            (Ok(accepted), ..) => accepted.map(|(_, task)| task),
            (
                Err(ProtocolError(Violation::RevokedTaskRan { .. })),
                Bug::RevokedAnswerTaken,
                Some(task),
            ) => {
                let skipped = Answer::Skipped;
                let _ = self.sched.handle_answer(now, key, seq, skipped, &self.outside);
                Some(task)
            }
            (Err(_), Bug::WorkerDoesNotPark, _) if self.sched.stage(key) == Some(Stage::Doomed) => {
                None
            }
            (Err(error), ..) => {
                return self.fault(format_args!("an honest worker is accused: {error}"));
            }
        };
        if let Some(task) = accepted {
            if ran != Some(task) {
                self.fault(format_args!("task {task} is given the answer of {ran:?}"));
            }
            self.world().note_end(task, End::Answered);
        }
    }

    fn deliver_began(&mut self, key: WorkerKey, seq: u64, task: usize) {
        let now = self.world().now;
        let fault = match self.sched.handle_began(now, key, seq, &self.outside) {
            Ok(None) => None,
            Ok(Some((&mut begun, _))) if begun != task => {
                Some(format!("task {begun} is said to have begun, and {task} has"))
            }
            Ok(Some((_, may_run_again))) => {
                self.outside.0.get_mut().ledger[task].gone |= !may_run_again;
                None
            }
            Err(error) => Some(format!("an honest worker is accused: {error}")),
        };
        if let Some(fault) = fault {
            self.fault(fault);
        }
    }

    /// Does what the scheduler wants done, and checks that it may want it.
    fn perform(&mut self) {
        while let Some(action) = self.sched.poll_action() {
            match action {
                Action::Start(key) => {
                    let wanted = self.sched.settings.seats();
                    let world = self.outside.0.get_mut();
                    let there = world.processes.iter().filter(|process| {
                        process.key.seat == key.seat && process.life != Life::Dead
                    });
                    // One that does not die may be beside it.
                    let there: Vec<_> = there.map(|process| process.life).collect();
                    let free = there.is_empty() || there == [Life::Overdue];
                    if !free || key.seat as usize >= wanted {
                        world.fault(format_args!("{key:?} is started in a seat that is taken"));
                    }
                    world.processes.push(Process {
                        key,
                        life: Life::Starting,
                        words: Vec::new(),
                        inbox: VecDeque::new(),
                        doing: Doing::Nothing,
                        replies: VecDeque::new(),
                        sent: 0,
                        probe: false,
                        stopped: false,
                        crashed: false,
                        accused: false,
                        eof: false,
                        dismissed: false,
                        frames: 0,
                        landed: 0,
                        polite: 0,
                    });
                }
                Action::Run { worker, seq, task } => {
                    let label = self.sched.data(task).copied();
                    let depth = self.setup.settings.depth_max as u64;
                    let world = self.outside.0.get_mut();
                    if label.is_some_and(|task| world.ledger[task].gone) {
                        world.fault(format_args!("task {label:?} is sent without its arguments"));
                    }
                    let Some(process) = world.process(worker) else {
                        world.fault("a task is sent to nobody");
                        continue;
                    };
                    process.frames += 1;
                    process.inbox.push_back(Frame::Run { seq, task: label });
                    let full = process.frames - process.landed > depth;
                    let gone = process.dismissed
                        || process.stopped
                        || matches!(process.life, Life::Starting | Life::Failed);
                    if process.frames != seq || full || gone {
                        let what = format!("task {seq} is sent to {process:?}");
                        world.fault(what);
                    }
                }
                Action::Dismiss(key) => {
                    let world = self.outside.0.get_mut();
                    let Some(process) = world.process(key) else { continue };
                    process.dismissed = true;
                    process.inbox.push_back(Frame::Bye);
                    let phase = |word: &u64| SlotWord(*word).phase();
                    let mut left = process.words.iter().skip(process.landed as usize);
                    if left.any(|word| phase(word) != Some(Phase::Revoked)) {
                        world.fault("a worker with tasks is told to leave");
                    }
                }
                Action::Stop { worker, .. } => self.stop(worker),
                Action::Ring { .. } => {}
                Action::Probe(key) => {
                    if let Some(process) = self.world().process(key) {
                        process.probe = true;
                    }
                }
                Action::Finish { data, ending, .. } => self.end(data, ending),
            }
        }
    }

    fn stop(&mut self, key: WorkerKey) {
        let slow = self.setup.slow_processes;
        let Some(process) = self.world().process(key) else { return };
        let killing = |word: &u64| SlotWord(*word).phase() == Some(Phase::Killing);
        let fenced = process.words.iter().any(killing);
        let running = match process.doing {
            Doing::Running { seq, .. } => !killing(&process.words[seq as usize - 1]),
            _ => false,
        };
        // It has nothing but what was taken back, and does not skip that.
        let phases: Vec<_> = process.words[process.landed as usize..]
            .iter()
            .map(|word| SlotWord(*word).phase())
            .collect();
        let began = [Some(Phase::Running), Some(Phase::CancelReq), Some(Phase::Done)];
        let stuck = phases.first() == Some(&Some(Phase::Revoked))
            && !phases.iter().any(|phase| began.contains(phase));
        let never_ready = matches!(process.life, Life::Starting | Life::Failed);
        let reason = fenced || stuck || process.accused || never_ready;
        process.stopped = true;
        let late = slow && process.dismissed || process.life == Life::Dead || process.eof;
        let alive = process.life == Life::Alive;
        if alive && running {
            self.fault(format_args!("{key:?} is stopped under a task that was not fenced"));
        } else if !reason && !late {
            self.fault(format_args!("{key:?} is stopped for no reason"));
        }
    }

    fn end(&mut self, task: usize, ending: Ending) {
        let mode = self.sched.mode();
        let world = self.outside.0.get_mut();
        let end = match ending {
            Ending::Cancelled { started, .. } => End::Cancelled { started },
            Ending::TimedOut { .. } => End::TimedOut,
            Ending::Terminated { started } => End::Terminated { started },
            Ending::Lost { worker, .. } => {
                let innocent = world.process(worker).is_some_and(|process| !process.crashed);
                if innocent {
                    world.fault(format_args!("task {task} is lost to a kill not meant for it"));
                }
                End::Lost
            }
            Ending::Violated { error } => {
                let accused = world.processes.iter().any(|process| process.accused || process.eof);
                if !accused {
                    world.fault(format_args!("an honest worker is accused: {error}"));
                }
                End::Violated
            }
            Ending::Broken => {
                if mode != Mode::Broken {
                    world.fault("a task ends as if the pool were broken");
                }
                End::Broken
            }
        };
        world.note_end(task, end);
    }

    /// What must hold at any moment.
    fn check(&mut self) {
        let idle = self.sched.seats.iter().filter_map(|seat| seat.worker.as_ref());
        let idle = idle.filter(|slot| slot.is_idle()).count();
        let (open, queued) = self.sched.task_counts();
        let may_begin = self.sched.census().serving < self.sched.settings.workers;
        if idle > 0 && queued > 0 && may_begin {
            self.fault("a task waits while a worker is idle");
        }
        let mut listed = vec![0; self.sched.seats.len()];
        self.sched.idle.iter().for_each(|&seat| listed[seat as usize] += 1);
        let is_listed = |seat: &Seat| seat.worker.as_ref().is_some_and(|slot| slot.listed);
        let lists = self.sched.seats.iter().map(|seat| u32::from(is_listed(seat)));
        if !lists.eq(listed) {
            self.fault("the list of the idle is not what the workers think it is");
        }
        let world = self.outside.0.borrow();
        let mut undying = world.processes.iter().filter(|process| process.life == Life::Overdue);
        let known = |process: &Process| self.sched.stage(process.key) == Some(Stage::Abandoned);
        let all_known = undying.all(known);
        drop(world);
        if !all_known {
            self.fault("a worker that does not die is forgotten");
        }
        let ended = self.world().ledger.iter().filter(|entry| entry.end.is_some()).count();
        if open + ended != self.keys.len() {
            self.fault(format_args!("{open} tasks are open and {ended} have ended"));
        }
    }

    /// Lets everything happen that will, and time pass as long as that changes
    /// anything. Then nothing may be left undone.
    pub(super) fn settle(&mut self, mut will_choose: impl FnMut(usize) -> usize) {
        // Longer than any wait of those that can matter.
        let patience = if self.setup.slow_processes { 6 } else { 2 };
        let patience = Duration::from_secs(patience);
        let mut quiet_since = self.world().now;
        let mut steps = 0;
        while self.world().now - quiet_since < patience && self.world().fault.is_none() {
            steps += 1;
            if steps > 20_000 {
                return self.fault("the pool does not come to rest");
            }
            let (will, _) = self.events();
            if will.is_empty() {
                if !self.can_tick() {
                    break;
                }
                self.apply(Event::Tick, None);
            } else {
                quiet_since = self.world().now;
                self.apply(will[will_choose(will.len())], None);
            }
        }
        self.check_quiet();
    }

    /// What must hold when only time can pass.
    fn check_quiet(&mut self) {
        let seats = self.sched.seats.iter().take(self.sched.settings.seats());
        let stuck = |seat: &&super::slot::Seat| {
            seat.worker.as_ref().is_some_and(|slot| slot.stage == Stage::Abandoned)
        };
        let alive = self.sched.settings.seats() - seats.filter(stuck).count();
        let workers = alive.min(self.sched.settings.workers);
        let goes_on = matches!(self.sched.mode(), Mode::Open | Mode::Closed);
        let setup = self.setup;
        let world = self.world();
        if world.fault.is_some() {
            return;
        }
        let open = |task: &usize| world.ledger[*task].end.is_none();
        let open: Vec<_> = (0..world.ledger.len()).filter(open).collect();
        let endless =
            |task: &&usize| setup.tasks[**task].endless && !world.ledger[**task].cancelled;
        let running = open.iter().filter(endless).filter(|_| goes_on).count();
        // Each endless task may keep one worker, and what is behind them all
        // has to wait.
        if open.len() > running && (running < workers || !goes_on) {
            return self.fault(format_args!("tasks {open:?} are open and nothing happens"));
        }
        let alive = |process: &&Process| process.life == Life::Alive && !process.stopped;
        if world.processes.iter().filter(alive).any(|process| !process.replies.is_empty()) {
            return self.fault("an answer is held back and nobody fetches it");
        }
        let over = self.sched.mode() != Mode::Open;
        if !over && setup.settings.idle_timeout.is_none() {
            if !self.sched.is_ready() && !self.sched.cannot_start() {
                return self.fault("a worker is missing");
            }
            if open.is_empty() && self.sched.poll_timeout().is_some() {
                return self.fault("an idle pool does not sleep");
            }
        }
        if over && open.is_empty() && !self.sched.is_drained() {
            self.fault("the pool is over and does not end");
        }
    }

    /// A number for this moment: equal for moments from which the same can
    /// happen. Times count from now on.
    fn fingerprint(&self) -> u64 {
        let h = &mut DefaultHasher::new();
        let world = self.outside.0.borrow();
        let now = world.now;
        let far = Duration::from_secs(20).as_nanos() as i64;
        let until = |time: Time| match time {
            Time::FAR => i64::MAX,
            time => (time.0 as i64 - now.0 as i64).clamp(-1, far),
        };
        let since = |time: Time| (now - time).min(Duration::from_millis(20));
        let sched = &self.sched;
        sched.mode.hash(h);
        sched.tasks.hash(h);
        (&sched.idle, sched.full, until(sched.steal_at), sched.run_nanos).hash(h);
        (sched.respawn.round(), until(sched.respawn.not_before()), sched.next_worker).hash(h);
        for seat in &sched.seats {
            (seat.dormant, seat.abandoned.as_ref().map(|slot| slot.id)).hash(h);
            let Some(slot) = &seat.worker else { continue };
            (slot.id, slot.stage, &slot.flights, slot.given, slot.answered > 0).hash(h);
            (slot.round, slot.retiring, slot.stuck, slot.unwanted, slot.listed).hash(h);
            (slot.verdict.is_some(), since(slot.heard)).hash(h);
            let timers = &slot.timers;
            let looks = [timers.timeout_at, timers.skip_until, timers.start_until];
            for time in [timers.stage_until, timers.death_until].into_iter().chain(looks) {
                until(time).hash(h);
            }
            for (seq, time) in [timers.polite_until, timers.answer_until] {
                (seq, until(time)).hash(h);
            }
            (until(timers.probe_at), timers.probe_wait, until(timers.idle_until)).hash(h);
            until(timers.age_until).hash(h);
        }
        (&world.processes, &world.ledger, &self.budget, self.keys.len()).hash(h);
        for (worker, seq, start) in &world.started {
            (worker, seq, since(*start)).hash(h);
        }
        h.finish()
    }

    pub(super) fn found(&self) -> Option<String> {
        self.outside.0.borrow().fault.clone()
    }
}

/// How large a model is.
#[derive(Debug)]
struct Size {
    states: usize,
    transitions: usize,
}

/// Visits every moment that `setup` leads to. The error says what was found,
/// and how to get there.
fn explore(setup: Setup) -> Result<Size, String> {
    let setup: &'static Setup = Box::leak(Box::new(setup));
    let start = Model::new(setup);
    let mut seen = HashSet::from([start.fingerprint()]);
    let mut size = Size { states: 1, transitions: 0 };
    // How each moment was reached: the one before, and the event.
    let mut paths: Vec<(usize, Option<Event>, Option<Meddling>)> = vec![(0, None, None)];
    let mut open = vec![(start, 0)];
    while let Some((model, path)) = open.pop() {
        let (will, may) = model.events();
        if will.is_empty() {
            let mut end = model.clone();
            end.settle(|_| 0);
            if let Some(fault) = end.found() {
                return Err(story(&paths, path, &fault));
            }
        }
        for event in will.into_iter().chain(may) {
            let mut after = |meddling| {
                let mut next = model.clone();
                let looks = next.apply(event, meddling);
                size.transitions += 1;
                let fault = next.found();
                if fault.is_some() || seen.insert(next.fingerprint()) {
                    size.states += 1;
                    paths.push((path, Some(event), meddling));
                    if let Some(fault) = fault {
                        return Err(story(&paths, paths.len() - 1, &fault));
                    }
                    open.push((next, paths.len() - 1));
                }
                Ok(looks)
            };
            let looks = after(None)?;
            if !setup.meddling {
                continue;
            }
            let world = model.outside.0.borrow();
            let alive = world.processes.iter().filter(|process| world.can_step(process));
            let alive: Vec<_> = alive.map(|process| process.key).collect();
            drop(world);
            for worker in alive {
                // Before the first look is the same as before the event.
                for at in 1..looks {
                    for steps in 1..=4 {
                        after(Some(Meddling { at, worker, steps }))?;
                    }
                }
            }
        }
    }
    Ok(size)
}

fn story(paths: &[(usize, Option<Event>, Option<Meddling>)], mut at: usize, fault: &str) -> String {
    let mut lines = vec![fault.to_owned()];
    while let (before, Some(event), meddling) = paths[at] {
        let meddling = meddling.map_or(String::new(), |meddling| format!(" with {meddling:?}"));
        lines.push(format!("  {event:?}{meddling}"));
        at = before;
    }
    lines[1..].reverse();
    lines.join("\n")
}

pub(super) fn settings(workers: usize, depth_max: usize) -> Settings {
    Settings {
        workers,
        spares: 0,
        depth_max,
        trusted: true,
        grace_period: Duration::from_millis(100),
        start_timeout: Duration::from_secs(10),
        restart_limit: 3,
        tasks_per_worker_max: None,
        idle_timeout: None,
        age_max: None,
    }
}

/// A setup in which nothing goes wrong.
pub(super) fn setup(workers: usize, depth_max: usize, tasks: &[Call]) -> Setup {
    Setup {
        settings: settings(workers, depth_max),
        tasks: tasks.to_vec(),
        run_nanos: 1000,
        budget: Budget::default(),
        lazy: false,
        meddling: false,
        slow_processes: false,
        bug: Bug::None,
    }
}

pub(super) const SHORT: Call = Call {
    terms: Terms { timeout: None, retries: 0, alone: false },
    endless: false,
    polite: false,
    retire: false,
    laden: false,
};
pub(super) const ENDLESS: Call = Call { endless: true, ..SHORT };
pub(super) const POLITE: Call = Call { polite: true, ..SHORT };

fn assert_holds(setup: Setup) {
    match explore(setup) {
        Ok(size) => println!("{size:?}"),
        Err(story) => panic!("{story}"),
    }
}

/// One worker, three tasks, two of them in flight: cancels and a crash.
fn one_worker() -> Setup {
    let mut setup = setup(1, 2, &[SHORT, POLITE, SHORT]);
    setup.budget = Budget { cancels: 2, crashes: 1, ticks: 1, ..Budget::default() };
    setup.meddling = true;
    setup
}

/// As `one_worker`, and the worker's bytes may be damaged.
fn damaged_worker() -> Setup {
    let mut setup = setup(1, 3, &[SHORT, SHORT, SHORT]);
    setup.budget = Budget { cancels: 1, garbage: 1, crashes: 1, ..Budget::default() };
    setup.meddling = true;
    setup
}

#[test]
fn one_worker_keeps_the_promises() {
    assert_holds(one_worker());
}

#[test]
fn a_damaged_worker_harms_its_own_task_only() {
    assert_holds(damaged_worker());
}

#[test]
fn two_workers_share_and_steal() {
    let mut setup = setup(2, 2, &[ENDLESS, SHORT, SHORT]);
    setup.budget = Budget { cancels: 1, ticks: 1, ..Budget::default() };
    setup.lazy = true;
    assert_holds(setup);
}

#[test]
fn stealing_races_with_the_worker() {
    let mut setup = setup(2, 3, &[SHORT, SHORT, SHORT]);
    setup.budget = Budget { ticks: 1, ..Budget::default() };
    setup.meddling = true;
    setup.run_nanos = 1_000_000;
    assert_holds(setup);
}

#[test]
fn timeouts_and_retries() {
    let timeout = Some(Duration::from_millis(3));
    let timed = Call { terms: Terms { timeout, retries: 0, alone: false }, endless: true, ..SHORT };
    let retried = Call { terms: Terms { timeout: None, retries: 1, alone: false }, ..SHORT };
    let mut setup = setup(1, 2, &[timed, retried, SHORT]);
    setup.budget = Budget { crashes: 1, ticks: 4, ..Budget::default() };
    assert_holds(setup);
}

/// Nothing is before it at its worker, and nothing waits while a worker is idle.
#[test]
fn one_goes_alone() {
    let alone = Call { terms: Terms { timeout: None, retries: 1, alone: true }, ..SHORT };
    let mut setup = setup(2, 2, &[SHORT, alone, SHORT]);
    setup.budget = Budget { crashes: 1, ..Budget::default() };
    assert_holds(setup);
}

/// What its worker has begun is not sent again, whatever becomes of that one, and
/// whoever is not read is not blamed for being silent.
#[test]
fn arguments_that_are_let_go_are_not_missed() {
    let terms = |retries| Terms { timeout: None, retries, alone: true };
    let laden = Call { terms: terms(0), laden: true, ..SHORT };
    let retried = Call { terms: terms(1), ..laden };
    let mut setup = setup(1, 2, &[laden, retried, SHORT]);
    setup.budget = Budget { cancels: 1, crashes: 1, holds: 1, ticks: 1, ..Budget::default() };
    setup.meddling = true;
    assert_holds(setup);
}

#[test]
fn a_spare_takes_over_and_never_helps() {
    let retiring = Call { retire: true, ..SHORT };
    let mut setup = setup(1, 2, &[ENDLESS, retiring, SHORT]);
    setup.settings.spares = 1;
    setup.budget = Budget { cancels: 1, crashes: 1, closes: 1, ..Budget::default() };
    assert_holds(setup);
}

#[test]
fn two_workers_and_a_spare_share_and_steal() {
    let mut setup = setup(2, 2, &[ENDLESS, SHORT, SHORT]);
    setup.settings.spares = 1;
    setup.budget = Budget { cancels: 1, ..Budget::default() };
    assert_holds(setup);
}

#[test]
fn a_closed_pool_ends_whatever_happens() {
    let mut setup = setup(2, 2, &[SHORT, SHORT]);
    setup.budget = Budget { cancels: 1, crashes: 1, closes: 1, ..Budget::default() };
    assert_holds(setup);
}

#[test]
fn a_terminated_pool_ends_whatever_happens() {
    let endless = Call { polite: true, ..ENDLESS };
    let mut setup = setup(2, 2, &[endless, SHORT, SHORT]);
    setup.budget = Budget { terminates: 1, ticks: 1, ..Budget::default() };
    assert_holds(setup);
}

/// Both workers of the one seat may refuse to die, in turn.
fn undying_worker() -> Setup {
    let mut setup = setup(1, 2, &[ENDLESS, ENDLESS, SHORT]);
    setup.budget = Budget {
        cancels: 2,
        overdue: 2,
        crashes: 1,
        closes: 1,
        terminates: 1,
        ..Budget::default()
    };
    setup
}

#[test]
fn a_worker_that_does_not_die_keeps_nobody_waiting() {
    assert_holds(undying_worker());
    let mut untrusted = undying_worker();
    untrusted.settings.trusted = false;
    untrusted.settings.depth_max = 1;
    assert_holds(untrusted);
}

#[test]
fn every_seeded_bug_is_found() {
    for (bug, setup, symptom) in [
        (Bug::NoFence, one_worker(), "stopped under a task that was not fenced"),
        (Bug::QueuedTakenForStarted, one_worker(), "started: false, ends as Lost"),
        (Bug::RunningTakenForQueued, one_worker(), "starts again"),
        (Bug::KilledIsQueuedAgain, damaged_worker(), "starts again"),
        (Bug::WorkerDoesNotAsk, one_worker(), "starts after its end"),
        (Bug::RevokeIgnoresFailure, one_worker(), "started: true, ends as Cancelled"),
        (Bug::RevokedAnswerTaken, one_worker(), "ends twice"),
        (Bug::WorkerDoesNotPark, one_worker(), "stopped for no reason"),
    ] {
        match explore(Setup { bug, ..setup }) {
            Ok(size) => panic!("{bug:?} was not found in {size:?}"),
            Err(story) => assert!(story.contains(symptom), "{bug:?} looks like {story}"),
        }
    }
}
