//! The driver of one pool: the shell around `sched`. Turns its actions into
//! frames, signals and answers, and what happens into its `handle_*` calls.
//! Called by `pool`; decides nothing about tasks itself.
//!
//! One task's journey:
//!
//! ```text
//!  handle            Supervisor (one lock)             link, in the driver task
//!    │ submit          │                                 │
//!    ├────────────────▶│ sched: Run ─▶ slot word Queued   │
//!    │                 │             frame gathered ─────▶│ write
//!    │                 │                                 │ … worker …
//!    │                 │                                 │ read, or fetch from
//!    │                 │◀── messages ────────────────────┤ the outbox
//!    │◀── Receiver ────┤ sched: handle_answer             │
//! ```
//!
//! State is shared under one short lock instead of being owned by the driver
//! task alone: `try_apply` has to know at once whether there is room, a queued
//! task has to leave the queue when its handle is dropped, and both must hold
//! after the driver's runtime is gone. Nothing is woken, signalled or dropped
//! under the lock that could run code of the user's; that is gathered in
//! [`Effects`] and done after.

mod alarm;
mod call;
mod driver;
mod ears;
mod effects;
mod entrance;
mod intake;
mod landing;
mod link;
mod links;
mod lookout;
mod messages;
mod output;
mod report;
mod waiting;
mod watch;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::Span;

pub(crate) use self::call::{Ended, Failed, Items, Receiver, Request, failure_error};
pub(crate) use self::landing::{Landing, Part};
pub(crate) use self::report::{Counts, PoolView, RunningView, TaskView, WorkerReport};
pub(crate) use self::waiting::{Begun, Sleep};

use self::alarm::Alarm;
use self::call::{Call, Sink, wake};
use self::ears::PoolEars;
use self::effects::Effects;
use self::entrance::{Entrance, Porter};
use self::links::Links;
use self::lookout::Pace;
use crate::error::{Cause, SpawnError, TaskError, TaskInfo};
use crate::id::TaskId;
use crate::observe::{self, HeldSpan, Ledger, Meter};
use crate::proto::draft::Payload;
#[cfg(feature = "sandbox")]
use crate::sandbox::Sandbox;
use crate::sched::{Intent, Mode, Scheduler, Settings, TaskKey, Terms};
use crate::start::owner::{Event, Owner, new_pool_id};
use crate::start::spawn::{SpawnSpec, Way};
use crate::start::warden::Warden;
use crate::sys::clock::monotonic_nanos;
use crate::sys::fork::{Incarnation, check_alone};
use crate::sys::layout::Tallied;
use crate::time::Time;

/// Calls that are made before a driver that does not come is called in another way: some
/// ten microseconds' worth.
const UNHEARD_MOST: u32 = 32;

/// Checks what a worker's initializer returned.
pub(crate) type InitCheck = Box<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// Everything about a pool that its builder decided.
pub(crate) struct Plan {
    pub(crate) name: Arc<str>,
    pub(crate) settings: Settings,
    pub(crate) queue_limit: usize,
    pub(crate) task_timeout: Option<Duration>,
    /// Resident bytes above which a worker ends itself.
    pub(crate) memory_limit: Option<u64>,
    #[cfg(feature = "sandbox")]
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) frame_bytes_max: usize,
    /// Those that the workers may use, as far as this process may, too.
    pub(crate) processors: usize,
    pub(crate) fingerprint: u64,
    /// The worker's first frame, whole.
    pub(crate) setup: Payload,
    pub(crate) init_check: Option<InitCheck>,
    /// Ends the pool when it is cancelled.
    pub(crate) token: Option<CancellationToken>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a call needs of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QueuePlace {
    /// A place was taken for it.
    Admitted,
    /// It is queued even if there is no place; later calls wait the longer.
    Any,
}

/// One pool.
#[derive(Debug)]
pub(crate) struct Supervisor {
    id: u64,
    /// Who made the pool. In a copy of that process, made by `fork`, the status
    /// pages are still those of the original's workers.
    incarnation: Incarnation,
    plan: Plan,
    spec: Arc<SpawnSpec>,
    core: Apart<Mutex<Core>>,
    entrance: Apart<Entrance>,
    /// Places in the queue, for callers that wait for one.
    admission: Apart<Semaphore>,
    /// Something changed that `join` or `ready` may wait for.
    changed: Notify,
    /// Callers that wait for `changed`; else nobody is told.
    waiting: AtomicUsize,
    /// The call whose end is worth looking out for; 0: none.
    lone: AtomicU64,
    /// Calls whose callers have been told of their end.
    told: AtomicU64,
    /// A link has woken several callers since the driver was last polled, and has asked to
    /// be polled again after them. They may call again, and what they call for is sent
    /// together.
    expects_calls: AtomicBool,
    /// Calls the driver.
    alarm: Alarm,
    ears: PoolEars,
    meter: Meter,
    /// What the warden said, for the driver. At most a few entries per worker.
    inbox: Mutex<VecDeque<Event>>,
    /// Workers that were asked for and of which a process may exist that is
    /// worth waiting for.
    processes: AtomicUsize,
    /// Copy of the scheduler's, for those who only plan by it.
    workers_wanted: AtomicUsize,
    warden: &'static Warden,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// On cache lines of its own: what one thread writes all the time is not to be fetched again
/// by others for what is beside it. (Processors fetch lines in pairs.)
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What the lock protects.
#[derive(Debug)]
struct Core {
    sched: Scheduler<Call>,
    porter: Porter,
    links: Links,
    counts: Counts,
    /// The plan's.
    memory_limit: Option<u64>,
    ledger: Ledger<TaskInfo>,
    pace: Pace,
    /// Why the last worker that did not start did not.
    last_failure: Option<SpawnError>,
    /// Places that are in use beyond what there should be: of calls that were
    /// taken all the same, and of workers that are no more.
    overdraft: usize,
    /// When the driver looks at its timers next, if nothing wakes it before.
    armed: Time,
    /// There is no driver any more.
    abandoned: bool,
    /// Calls that feed themselves (`map_async`): `join` waits for them.
    feeding: usize,
    /// Calls that have begun and may submit more: the driver stays for them.
    begun: usize,
    /// Callers that wait for the pool's end.
    joining: usize,
    /// Calls that have ended, of which some are still to be told so.
    ended: u64,
    /// Calls that were made since a link was last called and has not come; 0: all have.
    unheard: u32,
}

impl Supervisor {
    /// Starts a pool: its driver on `runtime`, its workers.
    pub(crate) fn start(
        plan: Plan,
        spec: SpawnSpec,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, SpawnError> {
        let warden = Warden::global()
            .map_err(|error| os_error("start the thread that watches over workers", error))?;
        if let Way::Fork(_) = spec.way {
            // Now, and not by each worker in turn.
            check_alone().map_err(|error| os_error("start a worker process", error))?;
        }
        let incarnation = Incarnation::current()
            .map_err(|error| os_error("map memory that tells a forked copy", error))?;
        let now = Time(monotonic_nanos());
        let room = plan.queue_limit + plan.settings.workers;
        let supervisor = Arc::new(Supervisor {
            id: new_pool_id(),
            incarnation,
            core: Apart(Mutex::new(Core {
                sched: Scheduler::new(now, plan.settings.clone()),
                porter: Porter::default(),
                links: Links::default(),
                counts: Counts::default(),
                memory_limit: plan.memory_limit,
                ledger: Ledger::new(),
                pace: Pace::default(),
                last_failure: None,
                overdraft: 0,
                armed: Time::FAR,
                abandoned: false,
                feeding: 0,
                begun: 0,
                joining: 0,
                ended: 0,
                unheard: 0,
            })),
            entrance: Apart::default(),
            admission: Apart(Semaphore::new(room)),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            lone: AtomicU64::new(0),
            told: AtomicU64::new(0),
            expects_calls: AtomicBool::new(false),
            alarm: Alarm::default(),
            ears: PoolEars::default(),
            meter: Meter::new(&plan.name),
            inbox: Mutex::default(),
            processes: AtomicUsize::new(0),
            workers_wanted: AtomicUsize::new(plan.settings.workers),
            warden,
            runtime: runtime.clone(),
            spec: Arc::new(spec),
            plan,
        });
        runtime.spawn(driver::Driver::new(Arc::clone(&supervisor)));
        supervisor.act(|_, _, _| ());
        Ok(supervisor)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    // Calls -----------------------------------------------------------------

    /// Why no new call is taken, if none is.
    pub(crate) fn refusal(&self) -> Option<TaskError> {
        if self.is_in_a_copy() {
            return Some(TaskError::Terminated);
        }
        self.core().refusal()
    }

    /// Waits for a place in the queue, which the next [`submit`](Self::submit)
    /// that says so takes.
    pub(crate) async fn admit(&self) {
        // Closed with the pool; then `submit` says why.
        if let Ok(permit) = self.admission.acquire().await {
            permit.forget();
        }
    }

    /// Takes a place in the queue if there is one.
    pub(crate) fn try_admit(&self) -> bool {
        self.admission.try_acquire().map(|permit| permit.forget()).is_ok()
    }

    /// Gives a place back that was not used.
    pub(crate) fn give_back_place(&self) {
        if self.is_in_a_copy() {
            return;
        }
        let places = self.core().freed(1);
        self.admission.add_permits(places);
    }

    /// Queues a call, in the place that was taken for it, if there is one.
    pub(crate) fn submit(
        self: &Arc<Self>,
        request: Request,
        terms: Terms,
        items: Option<Arc<Items>>,
        place: QueuePlace,
    ) -> (TaskKey, Receiver) {
        let call = self.call(request, items.map_or(Sink::One, Sink::Stream));
        let receiver = call.receiver();
        let task = self.queue(call, terms, Some(place));
        receiver.watch(self, task);
        (task, receiver)
    }

    /// Queues part of a call that has begun and bounds its own parts: it needs no
    /// place, and a closed pool takes it too.
    pub(crate) fn submit_part(
        self: &Arc<Self>,
        request: Request,
        terms: Terms,
        part: Part,
    ) -> TaskKey {
        let call = self.call(request, Sink::Part(part));
        self.queue(call, terms, None)
    }

    fn call(&self, request: Request, sink: Sink) -> Call {
        let mut span = observe::task_span(&self.plan.name, request.name, request.label.as_deref());
        if span.is_disabled() && self.ears.may_forward() {
            // What the worker has to tell belongs there.
            span = HeldSpan::open(Span::current);
        }
        let trace = self.ears.may_listen().then(|| observe::trace_of(&span)).flatten();
        Call::new(request, sink, (!span.is_disabled()).then(|| Arc::new(span)), trace)
    }

    fn queue(
        self: &Arc<Self>,
        mut call: Call,
        mut terms: Terms,
        place: Option<QueuePlace>,
    ) -> TaskKey {
        if self.is_in_a_copy() {
            // The workers, and the pages that tell what is theirs, are not; and whoever had
            // the lock is not there to let go of it.
            let ended = Err(Failed::new(TaskError::Terminated, false));
            call.resolve(ended).into_iter().for_each(wake);
            return TaskKey::NOWHERE;
        }
        terms.timeout = terms.timeout.or(self.plan.task_timeout);
        terms.alone = call.args.attached().is_some();
        if call.is_plain() && !terms.alone {
            match self.enter(call, terms, place) {
                Ok(task) => return task,
                Err(refused) => call = refused,
            }
        }
        let id = self.next_task();
        self.announce(id, &call, place);
        let mut effects = Effects::default();
        let mut core = self.core();
        let refusal = match core.refusal() {
            // A closed pool finishes what was begun, as long as there is one.
            Some(TaskError::Closed) if place.is_none() => {
                core.abandoned.then_some(TaskError::Terminated)
            }
            refusal => refusal,
        };
        let task = match refusal {
            Some(why) => {
                if place == Some(QueuePlace::Admitted) {
                    effects.free_places(core.freed(1));
                }
                core.resolve(id, call, Err(Failed::new(why, false)), "refused", &mut effects);
                TaskKey::of_none(id)
            }
            None => {
                core.counts.submitted += 1;
                if place == Some(QueuePlace::Any) && !self.try_admit() {
                    core.overdraft += 1;
                }
                let now = Time(monotonic_nanos());
                let core = &mut *core;
                core.pace.handle_submit(!core.sched.has_tasks());
                let task = core.sched.handle_submit(now, id, call, terms, &core.links);
                core.perform(self, &mut effects);
                core.note_unheard(1);
                effects.nudge |= core.is_unheard();
                task
            }
        };
        drop(core);
        effects.run(self);
        task
    }

    /// Tells who listens that a call is queued, before anybody can tell what becomes
    /// of it.
    fn announce(&self, id: TaskId, call: &Call, place: Option<QueuePlace>) {
        let Some(span) = call.span() else { return };
        let core = self.core();
        let is_taken = match core.refusal() {
            Some(TaskError::Closed) => place.is_none() && !core.abandoned,
            refusal => refusal.is_none(),
        };
        drop(core);
        if is_taken {
            observe::task_queued(&span, id);
        }
    }

    /// Names a call that failed before it could be queued.
    pub(crate) fn refuse(&self) -> TaskKey {
        if self.is_in_a_copy() {
            return TaskKey::NOWHERE;
        }
        TaskKey::of_none(self.next_task())
    }

    pub(crate) fn cancel(self: &Arc<Self>, task: TaskKey) {
        if self.is_in_a_copy() {
            return;
        }
        self.act(|sched, now, links| sched.handle_cancel(now, task, Intent::Cancel, links));
    }

    /// Cancels calls that belong together: newest first and in one go, so that
    /// none takes the place of another that was stopped before it.
    pub(crate) fn cancel_all(self: &Arc<Self>, mut tasks: Vec<TaskKey>) {
        if self.is_in_a_copy() {
            return;
        }
        tasks.sort_unstable_by_key(|task| std::cmp::Reverse(task.id));
        self.act(|sched, now, links| {
            for task in tasks {
                sched.handle_cancel(now, task, Intent::Cancel, links);
            }
        });
    }

    /// What a chunk that runs has come to so far; `None` if it does not run. `cut`:
    /// it begins no further item.
    pub(crate) fn look_into(&self, task: TaskKey, cut: bool) -> Option<Tallied> {
        if self.is_in_a_copy() {
            return None;
        }
        let core = self.core();
        core.links.look_into(core.sched.place(task)?, cut)
    }

    /// Lets a stream's worker send `n` more items.
    pub(crate) fn grant(&self, task: TaskKey, items: &Items, n: u32) {
        if self.is_in_a_copy() {
            return;
        }
        let core = self.core();
        items.grant(n);
        core.links.grant(core.sched.place(task), n);
    }

    // The pool's life -------------------------------------------------------

    pub(crate) fn close(self: &Arc<Self>) {
        if self.is_in_a_copy() {
            return;
        }
        self.act(|sched, now, links| sched.handle_close(now, links));
        self.alarm.ring();
    }

    pub(crate) fn terminate(self: &Arc<Self>) {
        if self.is_in_a_copy() {
            return;
        }
        self.act(|sched, now, links| sched.handle_terminate(now, links));
        self.alarm.ring();
    }

    pub(crate) fn resize(self: &Arc<Self>, workers: usize) {
        if self.is_in_a_copy() {
            return;
        }
        let mut effects = Effects::default();
        let mut core = self.core();
        let before = core.sched.settings().workers;
        // With each worker goes a place in the queue.
        if workers > before {
            let places = core.freed(workers - before);
            effects.free_places(places);
        } else {
            let given_up = self.admission.forget_permits(before - workers);
            core.overdraft += before - workers - given_up;
        }
        self.workers_wanted.store(workers, Ordering::Relaxed);
        core.act(self, &mut effects, |sched, now, links| sched.handle_resize(now, workers, links));
        drop(core);
        effects.run(self);
        self.alarm.ring();
    }

    /// Ends everything at once and for good: the last handle, or the runtime,
    /// is gone. Workers get SIGKILL; the warden collects them.
    pub(crate) fn abandon(self: &Arc<Self>) {
        if self.is_in_a_copy() {
            return;
        }
        let mut effects = Effects::default();
        let mut links = Links::default();
        let mut core = self.core();
        if !core.abandoned {
            core.abandoned = true;
            let core = &mut *core;
            core.sched.handle_abandon(&core.links);
            core.perform(self, &mut effects);
            std::mem::swap(&mut core.links, &mut links);
            self.warden.kill_all(self.id);
        }
        drop(core);
        // With arguments that may be memory of the user's own: see `Links::remove`.
        drop(links);
        effects.run(self);
        // With the sockets of workers that nobody will serve.
        self.inbox().clear();
        self.alarm.ring();
    }

    /// Whether this process is a forked copy of the pool's: what it drops has not
    /// been given up, and what it submits has nobody to run it.
    fn is_in_a_copy(&self) -> bool {
        !self.incarnation.is_current()
    }

    // Inside ----------------------------------------------------------------

    /// Lets the scheduler know what happened, and does what it wants done.
    fn act<R>(self: &Arc<Self>, event: impl FnOnce(&mut Scheduler<Call>, Time, &Links) -> R) -> R {
        let mut effects = Effects::default();
        let mut core = self.core();
        let result = core.act(self, &mut effects, event);
        drop(core);
        effects.run(self);
        result
    }

    /// Tells the recorder what has changed. If that is more and more, the driver goes
    /// on with it; where there is none any more, nobody else would.
    fn tell_levels(&self) {
        while !self.meter.tell(|| self.levels()) {
            if !self.core().abandoned {
                self.alarm.ring();
                return;
            }
        }
    }

    /// For the driver: tells what others have left, once the alarm has called it.
    fn tell_rest(&self) {
        if !self.meter.tell_rest(|| self.levels()) {
            self.alarm.ring();
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // Poisoned only by a bug of ours, and handles must resolve even then.
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.take_in(&self.entrance);
        core
    }

    fn inbox(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    fn act<R>(
        &mut self,
        supervisor: &Arc<Supervisor>,
        effects: &mut Effects,
        event: impl FnOnce(&mut Scheduler<Call>, Time, &Links) -> R,
    ) -> R {
        let now = Time(monotonic_nanos());
        let result = event(&mut self.sched, now, &self.links);
        self.perform(supervisor, effects);
        result
    }

    /// Notes calls that were made.
    fn note_unheard(&mut self, calls: u32) {
        if self.unheard > 0 {
            self.unheard = self.unheard.saturating_add(calls);
        }
    }

    /// Whether a link has been called and does not come; says so once.
    fn is_unheard(&mut self) -> bool {
        let is_late = (UNHEARD_MOST..u32::MAX).contains(&self.unheard);
        if is_late {
            self.unheard = u32::MAX;
        }
        is_late
    }

    /// Settles what is overdrawn with places that come free; returns how many
    /// are left for others.
    fn freed(&mut self, places: usize) -> usize {
        let settled = places.min(self.overdraft);
        self.overdraft -= settled;
        places - settled
    }

    fn refusal(&self) -> Option<TaskError> {
        match self.sched.mode() {
            Mode::Open => None,
            Mode::Closed => Some(TaskError::Closed),
            Mode::Terminated => Some(TaskError::Terminated),
            Mode::Broken => {
                Some(self.last_failure.clone().map_or(TaskError::Terminated, TaskError::Broken))
            }
        }
    }

    /// Whether the driver has nothing left to do, now and ever.
    fn is_over(&self) -> bool {
        self.abandoned
            || (self.sched.mode() != Mode::Open
                && self.begun == 0
                && self.sched.is_drained()
                && !self.sched.has_abandoned())
    }
}

impl Owner for Supervisor {
    fn pool_id(&self) -> u64 {
        self.id
    }

    fn handle_event(&self, event: Event) {
        let is_last = match event {
            Event::Died { overdue, .. } => !overdue,
            Event::StartFailed { .. } | Event::Overdue { .. } => true,
            Event::Started { .. } => false,
        };
        if is_last {
            self.processes.fetch_sub(1, Ordering::AcqRel);
        }
        self.inbox().push_back(event);
        if self.core().abandoned {
            self.inbox().clear();
        }
        self.alarm.ring();
        self.changed.notify_waiters();
    }
}

fn os_error(what: &'static str, error: io::Error) -> SpawnError {
    SpawnError::new(Cause::Os { what, error })
}
