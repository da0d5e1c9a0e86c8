//! What a pool says about itself: `Status` now, `Stats` since it was made.

use std::fmt;
#[cfg(feature = "histograms")]
use std::time::Duration;
use std::time::Instant;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::error::TaskInfo;
use crate::id::WorkerId;
#[cfg(feature = "histograms")]
use crate::observe::Percentiles;
#[cfg(feature = "sandbox")]
use crate::sandbox::SandboxReport;
use crate::sched::{Mode, Stage};
use crate::supervisor::{PoolView, RunningView, Supervisor, WorkerReport};
use crate::sys::memory::resident_bytes_of;

/// Whether a pool takes calls.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// It does.
    Open,
    /// No more; those it has are finished.
    Closed,
    /// No more, and those it had were ended.
    Terminated,
    /// No worker can be started.
    Broken,
}

/// A pool at one moment, from [`Pool::status`](crate::Pool::status).
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Status {
    /// Whether it takes calls.
    pub state: PoolState,
    /// How many workers it should have, beside spares.
    pub workers: usize,
    /// Workers that are not ready yet.
    pub starting: usize,
    /// Workers that are ready and have nothing to do, as far as they may get a
    /// task now.
    pub idle: usize,
    /// Those that may not, as enough others have one: see
    /// [`spare_workers`](crate::PoolBuilder::spare_workers).
    pub spare: usize,
    /// Workers that run a task.
    pub busy: usize,
    /// Workers that were killed and do not die, see [`WorkerState::Abandoned`].
    pub abandoned: usize,
    /// Calls that wait, in the queue or for their turn on a worker.
    pub queued: usize,
    /// Calls that run. A chunk of a map or a stream counts as one.
    pub running: usize,
}

impl Status {
    pub(super) fn new(view: &PoolView) -> Self {
        let count = |state| view.workers.iter().filter(|w| worker_state(w) == state).count();
        let (busy, ready) = (count(WorkerState::Busy), count(WorkerState::Idle));
        let idle = ready.min(view.workers_wanted.saturating_sub(busy));
        let stopping = view.workers.iter().filter(|w| w.running.is_some()).count();
        let running = stopping.min(view.tasks);
        Status {
            state: match view.mode {
                Mode::Open => PoolState::Open,
                Mode::Closed => PoolState::Closed,
                Mode::Terminated => PoolState::Terminated,
                Mode::Broken => PoolState::Broken,
            },
            workers: view.workers_wanted,
            starting: count(WorkerState::Starting),
            idle,
            spare: ready - idle,
            busy,
            abandoned: count(WorkerState::Abandoned),
            queued: view.tasks - running,
            running,
        }
    }
}

/// What a pool has counted since it was made, from
/// [`Pool::stats`](crate::Pool::stats). Every submitted call ends in exactly
/// one of the others, so that `submitted` is their sum once nothing is left.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Stats {
    /// Calls taken in. A chunk of a map or a stream counts as one.
    pub submitted: u64,
    /// Calls that were answered.
    pub completed: u64,
    /// Calls whose task panicked.
    pub panicked: u64,
    /// Calls that were cancelled.
    pub cancelled: u64,
    /// Calls that ran for too long.
    pub timed_out: u64,
    /// Calls whose worker was lost.
    pub lost: u64,
    /// Calls that ended in any other way without an answer.
    pub failed: u64,
    /// Worker processes started.
    pub workers_started: u64,
    /// Those of them that took the place of another, whatever had become of it.
    pub workers_respawned: u64,
    /// Workers that died without having been asked to.
    pub workers_lost: u64,
    /// Workers that were killed and did not die within 5 seconds, whatever
    /// became of them later.
    pub workers_abandoned: u64,
    /// How long calls that were answered, or panicked, have waited in the queue for
    /// their bodies to begin; not how long for a place there. Feature `histograms`.
    #[cfg(feature = "histograms")]
    pub wait: Percentiles,
    /// How long their bodies ran. Feature `histograms`.
    #[cfg(feature = "histograms")]
    pub run: Percentiles,
}

impl Stats {
    pub(super) fn new(supervisor: &Supervisor) -> Self {
        let counts = supervisor.view().counts;
        #[cfg(feature = "histograms")]
        let (wait, run) = supervisor.percentiles();
        Stats {
            submitted: counts.submitted,
            completed: counts.completed,
            panicked: counts.panicked,
            cancelled: counts.cancelled,
            timed_out: counts.timed_out,
            lost: counts.lost,
            failed: counts.failed,
            workers_started: counts.workers_started,
            workers_respawned: counts.workers_respawned,
            workers_lost: counts.workers_lost,
            workers_abandoned: counts.workers_abandoned,
            #[cfg(feature = "histograms")]
            wait,
            #[cfg(feature = "histograms")]
            run,
        }
    }
}

/// What a worker does.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Not ready yet.
    Starting,
    /// Ready, with nothing to do. So are spares, and each of these may be the
    /// next to get a task.
    Idle,
    /// Has at least one task.
    Busy,
    /// Told to leave.
    Leaving,
    /// Being stopped.
    Stopping,
    /// It was killed and does not die: it waits in the kernel for something
    /// that does not come, a disk or a server, or has very much memory to give
    /// back. It runs no code any more, its task's call has ended, and another
    /// worker has its place; but if that one does not die either, there is no
    /// third. Nothing waits for it. It leaves this list when it is dead.
    ///
    /// Or it was stopped while it was being started, and has not even come to
    /// its program; it has no `pid` then.
    Abandoned,
}

/// A worker at one moment, from [`Pool::workers`](crate::Pool::workers).
#[non_exhaustive]
#[derive(Clone, Debug, Serialize)]
pub struct WorkerInfo {
    /// Its id.
    pub id: WorkerId,
    /// Its place in the pool, from 0. A lost worker's successor has the same.
    pub index: usize,
    /// Its process; `None` until that is started.
    pub pid: Option<u32>,
    /// What it does.
    pub state: WorkerState,
    /// What it runs.
    pub task: Option<RunningTask>,
    /// Tasks it has answered.
    pub tasks_done: u64,
    /// How many workers had its place before.
    pub restarts: u64,
    /// What is in force of its [sandbox](crate::PoolBuilder::sandbox); `None`
    /// without one, and until the worker is ready.
    #[cfg(feature = "sandbox")]
    pub sandbox: Option<SandboxReport>,
    /// Bytes in memory now, what it shares with others included. `None` if that
    /// cannot be read.
    pub memory: Option<u64>,
}

/// The task that a worker runs.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct RunningTask {
    /// Which call it is.
    pub info: TaskInfo,
    /// When its body started.
    pub since: Instant,
}

/// The call and how long it has run, in seconds.
impl Serialize for RunningTask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut task = serializer.serialize_struct("RunningTask", 2)?;
        task.serialize_field("info", &self.info)?;
        task.serialize_field("seconds", &self.since.elapsed().as_secs_f64())?;
        task.end()
    }
}

/// One of the calls that took longest of late, from
/// [`Pool::slowest`](crate::Pool::slowest). Feature `histograms`.
#[cfg(feature = "histograms")]
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct SlowTask {
    /// Which call it was.
    pub info: TaskInfo,
    /// How long it waited in the queue for its body to begin.
    pub waited: Duration,
    /// How long its body ran.
    pub ran: Duration,
    /// When it ended.
    pub ended: Instant,
}

/// The call, and seconds: `waited`, `ran`, and how long `ago` it ended.
#[cfg(feature = "histograms")]
impl Serialize for SlowTask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut task = serializer.serialize_struct("SlowTask", 4)?;
        task.serialize_field("info", &self.info)?;
        task.serialize_field("waited", &self.waited.as_secs_f64())?;
        task.serialize_field("ran", &self.ran.as_secs_f64())?;
        task.serialize_field("ago", &self.ended.elapsed().as_secs_f64())?;
        task.end()
    }
}

#[cfg(feature = "histograms")]
impl SlowTask {
    /// Those of late that took longest, longest first.
    pub(super) fn all_of(supervisor: &Supervisor) -> Vec<Self> {
        let slowest = supervisor.slowest().into_iter();
        let tasks = slowest.map(|(info, times, ended)| SlowTask {
            info,
            waited: times.waited,
            ran: times.ran,
            ended,
        });
        tasks.collect()
    }
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PoolState::Open => "open",
            PoolState::Closed => "closed",
            PoolState::Terminated => "terminated",
            PoolState::Broken => "broken",
        })
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerState::Starting => "starting",
            WorkerState::Idle => "idle",
            WorkerState::Busy => "busy",
            WorkerState::Leaving => "leaving",
            WorkerState::Stopping => "stopping",
            WorkerState::Abandoned => "abandoned",
        })
    }
}

impl WorkerInfo {
    pub(super) fn new(report: WorkerReport) -> Self {
        let state = worker_state(&report);
        #[cfg(feature = "sandbox")]
        let sandbox = report.sandbox;
        let WorkerReport { id, seat, pid, tasks_done, restarts, running, .. } = report;
        let task = running.map(|RunningView { task, since }| RunningTask { info: task, since });
        let memory = pid.and_then(resident_bytes_of);
        WorkerInfo {
            id,
            index: seat,
            pid,
            state,
            task,
            tasks_done,
            restarts,
            memory,
            #[cfg(feature = "sandbox")]
            sandbox,
        }
    }
}

fn worker_state(report: &WorkerReport) -> WorkerState {
    match report.stage {
        Stage::Starting => WorkerState::Starting,
        Stage::Ready if report.has_tasks => WorkerState::Busy,
        Stage::Ready => WorkerState::Idle,
        Stage::Leaving => WorkerState::Leaving,
        Stage::Doomed => WorkerState::Stopping,
        Stage::Abandoned => WorkerState::Abandoned,
    }
}
