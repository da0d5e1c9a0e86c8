//! One worker's link: the future that reads and writes its socket, and the
//! part of it that the rest of the pool sees.
//!
//! A death is taken in this order: the warden has seen the process end, and has
//! killed its group and collected it; the link empties the socket, then the
//! outbox in the status page; then the scheduler reads the slot words and
//! decides what every task is owed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep};

use super::alarm::Alarm;
use super::call::{Answer, Call, Failed, Obituary, failure_error};
use super::effects::Effects;
use super::output::Output;
use super::{Core, InitCheck, Supervisor};
use crate::error::{Cause, MemoryExceeded, RemotePanic, SpawnError};
use crate::exit::Exit;
use crate::id::TaskId;
use crate::limits::{
    FRAME_OVERHEAD_BYTES, SOCKET_BYTES_MAX, SPARE_WAIT, WAITING_FDS_WAIT, WRITE_AGAIN_WAIT,
};
use crate::observe::{self, Echo, HeldSpan, MEASURES};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::message::{Failure, FromWorker, Shape};
use crate::proto::peer::{Peer, ProtocolError, Violation};
use crate::proto::trace::News;
use crate::sched::{self, Place, Stage, Words, WorkerKey};
use crate::slot_word::{Phase, SlotWord};
use crate::start::spawn::Ends;
use crate::sys::clock::monotonic_nanos;
use crate::sys::descriptor::Room;
use crate::sys::fd;
use crate::sys::layout::Tallied;
use crate::sys::page::Page;
use crate::sys::wait::has_ended;
use crate::time::Time;
use crate::transport::{Outgoing, Transport};

/// Rounds of writing and reading before other links get their turn.
const ROUNDS_MAX: usize = 16;

/// A worker as the rest of the pool sees it.
#[derive(Debug)]
pub(super) struct LinkState {
    worker: WorkerKey,
    pub(super) pid: u32,
    pub(super) page: Arc<Page>,
    /// Frames that the link has yet to take.
    pub(super) outgoing: Outgoing,
    /// The first task among them.
    pub(super) unsent_from: Option<u64>,
    socket: Arc<UnixStream>,
    /// The link has written all that it took, and could write more.
    is_clear: bool,
    /// Calls the link.
    pub(super) alarm: Arc<Alarm>,
    /// The outbox is worth a look.
    pub(super) probe: bool,
    pub(super) greeted: bool,
    /// What it said, before it had a task, of its sandbox.
    #[cfg(feature = "sandbox")]
    pub(super) sandbox: u64,
    /// Somebody there hears of calls.
    pub(super) listens: bool,
    /// It is over with the process.
    pub(super) end: Option<End>,
    /// The last it printed to stderr; filled in at its death.
    stderr: String,
}

impl LinkState {
    /// Sends what has gathered without waking the link for it, if that has
    /// nothing to write before it. Returns whether nothing is left to send.
    pub(super) fn send_now(&mut self) -> bool {
        let sent = self.is_clear && self.outgoing.send_now(&self.socket);
        if sent {
            self.unsent_from = None;
        }
        sent
    }

    /// What there is to say of a worker that has just died.
    pub(super) fn obituary(&self, memory_limit: Option<u64>) -> Obituary {
        // A hostile one may say this of any end of its own, but only where there
        // is a limit, and not below that.
        let over = |limit| self.page.over_memory().filter(|resident| *resident > limit);
        let memory =
            memory_limit.and_then(|limit| Some(MemoryExceeded { limit, resident: over(limit)? }));
        Obituary { pid: self.pid, stderr: self.stderr.clone(), memory }
    }
}

/// How it is over with a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Died(Exit),
    /// It was killed, and does not die.
    Overdue,
}

/// All workers that there are processes of.
#[derive(Debug, Default)]
pub(super) struct Links {
    seats: Vec<Option<LinkState>>,
    /// Those that do not die, and their pids.
    abandoned: Vec<(WorkerKey, u32)>,
}

impl Links {
    pub(super) fn get(&self, worker: WorkerKey) -> Option<&LinkState> {
        self.seats.get(worker.seat as usize)?.as_ref().filter(|link| link.worker == worker)
    }

    pub(super) fn get_mut(&mut self, worker: WorkerKey) -> Option<&mut LinkState> {
        self.seats.get_mut(worker.seat as usize)?.as_mut().filter(|link| link.worker == worker)
    }

    fn insert(&mut self, link: LinkState) {
        let seat = link.worker.seat as usize;
        if self.seats.len() <= seat {
            self.seats.resize_with(seat + 1, || None);
        }
        self.seats[seat] = Some(link);
    }

    /// Takes it out. Not to be dropped under the lock: arguments that it was
    /// yet to be sent may be the user's memory, with code of theirs to free it.
    fn remove(&mut self, worker: WorkerKey) -> Option<LinkState> {
        self.get(worker)?;
        self.seats[worker.seat as usize].take()
    }

    /// As `remove`, and keeps the pid in mind.
    fn abandon(&mut self, worker: WorkerKey) -> Option<LinkState> {
        self.abandoned.extend(self.get(worker).map(|link| (worker, link.pid)));
        self.remove(worker)
    }

    /// One that did not die is dead.
    pub(super) fn forget_abandoned(&mut self, worker: WorkerKey) {
        self.abandoned.retain(|(key, _)| *key != worker);
    }

    pub(super) fn pid(&self, worker: WorkerKey) -> Option<u32> {
        let abandoned = || self.abandoned.iter().find(|(key, _)| *key == worker);
        self.get(worker).map(|link| link.pid).or_else(|| abandoned().map(|(_, pid)| *pid))
    }

    /// What there is so far of the chunk that is in this place, if it runs there; it
    /// is cut short before that.
    pub(super) fn look_into(&self, place: Place, cut: bool) -> Option<Tallied> {
        let Place::Sent { worker, seq } = place else { return None };
        let page = &self.get(worker)?.page;
        if page.load(seq) != SlotWord::new(seq, Phase::Running) {
            return None;
        }
        let begun = cut.then(|| page.cut(seq));
        let answers = page.tallied_so_far(seq);
        match (begun, answers) {
            (None, answers) => answers,
            (Some(begun), Some(answers)) => Some(Tallied { begun, ..answers }),
            // It has just come to its end, such as that is now.
            (Some(begun), None) => Some(Tallied { begun, answered: 0, answers: Vec::new() }),
        }
    }

    /// Lets the stream that is in this place send `n` more items.
    pub(super) fn grant(&self, place: Option<Place>, n: u32) {
        if let Some(Place::Sent { worker, seq }) = place {
            if let Some(link) = self.get(worker) {
                link.page.grant(seq, n);
            }
        }
    }
}

impl Words for Links {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
        self.get(worker).map_or(SlotWord::new(seq, Phase::Empty), |link| link.page.load(seq))
    }

    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
        self.get(worker).is_some_and(|link| link.page.swap(seq, from, to).is_ok())
    }

    fn enqueue(&self, worker: WorkerKey, seq: u64) {
        if let Some(link) = self.get(worker) {
            link.page.enqueue(seq, 0);
        }
    }

    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool {
        self.get(worker).is_some_and(|link| link.page.polite(seq))
    }

    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time {
        self.get(worker).map_or(Time::default(), |link| Time(link.page.started_at(seq)))
    }
}

/// The future that serves one worker, until it is dead and buried.
#[derive(Debug)]
pub(super) struct Link {
    supervisor: Arc<Supervisor>,
    worker: WorkerKey,
    alarm: Arc<Alarm>,
    transport: Transport,
    peer: Peer,
    stdout: Option<Output>,
    stderr: Option<Output>,
    span: HeldSpan,
    echo: Echo,
    /// Messages between parsing and handling; kept for its memory.
    messages: Vec<FromWorker>,
    /// The stream has ended.
    eof: bool,
    /// The worker broke the protocol: whatever else it says is not heard.
    condemned: bool,
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
        let span = observe::worker_span(&plan.name, worker.id, ends.pid);
        observe::worker_started(&span);
        let name = format!("{}/{}", plan.name, worker.seat);
        let alarm = Arc::new(Alarm::default());
        let outgoing = Outgoing::of_frame(&plan.setup);
        supervisor.core().links.insert(LinkState {
            worker,
            pid: ends.pid as u32,
            page,
            outgoing,
            unsent_from: None,
            socket: Arc::clone(transport.socket()),
            is_clear: false,
            alarm: Arc::clone(&alarm),
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
            transport,
            peer: Peer::new(plan.fingerprint, ends.pid),
            stdout,
            stderr,
            span,
            echo: Echo::new(Time(monotonic_nanos()), name, ends.pid as u32, plan.settings.trusted),
            messages: Vec::new(),
            eof: false,
            condemned: false,
            mute: false,
            pause: None,
            hold: None,
            spare: None,
        })
    }

    /// Takes what has gathered for the worker. Returns whether the outbox
    /// should be looked into, and how it is over with the process, if it is.
    fn collect(&mut self) -> (bool, Option<End>) {
        let mut core = self.supervisor.core();
        let Some(link) = core.links.get_mut(self.worker) else { return (false, None) };
        if self.transport.is_written() {
            self.transport.swap_outgoing(&mut link.outgoing);
            link.unsent_from = None;
            link.is_clear = self.transport.is_written() && !self.mute && self.pause.is_none();
        }
        (std::mem::take(&mut link.probe), link.end)
    }

    /// Writes what it can.
    fn write(&mut self, cx: &mut Context<'_>) {
        if self.mute {
            return;
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return;
            }
            self.pause = None;
        }
        match self.transport.poll_write(cx) {
            Poll::Ready(Err(error)) if fd::is_passing(&error) => {
                // Nobody says when the kernel has memory again.
                self.pause = Some(Box::pin(sleep(WRITE_AGAIN_WAIT)));
                // The pause has to know whom to wake.
                self.write(cx);
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
    fn poll_spares(&mut self, cx: &mut Context<'_>) {
        if !self.transport.has_spares() {
            self.spare = None;
            return;
        }
        let is_new = self.transport.has_new_spare();
        let spare = self.spare.get_or_insert_with(|| Box::pin(sleep(SPARE_WAIT)));
        if is_new {
            spare.as_mut().reset(Instant::now() + SPARE_WAIT);
        }
        if spare.as_mut().poll(cx).is_ready() {
            self.spare = None;
            self.transport.give_back();
        }
    }

    /// Reads once, and takes in the messages. Returns whether there was any.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.eof || self.condemned || self.is_held_back(cx) {
            return false;
        }
        match self.transport.poll_read(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(true)) => {
                self.take_messages();
                true
            }
            Poll::Ready(Ok(false) | Err(_)) => {
                self.eof = true;
                self.note_eof();
                true
            }
        }
    }

    /// Whether to leave what the worker sends where it is, so that those who are to
    /// take its descriptors keep up. Not for ever: what they wait for may be behind.
    fn is_held_back(&mut self, cx: &mut Context<'_>) -> bool {
        match self.transport.poll_room_for_a_frame(cx) {
            Room::Enough => {
                self.hold = None;
                false
            }
            Room::Scarce => {
                let hold = self.hold.get_or_insert_with(|| Box::pin(sleep(WAITING_FDS_WAIT)));
                !hold.is_elapsed() && hold.as_mut().poll(cx).is_pending()
            }
            Room::Nowhere => true,
        }
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
    pub(super) fn fetch(&mut self, alive: bool) {
        if self.condemned {
            return;
        }
        match self.transport.fetch_outbox(alive) {
            Ok(()) => self.take_messages(),
            Err(error) => self.condemn(error),
        }
    }

    /// Takes in all whole messages that have arrived.
    fn take_messages(&mut self) {
        if let Err(error) = self.supervisor.clone().take_messages(self) {
            self.condemn(error);
        }
    }

    /// Parses what has arrived, up to the first thing that makes no sense. Runs
    /// the check of what the initializer returned here, without the pool's
    /// lock: it is the user's code.
    fn gather(
        &mut self,
        messages: &mut Vec<FromWorker>,
        check: Option<&InitCheck>,
    ) -> Result<(), ProtocolError> {
        while let Some(message) = self.transport.next_message()? {
            self.peer.accept(&message)?;
            if let FromWorker::Trace { seq, body } = message {
                self.tell(seq, &body)?;
                continue;
            }
            let problem = match (&message, check) {
                (FromWorker::Ready { outcome, .. }, Some(check)) => check(outcome).err(),
                _ => None,
            };
            if problem.is_none() && matches!(message, FromWorker::Ready { .. }) {
                observe::worker_ready(&self.span);
            }
            messages.push(match problem {
                Some(problem) => FromWorker::InitFailed(Failure::Setting(problem)),
                None => message,
            });
        }
        Ok(())
    }

    /// Tells what the worker's `tracing` was told. The call that it is about has not
    /// ended here: its answer comes behind this.
    fn tell(&mut self, seq: u64, body: &[u8]) -> Result<(), ProtocolError> {
        if !self.echo.admits(Time(monotonic_nanos()), body.len() + HEADER_BYTES)? {
            return Ok(());
        }
        let news = News::decode(body)?;
        let core = self.supervisor.core();
        let span = core.sched.in_flight(self.worker, seq).and_then(Call::span);
        drop(core);
        self.echo.tell(news, span.as_deref().unwrap_or(&self.span));
        Ok(())
    }

    fn condemn(&mut self, error: ProtocolError) {
        self.condemned = true;
        observe::worker_misbehaved(&self.span, &error);
        let mut core = self.supervisor.core();
        // Why there are no workers any more, if it comes to that.
        core.last_failure = Some(SpawnError::new(Cause::Protocol(error)));
        drop(core);
        let worker = self.worker;
        self.supervisor.act(|sched, now, links| sched.handle_violation(now, worker, error, links));
    }

    pub(super) fn worker(&self) -> WorkerKey {
        self.worker
    }

    /// Whether the worker has made room for anything since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        self.transport.has_written()
    }

    /// Whether there is no process any more: the warden will say so.
    pub(super) fn has_ended(&self) -> bool {
        self.supervisor.core().links.pid(self.worker).is_none_or(|pid| has_ended(pid as i32))
    }

    /// Takes in all that the worker has sent so far, whether the runtime has
    /// noticed yet or not.
    pub(super) fn catch_up(&mut self) {
        // At most one frame can be under way, and what the ring and the
        // socket's own buffer hold beside it. Somebody outside the worker's
        // group could have kept the other end and go on writing for ever.
        let most = self.supervisor.plan.frame_bytes_max + SOCKET_BYTES_MAX;
        let mut read = 0;
        while !self.condemned && read <= most {
            // It had its time. Of one that has not, what is left is lost.
            if self.transport.room_for_a_frame() == Room::Nowhere {
                break;
            }
            match self.transport.read_now() {
                Ok(0) | Err(_) => break,
                Ok(n) => read += n,
            }
            self.take_messages();
        }
    }

    /// The process is dead, or does not die: takes in what it has left, and
    /// closes the book.
    fn bury(&mut self, end: End) {
        self.catch_up();
        self.fetch(false);
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.drain_now(&self.span);
        }
        let tail = self.stderr.as_ref().map(Output::tail).unwrap_or_default();
        let supervisor = &self.supervisor;
        let mut effects = Effects::default();
        let worker = self.worker;
        let greeted = self.peer.is_greeted();
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
        this.alarm.start_poll(cx.waker());
        for output in [&mut this.stdout, &mut this.stderr].into_iter().flatten() {
            output.poll_drain(cx, &this.span);
        }
        for _ in 0..ROUNDS_MAX {
            let (probe, end) = this.collect();
            if let Some(end) = end {
                this.bury(end);
                return Poll::Ready(());
            }
            this.write(cx);
            let mut progress = this.read(cx);
            if probe {
                this.fetch(true);
                progress = true;
            }
            if !progress {
                this.poll_spares(cx);
                if this.alarm.may_rest() {
                    return Poll::Pending;
                }
                this.alarm.start_poll(cx.waker());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Supervisor {
    /// Takes in all whole messages that a worker's transport holds.
    fn take_messages(self: &Arc<Self>, link: &mut Link) -> Result<(), ProtocolError> {
        let mut messages = std::mem::take(&mut link.messages);
        let mut result = link.gather(&mut messages, self.plan.init_check.as_ref());
        let mut effects = Effects::default();
        let mut core = self.core();
        let now = Time(monotonic_nanos());
        for message in messages.drain(..) {
            if let FromWorker::Ready { ears, .. } = message {
                self.ears.note(ears);
            }
            if let Err(error) = core.take_message(now, link, message, &mut effects) {
                result = Err(error);
                break;
            }
        }
        core.perform(self, &mut effects);
        drop(core);
        effects.run(self);
        link.messages = messages;
        result
    }
}

impl Core {
    fn take_message(
        &mut self,
        now: Time,
        link: &Link,
        message: FromWorker,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let worker = link.worker;
        if let Some(seq) = message.seq() {
            // A worker that does not read, and answers all the same, would have
            // us gather frames for it without end.
            let unsent_from = self.links.get(worker).and_then(|link| link.unsent_from);
            if unsent_from.is_some_and(|first| seq >= first) {
                return Err(ProtocolError(Violation::NotSent { seq }));
            }
        }
        match message {
            FromWorker::Hello(_) => {
                if let Some(link) = self.links.get_mut(worker) {
                    link.greeted = true;
                }
            }
            FromWorker::Ready { ears, .. } => {
                if let Some(link) = self.links.get_mut(worker) {
                    link.listens = ears.listens;
                    #[cfg(feature = "sandbox")]
                    {
                        link.sandbox = link.page.sandbox();
                    }
                }
                self.sched.handle_ready(now, worker, &self.links);
            }
            FromWorker::InitFailed(failure) => {
                let cause = match failure.clipped() {
                    Failure::Panicked(report) => {
                        Cause::InitPanicked(RemotePanic::new(report, None))
                    }
                    Failure::Setting(reason) => Cause::InitRefused(reason),
                    other => Cause::InitRefused(format!("its initializer: {other:?}")),
                };
                self.last_failure = Some(SpawnError::new(cause));
                self.sched.handle_init_failed(now, worker, &self.links);
            }
            FromWorker::Skipped { seq } => {
                let answer = sched::Answer::Skipped;
                self.sched.handle_answer(now, worker, seq, answer, &self.links)?;
            }
            FromWorker::Done { seq, run_nanos, answered, retire, payload } => {
                // Looked at first: with a wrong answer the task stays with its
                // worker, and ends with it.
                let fits = |call: &Call| match call.shape() {
                    Shape::One => answered == 1,
                    Shape::Batch { count, .. } => (1..=count).contains(&answered),
                    Shape::Stream => payload.is_empty(),
                };
                if !self.sched.due(worker, seq).is_none_or(fits) {
                    return Err(ProtocolError(Violation::WrongAnswer));
                }
                let answer = sched::Answer::Ran { run_nanos, retire };
                let Some((id, call)) =
                    self.sched.handle_answer(now, worker, seq, answer, &self.links)?
                else {
                    effects.discard(payload);
                    return Ok(());
                };
                self.measure(now, worker, seq, run_nanos, id, &call, effects);
                let ended = Ok(Answer { payload, answered, run_nanos });
                self.close_call(id, call, ended, effects);
            }
            FromWorker::Failed { seq, run_nanos, retire, failure } => {
                let answer = sched::Answer::Ran { run_nanos, retire };
                let answered = self.sched.handle_answer(now, worker, seq, answer, &self.links)?;
                if let Some((id, call)) = answered {
                    self.measure(now, worker, seq, run_nanos, id, &call, effects);
                    let started =
                        !matches!(failure, Failure::Arguments(_) | Failure::UnknownFunction);
                    let error = failure_error(failure, Some(call.info(id)));
                    self.close_call(id, call, Err(Failed::new(error, started)), effects);
                }
            }
            FromWorker::Began { seq } => {
                let began = self.sched.handle_began(now, worker, seq, &self.links)?;
                let Some((call, may_run_again)) = began else { return Ok(()) };
                // Whoever has been given fewer than there were cannot tell what was
                // memory from the rest.
                if call.args.attached().is_none() {
                    return Err(ProtocolError(Violation::WrongAnswer));
                }
                if !may_run_again && call.has_descriptors() {
                    effects.release(std::mem::take(&mut call.args));
                }
            }
            FromWorker::Trace { .. } => unreachable!("told where it was parsed"),
            FromWorker::Item { seq, payload } => {
                let Some(call) = self.sched.handle_item(now, worker, seq, &self.links)? else {
                    effects.discard(payload);
                    return Ok(());
                };
                let Some(items) = call.items() else {
                    return Err(ProtocolError(Violation::WrongAnswer));
                };
                match items.push(payload) {
                    Ok(waker) => effects.wake(waker),
                    Err(()) => return Err(ProtocolError(Violation::ItemsPastCredit)),
                }
            }
        }
        Ok(())
    }

    /// Notes how long a call that was answered has waited and run.
    #[expect(clippy::too_many_arguments, reason = "all that is known of it")]
    fn measure(
        &mut self,
        now: Time,
        worker: WorkerKey,
        seq: u64,
        run_nanos: u64,
        id: TaskId,
        call: &Call,
        effects: &mut Effects,
    ) {
        if MEASURES {
            let times = call.times(now, self.links.started_at(worker, seq), run_nanos);
            self.ledger.note(now, times, || call.info(id));
            effects.measure(times);
        }
    }

    /// Writes down how a worker ended, for those who will ask. Returns whether
    /// that was wanted.
    fn note_death(&mut self, worker: WorkerKey, exit: Exit, tail: String, greeted: bool) -> bool {
        if let Some(link) = self.links.get_mut(worker) {
            link.stderr.clone_from(&tail);
        }
        match self.sched.stage(worker) {
            // One that was ready may count as a failed start all the same, if
            // it has done nothing.
            Some(Stage::Starting | Stage::Ready) => {
                let cause = Cause::Died { exit, greeted, output: tail };
                self.last_failure = Some(SpawnError::new(cause));
                self.counts.workers_lost += 1;
                false
            }
            Some(Stage::Leaving | Stage::Doomed | Stage::Abandoned) | None => true,
        }
    }

    /// As `note_death`, for a worker that does not die.
    fn note_abandoned(&mut self, worker: WorkerKey, tail: String) {
        if let Some(link) = self.links.get_mut(worker) {
            link.stderr = tail;
            self.last_failure = Some(SpawnError::new(Cause::SeatTaken { pid: link.pid }));
        }
        self.counts.workers_abandoned += 1;
    }
}
