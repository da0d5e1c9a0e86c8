//! The books of one round: what was asked for, what callers were told, which
//! signals were sent, and what the tasks themselves noted. [`Ledger::audit`]
//! compares them.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, fs};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Exit, ProtocolError, TaskError};

use crate::plan::{Ending, Settings};
use crate::tasks::Manner;

/// One call, or one item of many.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) pool: usize,
    pub(crate) manner: Manner,
    /// How it was called.
    pub(crate) by: &'static str,
    /// How often it may be run again when its worker dies.
    pub(crate) retries: usize,
    /// Its caller means to stop it.
    pub(crate) threatened: bool,
    told: Option<Told>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { pool, manner, by, told, .. } = self;
        write!(f, "{manner:?} by {by} in pool {pool}, ")?;
        match told {
            Some(told) => write!(f, "told {told:?}"),
            None => f.write_str("told nothing"),
        }
    }
}

/// What became of a call, as its caller knows it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    Answered,
    Panicked,
    /// Its worker died.
    Lost {
        pid: u32,
        exit: Exit,
        /// Shared the worker's fate with the rest of its chunk.
        in_chunk: bool,
    },
    /// Its worker was killed for breaking the protocol.
    Condemned(ProtocolError),
    Cancelled {
        started: Option<bool>,
    },
    TimedOut,
    Terminated,
    /// Never taken: the pool was closed, or its queue full.
    Refused,
    /// Its caller has dropped it.
    Dropped,
    /// Its caller has let it run on.
    Detached,
    /// Part of a map that failed for another item.
    MapFailed,
    /// None of these, and so never right.
    Wrong(String),
}

/// Every way for a call to end, in the order of the report.
pub(crate) const ENDINGS: [&str; 12] = [
    "answered",
    "answered, to nobody",
    "failed: panicked",
    "failed: worker lost",
    "failed: worker condemned",
    "cancelled: through a handle",
    "cancelled: timed out",
    "cancelled: dropped",
    "cancelled: with its map",
    "cancelled: with its pool",
    "cancelled: never taken",
    "wrong",
];

impl Told {
    fn name(&self) -> &'static str {
        let [answered, nobody, panicked, lost, condemned, rest @ ..] = ENDINGS;
        let [cancelled, timed_out, dropped, with_map, terminated, refused, wrong] = rest;
        match self {
            Told::Answered => answered,
            Told::Detached => nobody,
            Told::Panicked => panicked,
            Told::Lost { .. } => lost,
            Told::Condemned(_) => condemned,
            Told::Cancelled { .. } => cancelled,
            Told::TimedOut => timed_out,
            Told::Dropped => dropped,
            Told::MapFailed => with_map,
            Told::Terminated => terminated,
            Told::Refused => refused,
            Told::Wrong(_) => wrong,
        }
    }

    pub(crate) fn from_error(error: TaskError) -> Self {
        match error {
            TaskError::Panicked(_) => Told::Panicked,
            TaskError::WorkerLost { pid, exit, .. } => Told::Lost { pid, exit, in_chunk: false },
            TaskError::Protocol(error) => Told::Condemned(error),
            TaskError::Cancelled { .. } => Told::Cancelled { started: error.started() },
            TaskError::TimedOut { .. } => Told::TimedOut,
            TaskError::Terminated => Told::Terminated,
            TaskError::Closed => Told::Refused,
            error => Told::Wrong(error.to_string()),
        }
    }
}

/// How many calls ended in which way, over all rounds.
#[derive(Default, Debug)]
pub(crate) struct Totals {
    pub(crate) submitted: u64,
    pub(crate) endings: BTreeMap<&'static str, u64>,
    pub(crate) starts: u64,
    pub(crate) run_again: u64,
    pub(crate) signals: BTreeMap<&'static str, u64>,
    /// What is right, and rare enough to be shown.
    pub(crate) remarkable: Vec<String>,
}

pub(crate) struct Ledger {
    journal: String,
    books: Mutex<Books>,
}

/// In one round this many detached calls may leave no trace: a signal may hit a
/// task before it has noted its start, and nobody is told of these.
const VANISHED_MAX: usize = 2;

#[derive(Default)]
struct Books {
    entries: Vec<Entry>,
    signals: HashMap<u32, Vec<Signal>>,
}

impl Ledger {
    pub(crate) fn new(journal: String) -> Self {
        Ledger { journal, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an entry. Returns its number, counted from 0 in each round.
    pub(crate) fn open(&self, pool: usize, manner: Manner, by: &'static str) -> u64 {
        let mut books = self.books();
        let entry = Entry { pool, manner, by, retries: 0, threatened: false, told: None };
        books.entries.push(entry);
        books.entries.len() as u64 - 1
    }

    pub(crate) fn threaten(&self, number: u64) {
        self.books().entries[number as usize].threatened = true;
    }

    pub(crate) fn allow_retries(&self, number: u64, retries: usize) {
        self.books().entries[number as usize].retries = retries;
    }

    /// Closes an entry, once.
    pub(crate) fn tell(&self, number: u64, told: Told) {
        let mut books = self.books();
        let entry = &mut books.entries[number as usize];
        entry.told = Some(match entry.told.take() {
            None => told,
            Some(before) => Told::Wrong(format!("told twice: {before:?} and {told:?}")),
        });
    }

    /// Sends a signal to a worker, written down first.
    pub(crate) fn send(&self, pid: u32, signal: Signal) {
        self.books().signals.entry(pid).or_default().push(signal);
        // It may be gone by now.
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }

    /// The calls that have not been told anything.
    pub(crate) fn unresolved(&self) -> Vec<String> {
        let books = self.books();
        let open = books.entries.iter().enumerate().filter(|(_, entry)| entry.told.is_none());
        open.map(|(number, entry)| format!("call {number} has no end: {entry}")).collect()
    }

    /// What has happened so far: how many calls were told something, and bytes
    /// of what tasks noted.
    pub(crate) fn progress(&self) -> (usize, u64) {
        let told = self.books().entries.iter().filter(|entry| entry.told.is_some()).count();
        (told, fs::metadata(&self.journal).map_or(0, |journal| journal.len()))
    }

    /// Writes everything into a file, for who wants to know how it came.
    pub(crate) fn write_down(&self, path: &Path) -> io::Result<()> {
        let books = self.books();
        let mut file = io::BufWriter::new(fs::File::create(path)?);
        for (number, entry) in books.entries.iter().enumerate() {
            writeln!(file, "call {number}: {entry}")?;
        }
        for (pid, signals) in &books.signals {
            writeln!(file, "pid {pid} was sent {signals:?}")?;
        }
        file.flush()
    }

    /// Compares the books of a round with these pools. Says what does not fit.
    pub(crate) fn audit(&self, pools: &[Settings], totals: &mut Totals) -> Vec<String> {
        let mut violations = self.unresolved();
        let mut vanished = 0;
        let journal = fs::read_to_string(&self.journal).unwrap_or_default();
        let mut starts: HashMap<u64, Vec<u32>> = HashMap::new();
        for line in journal.lines() {
            match line.split_once(' ').map(|(number, pid)| (number.parse(), pid.parse())) {
                Some((Ok(number), Ok(pid))) => starts.entry(number).or_default().push(pid),
                _ => violations.push(format!("the journal is damaged: {line:?}")),
            }
        }
        let books = self.books();
        let crashes = books.crashes(&starts);
        for (number, entry) in books.entries.iter().enumerate() {
            let starts = starts.remove(&(number as u64)).unwrap_or_default();
            let Some(told) = &entry.told else { continue };
            totals.submitted += 1;
            *totals.endings.entry(told.name()).or_default() += 1;
            totals.starts += starts.len() as u64;
            totals.run_again += starts.len().saturating_sub(1) as u64;
            let pool = &pools[entry.pool];
            let what = format!("call {number}: {entry} with {pool:?}, started in {starts:?}");
            for problem in books.problems(entry, told, &starts, &crashes, pool) {
                violations.push(format!("it {problem}: {what}"));
            }
            let finished = pool.ending == Ending::Join && !pool.untrusted;
            let has_vanished = *told == Told::Detached && starts.is_empty() && finished;
            vanished += usize::from(has_vanished);
            if has_vanished || matches!(told, Told::Condemned(_)) {
                totals.remarkable.push(what);
            }
        }
        for (number, pids) in starts {
            violations.push(format!("{number} ran in {pids:?}, and nobody had called it"));
        }
        if vanished > VANISHED_MAX {
            violations
                .push(format!("{vanished} detached calls never ran: {:?}", totals.remarkable));
        }
        for signal in books.signals.values().flatten() {
            *totals.signals.entry(signal.as_str()).or_default() += 1;
        }
        violations
    }
}

impl Books {
    /// Which workers were brought down by a task of their own, and how.
    fn crashes(&self, starts: &HashMap<u64, Vec<u32>>) -> HashMap<u32, i32> {
        let entries = self.entries.iter().enumerate();
        let crashing = entries.filter_map(|(number, entry)| {
            let pid = starts.get(&(number as u64))?.last()?;
            Some((*pid, entry.manner.exitcode()?))
        });
        crashing.collect()
    }

    /// Whether this signal was sent to this worker from outside.
    fn was_sent(&self, pid: u32, signal: Signal) -> bool {
        self.signals.get(&pid).is_some_and(|sent| sent.contains(&signal))
    }

    fn was_killed(&self, pid: u32) -> bool {
        self.was_sent(pid, Signal::SIGKILL) || self.was_sent(pid, Signal::SIGTERM)
    }

    fn problems(
        &self,
        entry: &Entry,
        told: &Told,
        starts: &[u32],
        crashes: &HashMap<u32, i32>,
        pool: &Settings,
    ) -> Vec<&'static str> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, problem| {
            if !holds {
                problems.push(problem);
            }
        };
        let again = starts.len().saturating_sub(1);
        expect(again <= entry.retries, "ran twice");
        expect(
            starts[..again].iter().all(|&pid| self.was_killed(pid)),
            "was run again though its worker had not died",
        );
        match told {
            Told::Answered => {
                expect(!starts.is_empty(), "was answered without having run");
                expect(entry.manner.exitcode().is_none(), "survived its own crash");
                expect(entry.manner != Manner::Panic, "did not panic");
            }
            Told::Panicked => {
                expect(!starts.is_empty(), "panicked without having run");
                expect(entry.manner == Manner::Panic, "panicked");
            }
            Told::Lost { pid, exit, in_chunk } => {
                let signal = exit.signal().and_then(|number| Signal::try_from(number).ok());
                let outside = signal.is_some_and(|signal| self.was_sent(*pid, signal));
                let own = crashes.get(pid).is_some_and(|code| exit.exitcode() == Some(*code));
                let own = own && (*in_chunk || entry.manner.exitcode().is_some());
                expect(outside || own, "was killed, and is innocent");
                let here = starts.last().is_none_or(|last| last == pid);
                expect(here || *in_chunk, "was lost with another's worker");
            }
            Told::Condemned(_) => {
                let stopped = starts.iter().any(|&pid| self.was_sent(pid, Signal::SIGSTOP));
                expect(stopped, "had its worker condemned, which had not been held up");
            }
            Told::Cancelled { started } => {
                expect(entry.threatened, "was cancelled, and nobody had asked for it");
                expect(*started != Some(false) || starts.is_empty(), "ran and is said not to have");
            }
            // It may have been stopped before it could note its start.
            Told::TimedOut => expect(entry.threatened, "timed out, and had no limit"),
            Told::Terminated => {
                expect(pool.ending != Ending::Join, "was terminated, and its pool was not");
            }
            Told::Refused => expect(starts.is_empty(), "was refused, and ran"),
            Told::Dropped | Told::Detached | Told::MapFailed => {}
            Told::Wrong(_) => expect(false, "ended wrongly"),
        }
        problems
    }
}
