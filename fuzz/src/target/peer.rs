//! `peer`: a pool's conversation with two workers, byte by byte and both ways.
//! One is honest, the other sends and scribbles what it likes.
//!
//! An input is operations. The parent's side is the library's reader, messages,
//! stages and scheduler, put together as `supervisor/link.rs` does it; the
//! worker's side is its reader and messages, put together as `worker/run.rs`
//! does it. What is checked: nothing panics; each task ends once; the honest
//! worker is never accused, and stopped only for a task of its own whose end is
//! wanted; its answers reach those who asked; the other is stopped for what it
//! does, and a terminated pool comes to its end even if it never moves again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::attached::Count;
use crate::exit::Exit;
use crate::id::TaskId;
use crate::limits::{ANSWER_WAIT, FRAME_BYTES_MAX_MOST, FRAME_OVERHEAD_BYTES, SLOTS};
use crate::proto::VERSION;
use crate::proto::frame::FrameReader;
use crate::proto::message::{
    Ears, Failure, FromWorker, Hello, Setup, Shape, ToWorker, begin_done, begin_item, finish_done,
    finish_item, put_bye, put_failed, put_hello, put_init_failed, put_ready, put_run, put_setup,
    put_skipped, put_trace,
};
use crate::proto::peer::{Peer, ProtocolError, Violation};
use crate::proto::trace::{Field, News, Record, Value};
use crate::sched::{
    Action, Answer, Ending, Intent, Scheduler, Settings, TaskKey, Terms, Words, WorkerKey,
};
use crate::slot_word::{Phase, SlotWord};
use crate::time::Time;

const OPS_MAX: usize = 400;
const FINGERPRINT: u64 = 7;
const TIMEOUT: Duration = Duration::from_millis(50);
const PAYLOAD_BYTES_MAX: usize = 1 << 10;

/// Workers in this seat are honest.
const HONEST_SEAT: u32 = 0;

#[derive(Arbitrary, Debug)]
struct Header {
    /// Bits: not trusted, no grace period, closed in the end and not
    /// terminated, tasks have a timeout; two for what a socket holds; whether
    /// who is stopped in the end does not die of it.
    options: u8,
    depth_max: u8,
}

impl Header {
    /// Bytes that go into the socket to a worker.
    fn room(&self) -> usize {
        [usize::MAX, 16, 64, 256][usize::from(self.options >> 4 & 3)]
    }
}

#[derive(Clone, Debug)]
enum Op {
    Submit(Shape),
    Cancel(u8),
    /// Time passes until the next timer, or so long.
    Tick,
    Wait(Duration),
    /// A worker reads so many bytes.
    Receive {
        seat: u8,
        bytes: usize,
    },
    /// A worker does the next thing that an honest one would.
    Step {
        seat: u8,
        fails: bool,
    },
    /// The parent reads so many bytes of a worker's.
    Hear {
        seat: u8,
        bytes: usize,
    },
    /// The other worker sends a message of this kind, about a number near the
    /// one that is due.
    Say {
        kind: u8,
        near: i8,
    },
    /// It sends bytes.
    Babble(Vec<u8>),
    /// It takes back the last bytes that have not been read.
    Swallow(usize),
    /// It sends again what has not been read.
    Repeat,
    /// It writes a phase, or nonsense, into the word of a number near the one
    /// that is due.
    Scribble {
        phase: u8,
        near: i8,
        seq_too: bool,
    },
    /// It claims to have started at another time, and to be polite.
    Claim {
        near: i8,
        started_at: u64,
        polite: bool,
    },
    /// It closes its socket.
    Close,
    /// It dies.
    Crash,
    /// A worker that was stopped dies.
    Die(u8),
    /// The parent hears of a worker's death.
    Bury(u8),
    /// It gives a worker up that was stopped and does not die.
    GiveUp(u8),
    /// It hears of the death of one that it has given up.
    BuryLate(u8),
}

impl Op {
    fn decode(data: &mut Unstructured<'_>) -> arbitrary::Result<Op> {
        let (op, arg) = <(u8, u8)>::arbitrary(data)?;
        let (seat, bytes) = (arg & 1, usize::from(arg >> 1));
        let bytes = if bytes == 127 { usize::MAX } else { bytes };
        let near = (arg >> 4 & 7) as i8 - 2;
        Ok(match op % 20 {
            0..=2 => Op::Submit(match arg % 4 {
                0 | 1 => Shape::One,
                2 => Shape::Stream,
                _ => Shape::Batch {
                    count: u32::from(arg >> 2) + 1,
                    budget_nanos: 0,
                    stop_on_failure: arg & 4 != 0,
                    tallied: arg & 8 != 0,
                },
            }),
            3 => Op::Cancel(arg),
            4 => Op::Tick,
            5 => Op::Wait(Duration::from_millis(1 << (arg % 15))),
            6 => Op::Receive { seat, bytes },
            7..=8 => Op::Step { seat, fails: arg & 2 != 0 },
            9..=10 => Op::Hear { seat, bytes },
            11..=12 => Op::Say { kind: arg & 15, near },
            13 => Op::Babble(data.bytes(usize::from(arg % 40).min(data.len()))?.to_vec()),
            14 => match arg % 4 {
                0 => Op::Repeat,
                1 => Op::Close,
                2 => Op::Crash,
                _ => Op::Swallow(bytes),
            },
            15..=16 => Op::Scribble { phase: arg & 7, near, seq_too: arg & 8 != 0 },
            17 => Op::Claim { near, started_at: data.arbitrary()?, polite: arg & 1 == 1 },
            18 if arg < 0xe0 => Op::Die(seat),
            18 => Op::GiveUp(seat),
            _ if arg < 0xe0 => Op::Bury(seat),
            _ => Op::BuryLate(seat),
        })
    }
}

/// What the scheduler keeps of a call.
#[derive(Clone, Copy, Debug)]
struct Call {
    task: usize,
    shape: Shape,
    /// Items that its worker may still send.
    credit: u32,
}

struct Task {
    key: TaskKey,
    cancelled: bool,
    has_ended: bool,
    /// How often the honest worker has run it.
    runs: u32,
}

#[derive(Debug)]
enum Doing {
    /// Waits for its settings.
    SetUp,
    Nothing,
    Runs {
        seq: u64,
        task: usize,
        shape: Shape,
    },
    Parked,
}

/// A worker, and the parent's end of its socket.
struct Worker {
    key: WorkerKey,
    words: [SlotWord; SLOTS],
    started_at: [Time; SLOTS],
    polite: [bool; SLOTS],
    /// Bytes under way to it, and from it; how many go into the socket to it.
    down: VecDeque<u8>,
    up: VecDeque<u8>,
    room: usize,
    // The worker's side.
    reader: FrameReader,
    doing: Doing,
    is_alive: bool,
    // The parent's side.
    /// Frames that the link has yet to take, and the first task among them.
    gathered: VecDeque<u8>,
    unsent_from: Option<u64>,
    /// What it has taken and not written, and whether it wrote anything lately.
    taken: VecDeque<u8>,
    has_written: bool,
    ear: FrameReader,
    peer: Peer,
    condemned: bool,
    stopped: bool,
    /// Numbers that were sent.
    last_seq: u64,
    /// Answers that were heard.
    landed: u64,
}

impl Worker {
    fn new(key: WorkerKey, room: usize) -> Self {
        let mut setup = Vec::new();
        put_setup(&mut setup, &settings_frame(), &[]);
        let mut worker = Worker {
            key,
            words: [SlotWord(0); SLOTS],
            started_at: [Time::default(); SLOTS],
            polite: [false; SLOTS],
            down: VecDeque::new(),
            up: VecDeque::new(),
            room,
            reader: FrameReader::new(FRAME_BYTES_MAX_MOST + FRAME_OVERHEAD_BYTES),
            doing: Doing::SetUp,
            is_alive: true,
            gathered: setup.into(),
            unsent_from: None,
            taken: VecDeque::new(),
            has_written: false,
            ear: FrameReader::new(PAYLOAD_BYTES_MAX),
            peer: Peer::new(FINGERPRINT, key.id.0 as i32),
            condemned: false,
            stopped: false,
            last_seq: 0,
            landed: 0,
        };
        if worker.is_honest() {
            worker.send(|out| put_hello(out, &hello(key)));
        }
        worker.write();
        worker
    }

    fn is_honest(&self) -> bool {
        self.key.seat == HONEST_SEAT
    }

    fn slot(seq: u64) -> usize {
        (seq % SLOTS as u64) as usize
    }

    fn swap(&mut self, seq: u64, from: Phase, to: Phase) -> bool {
        let word = &mut self.words[Self::slot(seq)];
        let there = word.0 == SlotWord::new(seq, from).0;
        if there {
            *word = SlotWord::new(seq, to);
        }
        there
    }

    fn send(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        put(&mut out);
        self.up.extend(out);
    }

    /// A number near the one that is due.
    fn near(&self, near: i8) -> u64 {
        (self.landed + 1).saturating_add_signed(near.into())
    }

    /// Returns whether there was anything.
    fn receive(&mut self, bytes: usize) -> bool {
        let bytes = bytes.min(self.down.len());
        self.reader.buffer().extend(self.down.drain(..bytes));
        self.write();
        bytes > 0
    }

    /// What a link does when there may be something to write, or room for it.
    fn write(&mut self) {
        if self.taken.is_empty() {
            std::mem::swap(&mut self.taken, &mut self.gathered);
            self.unsent_from = None;
        }
        let bytes = self.taken.len().min(self.room - self.down.len());
        self.down.extend(self.taken.drain(..bytes));
        self.has_written |= bytes > 0;
    }

    /// A task's frame is on its way. What gathers is bounded by what may be in
    /// flight, whatever is answered.
    fn run(&mut self, seq: u64, call: Option<Call>, depth_max: usize) {
        self.last_seq += 1;
        assert_eq!(self.last_seq, seq, "numbers are consecutive");
        let first = *self.unsent_from.get_or_insert(seq);
        assert!(seq - first < depth_max as u64, "frames gather without end");
        let mut out = Vec::new();
        match call {
            Some(call) => {
                put_run(&mut out, seq, 1, call.shape, None, size_of::<u64>(), Count::NONE);
                out.extend((call.task as u64).to_le_bytes());
            }
            None => put_run(&mut out, seq, 0, Shape::One, None, 0, Count::NONE),
        }
        self.gathered.extend(out);
        self.write();
    }

    /// The next thing that an honest worker does. Returns what it began to run,
    /// and whether it did anything.
    fn step(&mut self, now: Time, fails: bool) -> (Option<usize>, bool) {
        if !self.is_alive {
            return (None, false);
        }
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Parked => {
                self.doing = Doing::Parked;
                (None, false)
            }
            Doing::Runs { seq, task, shape } => {
                self.finish(seq, task, shape, fails);
                (None, true)
            }
            doing => {
                let frame = self.reader.next_frame().expect("the parent sends frames");
                let Some(frame) = frame else {
                    self.doing = doing;
                    return (None, false);
                };
                let message = ToWorker::parse(frame).expect("the parent sends messages");
                (self.take(now, message, matches!(doing, Doing::SetUp)), true)
            }
        }
    }

    fn take(&mut self, now: Time, message: ToWorker, first: bool) -> Option<usize> {
        match message {
            ToWorker::Setup(setup, _) => {
                assert!(first && setup == settings_frame());
                self.send(|out| put_ready(out, Ears::default(), &[]));
                None
            }
            ToWorker::Bye => {
                assert!(!first);
                self.is_alive = false;
                None
            }
            ToWorker::Run { seq, shape, args, .. } => {
                assert!(!first);
                self.started_at[Self::slot(seq)] = now;
                if !self.swap(seq, Phase::Queued, Phase::Running) {
                    self.send(|out| put_skipped(out, seq));
                    return None;
                }
                let task = args[..].try_into().expect("eight bytes were sent");
                let task = u64::from_le_bytes(task) as usize;
                self.doing = Doing::Runs { seq, task, shape };
                Some(task)
            }
        }
    }

    fn finish(&mut self, seq: u64, task: usize, shape: Shape, fails: bool) {
        if !self.swap(seq, Phase::Running, Phase::Done)
            && !self.swap(seq, Phase::CancelReq, Phase::Done)
        {
            self.doing = Doing::Parked;
            return;
        }
        if fails {
            let failure = Failure::Arguments("no".into());
            return self.send(|out| put_failed(out, seq, 1000, false, &failure));
        }
        let (items, answered, payload) = match shape {
            Shape::One => (0, 1, task.to_le_bytes().to_vec()),
            Shape::Batch { count, .. } => (0, count, task.to_le_bytes().to_vec()),
            Shape::Stream => (2, 1, Vec::new()),
        };
        for _ in 0..items {
            self.send(|out| {
                begin_item(out);
                let len = out.len();
                finish_item(out, len, Count::NONE, seq);
            });
        }
        self.send(|out| {
            begin_done(out);
            out.extend_from_slice(&payload);
            let len = out.len();
            finish_done(out, len, Count::NONE, seq, 1000, answered, false);
        });
    }

    /// Says what the other worker says.
    fn say(&mut self, kind: u8, near: i8) {
        let (key, seq) = (self.key, self.near(near));
        let failure = Failure::Result("so".into());
        let done = |out: &mut Vec<u8>, answered, retire| {
            begin_done(out);
            let len = out.len();
            finish_done(out, len, Count::NONE, seq, u64::MAX, answered, retire);
        };
        self.send(|out| match kind {
            0 | 1 => put_hello(out, &hello(key)),
            2 => put_hello(out, &Hello { version: VERSION + 1, ..hello(key) }),
            3 => put_hello(out, &Hello { pid: 0, ..hello(key) }),
            4 => put_ready(out, Ears::default(), &[]),
            5 => put_trace(out, seq, &news(seq).encode()),
            6 => put_init_failed(out, &failure),
            7 | 8 => done(out, 1, false),
            9 => done(out, 2, true),
            10 => done(out, 0, false),
            11 => put_failed(out, seq, 0, true, &failure),
            12 => put_skipped(out, seq),
            13 => {
                begin_item(out);
                let len = out.len();
                finish_item(out, len, Count::NONE, seq);
            }
            14 => put_run(out, seq, 0, Shape::One, None, 0, Count::NONE),
            _ => put_bye(out),
        });
    }
}

fn settings_frame() -> Setup {
    Setup {
        version: VERSION,
        fingerprint: FINGERPRINT,
        frame_bytes_max: PAYLOAD_BYTES_MAX,
        nice: None,
        cpu_affinity: vec![0, 1],
        rlimits: Vec::new(),
        memory_bytes_max: Some(1 << 30),
        memory_limit: Some(1 << 31),
        no_new_privs: true,
        sandbox: None,
        initializer: None,
    }
}

fn news(seq: u64) -> News {
    let fields = vec![Field { name: "n".into(), value: Some(Value::U64(seq)) }];
    News { dropped: 1, closed: vec![seq], record: Some(Record::Values { span: seq, fields }) }
}

fn hello(key: WorkerKey) -> Hello {
    Hello { version: VERSION, fingerprint: FINGERPRINT, pid: key.id.0 as i32 }
}

/// The number that a message answers for, and whether it says that the task
/// ran.
fn answer_in(message: &FromWorker) -> Option<(u64, bool)> {
    match *message {
        FromWorker::Done { seq, .. } | FromWorker::Failed { seq, .. } => Some((seq, true)),
        FromWorker::Skipped { seq } => Some((seq, false)),
        _ => None,
    }
}

/// The status pages of all workers.
#[derive(Default)]
struct Workers(RefCell<Vec<Worker>>);

impl Workers {
    fn with<R>(&self, key: WorkerKey, f: impl FnOnce(&mut Worker) -> R) -> Option<R> {
        let mut workers = self.0.borrow_mut();
        workers.iter_mut().find(|worker| worker.key == key).map(f)
    }
}

impl Words for Workers {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
        self.with(worker, |worker| worker.words[Worker::slot(seq)]).unwrap_or(SlotWord(0))
    }

    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
        self.with(worker, |worker| worker.swap(seq, from, to)).unwrap_or(false)
    }

    fn enqueue(&self, worker: WorkerKey, seq: u64) {
        self.with(worker, |worker| {
            worker.words[Worker::slot(seq)] = SlotWord::new(seq, Phase::Queued);
            worker.polite[Worker::slot(seq)] = false;
        });
    }

    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool {
        self.with(worker, |worker| worker.polite[Worker::slot(seq)]).unwrap_or(false)
    }

    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time {
        self.with(worker, |worker| worker.started_at[Worker::slot(seq)]).unwrap_or_default()
    }
}

pub fn peer(data: &[u8]) {
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

/// The parent, and everything that it talks to. Tells what happened when a
/// promise is broken.
struct Pool {
    header: Header,
    story: Vec<Op>,
    now: Time,
    sched: Scheduler<Call>,
    workers: Workers,
    tasks: Vec<Task>,
    terminated: bool,
    /// Workers that were given up, and have not died.
    undying: Vec<WorkerKey>,
    /// The worker whose death is being taken in.
    buried: Option<WorkerKey>,
    /// If the answer that is being taken in may be accepted: how many numbers
    /// it settles.
    lands: Option<u64>,
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
        let now = Time(1 << 40);
        let trusted = header.options & 1 == 0;
        let settings = Settings {
            workers: 2,
            spares: 0,
            depth_max: if trusted { usize::from(header.depth_max) % SLOTS + 1 } else { 1 },
            trusted,
            grace_period: Duration::from_millis(if header.options & 2 == 0 { 100 } else { 0 }),
            start_timeout: Duration::from_secs(10),
            // The other worker may fail to start as often as it likes.
            restart_limit: u32::MAX,
            tasks_per_worker_max: None,
            idle_timeout: None,
            age_max: None,
        };
        let mut pool = Pool {
            header,
            story: Vec::new(),
            now,
            sched: Scheduler::new(now, settings),
            workers: Workers::default(),
            tasks: Vec::new(),
            terminated: false,
            undying: Vec::new(),
            buried: None,
            lands: None,
        };
        pool.perform();
        pool
    }

    /// The newest worker in a seat, or the one that is left.
    fn at(&mut self, seat: u8) -> Option<usize> {
        let workers = self.workers.0.get_mut();
        workers.iter().position(|worker| worker.key.seat == u32::from(seat))
    }

    fn apply(&mut self, op: Op) {
        self.story.push(op.clone());
        let seat = match op {
            Op::Receive { seat, .. } | Op::Step { seat, .. } | Op::Hear { seat, .. } => seat,
            Op::Die(seat) | Op::Bury(seat) | Op::GiveUp(seat) => seat,
            _ => 1,
        };
        match op {
            Op::Submit(shape) => self.submit(shape),
            Op::Cancel(task) => self.cancel(task),
            Op::Tick => drop(self.tick()),
            Op::BuryLate(seat) => drop(self.bury_late(seat)),
            Op::Wait(wait) => {
                self.now = self.now + wait;
                self.look_at_timers();
            }
            op => {
                if let Some(index) = self.at(seat) {
                    self.apply_to_worker(op, index);
                }
            }
        }
        self.perform();
        let open = self.tasks.iter().filter(|task| !task.has_ended).count();
        assert_eq!(self.sched.task_counts().0, open, "tasks that have not ended");
        assert_eq!(self.sched.has_abandoned(), !self.undying.is_empty());
    }

    fn apply_to_worker(&mut self, op: Op, index: usize) {
        let now = self.now;
        let worker = &mut self.workers.0.get_mut()[index];
        let key = worker.key;
        match op {
            Op::Receive { bytes, .. } => drop(worker.receive(bytes)),
            Op::Step { fails, .. } => drop(self.step(index, fails)),
            Op::Hear { bytes, .. } => self.hear(index, bytes),
            Op::Die(_) if worker.stopped => worker.is_alive = false,
            Op::Bury(_) if !worker.is_alive => self.part_with(index, true),
            Op::GiveUp(_) if worker.stopped && worker.is_alive => self.part_with(index, false),
            _ if !worker.is_alive || worker.is_honest() => {}
            Op::Say { kind, near } => worker.say(kind, near),
            Op::Babble(bytes) => worker.up.extend(bytes),
            Op::Swallow(bytes) => {
                let left = worker.up.len().saturating_sub(bytes);
                worker.up.truncate(left);
            }
            Op::Repeat => {
                let again: Vec<_> = worker.up.iter().take(1 << 12).copied().collect();
                worker.up.extend(again);
            }
            Op::Scribble { phase, near, seq_too } => {
                let seq = worker.near(near);
                let written = if seq_too { seq ^ 1 } else { seq };
                worker.words[Worker::slot(seq)] = SlotWord(written << 8 | u64::from(phase));
            }
            Op::Claim { near, started_at, polite } => {
                let slot = Worker::slot(worker.near(near));
                worker.started_at[slot] = Time(started_at);
                worker.polite[slot] = polite;
            }
            Op::Close => self.sched.handle_eof(now, key),
            Op::Crash => worker.is_alive = false,
            _ => {}
        }
    }

    fn has_timeouts(&self) -> bool {
        self.header.options & 8 != 0
    }

    fn submit(&mut self, shape: Shape) {
        let task = self.tasks.len();
        let call = Call { task, shape, credit: 2 };
        let timeout = self.has_timeouts().then_some(TIMEOUT);
        let terms = Terms { timeout, retries: 0, alone: false };
        let id = TaskId(task as u64 + 1);
        let key = self.sched.handle_submit(self.now, id, call, terms, &self.workers);
        self.tasks.push(Task { key, cancelled: false, has_ended: false, runs: 0 });
    }

    fn cancel(&mut self, task: u8) {
        let count = self.tasks.len();
        let Some(task) = self.tasks.get_mut(usize::from(task) % count.max(1)) else { return };
        task.cancelled |= !task.has_ended;
        self.sched.handle_cancel(self.now, task.key, Intent::Cancel, &self.workers);
    }

    fn tick(&mut self) -> bool {
        let Some(next) = self.sched.poll_timeout() else { return false };
        self.now = self.now.max(next);
        self.look_at_timers();
        true
    }

    /// What the driver does when timers are due.
    fn look_at_timers(&mut self) {
        for _ in 0..64 {
            if self.sched.poll_timeout().is_none_or(|next| next > self.now) {
                return;
            }
            for key in self.sched.verdicts_due(self.now) {
                let workers = self.workers.0.get_mut();
                let index = workers.iter().position(|worker| worker.key == key);
                let index = index.expect("workers that are judged exist");
                // An honest one is never as late as that.
                while key.seat == HONEST_SEAT && self.go_on(index) {}
                self.hear(index, usize::MAX);
                if std::mem::take(&mut self.workers.0.get_mut()[index].has_written) {
                    self.sched.handle_progress(self.now, key);
                }
            }
            self.sched.handle_timeout(self.now, &self.workers);
            self.perform();
        }
        panic!("timers are due for ever at one moment");
    }

    /// An honest worker does the next thing, and is heard. Returns whether it
    /// did anything.
    fn go_on(&mut self, index: usize) -> bool {
        let worker = &mut self.workers.0.get_mut()[index];
        let is_heard = worker.up.is_empty();
        let received = worker.receive(usize::MAX);
        let progress = self.step(index, false);
        self.hear(index, usize::MAX);
        received || progress || !is_heard
    }

    fn step(&mut self, index: usize, fails: bool) -> bool {
        let worker = &mut self.workers.0.get_mut()[index];
        let is_honest = worker.is_honest();
        let stopped = worker.stopped;
        let (begun, progress) = worker.step(self.now, fails);
        if let Some(task) = begun.filter(|_| is_honest) {
            let entry = &mut self.tasks[task];
            let trusted = self.sched.settings().trusted;
            assert!(!entry.has_ended && entry.runs == 0, "{task} starts after its end, or again");
            assert!(!stopped || !trusted, "{task} starts after the signal");
            entry.runs += 1;
        }
        progress
    }

    /// The parent reads so many of a worker's bytes, as a link does.
    fn hear(&mut self, index: usize, bytes: usize) {
        let worker = &mut self.workers.0.get_mut()[index];
        if worker.condemned {
            return;
        }
        let bytes = bytes.min(worker.up.len());
        worker.ear.buffer().extend(worker.up.drain(..bytes));
        let key = worker.key;
        if let Err(error) = self.take_messages(index) {
            assert!(key.seat != HONEST_SEAT, "an honest worker is accused: {error}");
            self.workers.0.get_mut()[index].condemned = true;
            self.sched.handle_violation(self.now, key, error, &self.workers);
            self.perform();
            let worker = &self.workers.0.get_mut()[index];
            assert!(worker.stopped, "{error}, and it goes unpunished");
        }
        self.perform();
    }

    fn take_messages(&mut self, index: usize) -> Result<(), ProtocolError> {
        loop {
            let worker = &mut self.workers.0.get_mut()[index];
            let Some(frame) = worker.ear.next_frame()? else { return Ok(()) };
            let message = FromWorker::parse(frame)?;
            worker.peer.accept(&message)?;
            let key = worker.key;
            self.take_message(key, message)?;
            self.perform();
        }
    }

    fn take_message(&mut self, key: WorkerKey, message: FromWorker) -> Result<(), ProtocolError> {
        if let Some((seq, ran)) = answer_in(&message) {
            self.note_answer(key, seq, ran);
        }
        let Pool { sched, workers, now, .. } = self;
        if let Some(seq) = message.seq() {
            let unsent_from = workers.with(key, |worker| worker.unsent_from).flatten();
            if unsent_from.is_some_and(|first| seq >= first) {
                return Err(ProtocolError(Violation::NotSent { seq }));
            }
        }
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Ready { .. } => sched.handle_ready(*now, key, workers),
            FromWorker::InitFailed(_) => sched.handle_init_failed(*now, key, workers),
            FromWorker::Skipped { seq } => {
                sched.handle_answer(*now, key, seq, Answer::Skipped, workers)?;
                self.accept_answer(key);
            }
            FromWorker::Done { seq, run_nanos, answered, retire, payload } => {
                let fits = |call: &Call| match call.shape {
                    Shape::One => answered == 1,
                    Shape::Batch { count, .. } => (1..=count).contains(&answered),
                    Shape::Stream => payload.is_empty(),
                };
                if !sched.due(key, seq).is_none_or(fits) {
                    return Err(ProtocolError(Violation::WrongAnswer));
                }
                let answer = Answer::Ran { run_nanos, retire };
                let heard = sched.handle_answer(*now, key, seq, answer, workers)?;
                self.accept_answer(key);
                let Some((id, call)) = heard else { return Ok(()) };
                assert!(self.close(call.task, |task| task.key.id == id && !task.cancelled));
                if key.seat == HONEST_SEAT && call.shape != Shape::Stream {
                    assert_eq!(payload[..], call.task.to_le_bytes(), "another task's answer");
                }
            }
            FromWorker::Failed { seq, run_nanos, retire, .. } => {
                let answer = Answer::Ran { run_nanos, retire };
                let heard = sched.handle_answer(*now, key, seq, answer, workers)?;
                self.accept_answer(key);
                if let Some((id, call)) = heard {
                    assert!(self.close(call.task, |task| task.key.id == id && !task.cancelled));
                }
            }
            FromWorker::Began { seq } => {
                // None of the calls has descriptors.
                if sched.handle_began(*now, key, seq, workers)?.is_some() {
                    return Err(ProtocolError(Violation::WrongAnswer));
                }
            }
            FromWorker::Trace { seq, body } => {
                News::decode(&body)?;
                // Whose it is, for as long as it has not been answered.
                let call = sched.in_flight(key, seq);
                assert!(call.is_none_or(|call| !self.tasks[call.task].has_ended));
            }
            FromWorker::Item { seq, .. } => {
                if let Some(call) = sched.handle_item(*now, key, seq, workers)? {
                    if call.shape != Shape::Stream {
                        return Err(ProtocolError(Violation::WrongAnswer));
                    }
                    let left = call.credit.checked_sub(1);
                    call.credit = left.ok_or(ProtocolError(Violation::ItemsPastCredit))?;
                }
            }
        }
        Ok(())
    }

    /// Notes whether an answer is one that may be accepted: the one that is due,
    /// of a task that was sent, that the worker has if it says that it ran, and
    /// whose word says so, too; of one that was taken back if it says that it did
    /// not.
    fn note_answer(&mut self, key: WorkerKey, seq: u64, ran: bool) {
        let view = self.sched.workers().find(|view| view.key == key);
        let holds = view.is_some_and(|view| view.in_flight.iter().any(|flight| flight.0 == seq));
        let done = self.workers.load(key, seq) == SlotWord::new(seq, Phase::Done);
        let worker = self.workers.with(key, |worker| {
            let sent = worker.unsent_from.is_none_or(|first| seq < first);
            (worker.landed + 1, worker.stopped, sent)
        });
        let (due, stopped, sent) = worker.expect("who is heard is there");
        // What a worker has that is being stopped ends with it.
        let kept = holds && stopped && !ran;
        let acceptable = due == seq && sent && (holds == ran || kept) && (done || !ran);
        self.lands = acceptable.then_some(u64::from(!kept));
    }

    fn accept_answer(&mut self, key: WorkerKey) {
        let lands = self.lands.unwrap_or_else(|| panic!("{key:?} gives a wrong answer, accepted"));
        self.workers.with(key, |worker| worker.landed += lands);
    }

    /// A worker is dead, or given up.
    fn part_with(&mut self, index: usize, dead: bool) {
        self.hear(index, usize::MAX);
        let key = self.workers.0.get_mut()[index].key;
        if dead {
            self.sched.handle_death(self.now, key, Exit::from_signal(9), &self.workers);
        } else {
            self.sched.handle_overdue(self.now, key, &self.workers);
            self.undying.push(key);
        }
        self.buried = Some(key);
        self.perform();
        self.buried = None;
        self.workers.0.get_mut().remove(index);
    }

    /// One that was given up has died after all. Returns whether there is any
    /// in this seat.
    fn bury_late(&mut self, seat: u8) -> bool {
        let mut undying = self.undying.iter();
        let Some(index) = undying.position(|key| key.seat == u32::from(seat)) else {
            return false;
        };
        let key = self.undying.remove(index);
        self.sched.handle_death(self.now, key, Exit::from_signal(9), &self.workers);
        self.perform();
        true
    }

    /// Does what the scheduler wants done.
    fn perform(&mut self) {
        while let Some(action) = self.sched.poll_action() {
            match action {
                Action::Start(key) => {
                    let room = self.header.room();
                    self.workers.0.get_mut().push(Worker::new(key, room));
                }
                Action::Run { worker, seq, task } => {
                    let call = self.sched.data(task).copied();
                    let depth_max = self.sched.settings().depth_max;
                    let sent = self.workers.with(worker, |worker| worker.run(seq, call, depth_max));
                    sent.expect("tasks go to workers that there are");
                }
                Action::Dismiss(worker) => {
                    let mut bye = Vec::new();
                    put_bye(&mut bye);
                    self.workers.with(worker, |worker| {
                        worker.gathered.extend(bye);
                        worker.write();
                    });
                }
                Action::Stop { worker, .. } => self.stop(worker),
                Action::Ring { .. } | Action::Probe(_) => {}
                Action::Finish { data: Call { task, .. }, ending, .. } => self.finish(task, ending),
            }
        }
    }

    fn stop(&mut self, key: WorkerKey) {
        let stopped = self.workers.with(key, |worker| {
            worker.stopped = true;
            (worker.is_alive, worker.words)
        });
        let (is_alive, words) = stopped.expect("workers that are stopped exist");
        if key.seat != HONEST_SEAT || !is_alive || self.terminated {
            return;
        }
        let phase = |seq| {
            words[Worker::slot(seq)].phase().filter(|_| words[Worker::slot(seq)].seq() == seq)
        };
        // Where only the worker says that it has not started, it is not asked.
        let fence = if self.sched.settings().trusted { Phase::Killing } else { Phase::Revoked };
        let fenced = |seq| phase(seq) == Some(Phase::Killing) || phase(seq) == Some(fence);
        let view = self.sched.workers().find(|view| view.key == key).expect("it is there");
        let target = view.in_flight.iter().find(|(seq, _)| fenced(*seq)).map(|flight| flight.1);
        let target = target.expect("an honest worker is stopped for nothing");
        let is_cancelled = |task: &Task| task.key == target && task.cancelled;
        assert!(self.has_timeouts() || self.tasks.iter().any(is_cancelled), "nobody wanted that");
    }

    fn finish(&mut self, task: usize, ending: Ending) {
        let is_honest = |key: WorkerKey| key.seat == HONEST_SEAT;
        let by_honest = self.buried.is_some_and(is_honest);
        let (terminated, has_timeouts) = (self.terminated, self.has_timeouts());
        let ended = format!("{ending:?}");
        let fits = self.close(task, |task| match ending {
            Ending::Cancelled { started, .. } => task.cancelled && (started || task.runs == 0),
            Ending::Terminated { started } => terminated && (started || task.runs == 0),
            Ending::Lost { worker, .. } => !is_honest(worker) && task.runs == 0,
            Ending::Violated { .. } => !by_honest && task.runs == 0,
            Ending::TimedOut { after, .. } => has_timeouts && after == TIMEOUT,
            Ending::Broken => false,
        });
        assert!(fits, "{task} ends as {ended}");
    }

    /// The task is over, once.
    fn close(&mut self, task: usize, fits: impl FnOnce(&Task) -> bool) -> bool {
        let entry = &mut self.tasks[task];
        assert!(!entry.has_ended, "{task} ends twice");
        entry.has_ended = true;
        fits(entry)
    }

    /// The pool's end: terminated, with a worker that does nothing any more but
    /// die of signals; or closed, with one that dies by itself.
    fn end(&mut self) {
        if self.has_timeouts() {
            self.wait_for_timeouts();
        }
        let closes = self.header.options & 4 != 0;
        if closes {
            self.sched.handle_close(self.now, &self.workers);
        } else {
            self.terminated = true;
            self.sched.handle_terminate(self.now, &self.workers);
        }
        self.perform();
        let mut rounds = 0;
        while !self.sched.is_drained() {
            rounds += 1;
            assert!(rounds < 10_000, "the pool does not come to its end");
            for worker in self.workers.0.get_mut() {
                worker.is_alive &= worker.is_honest() || !closes;
            }
            // A seat with two workers that do not die waits for one that does.
            let late = |pool: &mut Self| pool.bury_late(0) || pool.bury_late(1);
            let happened = self.let_go_on() || self.tick() || late(self);
            assert!(happened, "nothing will happen any more, and it is not the end");
        }
        while self.bury_late(0) || self.bury_late(1) {}
        assert!(self.sched.is_drained() && !self.sched.has_abandoned());
        assert!(self.tasks.iter().all(|task| task.has_ended));
        assert!(self.workers.0.get_mut().is_empty(), "a process is forgotten");
    }

    /// A task that is running, or says that it has been, ends by its timeout,
    /// even if its worker never moves again.
    fn wait_for_timeouts(&mut self) {
        // Longer than any patience that there is.
        let until = self.now + 2 * ANSWER_WAIT;
        while self.now < until && (self.let_go_on() || self.tick()) {}
        for view in self.sched.workers() {
            for (seq, key) in view.in_flight {
                let word = self.workers.load(view.key, seq);
                assert_eq!(word, SlotWord::new(seq, Phase::Queued), "{key:?} runs for ever");
            }
        }
    }

    /// The honest workers do the next thing, and who was stopped dies. Returns
    /// whether anything happened.
    fn let_go_on(&mut self) -> bool {
        let undying = self.header.options & 64 != 0;
        let mut progress = false;
        let mut index = 0;
        while let Some(worker) = self.workers.0.get_mut().get_mut(index) {
            if worker.stopped || !worker.is_alive {
                let dead = !worker.is_alive || !undying;
                self.part_with(index, dead);
                progress = true;
                continue;
            }
            progress |= worker.is_honest() && self.go_on(index);
            index += 1;
        }
        progress
    }
}
