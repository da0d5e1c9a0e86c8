//! What a pool says about itself: `Status` now, `Stats` since it was made.

use std::time::Instant;

use crate::error::TaskInfo;
use crate::id::WorkerId;
#[cfg(feature = "sandbox")]
use crate::sandbox::SandboxReport;
use crate::sched::{Mode, Stage};
use crate::supervisor::{Counts, PoolView, RunningView, WorkerReport};

/// Whether a pool takes calls.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// Workers that died without having been asked to.
    pub workers_lost: u64,
    /// Workers that were killed and did not die within 5 seconds, whatever
    /// became of them later.
    pub workers_abandoned: u64,
}

impl Stats {
    pub(super) fn new(counts: &Counts) -> Self {
        Stats {
            submitted: counts.submitted,
            completed: counts.completed,
            panicked: counts.panicked,
            cancelled: counts.cancelled,
            timed_out: counts.timed_out,
            lost: counts.lost,
            failed: counts.failed,
            workers_started: counts.workers_started,
            workers_lost: counts.workers_lost,
            workers_abandoned: counts.workers_abandoned,
        }
    }
}

/// What a worker does.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
#[derive(Clone, Debug)]
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

impl WorkerInfo {
    pub(super) fn new(report: WorkerReport) -> Self {
        let state = worker_state(&report);
        #[cfg(feature = "sandbox")]
        let sandbox = report.sandbox;
        let WorkerReport { id, seat, pid, tasks_done, restarts, running, .. } = report;
        let task = running.map(|RunningView { task, since }| RunningTask { info: task, since });
        WorkerInfo {
            id,
            index: seat,
            pid,
            state,
            task,
            tasks_done,
            restarts,
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
