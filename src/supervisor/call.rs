//! One call on its way through the pool, and how its caller is told what became
//! of it.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio_util::sync::CancellationToken;

use super::Supervisor;
use super::landing::Part;
use super::watch::Watch;
use crate::error::{
    DecodeError, EncodeError, MemoryExceeded, RemotePanic, Side, SpawnError, TaskError, TaskInfo,
};
use crate::id::TaskId;
use crate::limits::CONTEXT_TEXT_BYTES_MAX;
use crate::observe::{HeldSpan, MEASURES, Times};
use crate::proto::draft::{Payload, Reply};
use crate::proto::message::{CallContext, Failure, Shape};
use crate::registry::{FnId, Table};
use crate::sched::{Ending, TaskKey};
use crate::sys::clock::monotonic_nanos;
use crate::sys::layout::Tallied;
use crate::time::Time;

/// What the pool needs to know to make a call.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) function: u64,
    pub(crate) name: &'static str,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) shape: Shape,
    pub(crate) args: Payload,
    /// Cancels the call when it is cancelled.
    pub(crate) token: Option<CancellationToken>,
}

/// Who is told of a call's end.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Whoever has the receiver.
    One,
    /// The same; and the items go there.
    Stream(Arc<Items>),
    Part(Part),
}

/// A call in the scheduler's hands. Its caller is told of its end in any case.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) args: Payload,
    /// `None` once the caller has been told.
    record: Option<Arc<Record>>,
}

/// What the pool and the caller share of a call: what both need as long as it
/// has not ended, and then the end. There are as many as there are calls, so it
/// is kept small.
#[derive(Debug)]
struct Record {
    function: u64,
    shape: Shape,
    /// Uses up a place in the queue.
    has_place: bool,
    items: Option<Arc<Items>>,
    extras: Option<Box<Extras>>,
    state: Mutex<State>,
}

/// What most calls do not have.
#[derive(Debug)]
struct Extras {
    label: Option<Arc<str>>,
    /// `None` if nobody listens, or once the call has ended: the caller may keep
    /// the rest for long. Shared and not cloned under the pool's lock: to clone a
    /// span is to call the program's subscriber.
    span: Mutex<Option<Arc<HeldSpan>>>,
    token: Option<CancellationToken>,
    watch: OnceLock<Watch>,
    /// The caller's trace, for the worker's span.
    trace: Option<Box<Trace>>,
}

/// `traceparent` and `tracestate`.
pub(super) type Trace = (String, String);

impl Extras {
    fn span(&self) -> MutexGuard<'_, Option<Arc<HeldSpan>>> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum State {
    /// Under way, since then. Woken is who polled last.
    Open(Option<Waker>, Time),
    /// Under way, and part of something else.
    Part(Part, Time),
    Answered(Reply),
    Failed(Box<Failed>),
    /// The caller knows.
    Told,
}

/// How a call ended.
pub(crate) type Ended = Result<Answer, Box<Failed>>;

/// What a worker answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) payload: Reply,
    /// How many of a chunk's calls it covers.
    pub(crate) answered: u32,
    /// How long it took, as the worker says.
    pub(crate) run_nanos: u64,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: TaskError,
    /// Whether the task's body may have begun.
    pub(crate) started: bool,
    /// What its worker has left of it.
    pub(crate) tallied: Option<Tallied>,
}

impl Failed {
    pub(crate) fn new(error: TaskError, started: bool) -> Box<Self> {
        Box::new(Failed { error, started, tallied: None })
    }
}

impl Call {
    /// A call and, if its end does not land elsewhere, the means to hear of it.
    pub(super) fn new(
        request: Request,
        sink: Sink,
        span: Option<Arc<HeldSpan>>,
        trace: Option<Trace>,
    ) -> Self {
        let Request { function, name: _, label, shape, args, token } = request;
        let has_extras = label.is_some() || span.is_some() || token.is_some() || trace.is_some();
        let (watch, trace) = (OnceLock::new(), trace.map(Box::new));
        let extras =
            has_extras.then(|| Box::new(Extras { label, span: span.into(), token, watch, trace }));
        let has_place = !matches!(sink, Sink::Part(_));
        // There is room for it where the end will be.
        let now = if MEASURES { Time(monotonic_nanos()) } else { Time::default() };
        let (items, state) = match sink {
            Sink::One => (None, State::Open(None, now)),
            Sink::Stream(items) => (Some(items), State::Open(None, now)),
            Sink::Part(part) => (None, State::Part(part, now)),
        };
        let state = Mutex::new(state);
        let record = Record { function, shape, has_place, items, extras, state };
        Call { args, record: Some(Arc::new(record)) }
    }

    fn record(&self) -> &Record {
        self.record.as_ref().expect("the caller is told last")
    }

    pub(super) fn receiver(&self) -> Receiver {
        Receiver(self.record.clone().expect("the caller is told last"))
    }

    pub(super) fn function(&self) -> u64 {
        self.record().function
    }

    pub(super) fn shape(&self) -> Shape {
        self.record().shape
    }

    /// Whether it is one call, of which nobody is told but its caller.
    pub(super) fn is_plain(&self) -> bool {
        let record = self.record();
        record.extras.is_none() && record.items.is_none()
    }

    pub(super) fn has_place(&self) -> bool {
        self.record().has_place
    }

    /// Whether it is sent with descriptors that are not memory.
    pub(super) fn has_descriptors(&self) -> bool {
        let attached = self.args.attached();
        attached.is_some_and(|attached| attached.iter().any(|one| one.descriptor().is_some()))
    }

    pub(super) fn items(&self) -> Option<&Arc<Items>> {
        self.record().items.as_ref()
    }

    /// Whether somebody may wait for what its worker sends next. Of a stream, and of
    /// calls that make one together, it is known when they have something to take
    /// first.
    pub(super) fn is_awaited(&self) -> bool {
        let record = self.record();
        match (&*record.state(), &record.items) {
            (State::Part(part, _), _) => part.is_awaited(),
            (State::Open(..), Some(items)) => items.is_awaited(),
            _ => true,
        }
    }

    pub(super) fn span(&self) -> Option<Arc<HeldSpan>> {
        self.record().extras.as_ref()?.span().clone()
    }

    /// Its span, which ends with it.
    pub(super) fn take_span(&self) -> Option<Arc<HeldSpan>> {
        self.record().extras.as_ref()?.span().take()
    }

    pub(super) fn info(&self, id: TaskId) -> TaskInfo {
        let record = self.record();
        let task = Table::global().lookup(FnId(record.function));
        let label = record.extras.as_ref().and_then(|extras| extras.label.clone());
        TaskInfo { id, name: task.map_or("unknown", |task| task.name), label, index: None }
    }

    /// How long it waited and ran, if its worker began it at `started` and took so
    /// long, as that says.
    pub(super) fn times(&self, now: Time, started: Time, run_nanos: u64) -> Times {
        let queued = match *self.record().state() {
            State::Open(_, queued) | State::Part(_, queued) => queued,
            State::Answered(_) | State::Failed(_) | State::Told => now,
        };
        let started = started.clamp(queued, now.max(queued));
        let ran = Duration::from_nanos(run_nanos).min(now - started);
        Times { waited: started - queued, ran }
    }

    /// What a worker's span of the call takes.
    pub(super) fn context(&self, task: TaskId) -> CallContext {
        let extras = self.record().extras.as_ref();
        let label = extras.and_then(|extras| extras.label.as_deref());
        let label = label.map(|label| clipped(label).to_owned());
        let trace = extras.and_then(|extras| extras.trace.as_deref().cloned());
        CallContext { task, label, trace }
    }

    /// Tells the caller, who is to be woken yet, and lets go of the arguments.
    pub(super) fn resolve(&mut self, ended: Ended) -> Option<Waker> {
        let waker = self.record.take().and_then(|record| record.resolve(ended));
        drop(mem::take(&mut self.args));
        waker
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            let ended = Err(Failed::new(TaskError::Terminated, true));
            record.resolve(ended).into_iter().for_each(wake);
        }
    }
}

/// Wakes, whatever the waker does. A panic of its own, which the panic hook has
/// told of, is none of ours, and might be the second one that aborts.
pub(super) fn wake(waker: Waker) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        // Dropping it could panic again.
        mem::forget(payload);
    }
}

impl Record {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self, ended: Ended) -> Option<Waker> {
        let waker = self.end(ended);
        if let Some(watch) = self.extras.as_ref().and_then(|extras| extras.watch.get()) {
            watch.stop();
        }
        waker
    }

    fn end(&self, ended: Ended) -> Option<Waker> {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Told) {
            State::Open(waker, _) => {
                *state = match ended {
                    Ok(answer) => State::Answered(answer.payload),
                    Err(failed) => State::Failed(failed),
                };
                drop(state);
                match &self.items {
                    // The end is there before the reader is woken to look for it.
                    Some(items) => items.take_waker().or(waker),
                    None => waker,
                }
            }
            State::Part(part, _) => part.land(ended),
            State::Answered(_) | State::Failed(_) | State::Told => None,
        }
    }
}

/// The caller's side of a call.
#[derive(Debug)]
pub(crate) struct Receiver(Arc<Record>);

impl Receiver {
    /// Of a call that has failed already.
    pub(crate) fn of_failed(error: TaskError) -> Self {
        let state = Mutex::new(State::Failed(Failed::new(error, false)));
        let (function, shape, has_place) = (0, Shape::One, false);
        Receiver(Arc::new(Record { function, shape, has_place, items: None, extras: None, state }))
    }

    /// Lets the call's token, if it has one, cancel it.
    pub(super) fn watch(&self, supervisor: &Arc<Supervisor>, task: TaskKey) {
        let Some(extras) = &self.0.extras else { return };
        let Some(token) = &extras.token else { return };
        let runtime = &supervisor.runtime;
        let supervisor = Arc::clone(supervisor);
        let watch = Watch::start(runtime, token.clone(), move || supervisor.cancel(task));
        let watch = extras.watch.get_or_init(|| watch);
        // It may just have ended, and nobody have known whom to stop.
        if self.is_ready() {
            watch.stop();
        }
    }

    /// Whether the end is there.
    pub(crate) fn is_ready(&self) -> bool {
        !matches!(*self.0.state(), State::Open(..))
    }

    /// The end of the call, once.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Result<Reply, Box<Failed>>> {
        let mut state = self.0.state();
        if matches!(*state, State::Open(..)) {
            drop(state);
            // Cloned and dropped without the lock: wakers are the user's.
            let mut waker = Some(cx.waker().clone());
            state = self.0.state();
            if let State::Open(known, _) = &mut *state {
                mem::swap(known, &mut waker);
                drop(state);
                return Poll::Pending;
            }
        }
        drop(state);
        // As tokio's channels do: who never waits lets others run.
        ready!(pin!(consume_budget()).poll(cx));
        Poll::Ready(match mem::replace(&mut *self.0.state(), State::Told) {
            State::Answered(reply) => Ok(reply),
            State::Failed(failed) => Err(failed),
            State::Open(..) | State::Part(..) | State::Told => {
                Err(Failed::new(TaskError::Terminated, true))
            }
        })
    }
}

/// Items of a stream that have arrived and not been taken.
#[derive(Debug, Default)]
pub(crate) struct Items {
    state: Mutex<ItemsState>,
}

#[derive(Debug, Default)]
struct ItemsState {
    waiting: VecDeque<Reply>,
    waker: Option<Waker>,
    received: u32,
    /// How many the worker may send in all.
    granted: u32,
}

impl Items {
    pub(crate) fn with_credit(granted: u32) -> Self {
        Items { state: Mutex::new(ItemsState { granted, ..ItemsState::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, ItemsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn granted(&self) -> u32 {
        self.state().granted
    }

    /// Lets the worker send `n` more.
    pub(crate) fn grant(&self, n: u32) {
        let mut state = self.state();
        state.granted = state.granted.wrapping_add(n);
    }

    /// Takes in an item; `Err` if the worker had no credit for it. The reader
    /// is to be woken.
    pub(crate) fn push(&self, item: Reply) -> Result<Option<Waker>, ()> {
        let mut state = self.state();
        if state.received == state.granted {
            return Err(());
        }
        state.received = state.received.wrapping_add(1);
        state.waiting.push_back(item);
        Ok(state.waker.take())
    }

    /// The next item; without one, `waker` is woken when there is.
    pub(crate) fn pop_or_wait(&self, waker: &Waker) -> Option<Reply> {
        // Cloned before and dropped after: wakers are the user's.
        let waker = waker.clone();
        let mut state = self.state();
        let item = state.waiting.pop_front();
        let old = if item.is_none() { state.waker.replace(waker) } else { None };
        drop(state);
        drop(old);
        item
    }

    fn take_waker(&self) -> Option<Waker> {
        self.state().waker.take()
    }

    fn is_awaited(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && state.waker.is_some()
    }
}

/// A label as far as it goes to workers.
fn clipped(label: &str) -> &str {
    let most = label.len().min(CONTEXT_TEXT_BYTES_MAX);
    let end = (0..=most).rev().find(|&at| label.is_char_boundary(at));
    &label[..end.unwrap_or(0)]
}

/// What the caller is told of a failure that a worker reported.
pub(crate) fn failure_error(failure: Failure, task: Option<TaskInfo>) -> TaskError {
    match failure.clipped() {
        Failure::Panicked(report) => TaskError::Panicked(RemotePanic::new(report, task)),
        Failure::Arguments(reason) | Failure::Setting(reason) => {
            TaskError::Decode(DecodeError { side: Side::Arguments, reason, index: None })
        }
        Failure::Result(reason) => {
            TaskError::Encode(EncodeError { side: Side::Result, reason, index: None })
        }
        Failure::ResultTooLarge { size, limit } => TaskError::TooLarge { size, limit },
        Failure::UnknownFunction => TaskError::Decode(DecodeError {
            side: Side::Arguments,
            reason: "the worker does not know the function".into(),
            index: None,
        }),
    }
}

/// Whether the task's body may have begun when it ended like this.
pub(crate) fn ending_started(ending: &Ending) -> bool {
    match ending {
        Ending::Cancelled { started, .. } | Ending::Terminated { started } => *started,
        Ending::TimedOut { .. } | Ending::Lost { .. } | Ending::Violated { .. } => true,
        Ending::Broken => false,
    }
}

/// What there is to say of a worker that was lost.
#[derive(Debug, Default)]
pub(super) struct Obituary {
    pub(super) pid: u32,
    /// Its last words.
    pub(super) stderr: String,
    /// Why it ended itself, if it did.
    pub(super) memory: Option<MemoryExceeded>,
}

/// What the caller is told of an ending without an answer. `obituary` is of the
/// worker, if it was lost.
pub(crate) fn ending_error(
    ending: Ending,
    task: TaskInfo,
    obituary: Obituary,
    broken: Option<&SpawnError>,
) -> TaskError {
    match ending {
        Ending::Cancelled { exit, .. } => TaskError::Cancelled { exit },
        Ending::TimedOut { after, exit } => TaskError::TimedOut { after, exit },
        Ending::Terminated { .. } => TaskError::Terminated,
        Ending::Lost { exit, .. } => {
            let Obituary { pid, stderr, memory } = obituary;
            let memory = memory.map(Box::new);
            TaskError::WorkerLost { exit, pid, task, stderr, memory }
        }
        Ending::Violated { error } => TaskError::Protocol(error),
        Ending::Broken => {
            broken.map_or(TaskError::Terminated, |error| TaskError::Broken(error.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::attached::Arrived;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn call(sink: Sink) -> Call {
        let args = vec![1, 2, 3].into();
        let request =
            Request { function: 0, name: "f", label: None, shape: Shape::One, args, token: None };
        Call::new(request, sink, None, None)
    }

    fn answer(bytes: &[u8]) -> Ended {
        let payload = Reply::detach(bytes.into(), 0, Arrived::NOTHING);
        Ok(Answer { payload, answered: 1, run_nanos: 0 })
    }

    #[test]
    fn who_polled_last_is_woken_and_given_the_answer() {
        let (first, last) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let mut call = call(Sink::One);
        let receiver = call.receiver();
        for bell in [&first, &last] {
            let waker = Arc::clone(bell).into();
            assert!(receiver.poll_ended(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(!receiver.is_ready());
        call.resolve(answer(&[7])).expect("somebody waits").wake();
        assert_eq!([first, last].map(|bell| bell.0.load(Ordering::Relaxed)), [0, 1]);
        assert!(receiver.is_ready());
        let ended = receiver.poll_ended(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(ended, Poll::Ready(Ok(reply)) if reply[..] == [7]));
    }

    #[test]
    fn a_call_that_is_dropped_has_ended() {
        let bell = Arc::new(Bell::default());
        let call = call(Sink::One);
        let receiver = call.receiver();
        let waker = Arc::clone(&bell).into();
        assert!(receiver.poll_ended(&mut Context::from_waker(&waker)).is_pending());
        drop(call);
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        let Poll::Ready(Err(failed)) = receiver.poll_ended(&mut Context::from_waker(&waker)) else {
            panic!("it hangs");
        };
        assert!(matches!(failed.error, TaskError::Terminated) && failed.started);
    }

    #[test]
    fn a_waker_that_panics_aborts_nothing() {
        struct Grenade;
        impl Wake for Grenade {
            fn wake(self: Arc<Self>) {
                panic!("woken");
            }
        }
        let call = call(Sink::One);
        let receiver = call.receiver();
        let waker = Arc::new(Grenade).into();
        assert!(receiver.poll_ended(&mut Context::from_waker(&waker)).is_pending());
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _dropped = call;
            panic!("the first");
        }));
        assert!(unwound.is_err() && receiver.is_ready());
    }

    #[test]
    fn the_reader_of_items_is_woken_for_the_end() {
        let bell = Arc::new(Bell::default());
        let items = Arc::new(Items::with_credit(1));
        let mut call = call(Sink::Stream(Arc::clone(&items)));
        assert!(items.pop_or_wait(&Arc::clone(&bell).into()).is_none());
        call.resolve(answer(&[])).expect("the reader waits").wake();
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    }

    /// With a task's entry in the table, and its handle, it is what a call that
    /// waits takes.
    #[test]
    fn a_record_is_small() {
        let counts = 2 * size_of::<usize>();
        assert!(counts + size_of::<Record>() <= 120, "{}", size_of::<Record>());
        assert_eq!(size_of::<Call>(), 32);
    }
}
