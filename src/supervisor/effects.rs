//! What the scheduler's actions come to: part of it is done under the pool's
//! lock, the rest is gathered and done after.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::call::{Call, Ended, Failed, Obituary, ending_error, ending_started, wake};
use super::{Core, Supervisor};
use crate::id::{TaskId, WorkerId};
use crate::observe::{self, HeldSpan, Meter, Times};
use crate::proto::draft::{Payload, Reply};
use crate::proto::message::{Shape, put_bye};
use crate::sched::{Action, Ending, Mode, TaskKey, WorkerKey};
use crate::start::identity::Birth;
use crate::start::owner::Owner;
use crate::start::spawn::Way;
use crate::start::warden::Stop;
use crate::sys::threads::current_processor;

/// A worker whose last task took longer gets the next one at once, and not with others
/// that may come: several times what it costs both sides to send one for itself.
const GATHER_NANOS: u64 = 100_000;

/// To be done without the lock: whatever wakes or drops what is the user's.
#[derive(Debug, Default)]
pub(super) struct Effects {
    resolved: Vec<Resolved>,
    /// How long the next that is resolved took, where somebody asks.
    times: Option<Times>,
    /// Tasks that went to a worker, where somebody listens.
    sent: Vec<(Arc<HeldSpan>, TaskId, WorkerId)>,
    /// Answers that nobody waits for: to give back much memory takes long.
    discarded: Vec<Reply>,
    /// Arguments that will not be sent again. They may be the user's memory.
    released: Vec<Payload>,
    wakers: Wakers,
    /// Copies of this process, which must not have the lock locked, and the ends of what
    /// is to be made first.
    forks: Vec<Fork>,
    /// Places in the queue that came free.
    permits: usize,
    /// The driver has to look at its timers.
    ring: bool,
    /// The driver has been called, and does not come.
    pub(super) nudge: bool,
    /// The pool takes no more calls.
    refuse: bool,
    /// Run by a link's poll, which lets those go first whom it wakes.
    is_polled: bool,
}

/// A call that has ended. Its times stay here until its caller has been woken.
#[derive(Debug)]
struct Resolved {
    id: TaskId,
    call: Call,
    /// `None` once the caller has it.
    ended: Option<Ended>,
    outcome: &'static str,
    times: Option<Times>,
}

#[derive(Debug)]
enum Fork {
    Make(WorkerId, Birth),
    Stop(WorkerId, Stop),
}

/// Woken in any case: where one of them panics, nobody else would tell the others.
#[derive(Debug, Default)]
struct Wakers(Vec<Waker>);

impl Drop for Wakers {
    fn drop(&mut self) {
        mem::take(&mut self.0).into_iter().for_each(wake);
    }
}

impl Effects {
    /// Of what a worker has said. `is_polled`: to a link's poll.
    pub(super) fn of_link(is_polled: bool) -> Self {
        Effects { is_polled, ..Effects::default() }
    }

    /// Has the driver look at its timers, later.
    pub(super) fn ring_if(&mut self, is_due: bool) {
        self.ring |= is_due;
    }

    /// Gives places in the queue back, later.
    pub(super) fn free_places(&mut self, places: usize) {
        self.permits += places;
    }

    pub(super) fn discard(&mut self, answer: Reply) {
        self.discarded.push(answer);
    }

    pub(super) fn release(&mut self, args: Payload) {
        self.released.push(args);
    }

    /// Tells, later, how long the call took that is resolved next.
    pub(super) fn measure(&mut self, times: Times) {
        self.times = Some(times);
    }

    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.wakers.0.extend(waker);
    }

    pub(super) fn run(mut self, supervisor: &Arc<Supervisor>) {
        // First of all: what is below may change what is decided.
        for fork in mem::take(&mut self.forks) {
            match fork {
                Fork::Make(worker, birth) => supervisor.start_worker(worker, birth),
                Fork::Stop(worker, how) => {
                    supervisor.warden.signal(supervisor.id, worker, how);
                }
            }
        }
        let told = Told(supervisor, self.resolved.len() as u64);
        if self.permits > 0 {
            supervisor.admission.add_permits(self.permits);
        }
        if self.refuse {
            supervisor.admission.close();
        }
        // Before the program's subscriber is called: it may take its time.
        if self.ring {
            supervisor.alarm.ring();
        }
        if self.nudge {
            // A task that is woken by another one has a place of its own with the thread
            // that runs that (tokio's LIFO slot), where no other thread finds it, until the
            // next one is woken; and whoever queues one call after the other may not rest
            // for long.
            drop(supervisor.runtime.spawn(std::future::ready(())));
        }
        for Resolved { id, call, ended, outcome, .. } in &mut self.resolved {
            let span = call.take_span();
            observe::task_ended(span.as_deref().unwrap_or(&HeldSpan::NONE), *id, outcome);
            drop(span);
            self.wakers.0.extend(ended.take().and_then(|ended| call.resolve(ended)));
        }
        if self.is_polled && self.wakers.0.len() > 1 {
            supervisor.expects_calls.store(true, Ordering::Relaxed);
        }
        // After the endings that made room for them.
        for (span, task, worker) in self.sent {
            observe::task_sent(&span, task, worker);
        }
        drop(self.wakers);
        drop(told);
        // Nobody waits for this.
        if Meter::LISTENS {
            let times = self.resolved.iter().filter_map(|resolved| resolved.times);
            times.for_each(|times| supervisor.meter.note_times(times));
            supervisor.tell_levels();
        }
    }
}

/// The callers of so many calls have been told, however that went. Who waits for
/// the pool's end may hear of it now, and finds all handles finished.
struct Told<'a>(&'a Supervisor, u64);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.told.fetch_add(self.1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.changed.notify_waiters();
        }
    }
}

impl Supervisor {
    fn start_worker(self: &Arc<Self>, worker: WorkerId, birth: Birth) {
        let owner: Arc<dyn Owner> = Arc::clone(self) as _;
        self.warden.start(worker, owner, Arc::clone(&self.spec), birth);
    }
}

impl Core {
    /// Does what the scheduler wants done, as far as it can be done here. The
    /// warden is told under the lock, so that it hears everything in the order
    /// in which it was decided: no start after the pool's end. But for forks: there
    /// is no other thread that could decide anything, or there is no fork.
    pub(super) fn perform(&mut self, supervisor: &Arc<Supervisor>, effects: &mut Effects) {
        self.hand_out();
        self.close_entrance_if_due(&supervisor.entrance);
        while let Some(action) = self.sched.poll_action() {
            // A link is polled by the driver, which looks at its timers then;
            // `send` knows where none is.
            effects.ring |= !matches!(action, Action::Run { .. } | Action::Probe(_));
            match action {
                Action::Start(worker) => {
                    self.counts.workers_started += 1;
                    self.counts.workers_respawned += u64::from(self.sched.is_respawn(worker));
                    supervisor.processes.fetch_add(1, Ordering::AcqRel);
                    let name = format!("{}/{}", supervisor.plan.name, worker.seat);
                    let birth = Birth::of_child(Some(&name));
                    match supervisor.spec.way {
                        Way::Fork(_) => effects.forks.push(Fork::Make(worker.id, birth)),
                        Way::Spawn | Way::ForkServer => supervisor.start_worker(worker.id, birth),
                    }
                }
                Action::Run { worker, seq, task } => {
                    self.send(supervisor, worker, seq, task, effects);
                }
                Action::Dismiss(worker) => {
                    if let Some(link) = self.links.get_mut(worker) {
                        put_bye(link.outgoing.tail());
                        link.alarm.ring();
                    }
                }
                Action::Stop { worker, grace } => {
                    let how = grace.map_or(Stop::Kill, |grace| Stop::Term { grace });
                    let is_this =
                        |fork: &Fork| matches!(fork, Fork::Make(id, _) if *id == worker.id);
                    if effects.forks.iter().any(is_this) {
                        effects.forks.push(Fork::Stop(worker.id, how));
                    } else {
                        supervisor.warden.signal(supervisor.id, worker.id, how);
                    }
                }
                Action::Ring { worker, seq } => {
                    if let Some(link) = self.links.get_mut(worker) {
                        link.page.ring_bell();
                        link.page.wake_credit(seq);
                    }
                }
                Action::Probe(worker) => {
                    if let Some(link) = self.links.get_mut(worker) {
                        link.probe = true;
                        link.alarm.ring();
                    }
                }
                Action::Finish { task, data, ending } => self.finish(task, data, ending, effects),
            }
        }
        effects.refuse |= self.sched.mode() != Mode::Open;
        // A start that has to wait for its time is no action, and nobody else would tell
        // the driver when that is.
        let is_short = self.sched.has_empty_seat();
        effects.ring_if(is_short && self.sched.poll_timeout().is_some_and(|at| at < self.armed));
        self.open_entrance(&supervisor.entrance);
    }

    /// Puts a task's frame on its way.
    fn send(
        &mut self,
        supervisor: &Supervisor,
        worker: WorkerKey,
        seq: u64,
        task: TaskKey,
        effects: &mut Effects,
    ) {
        let is_alone = self.sched.is_alone(worker, seq);
        // One processor more than the busy workers have is left for us: to be
        // woken is what takes longest then, and nobody is kept from anything.
        let is_quiet = is_alone && self.sched.busy_workers() < supervisor.plan.processors;
        let Some(link) = self.links.get_mut(worker) else { return };
        let processor = is_quiet.then(current_processor);
        link.page.set_lookout(processor);
        let is_called = link.unsent_from.is_some();
        link.unsent_from.get_or_insert(seq);
        match self.sched.data(task) {
            Some(call) => {
                if let Some(items) = call.items() {
                    link.page.grant(seq, items.granted());
                }
                if let Some(span) = call.span() {
                    effects.sent.push((span, task.id, worker.id));
                }
                let context = link.listens.then(|| call.context(task.id));
                let (function, shape) = (call.function(), call.shape());
                link.outgoing.push_run(seq, function, shape, context.as_ref(), &call.args);
            }
            // It has ended since; the worker will find its word revoked.
            None => link.outgoing.push_run(seq, 0, Shape::One, None, &Payload::default()),
        }
        // To wake the driver first would take as long as to wake the worker. But
        // where that may take our processor, it is not done under the lock; and
        // other workers have something to do while more gathers. Nor where others are
        // about to call, too, and tasks are short.
        let is_sequential = self.pace.is_sequential();
        let pays = processor.is_some_and(|processor| is_sequential && link.pays(processor));
        link.known = if pays { link.page.outbox_filled() } else { 0 };
        let gathers =
            link.run_nanos <= GATHER_NANOS && supervisor.expects_calls.load(Ordering::Relaxed);
        if is_quiet && !gathers && link.send_now() {
            if pays {
                supervisor.lone.store(task.id.as_u64(), Ordering::Relaxed);
            }
            effects.ring |= self.sched.poll_timeout().is_some_and(|next| next < self.armed);
        } else if !is_called {
            link.alarm.ring();
            self.unheard = self.unheard.max(1);
        }
    }

    fn finish(&mut self, id: TaskId, call: Call, ending: Ending, effects: &mut Effects) {
        let started = ending_started(&ending);
        let mut info = call.info(id);
        let mut obituary = Obituary::default();
        let mut tallied = None;
        if let Ending::Lost { worker, seq, .. } = ending {
            if let Some(link) = self.links.get(worker) {
                obituary = link.obituary(self.memory_limit);
                // Counted from the chunk's first; whoever cut it knows more. One
                // that is none of the chunk's is not to be blamed.
                if let Shape::Batch { count, tallied: is_tallied, .. } = call.shape() {
                    info.index = Some(link.page.item(seq).min(count - 1) as usize);
                    tallied = is_tallied.then(|| link.page.tallied(seq)).flatten();
                }
            }
        }
        let error = ending_error(ending, info, obituary, self.last_failure.as_ref());
        let mut failed = Failed::new(error, started);
        failed.tallied = tallied;
        self.close_call(id, call, Err(failed), effects);
    }

    /// Counts a call that has ended, and has it resolved.
    pub(super) fn close_call(
        &mut self,
        id: TaskId,
        call: Call,
        ended: Ended,
        effects: &mut Effects,
    ) {
        if call.has_place() {
            effects.free_places(self.freed(1));
        }
        let outcome = self.counts.count(&ended);
        self.resolve(id, call, ended, outcome, effects);
    }

    /// Tells a caller, once the lock is free, and reports it as `outcome`.
    pub(super) fn resolve(
        &mut self,
        id: TaskId,
        call: Call,
        ended: Ended,
        outcome: &'static str,
        effects: &mut Effects,
    ) {
        self.ended += 1;
        let times = effects.times.take();
        effects.resolved.push(Resolved { id, call, ended: Some(ended), outcome, times });
    }
}
