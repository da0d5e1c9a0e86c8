//! What can be asked about a pool: what runs now, and what has been counted.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Supervisor;
use super::call::Ended;
use crate::error::TaskError;
#[cfg(feature = "histograms")]
use crate::error::TaskInfo;
use crate::id::WorkerId;
use crate::observe::Levels;
#[cfg(feature = "histograms")]
use crate::observe::{Percentiles, Times};
#[cfg(feature = "sandbox")]
use crate::sandbox::SandboxReport;
use crate::sched::{Mode, Place, Stage, TaskKey, WorkerKey};
use crate::slot_word::Phase;
use crate::sys::clock::monotonic_nanos;
use crate::time::Time;

/// Calls by how they ended, since the pool was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) timed_out: u64,
    pub(crate) lost: u64,
    /// Everything else: encoding, decoding, limits, the pool's own end.
    pub(crate) failed: u64,
    pub(crate) workers_started: u64,
    pub(crate) workers_respawned: u64,
    pub(crate) workers_lost: u64,
    pub(crate) workers_abandoned: u64,
}

impl Counts {
    /// Counts an outcome and says its name.
    pub(super) fn count(&mut self, ended: &Ended) -> &'static str {
        let error = ended.as_ref().map(drop).map_err(|failed| &failed.error);
        let (counter, name) = match error {
            Ok(_) => (&mut self.completed, "completed"),
            Err(TaskError::Panicked(_)) => (&mut self.panicked, "panicked"),
            Err(TaskError::Cancelled { .. }) => (&mut self.cancelled, "cancelled"),
            Err(TaskError::TimedOut { .. }) => (&mut self.timed_out, "timed_out"),
            Err(TaskError::WorkerLost { .. } | TaskError::Protocol(_)) => (&mut self.lost, "lost"),
            Err(_) => (&mut self.failed, "failed"),
        };
        *counter += 1;
        name
    }
}

/// Where a task is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TaskView {
    Queued,
    Running { pid: u32, since: Instant },
    Finished,
}

/// A pool at one moment.
#[derive(Clone, Debug)]
pub(crate) struct PoolView {
    pub(crate) mode: Mode,
    pub(crate) workers: Vec<WorkerReport>,
    /// Calls that have not ended.
    pub(crate) tasks: usize,
    pub(crate) workers_wanted: usize,
    pub(crate) counts: Counts,
}

/// A worker at one moment.
#[derive(Clone, Debug)]
pub(crate) struct WorkerReport {
    pub(crate) id: WorkerId,
    pub(crate) seat: usize,
    pub(crate) pid: Option<u32>,
    pub(crate) stage: Stage,
    pub(crate) tasks_done: u64,
    pub(crate) restarts: u64,
    pub(crate) has_tasks: bool,
    #[cfg(feature = "sandbox")]
    pub(crate) sandbox: Option<SandboxReport>,
    pub(crate) running: Option<RunningView>,
}

/// The task that a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct RunningView {
    pub(crate) task: crate::error::TaskInfo,
    pub(crate) since: Instant,
}

impl Supervisor {
    /// Where a task is now.
    pub(crate) fn task(&self, task: TaskKey) -> TaskView {
        let core = self.core();
        match core.sched.place(task) {
            None => TaskView::Finished,
            Some(Place::Queued) => TaskView::Queued,
            Some(Place::Sent { worker, seq }) => match core.links.running_since(worker, seq) {
                Some((pid, since)) => TaskView::Running { pid, since: instant(since) },
                None => TaskView::Queued,
            },
        }
    }

    /// How many workers there should be now.
    pub(crate) fn workers_wanted(&self) -> usize {
        self.workers_wanted.load(Ordering::Relaxed)
    }

    /// How much there is of what, for whoever draws curves.
    pub(super) fn levels(&self) -> Levels {
        let core = self.core();
        let counts = &core.counts;
        let mut levels = Levels {
            submitted: counts.submitted,
            ended: [
                counts.completed,
                counts.panicked,
                counts.cancelled,
                counts.timed_out,
                counts.lost,
                counts.failed,
            ],
            workers_started: counts.workers_started,
            workers_respawned: counts.workers_respawned,
            workers_lost: counts.workers_lost,
            ..Levels::default()
        };
        if !core.abandoned {
            let (tasks, queued) = core.sched.task_counts();
            (levels.queued, levels.in_flight) = (queued, tasks - queued);
            for (stage, has_tasks) in core.sched.stages() {
                let state = match (stage, has_tasks) {
                    (Stage::Starting, _) => 0,
                    (Stage::Ready, false) => 1,
                    (Stage::Ready, true) => 2,
                    (Stage::Leaving, _) => 3,
                    (Stage::Doomed, _) => 4,
                    (Stage::Abandoned, _) => 5,
                };
                levels.workers[state] += 1;
            }
        }
        levels
    }

    /// How long calls have waited, and run.
    #[cfg(feature = "histograms")]
    pub(crate) fn percentiles(&self) -> (Percentiles, Percentiles) {
        self.core().ledger.percentiles()
    }

    /// The calls of late that took longest, longest first, and when each ended.
    #[cfg(feature = "histograms")]
    pub(crate) fn slowest(&self) -> Vec<(TaskInfo, Times, Instant)> {
        let mut core = self.core();
        let slowest = core.ledger.slowest(Time(monotonic_nanos())).iter();
        slowest.map(|slow| (slow.task.clone(), slow.times, instant(slow.ended))).collect()
    }

    pub(crate) fn view(&self) -> PoolView {
        let core = self.core();
        let workers = core.sched.workers().map(|worker| {
            let running = worker.in_flight.iter().find_map(|&(seq, task)| {
                let (_, since) = core.links.running_since(worker.key, seq)?;
                let info = core.sched.data(task)?.info(task.id);
                Some(RunningView { task: info, since: instant(since) })
            });
            WorkerReport {
                id: worker.key.id,
                seat: worker.key.seat as usize,
                pid: core.links.pid(worker.key),
                stage: worker.stage,
                tasks_done: worker.answered,
                restarts: worker.restarts,
                has_tasks: !worker.in_flight.is_empty(),
                #[cfg(feature = "sandbox")]
                sandbox: self.plan.sandbox.as_ref().and_then(|sandbox| {
                    SandboxReport::from_bits(sandbox, core.links.get(worker.key)?.sandbox)
                }),
                running,
            }
        });
        PoolView {
            mode: core.sched.mode(),
            workers: workers.collect(),
            tasks: core.sched.task_counts().0,
            workers_wanted: core.sched.settings().workers,
            counts: core.counts,
        }
    }
}

impl super::Links {
    /// Since when the task runs, and in which process; `None` unless it does.
    fn running_since(&self, worker: WorkerKey, seq: u64) -> Option<(u32, Time)> {
        let link = self.get(worker)?;
        let word = link.page.load(seq);
        let runs = matches!(
            word.phase(),
            Some(Phase::Running | Phase::CancelReq | Phase::Killing | Phase::Done)
        );
        (runs && word.seq() == seq).then(|| (link.pid, Time(link.page.started_at(seq))))
    }
}

/// The same moment on the clock that users read. A worker's clock is ours, but
/// a hostile one may have written anything.
fn instant(time: Time) -> Instant {
    let now = Instant::now();
    now.checked_sub(Time(monotonic_nanos()) - time).unwrap_or(now)
}
