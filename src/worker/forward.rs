//! Sends on to the parent what this worker's `tracing` is told.
//!
//! Any thread may tell. None waits for the parent: what there is no room for, in the
//! socket and in the status page, is dropped and counted. What is told of a task
//! goes out before its answer, so that the parent still knows whose it is.
//!
//! Both the worker's loop and whoever tells write to the outbox then. Who tells
//! leaves frames in the backlog, and carries them to the outbox if nobody has that at
//! the moment; whoever has it looks into the backlog before and after.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use serde::{Deserialize, Serialize};
use tracing::field::{Field as FieldKey, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_core::span::Current;

use super::outbox::Outbox;
use super::{PAGE, RUNNING, is_in_a_copy};
use crate::limits::{
    TRACE_BURST_BYTES, TRACE_BYTES_LEAST, TRACE_BYTES_PER_SECOND, TRACE_FIELDS_MAX, TRACE_SPANS_MAX,
};
use crate::observe;
use crate::proto::draft::Draft;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::message::put_trace;
use crate::proto::trace::{Allowance, Field, Level, News, Place, Record, Scene, Value};
use crate::sys::clock::monotonic_nanos;
use crate::sys::layout::UNSENT_BYTES_MAX;
use crate::time::Time;

/// Frames that wait for whoever has the outbox: as many as fit there.
const BACKLOG_BYTES_MAX: usize = UNSENT_BYTES_MAX as usize;

/// Between the program's `tracing` and the outbox.
static LINE: Line = Line { outbox: Mutex::new(None), backlog: Mutex::new(Backlog::new()) };

/// Somebody wants it to be forwarded.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// Forwards what this worker's `tracing` is told, up to a level, to the process that
/// the pool is in: its subscriber hears of each event and span within the span that
/// the call was made in, with two fields more, `worker.name` (as in `ps`, such as
/// `thumbs/3`) and `worker.pid`. To be called in the pool's
/// [`initializer`](crate::PoolBuilder::initializer):
///
/// ```no_run
/// # fn example() -> Result<(), procession::SpawnError> {
/// use procession::{Pool, worker};
/// use tracing::Level;
///
/// let pool = Pool::builder()
///     .initializer(|| worker::forward_tracing(Level::INFO), ())
///     .build()?;
/// # Ok(()) }
/// ```
///
/// In a [`Process`](crate::Process) it is called by its task, and what is told is heard
/// within the span that the process was made in.
///
/// Name, target, level, file, line and fields are those of the worker: filters such
/// as `my_app::thumbs=debug` say here, too, what is heard. What comes first of all is
/// `level`, since the worker does not know the filters; what is above it is not sent.
/// Events outside of the call's span, from a thread that a task has left behind, are
/// heard within the span of the worker, at `procession::worker`. A chunk of a map is
/// one call. Spans begin and end when the worker says so; that they are entered is not
/// told.
///
/// Nothing waits for this: a worker may say 1 MiB at once and 256 KiB each second, each
/// event counting as 256 bytes at the least, with up to 28 fields and 8 KiB of text;
/// what is beyond is dropped or cut, and a warning counts it, "said too much at once". So are spans beyond 256 at a time.
/// What was said before a crash, or before the task was killed, still arrives. It is
/// the worker's word: one that was taken over can say anything here, up to those
/// limits. So all that workers of an [`untrusted`](crate::PoolBuilder::untrusted) pool
/// say has the target `procession::forwarded`, and its own in the field
/// `forwarded.target`; and so has what is said in more than 512 places of one worker's
/// program, or 2048 of all, as `tracing` never forgets one.
///
/// Outside of a worker, and when called again, this does nothing.
///
/// # Errors
///
/// If the process has a subscriber already.
pub fn forward_tracing(level: impl Into<LevelFilter>) -> Result<(), ForwardError> {
    static FORWARDS: OnceLock<()> = OnceLock::new();
    if PAGE.get().is_none() || FORWARDS.get().is_some() {
        return Ok(());
    }
    tracing::subscriber::set_global_default(Forward::new(level.into()))
        .map_err(|_| ForwardError)?;
    let _ = FORWARDS.set(());
    IS_WANTED.store(true, Ordering::Relaxed);
    Ok(())
}

/// [`forward_tracing`] was called in a process that has a subscriber of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForwardError;

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the worker has a `tracing` subscriber already")
    }
}

impl std::error::Error for ForwardError {}

/// Whether this worker forwards.
pub(super) fn is_wanted() -> bool {
    IS_WANTED.load(Ordering::Relaxed)
}

/// What there is to be sent is the original's, of which this is a copy, if it is.
pub(super) fn forget() {
    *LINE.outbox() = None;
    *LINE.backlog() = Backlog::new();
}

/// Where the worker's loop puts what is to be sent.
#[derive(Debug)]
pub(super) enum Post {
    Own(Outbox),
    /// It shares it with whoever tells something.
    Shared,
}

impl Post {
    /// Lets others use the outbox from now on.
    pub(super) fn share(&mut self) {
        if let Post::Own(outbox) = std::mem::replace(self, Post::Shared) {
            *LINE.outbox() = Some(outbox);
            LINE.carry();
        }
    }

    /// Takes it back, if nobody wants it.
    pub(super) fn settle(&mut self) {
        match self {
            Post::Own(_) if is_wanted() => self.share(),
            Post::Shared if !is_wanted() => {
                if let Some(outbox) = LINE.outbox().take() {
                    *self = Post::Own(outbox);
                }
            }
            Post::Own(_) | Post::Shared => {}
        }
    }

    /// Adds whole frames, behind what was told before.
    pub(super) fn push(&mut self, frames: &Draft) -> io::Result<()> {
        match self {
            Post::Own(outbox) => outbox.push(frames),
            Post::Shared => LINE.with_outbox(|outbox| {
                LINE.empty_into(outbox)?;
                outbox.push(frames)
            }),
        }
    }

    /// Whether something was told that did not go out with the answers, since no more
    /// might be said: how much was dropped.
    pub(super) fn owes(&self) -> bool {
        let backlog = || LINE.backlog();
        matches!(self, Post::Shared) && (backlog().dropped > 0 || !backlog().closed.is_empty())
    }

    /// Sends that, if it may be said by now.
    pub(super) fn settle_debts(&mut self) -> io::Result<()> {
        LINE.with_outbox(|outbox| {
            LINE.empty_into(outbox)?;
            outbox.flush()
        })
    }

    /// How much has been sent, if nobody else sends.
    pub(super) fn sent(&self) -> Option<u64> {
        match self {
            Post::Own(outbox) => Some(outbox.sent()),
            Post::Shared => None,
        }
    }

    /// Whether there is nothing that the parent might take before it is sent.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Post::Own(outbox) => outbox.is_settled(),
            // Whoever tells something sends it at once.
            Post::Shared => true,
        }
    }

    /// Sends everything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Post::Own(outbox) => outbox.flush(),
            Post::Shared => LINE.with_outbox(Outbox::flush),
        }
    }
}

struct Line {
    /// `None` while the worker's loop has it to itself.
    outbox: Mutex<Option<Outbox>>,
    /// Never held while anything is written to the socket.
    backlog: Mutex<Backlog>,
}

/// What was told and is not in the outbox.
struct Backlog {
    frames: Vec<u8>,
    /// Records dropped since the last one that was not.
    dropped: u64,
    /// Spans that have ended since then.
    closed: Vec<u64>,
    allowance: Allowance,
}

impl Backlog {
    const fn new() -> Self {
        Backlog {
            frames: Vec::new(),
            dropped: 0,
            closed: Vec::new(),
            allowance: Allowance::new(TRACE_BURST_BYTES, TRACE_BYTES_PER_SECOND),
        }
    }

    /// Adds a frame with what there is to tell. Returns whether there was room.
    fn add(&mut self, seq: u64, record: Option<Record>) -> bool {
        let is_record = record.is_some();
        let is_span = matches!(record, Some(Record::Span { .. }));
        let (dropped, closed) = (self.dropped, std::mem::take(&mut self.closed));
        let news = News { dropped, closed, record }.clipped();
        let body = news.encode();
        let len = HEADER_BYTES + body.len();
        let has_room = self.frames.len() + len <= BACKLOG_BYTES_MAX;
        // The end of a span was paid for when it began.
        let cost = if is_span { len.max(TRACE_BYTES_LEAST) + TRACE_BYTES_LEAST } else { len };
        let is_free = !is_record && !news.closed.is_empty();
        if !has_room || !(is_free || self.allowance.take(Time(monotonic_nanos()), cost)) {
            self.dropped += u64::from(is_record);
            self.closed = news.closed;
            return false;
        }
        self.dropped = 0;
        put_trace(&mut self.frames, seq, &body);
        true
    }
}

impl Line {
    fn outbox(&self) -> MutexGuard<'_, Option<Outbox>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_outbox(&self, f: impl FnOnce(&mut Outbox) -> io::Result<()>) -> io::Result<()> {
        let mut outbox = self.outbox();
        let result = f(outbox.as_mut().expect("it is here while it is shared"));
        drop(outbox);
        self.carry();
        result
    }

    /// Tells one thing. Returns whether it will arrive, if the worker's answers do.
    fn tell(&self, seq: u64, record: Option<Record>) -> bool {
        let told = self.backlog().add(seq, record);
        self.carry();
        told
    }

    /// Carries the backlog to the outbox, unless somebody has that, who will do it.
    fn carry(&self) {
        loop {
            let mut outbox = match self.outbox.try_lock() {
                Ok(outbox) => outbox,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let Some(outbox) = &mut *outbox else { return };
            let mut backlog = self.backlog();
            if backlog.frames.is_empty() || !outbox.try_push_short(&backlog.frames) {
                return;
            }
            backlog.frames.clear();
            // Somebody may have left more and found the outbox in our hands: once
            // more, when it is not.
        }
    }

    /// Puts the backlog into the outbox, and waits for room there if need be.
    fn empty_into(&self, outbox: &mut Outbox) -> io::Result<()> {
        let mut backlog = self.backlog();
        if backlog.dropped > 0 || !backlog.closed.is_empty() {
            backlog.add(0, None);
        }
        let mut frames = std::mem::take(&mut backlog.frames);
        drop(backlog);
        if frames.is_empty() {
            return Ok(());
        }
        outbox.push_short(&frames)?;
        frames.clear();
        let mut backlog = self.backlog();
        if backlog.frames.is_empty() {
            // For its memory.
            backlog.frames = frames;
        }
        Ok(())
    }
}

/// The subscriber. In a copy of the worker it does nothing and takes no lock.
struct Forward {
    most: LevelFilter,
    next_id: AtomicU64,
    spans: Mutex<HashMap<u64, Open>>,
}

/// A span that is open here.
struct Open {
    metadata: &'static Metadata<'static>,
    handles: usize,
    /// Number of the task that it is in; 0 for none.
    seq: u64,
    /// The span that the parent knows in its place; 0 for the call's own.
    shown: u64,
}

/// What the parent is to be told that something is in.
#[derive(Clone, Copy, Default)]
struct Around {
    seq: u64,
    shown: u64,
}

thread_local! {
    /// Spans that this thread is in.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn innermost() -> Option<u64> {
    ENTERED.try_with(|entered| entered.borrow().last().copied()).ok()?
}

impl Forward {
    fn new(most: LevelFilter) -> Self {
        Forward { most, next_id: AtomicU64::new(1), spans: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn around(&self, is_contextual: bool, parent: Option<&Id>) -> Around {
        let span = if is_contextual { innermost() } else { parent.map(Id::into_u64) };
        let spans = self.spans();
        let open = span.and_then(|span| spans.get(&span));
        open.map_or(Around::default(), |open| Around { seq: open.seq, shown: open.shown })
    }
}

impl Subscriber for Forward {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Spans of calls are there whatever else is wanted: they say whose it is.
        Some(self.most.max(LevelFilter::INFO))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most || observe::is_call_span(metadata)
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if is_in_a_copy() {
            return Id::from_u64(id);
        }
        let metadata = attributes.metadata();
        let open = if observe::is_call_span(metadata) {
            // The parent has the call's own.
            Open { metadata, handles: 1, seq: RUNNING.load(Ordering::Acquire), shown: 0 }
        } else {
            let around = self.around(attributes.is_contextual(), attributes.parent());
            let scene = scene(metadata, |fields| attributes.record(fields));
            let record = Record::Span { id, parent: around.shown, scene };
            let is_one_too_many = self.spans().len() >= TRACE_SPANS_MAX;
            let told = !is_one_too_many && LINE.tell(around.seq, Some(record));
            let shown = if told { id } else { around.shown };
            Open { metadata, handles: 1, seq: around.seq, shown }
        };
        self.spans().insert(id, open);
        Id::from_u64(id)
    }

    fn record(&self, span: &Id, values: &SpanRecord<'_>) {
        if is_in_a_copy() {
            return;
        }
        let id = span.into_u64();
        let around = self.around(false, Some(span));
        if around.shown == id {
            let mut fields = Fields::default();
            values.record(&mut fields);
            LINE.tell(around.seq, Some(Record::Values { span: id, fields: fields.0 }));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if is_in_a_copy() {
            return;
        }
        let around = self.around(event.is_contextual(), event.parent());
        let scene = scene(event.metadata(), |fields| event.record(fields));
        LINE.tell(around.seq, Some(Record::Event { span: around.shown, scene }));
    }

    fn enter(&self, span: &Id) {
        let id = span.into_u64();
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(id));
    }

    fn exit(&self, span: &Id) {
        let _ = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            if let Some(at) = entered.iter().rposition(|&id| id == span.into_u64()) {
                entered.remove(at);
            }
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        if is_in_a_copy() {
            return span.clone();
        }
        if let Some(open) = self.spans().get_mut(&span.into_u64()) {
            open.handles += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        if is_in_a_copy() {
            return false;
        }
        let id = span.into_u64();
        let mut spans = self.spans();
        let Some(open) = spans.get_mut(&id) else { return false };
        open.handles -= 1;
        if open.handles > 0 {
            return false;
        }
        let (seq, is_shown) = (open.seq, open.shown == id);
        spans.remove(&id);
        drop(spans);
        if is_shown {
            LINE.backlog().closed.push(id);
            LINE.tell(seq, None);
        }
        true
    }

    fn current_span(&self) -> Current {
        let Some(id) = innermost().filter(|_| !is_in_a_copy()) else { return Current::none() };
        match self.spans().get(&id) {
            Some(open) => Current::new(Id::from_u64(id), open.metadata),
            None => Current::none(),
        }
    }
}

/// A place, and its fields as `record` gives them.
fn scene(metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields)) -> Scene {
    let mut fields = Fields::default();
    record(&mut fields);
    // A span may be given the others later.
    for name in metadata.fields().iter().map(|field| field.name()) {
        if !fields.0.iter().any(|field| field.name == name) {
            fields.0.push(Field { name: name.to_owned(), value: None });
        }
    }
    let place = Place {
        name: metadata.name().to_owned(),
        target: metadata.target().to_owned(),
        level: level(metadata.level()),
        module: metadata.module_path().map(str::to_owned),
        file: metadata.file().map(str::to_owned),
        line: metadata.line(),
    };
    Scene { place, fields: fields.0 }
}

fn level(level: &tracing::Level) -> Level {
    match *level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

/// Fields as they are recorded.
#[derive(Default)]
struct Fields(Vec<Field>);

impl Fields {
    fn put(&mut self, field: &FieldKey, value: Value) {
        if self.0.len() < TRACE_FIELDS_MAX {
            self.0.push(Field { name: field.name().to_owned(), value: Some(value) });
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &FieldKey, value: f64) {
        self.put(field, Value::F64(value));
    }

    fn record_i64(&mut self, field: &FieldKey, value: i64) {
        self.put(field, Value::I64(value));
    }

    fn record_u64(&mut self, field: &FieldKey, value: u64) {
        self.put(field, Value::U64(value));
    }

    fn record_i128(&mut self, field: &FieldKey, value: i128) {
        self.put(field, Value::I128(value));
    }

    fn record_u128(&mut self, field: &FieldKey, value: u128) {
        self.put(field, Value::U128(value));
    }

    fn record_bool(&mut self, field: &FieldKey, value: bool) {
        self.put(field, Value::Bool(value));
    }

    fn record_str(&mut self, field: &FieldKey, value: &str) {
        self.put(field, Value::Str(value.to_owned()));
    }

    fn record_debug(&mut self, field: &FieldKey, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
}
