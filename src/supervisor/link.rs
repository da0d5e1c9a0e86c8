//! One worker's link: the future that reads and writes its socket.
//!
//! A death is taken in this order: the warden has seen the process end, and has
//! killed its group and collected it; the link empties the socket, then the
//! outbox in the status page; then the scheduler reads the slot words and
//! decides what every task is owed.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep};

use super::Supervisor;
use super::alarm::Alarm;
use super::call::Call;
use super::effects::Effects;
use super::intake::Intake;
use super::links::{End, LinkState};
use super::output::Output;
use crate::limits::{
    ARRIVAL_BYTES_LEAST, FRAME_OVERHEAD_BYTES, SPARE_WAIT, WAITING_FDS_WAIT, WRITE_AGAIN_WAIT,
};
use crate::observe::{self, Echo, HeldSpan};
use crate::proto::peer::Peer;
use crate::sched::{self, WorkerKey};
use crate::start::spawn::Ends;
use crate::sys::clock::monotonic_nanos;
use crate::sys::descriptor::Room;
use crate::sys::fd;
use crate::sys::wait::has_ended;
use crate::time::Time;
use crate::transport::{Outgoing, Transport};

/// Rounds of writing and reading before other links get their turn.
const ROUNDS_MAX: usize = 16;

/// The future that serves one worker, until it is dead and buried.
#[derive(Debug)]
pub(super) struct Link {
    supervisor: Arc<Supervisor>,
    worker: WorkerKey,
    alarm: Arc<Alarm>,
    /// Shared with callers that look out for their answers.
    intake: Arc<Mutex<Intake>>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    span: Arc<HeldSpan>,
    /// The stream has ended.
    eof: bool,
    /// Nothing more is written.
    mute: bool,
    /// Nothing is written until then.
    pause: Option<Pin<Box<Sleep>>>,
    /// Nothing is read until then: too many descriptors wait to be taken.
    hold: Option<Pin<Box<Sleep>>>,
    /// Large buffers are kept until then.
    spare: Option<Pin<Box<Sleep>>>,
}

impl Link {
    /// Takes over a worker that has just been started, and sends it its
    /// settings. Must be called inside the pool's runtime.
    pub(super) fn new(
        supervisor: &Arc<Supervisor>,
        worker: WorkerKey,
        ends: Ends,
    ) -> io::Result<Self> {
        let plan = &supervisor.plan;
        let page = Arc::new(ends.page);
        let limit = plan.frame_bytes_max + FRAME_OVERHEAD_BYTES;
        let transport = Transport::new(ends.socket, Arc::clone(&page), limit)?;
        let stdout = ends.stdout.map(|fd| Output::new(fd, "stdout")).transpose()?;
        let stderr = ends.stderr.map(|fd| Output::new(fd, "stderr")).transpose()?;
        let span = Arc::new(observe::worker_span(&plan.name, worker.id, ends.pid));
        observe::worker_started(&span);
        let name = format!("{}/{}", plan.name, worker.seat);
        let alarm = Arc::new(Alarm::default());
        let outgoing = Outgoing::of_frame(&plan.setup);
        let socket = Arc::clone(transport.socket());
        let now = Time(monotonic_nanos());
        let intake = Arc::new(Mutex::new(Intake {
            worker,
            transport,
            peer: Peer::new(plan.fingerprint, ends.pid),
            span: Arc::clone(&span),
            echo: Echo::new(now, name, ends.pid as u32, plan.settings.trusted),
            messages: Vec::new(),
            is_deaf: false,
        }));
        supervisor.core().links.insert(LinkState {
            worker,
            pid: ends.pid as u32,
            page,
            outgoing,
            unsent_from: None,
            socket,
            is_clear: false,
            alarm: Arc::clone(&alarm),
            intake: Arc::clone(&intake),
            run_nanos: u64::MAX,
            known: 0,
            probe: false,
            greeted: false,
            #[cfg(feature = "sandbox")]
            sandbox: 0,
            listens: false,
            end: None,
            stderr: String::new(),
        });
        Ok(Link {
            supervisor: Arc::clone(supervisor),
            worker,
            alarm,
            intake,
            stdout,
            stderr,
            span,
            eof: false,
            mute: false,
            pause: None,
            hold: None,
            spare: None,
        })
    }

    /// Takes what has gathered for the worker. Returns whether the outbox
    /// should be looked into, and how it is over with the process, if it is.
    fn collect(&mut self, intake: &mut Intake) -> (bool, Option<End>) {
        let mut core = self.supervisor.core();
        core.unheard = 0;
        let Some(link) = core.links.get_mut(self.worker) else { return (false, None) };
        let transport = &mut intake.transport;
        if transport.is_written() {
            transport.swap_outgoing(&mut link.outgoing);
            link.unsent_from = None;
            link.is_clear = transport.is_written() && !self.mute && self.pause.is_none();
        }
        (std::mem::take(&mut link.probe), link.end)
    }

    /// Writes what it can.
    fn write(&mut self, intake: &mut Intake, cx: &mut Context<'_>) {
        if self.mute {
            return;
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return;
            }
            self.pause = None;
        }
        match intake.transport.poll_write(cx) {
            Poll::Ready(Err(error)) if fd::is_passing(&error) => {
                // Nobody says when the kernel has memory again.
                self.pause = Some(Box::pin(sleep(WRITE_AGAIN_WAIT)));
                // The pause has to know whom to wake.
                self.write(intake, cx);
            }
            Poll::Ready(Err(_)) => {
                // EPIPE: the last answers may still be in the socket. What
                // counts is the death, which is told elsewhere.
                self.mute = true;
                self.note_eof();
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }

    /// Gives large buffers back once none has come for a while. Until then it
    /// is woken for that.
    fn poll_spares(&mut self, transport: &mut Transport, cx: &mut Context<'_>) {
        if !transport.has_spares() {
            self.spare = None;
            return;
        }
        let is_new = transport.has_new_spare();
        let spare = self.spare.get_or_insert_with(|| Box::pin(sleep(SPARE_WAIT)));
        if is_new {
            spare.as_mut().reset(Instant::now() + SPARE_WAIT);
        }
        if spare.as_mut().poll(cx).is_ready() {
            self.spare = None;
            transport.give_back();
        }
    }

    /// Reads once, and takes in the messages. Returns whether there was any.
    fn read(&mut self, intake: &mut Intake, cx: &mut Context<'_>) -> bool {
        if self.eof || intake.is_deaf || self.is_held_back(&intake.transport, cx) {
            return false;
        }
        match intake.poll_read(&self.supervisor, cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(true)) => true,
            Poll::Ready(Ok(false) | Err(_)) => {
                self.eof = true;
                self.note_eof();
                true
            }
        }
    }

    /// Whether to leave what the worker sends where it is, so that those who are to
    /// take its descriptors keep up. Not for ever, if what they wait for may be behind.
    fn is_held_back(&mut self, transport: &Transport, cx: &mut Context<'_>) -> bool {
        match transport.poll_room_for_a_read(cx) {
            Room::Enough => {
                self.hold = None;
                false
            }
            Room::Scarce if transport.is_full_of_parts() => false,
            Room::Scarce => {
                let hold = self.hold.get_or_insert_with(|| Box::pin(sleep(WAITING_FDS_WAIT)));
                if !hold.is_elapsed() && hold.as_mut().poll(cx).is_pending() {
                    return true;
                }
                if self.is_awaited() {
                    return false;
                }
                let hold = self.hold.insert(Box::pin(sleep(WAITING_FDS_WAIT)));
                hold.as_mut().poll(cx).is_pending()
            }
            Room::Nowhere => true,
        }
    }

    /// Whether somebody may wait for what is behind descriptors that nobody takes.
    fn is_awaited(&self) -> bool {
        let core = self.supervisor.core();
        let is_open = core.sched.mode() == sched::Mode::Open;
        !is_open || core.sched.ahead_of(self.worker).any(Call::is_awaited)
    }

    /// Whether what it has sent is not read for now, and it cannot be blamed for it.
    pub(super) fn is_on_hold(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| !hold.is_elapsed())
    }

    fn note_eof(&self) {
        self.supervisor.act(|sched, now, _| sched.handle_eof(now, self.worker));
        // Its timer is new.
        self.supervisor.alarm.ring();
    }

    /// Fetches answers that the worker has not sent.
    pub(super) fn fetch(&mut self) {
        self.intake().fetch(&self.supervisor, true);
    }

    /// Takes in all that the worker has sent so far, whether the runtime has
    /// noticed yet or not. Returns whether nothing is left.
    pub(super) fn catch_up(&mut self) -> bool {
        let had_its_time = self.hold.as_ref().is_some_and(|hold| hold.is_elapsed());
        let has_waited = had_its_time && self.is_awaited();
        let is_all = self.intake().catch_up(&self.supervisor, has_waited);
        if !is_all {
            // It does not wait for ever: the link begins to count.
            self.alarm.ring();
        }
        is_all
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn worker(&self) -> WorkerKey {
        self.worker
    }

    /// Whether the worker has made room for anything since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        self.intake().transport.has_written()
    }

    /// Whether much has come from the worker, since this was last asked, of what may be a
    /// long answer.
    pub(super) fn has_brought_much(&mut self) -> bool {
        self.intake().transport.arrived() >= ARRIVAL_BYTES_LEAST
    }

    /// Whether there is no process any more: the warden will say so.
    pub(super) fn has_ended(&self) -> bool {
        self.supervisor.core().links.pid(self.worker).is_none_or(|pid| has_ended(pid as i32))
    }

    /// The process is dead, or does not die: takes in what it has left, and
    /// closes the book.
    fn bury(&mut self, intake: &mut Intake, end: End) {
        intake.catch_up(&self.supervisor, true);
        intake.fetch(&self.supervisor, false);
        intake.is_deaf = true;
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.drain_now(&self.span);
        }
        let tail = self.stderr.as_ref().map(Output::tail).unwrap_or_default();
        let supervisor = &self.supervisor;
        let mut effects = Effects::default();
        let worker = self.worker;
        let greeted = intake.peer.is_greeted();
        // Told before anybody can see that it is gone.
        match end {
            End::Died(exit) => {
                let expected = supervisor.core().note_death(worker, exit, tail, greeted);
                observe::worker_ended(&self.span, exit, expected);
            }
            End::Overdue => {
                supervisor.core().note_abandoned(worker, tail);
                observe::worker_abandoned(&self.span);
            }
        }
        let mut core = supervisor.core();
        core.act(supervisor, &mut effects, |sched, now, links| match end {
            End::Died(exit) => sched.handle_death(now, worker, exit, links),
            End::Overdue => sched.handle_overdue(now, worker, links),
        });
        let removed = match end {
            End::Died(_) => core.links.remove(worker),
            End::Overdue => core.links.abandon(worker),
        };
        let broken = core.sched.mode() == sched::Mode::Broken;
        let cause = core.last_failure.clone().filter(|_| broken);
        drop(core);
        drop(removed);
        if let Some(cause) = cause {
            observe::pool_broken(&supervisor.plan.name, &cause);
        }
        effects.run(supervisor);
    }
}

impl Future for Link {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = Arc::clone(&this.intake);
        let mut intake = shared.lock().unwrap_or_else(PoisonError::into_inner);
        this.alarm.start_poll(cx.waker());
        for output in [&mut this.stdout, &mut this.stderr].into_iter().flatten() {
            output.poll_drain(cx, &this.span);
        }
        for _ in 0..ROUNDS_MAX {
            let is_behind = !intake.transport.is_written();
            let (probe, end) = this.collect(&mut intake);
            if let Some(end) = end {
                this.bury(&mut intake, end);
                return Poll::Ready(());
            }
            this.write(&mut intake, cx);
            let mut progress = this.read(&mut intake, cx);
            // What gathered meanwhile is still to be collected, and nobody calls for it again.
            progress |= is_behind && intake.transport.is_written();
            if probe {
                intake.fetch(&this.supervisor, true);
                progress = true;
            }
            if !progress {
                this.poll_spares(&mut intake.transport, cx);
                if this.alarm.may_rest() {
                    return Poll::Pending;
                }
                this.alarm.start_poll(cx.waker());
            } else if this.supervisor.expects_calls.load(Ordering::Relaxed) {
                // They come first, and what they call for goes out together.
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
