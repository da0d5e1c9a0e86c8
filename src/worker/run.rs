//! The worker's loop: receive, ask the status page, call, answer. Blocking and
//! lean: no runtime unless a task is async, no system call for a task that
//! another one's could carry.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::desk::{Arguments, Batch, Desk};
use super::lookout::Lookout;
use super::outbox::Outbox;
use super::{RUNNING, begin, forget_callbacks, forward, guard, lifeline, memory};
use crate::attached::Arrived;
use crate::limits::{
    FRAME_BYTES_MAX_MOST, FRAME_OVERHEAD_BYTES, LARGE_BYTES_LEAST, SPARE_BYTES_MAX, SPARE_WAIT,
};
use crate::observe::{self, HeldSpan};
use crate::proto::VERSION;
use crate::proto::frame::{FrameReader, REPORT_BYTES_MAX};
use crate::proto::message::{
    CallContext, DONE_HEAD_BYTES, Ears, Failure, Hello, Setup, Shape, ToWorker, finish_done,
    put_began, put_failed, put_hello, put_init_failed, put_ready, put_skipped,
};
use crate::registry::{FnId, Kind, Table};
use crate::slot_word::Phase;
use crate::start::boot::{Boot, Ties};
use crate::sys::clock::monotonic_nanos;
use crate::sys::fd::Received;
use crate::sys::fork::Incarnation;
use crate::sys::memory::Statm;
use crate::sys::page::Page;
use crate::sys::signal::exit_group_now;
use crate::sys::{descriptor, fd, limits, sentry, threads};

/// Answers wait for company at most this long while there is more to do.
const FLUSH_NANOS: u64 = 500_000;

/// The answer of a task as long as this goes out at once: a write, and the
/// wake-up of the parent for it, are small beside it.
const LONG_TASK_NANOS: u64 = FLUSH_NANOS;

/// As [`SPARE_WAIT`], for a worker that is not idle.
const SPARE_NANOS: u64 = SPARE_WAIT.as_nanos() as u64;

/// Exit code of a process whose function has no result that could be sent: it
/// panicked, or it could not even be called. Python's.
const EXIT_FAILED: i32 = 1;

/// Exit code of a worker that cannot understand its parent, or not reach it.
const EXIT_CUT_OFF: i32 = 125;

/// Serves the parent until it says goodbye or is gone.
pub(crate) fn run(boot: Boot) -> ! {
    let page = Arc::new(boot.page);
    guard::install_hook();
    // Kept until the process has ended. Dropped, its runtime would wait for
    // blocking work that async tasks have left behind; forgotten, leak checkers
    // would find it, and give the worker another exit code.
    let mut kept = None;
    let once = boot.once;
    let served = Incarnation::current().and_then(|home| {
        begin(&page, home);
        let worker = Worker::new(boot.socket, page, boot.ties)?;
        let worker = kept.insert(ManuallyDrop::new(worker));
        if once { worker.serve_once() } else { worker.serve() }
    });
    match served {
        // Runs exit handlers and flushes what tasks have printed.
        Ok(code) => std::process::exit(code),
        // The parent is gone: there is nobody to tell.
        Err(error) if is_hang_up(&error) => exit_group_now(),
        Err(error) => {
            eprintln!("procession: this worker cannot go on: {error}");
            std::process::exit(EXIT_CUT_OFF)
        }
    }
}

/// In a fork server: what its copies need not do then.
pub(crate) fn warm_up() {
    guard::install_hook();
    Table::global();
    // Each copy has its own number, in the place that is made here.
    let _ = Incarnation::current();
    let _ = sentry::rehearse();
}

/// Calls a function in a fork server, before there are workers.
pub(crate) fn preload(function: u64, args: Vec<u8>) -> Result<(), String> {
    guard::install_hook();
    let call = || -> io::Result<Result<(), Failure>> {
        let (page, _) = Page::create()?;
        let page = Arc::new(page);
        let (nobody, _) = UnixStream::pair()?;
        let mut desk = Desk::new(Arc::clone(&page), Outbox::new(page, nobody));
        desk.frame_bytes_max = FRAME_BYTES_MAX_MOST;
        let args = Arguments { bytes: args.into(), ..Arguments::default() };
        Ok(match Table::global().lookup(FnId(function)).map(|task| &task.kind) {
            Some(Kind::Value(run)) => desk.call(*run, &args),
            _ => Err(Failure::UnknownFunction),
        })
    };
    match call() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure::Panicked(report))) => {
            let place = report.location.map(|place| format!(" at {place}")).unwrap_or_default();
            Err(format!("what is preloaded panicked{place}: {}", report.message))
        }
        Ok(Err(failure)) => Err(format!("nothing could be preloaded: {failure:?}")),
        Err(error) => Err(format!("nothing could be preloaded: {error}")),
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

struct Worker {
    socket: UnixStream,
    reader: FrameReader,
    page: Arc<Page>,
    desk: Desk,
    /// Whether somebody watches over the parent.
    lifeline: io::Result<()>,
    table: &'static Table,
    lookout: Lookout,
    /// It may outlive its parent.
    independent: bool,
    /// Resident bytes above which to ask for replacement, and the means to
    /// tell them.
    memory: Option<(u64, Statm)>,
    /// Whether somebody watches what a task takes.
    is_watched: bool,
    /// A task has left more than any may take.
    is_spent: bool,
    /// When the last task with large arguments began.
    large_at: u64,
    /// When the oldest unsent answer was given.
    unsent_since: Option<u64>,
    /// When the last task ended, if nothing was waited for since.
    ended_at: Option<u64>,
}

impl Worker {
    fn new(socket: UnixStream, page: Arc<Page>, ties: Option<Ties>) -> io::Result<Self> {
        // Before the first wait for the parent.
        let independent = ties.is_none();
        let lifeline = ties.map_or(Ok(()), |ties| lifeline::start(&socket, ties));
        let outbox = Outbox::new(Arc::clone(&page), socket.try_clone()?);
        Ok(Worker {
            reader: FrameReader::new(FRAME_BYTES_MAX_MOST + FRAME_OVERHEAD_BYTES).trusting(),
            socket,
            desk: Desk::new(Arc::clone(&page), outbox),
            page,
            lifeline,
            table: Table::global(),
            lookout: Lookout::new(),
            independent,
            memory: None,
            is_watched: false,
            is_spent: false,
            large_at: 0,
            unsent_since: None,
            ended_at: None,
        })
    }

    /// Runs tasks until there are no more. Returns the exit code.
    fn serve(&mut self) -> io::Result<i32> {
        self.greet()?;
        loop {
            match self.receive()? {
                ToWorker::Run { seq, function, shape, context, args, arrived } => {
                    self.lookout.handle_run(seq);
                    let args = Arguments { bytes: args, arrived };
                    self.handle_run(seq, FnId(function), shape, context.as_deref(), args)?;
                }
                ToWorker::Bye => return self.desk.errands.outbox.flush().map(|()| 0),
                ToWorker::Setup(..) => return Err(invalid("the parent sent its settings twice")),
            }
        }
    }

    /// Runs one task. Returns the exit code.
    fn serve_once(&mut self) -> io::Result<i32> {
        let ran = self.run_one();
        match ran.and_then(|has_result| self.desk.errands.outbox.flush().map(|()| has_result)) {
            Ok(true) => Ok(0),
            Ok(false) => Ok(EXIT_FAILED),
            // Nobody is there to be told, and that was to be expected.
            Err(error) if self.independent && is_hang_up(&error) => Ok(EXIT_FAILED),
            Err(error) => Err(error),
        }
    }

    /// Returns whether there was a result.
    fn run_one(&mut self) -> io::Result<bool> {
        if !self.greet()? {
            return Ok(false);
        }
        // It has no initializer: what it has to say it says in its task.
        self.desk.errands.outbox.share();
        match self.receive()? {
            ToWorker::Run { seq, function, shape, context, args, arrived } => {
                let args = Arguments { bytes: args, arrived };
                self.handle_run(seq, FnId(function), shape, context.as_deref(), args)
            }
            ToWorker::Bye | ToWorker::Setup(..) => Err(invalid("the parent sent no task")),
        }
    }

    /// Says hello, and does what the parent wants set up. Returns whether that
    /// could be done.
    fn greet(&mut self) -> io::Result<bool> {
        let hello = Hello {
            version: VERSION,
            fingerprint: self.table.fingerprint(),
            pid: nix::unistd::getpid().as_raw(),
        };
        put_hello(self.desk.out.tail(), &hello);
        self.send()?;
        match self.receive()? {
            ToWorker::Setup(setup, arrived) => self.set_up(setup, arrived),
            _ => Err(invalid("the parent's first message is not its settings")),
        }
    }

    /// Puts the pool's settings in force, runs its initializer, and says how
    /// that went. Returns whether it went well.
    fn set_up(&mut self, setup: Setup, arrived: Arrived) -> io::Result<bool> {
        if setup.version != VERSION || setup.fingerprint != self.table.fingerprint() {
            return Err(invalid("the parent is another program"));
        }
        self.desk.frame_bytes_max = setup.frame_bytes_max;
        let prepared = self.prepare(&setup, arrived);
        let is_up = prepared.is_ok();
        match prepared {
            Ok(()) if self.desk.out.len() > REPORT_BYTES_MAX => {
                self.desk.out.clear(SPARE_BYTES_MAX);
                let reason = "the initializer's result is too long".to_owned();
                put_init_failed(self.desk.out.tail(), &Failure::Setting(reason));
            }
            Ok(()) if !self.desk.out.attached().is_empty() => {
                self.desk.out.clear(SPARE_BYTES_MAX);
                let reason = "the initializer's result holds a descriptor".to_owned();
                put_init_failed(self.desk.out.tail(), &Failure::Setting(reason));
            }
            Ok(()) => {
                let outcome = std::mem::take(&mut self.desk.out).into_vec();
                put_ready(self.desk.out.tail(), ears(), &outcome);
            }
            Err(failure) => {
                self.desk.out.clear(SPARE_BYTES_MAX);
                put_init_failed(self.desk.out.tail(), &failure);
            }
        }
        self.send()?;
        Ok(is_up)
    }

    fn prepare(&mut self, setup: &Setup, arrived: Arrived) -> Result<(), Failure> {
        let setting = |what: &'static str| {
            move |error: io::Error| Failure::Setting(format!("could not set {what}: {error}"))
        };
        // Before the task starts any thread: niceness and affinity are each
        // thread's own, and inherited. The lifeline is better off without.
        if let Some(nice) = setup.nice {
            limits::set_nice(nice).map_err(setting("nice"))?;
        }
        if !setup.cpu_affinity.is_empty() {
            limits::set_affinity(&setup.cpu_affinity).map_err(setting("cpu_affinity"))?;
        }
        std::mem::replace(&mut self.lifeline, Ok(()))
            .map_err(setting("the watch over the parent"))?;
        // What is over the limit between tasks is not the next one's fault.
        let memory_bytes_max = [setup.memory_bytes_max, setup.memory_limit];
        if let Some(most) = memory_bytes_max.into_iter().flatten().min() {
            let statm = Statm::open().map_err(setting("max_worker_memory"))?;
            self.memory = Some((most, statm));
        }
        let watched = setup.memory_limit.map(|limit| Ok((limit, Statm::open()?)));
        let watched = watched.transpose().map_err(setting("memory_limit"))?;
        if setup.no_new_privs {
            threads::forbid_new_privileges().map_err(setting("no_new_privs"))?;
        }
        // What is above takes descriptors, of which there may be few from here on.
        for &(resource, value) in &setup.rlimits {
            limits::set_rlimit(resource, value).map_err(setting("rlimits"))?;
        }
        self.initialise(setup, arrived)?;
        // After the initializer: what that keeps is not a task's.
        if let Some((limit, statm)) = watched {
            let page = Arc::clone(&self.page);
            memory::watch(page, statm, limit).map_err(setting("memory_limit"))?;
            self.is_watched = true;
        }
        // And what that has opened, tasks may use.
        #[cfg(feature = "sandbox")]
        if let Some(sandbox) = &setup.sandbox {
            let report = crate::sys::sandbox::enter(sandbox).map_err(setting("sandbox"))?;
            self.page.set_sandbox(report.to_bits());
        }
        Ok(())
    }

    fn initialise(&mut self, setup: &Setup, arrived: Arrived) -> Result<(), Failure> {
        let Some((function, args)) = &setup.initializer else { return Ok(()) };
        let args = Arguments { bytes: args.clone(), arrived };
        // It may have something to say from then on.
        self.desk.errands.outbox.share();
        let result = match self.table.lookup(FnId(*function)).map(|task| &task.kind) {
            Some(Kind::Value(run)) => self.desk.call(*run, &args),
            _ => Err(Failure::UnknownFunction),
        };
        self.desk.errands.outbox.settle();
        result
    }

    /// The next message. Sends what is unsent before it waits for one.
    fn receive(&mut self) -> io::Result<ToWorker> {
        loop {
            match self.reader.next_whole() {
                Ok(Some(frame)) => {
                    return ToWorker::parse(frame)
                        .map_err(|error| invalid(&format!("malformed message: {error:?}")));
                }
                Ok(None) => {}
                Err(error) => return Err(invalid(&error.to_string())),
            }
            self.lookout.offer(&self.page, || self.desk.errands.outbox.is_settled());
            self.desk.errands.outbox.flush()?;
            self.unsent_since = None;
            self.ended_at = None;
            let (reader, socket) = (&mut self.reader, self.socket.as_fd());
            // The rest of a frame is on its way already.
            let is_between = reader.is_empty();
            let outbox = &mut self.desk.errands.outbox;
            if is_between && outbox.owes() && !fd::await_readable(socket, SPARE_WAIT)? {
                outbox.settle_debts()?;
            }
            let mut read = || {
                if reader.has_spares() && is_between && !fd::await_readable(socket, SPARE_WAIT)? {
                    reader.give_back();
                }
                let (buffer, most) = reader.next_read();
                let Received { len, fds, cut_short } = fd::receive_into(socket, buffer, most)?;
                if !fds.is_empty() || cut_short {
                    reader.attach(descriptor::receive(fds, None).0, cut_short);
                }
                Ok(len)
            };
            let read =
                if is_between { self.lookout.wait(&self.page, socket, read) } else { read() };
            let read: io::Result<usize> = read;
            if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Returns whether there was a result.
    fn handle_run(
        &mut self,
        seq: u64,
        function: FnId,
        shape: Shape,
        context: Option<&CallContext>,
        args: Arguments,
    ) -> io::Result<bool> {
        if self.is_spent {
            // The next task would be ended for it. What was sent behind the last one
            // goes to another worker if this one ends without having begun it.
            self.desk.errands.outbox.flush()?;
            std::process::exit(0);
        }
        // To look at the clock takes longer than to come here from the end of the last one.
        let started = self.ended_at.take().unwrap_or_else(monotonic_nanos);
        // Before the swap: whoever sees `Running` must see since when.
        self.page.set_started_at(seq, started);
        if self.page.swap(seq, Phase::Queued, Phase::Running).is_err() {
            put_skipped(self.desk.out.tail(), seq);
            return self.answer(started, 0).map(|_| false);
        }
        // What is heavy takes time to give back.
        let is_light = args.bytes.len() < LARGE_BYTES_LEAST && args.arrived.is_none();
        if args.bytes.len() >= LARGE_BYTES_LEAST {
            self.large_at = started;
        } else if started - self.large_at > SPARE_NANOS {
            // It may run for long.
            self.reader.give_back();
        }
        if args.arrived.has_descriptors() {
            // The parent need not keep them any longer: whoever waits for the other
            // end to be closed waits for this process only.
            put_began(self.desk.out.tail(), seq);
            match self.send() {
                // Whether the task is run without one is decided elsewhere.
                Err(error) if is_hang_up(&error) => {}
                sent => sent?,
            }
        }
        RUNNING.store(seq, Ordering::Release);
        if self.is_watched {
            memory::handle_task();
        }
        let task = self.table.lookup(function);
        // Behind `RUNNING`: whoever hears of it asks for that.
        let span = context.and_then(|context| CallSpan::open(task?.name, context));
        let kind = task.map(|task| &task.kind);
        let result = match (shape, kind) {
            (Shape::One, Some(Kind::Value(run))) => self.desk.one(*run, &args),
            (
                Shape::Batch { count, budget_nanos, stop_on_failure, tallied },
                Some(Kind::Value(run)),
            ) => {
                let until = match budget_nanos {
                    0 => u64::MAX,
                    budget => started.saturating_add(budget),
                };
                let batch = Batch { seq, count, until, stop_on_failure, tallied };
                Ok(self.desk.batch(*run, &args, &batch))
            }
            (Shape::Stream, Some(Kind::Stream(run))) => self.desk.stream(*run, &args, seq)?,
            _ => Err(Failure::UnknownFunction),
        };
        // What its end is told of comes before the answer.
        drop(span);
        if RUNNING.compare_exchange(seq, 0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // It took too much memory: this process is about to end for it.
            park_for_good();
        }
        // Let go of once the answer is on its way, unless what is held counts.
        let _args = self.memory.is_none().then_some(args);
        forget_callbacks();
        self.claim_done(seq);
        let ended = monotonic_nanos();
        let run_nanos = ended - started;
        let retire = self.is_over_memory() && {
            // Not for what is only kept to be used again.
            self.reader.give_back();
            self.is_over_memory()
        };
        self.is_spent = retire && self.is_watched;
        let has_result = result.is_ok();
        match result {
            Ok(answered) => {
                let (len, attached) = (self.desk.out.len(), self.desk.out.attached_count());
                let head = self.desk.out.head_mut(DONE_HEAD_BYTES);
                finish_done(head, len, attached, seq, run_nanos, answered, retire);
            }
            Err(failure) => {
                self.desk.out.clear(SPARE_BYTES_MAX);
                put_failed(self.desk.out.tail(), seq, run_nanos, retire, &failure);
            }
        }
        if self.answer(ended, run_nanos)? && is_light && !retire {
            self.ended_at = Some(ended);
        }
        Ok(has_result)
    }

    /// Swaps the task's word to `Done`. If the parent was faster, a signal is
    /// on its way and nothing may happen in this process any more.
    fn claim_done(&self, seq: u64) {
        let done = |from| self.page.swap(seq, from, Phase::Done).is_ok();
        if !done(Phase::Running) && !done(Phase::CancelReq) {
            park_for_good();
        }
    }

    /// Gives the frames on the desk to the outbox, and sends them unless there
    /// is reason to expect more soon. `now` is when the task ended. Returns whether that
    /// took no time: a parent that does not read is waited for.
    fn answer(&mut self, now: u64, run_nanos: u64) -> io::Result<bool> {
        self.desk.errands.outbox.settle();
        let sent = self.desk.errands.outbox.sent();
        self.desk.errands.outbox.push(&self.desk.out)?;
        self.desk.out.clear(SPARE_BYTES_MAX);
        let since = *self.unsent_since.get_or_insert(now);
        if run_nanos >= LONG_TASK_NANOS || now - since >= FLUSH_NANOS {
            self.desk.errands.outbox.flush()?;
            self.unsent_since = None;
        }
        Ok(sent.is_some() && self.desk.errands.outbox.sent() == sent)
    }

    /// Sends what is on the desk now.
    fn send(&mut self) -> io::Result<()> {
        self.desk.errands.outbox.push(&self.desk.out)?;
        self.desk.out.clear(SPARE_BYTES_MAX);
        self.desk.errands.outbox.flush()
    }

    fn is_over_memory(&self) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|(most, statm)| statm.resident_bytes().is_ok_and(|now| now > *most))
    }
}

fn park_for_good() -> ! {
    loop {
        std::thread::park();
    }
}

/// Who in this process listens to `tracing`.
fn ears() -> Ears {
    let forwards = forward::is_wanted();
    Ears { listens: forwards || observe::hears_of_calls(), forwards }
}

/// The span of a call, entered. Whatever a subscriber of the task's does, the worker
/// goes on.
struct CallSpan(HeldSpan);

impl CallSpan {
    fn open(name: &'static str, context: &CallContext) -> Option<Self> {
        let span = observe::call_span(name, context);
        observe::guarded(|| span.with_subscriber(|(id, dispatch)| dispatch.enter(id)))?;
        Some(CallSpan(span))
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        observe::guarded(|| self.0.with_subscriber(|(id, dispatch)| dispatch.exit(id)));
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_owned())
}
