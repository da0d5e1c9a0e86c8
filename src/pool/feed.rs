//! Cuts the input of `map` and `imap` into chunks, and keeps them in flight.
//! Pulls input only as there is room for it, and sizes chunks by how long
//! items have been taking.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::Stream;
use serde::Serialize;
use tokio::task::coop::consume_budget;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::{Side, TaskError, TaskInfo};
use crate::limits::ATTACHED_MAX;
use crate::proto::codec;
use crate::proto::draft::{Draft, Mark, Payload, Reply};
use crate::proto::message::Shape;
use crate::sched::{TaskKey, Terms};
use crate::supervisor::{Begun, Ended, Landing, Part, Request, Supervisor};
use crate::sys::cast::Sharing;

/// A chunk should take about this long: some forty times its fixed cost of
/// 50 µs or less, and short enough to spread the last ones evenly.
const CHUNK_NANOS: u64 = 2_000_000;

/// A worker sends a chunk back unfinished after this long, so that items that
/// take longer than those before them can go to other workers.
const CHUNK_BUDGET_NANOS: u64 = 5 * CHUNK_NANOS;

/// Chunks grow at most by this factor from one to the next: one quick item
/// says little.
const CHUNK_GROWTH: usize = 16;

/// Most items and bytes of a chunk that nobody gave a size.
const CHUNK_ITEMS_MAX: usize = 1 << 16;
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Chunks do not shrink below this towards the end of the input: to send one
/// takes about as long.
const CHUNK_NANOS_LEAST: u64 = 10_000;

/// Chunks in flight for each worker: one runs, others wait for it at the
/// worker and in the queue.
const CHUNKS_PER_WORKER: usize = 4;

/// And while they grow: each that is sent before the first of its size is back
/// is a small one more.
const GROWING_CHUNKS_PER_WORKER: usize = 2;

/// The same where the size is given: they may be of one tiny item each.
const FIXED_CHUNKS_PER_WORKER: usize = 256;

/// Where the input comes from, whatever its type.
pub(super) trait Source: Send {
    /// Appends the arguments of as many items as `out` wants.
    fn poll_pull(&mut self, cx: &mut Context<'_>, out: &mut Pulled, limit: usize) -> Poll<Pull>;

    /// How many items are left, if that is known.
    fn left(&self) -> Option<usize>;
}

/// What pulling came to.
pub(super) enum Pull {
    Enough,
    /// There is an item, and it cannot be sent.
    Failed(TaskError),
    End,
}

/// Items on their way into a chunk.
pub(super) struct Pulled {
    args: Draft,
    /// The end of those that are whole.
    whole: Mark,
    /// Where the arguments of each but the last end, which is before
    /// `CHUNK_BYTES_MAX`.
    ends: Vec<u32>,
    count: usize,
    wanted: usize,
}

impl Pulled {
    /// Makes room for those behind the first, of which there are so many, if they
    /// are as long: what grows on the way is copied again and again.
    #[cold]
    fn reserve(&mut self, left: usize) {
        let items = left.min(self.wanted - 1).min(CHUNK_ITEMS_MAX);
        let args = self.args.tail();
        args.reserve(items.saturating_mul(args.len() + 1).min(CHUNK_BYTES_MAX));
        self.ends.reserve(items);
    }
}

/// A stream of arguments as a source.
pub(super) struct Encoded<S>(pub(super) Pin<Box<S>>);

impl<S> Source for Encoded<S>
where
    S: Stream<Item: Serialize> + Send,
{
    fn poll_pull(&mut self, cx: &mut Context<'_>, out: &mut Pulled, limit: usize) -> Poll<Pull> {
        let mut len = out.args.len();
        while out.count < out.wanted
            && len < CHUNK_BYTES_MAX
            && out.args.attached().len() < ATTACHED_MAX
        {
            let Some(args) = ready!(self.0.as_mut().poll_next(cx)) else {
                return Poll::Ready(Pull::End);
            };
            // What fits into a frame alone fits into one behind others: the
            // slack beyond the limit is at least as long as a chunk.
            if let Err(failure) = codec::draft::<Sharing, _>(&args, &mut out.args, limit) {
                let error = TaskError::from_encode(failure, Side::Arguments);
                return Poll::Ready(Pull::Failed(error));
            }
            match out.count {
                0 => out.reserve(self.left().unwrap_or(0)),
                _ => out.ends.push(len as u32),
            }
            out.count += 1;
            out.whole = out.args.mark();
            len = out.args.len();
        }
        Poll::Ready(Pull::Enough)
    }

    fn left(&self) -> Option<usize> {
        match self.0.size_hint() {
            (least, Some(most)) if least == most => Some(least),
            _ => None,
        }
    }
}

/// The chunks of one `map` or `imap`.
pub(super) struct Feed {
    supervisor: Arc<Supervisor>,
    function: u64,
    name: &'static str,
    source: Option<Box<dyn Source>>,
    /// The input panicked; the caller gets it after the items before.
    panic: Option<Box<dyn Any + Send>>,
    /// `None`: as it turns out best.
    chunk_size: Option<usize>,
    pub(super) label: Option<Arc<str>>,
    /// Done when the caller's token is cancelled.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    pub(super) stop_on_failure: bool,
    /// Parts of chunks that came back unfinished.
    unfinished: VecDeque<Chunk>,
    flights: Flights,
    landing: Arc<Landing>,
    /// Taken from there, in the order they came.
    landed: VecDeque<(u32, Ended)>,
    pulled: usize,
    /// Nanoseconds that an item takes, on average of late. 0: unknown.
    item_nanos: u64,
    /// Items of the largest chunk that has come back.
    largest: usize,
    /// Keeps the pool's driver until all is done.
    begun: Option<Begun>,
}

/// Consecutive items that go to a worker together.
pub(super) struct Chunk {
    /// Position of its first item in the input.
    first: usize,
    args: Payload,
    /// Where the arguments of each item but the last end in `args`, counted from
    /// where those of the first began when the chunk was made.
    ends: Vec<u32>,
    /// Where `args` begins, counted likewise.
    start: u32,
}

impl Chunk {
    fn count(&self) -> usize {
        self.ends.len() + 1
    }

    /// Cuts off all but the first `count` items, which are some and not all, and
    /// returns the rest.
    fn split_off(&mut self, count: usize) -> Chunk {
        let ends = self.ends.split_off(count);
        let start = self.ends.pop().expect("cut behind an item");
        let args = self.args.split_off((start - self.start) as usize);
        Chunk { first: self.first + count, args, ends, start }
    }
}

/// What became of consecutive items.
pub(super) enum Fed {
    /// They could not be sent.
    Unsent { index: usize, error: TaskError },
    /// All have this answer, which is that of a chunk unless `single`.
    Answered { first: usize, count: usize, payload: Reply, single: bool, task: TaskInfo },
    /// None has an answer. The error's index counts from `first`.
    Lost { first: usize, count: usize, error: TaskError },
}

impl Feed {
    pub(super) fn new(
        supervisor: &Arc<Supervisor>,
        function: u64,
        name: &'static str,
        source: Box<dyn Source>,
    ) -> Self {
        Feed {
            supervisor: Arc::clone(supervisor),
            function,
            name,
            source: Some(source),
            panic: None,
            chunk_size: None,
            label: None,
            cancelled: None,
            stop_on_failure: false,
            unfinished: VecDeque::new(),
            flights: Flights::default(),
            landing: Arc::default(),
            landed: VecDeque::new(),
            pulled: 0,
            item_nanos: 0,
            largest: 0,
            begun: None,
        }
    }

    pub(super) fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    pub(super) fn set_chunk_size(&mut self, items: usize) {
        assert!(items > 0, "a chunk needs at least one item");
        self.chunk_size = Some(items);
    }

    pub(super) fn cancel_on(&mut self, token: CancellationToken) {
        self.cancelled = Some(Box::pin(token.cancelled_owned()));
    }

    /// Ready, with the error for it, once the caller's token is cancelled.
    pub(super) fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<TaskError> {
        let Some(cancelled) = &mut self.cancelled else { return Poll::Pending };
        ready!(cancelled.as_mut().poll(cx));
        self.cancelled = None;
        Poll::Ready(TaskError::Cancelled { exit: None })
    }

    /// How many items were pulled from the input so far.
    pub(super) fn pulled(&self) -> usize {
        self.pulled
    }

    /// How many items are left, if that is known.
    pub(super) fn left(&self) -> Option<usize> {
        self.source.as_ref().map_or(Some(0), |source| source.left())
    }

    /// Joins the pool's work, or says why it cannot. `feeding`: somebody keeps
    /// polling, come what may.
    pub(super) fn begin(&mut self, feeding: bool) -> Result<(), TaskError> {
        match &self.begun {
            None => {
                if let Some(refusal) = self.supervisor.refusal() {
                    self.source = None;
                    return Err(refusal);
                }
                self.begun = Some(self.supervisor.begin(feeding));
            }
            Some(begun) if feeding && !begun.is_feeding() => {
                self.begun = Some(self.supervisor.begin(true));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The next news, in the order they come in; `None` when there is no more.
    /// Pulls input only while `room` items more may be under way.
    ///
    /// # Panics
    ///
    /// With the input's own panic, when everything before it has come back.
    pub(super) fn poll_fed(&mut self, cx: &mut Context<'_>, mut room: usize) -> Poll<Option<Fed>> {
        while self.flights.len() < self.window() {
            if let Some(chunk) = self.next_unfinished() {
                self.send(chunk);
                continue;
            }
            if room == 0 {
                break;
            }
            match self.poll_chunk(cx, room) {
                Poll::Ready(Next::Chunk(chunk)) => {
                    room = room.saturating_sub(chunk.count());
                    self.send(chunk);
                }
                Poll::Ready(Next::Failed { index, error }) => {
                    return Poll::Ready(Some(Fed::Unsent { index, error }));
                }
                Poll::Ready(Next::End) | Poll::Pending => break,
            }
        }
        if self.flights.len() > 0 {
            if self.landed.is_empty() {
                self.landing.swap_or_wait(&mut self.landed, cx.waker());
            }
            if !self.landed.is_empty() {
                // As tokio's channels do: who never waits lets others run.
                ready!(pin!(consume_budget()).poll(cx));
            }
            return match self.landed.pop_front() {
                Some((number, ended)) => {
                    let flight = self.flights.remove(number);
                    Poll::Ready(Some(self.handle_landed(flight, ended)))
                }
                None => Poll::Pending,
            };
        }
        if self.source.is_some() || !self.unfinished.is_empty() {
            return Poll::Pending;
        }
        self.begun = None;
        match self.panic.take() {
            Some(panic) => std::panic::resume_unwind(panic),
            None => Poll::Ready(None),
        }
    }

    /// Pulls no further input, and cancels what lies behind the item `index`.
    pub(super) fn stop_behind(&mut self, index: usize) {
        self.source = None;
        self.panic = None;
        self.unfinished.retain(|chunk| chunk.first < index);
        let behind = self.flights.iter().filter(|flight| flight.chunk.first > index);
        let tasks = behind.map(|flight| flight.task).collect();
        self.supervisor.cancel_all(tasks);
    }

    /// Whether an item before `index` has not come back.
    pub(super) fn awaits_before(&self, index: usize) -> bool {
        self.unfinished.iter().any(|chunk| chunk.first < index)
            || self.flights.iter().any(|flight| flight.chunk.first < index)
    }

    /// Forgets what has not been sent, and cancels what has.
    pub(super) fn abort(&mut self) {
        self.source = None;
        self.unfinished.clear();
        let flights = std::mem::take(&mut self.flights);
        if flights.len() > 0 {
            self.supervisor.cancel_all(flights.iter().map(|flight| flight.task).collect());
            // They land where nobody looks.
            self.landing = Arc::default();
        }
        self.landed.clear();
        self.begun = None;
    }

    fn workers(&self) -> usize {
        self.supervisor.workers_wanted()
    }

    fn window(&self) -> usize {
        let each = match self.chunk_size {
            Some(_) => FIXED_CHUNKS_PER_WORKER,
            None if self.is_growing() => GROWING_CHUNKS_PER_WORKER,
            None => CHUNKS_PER_WORKER,
        };
        self.workers().saturating_mul(each)
    }

    /// How many items the next chunk may have for what is known.
    fn by_growth(&self) -> usize {
        self.largest.saturating_mul(CHUNK_GROWTH)
    }

    /// Whether items turn out so quick that chunks will be longer than that.
    fn is_growing(&self) -> bool {
        let nanos = (self.by_growth() as u64).saturating_mul(self.item_nanos);
        self.by_growth() < CHUNK_ITEMS_MAX && nanos < CHUNK_NANOS
    }

    /// How many items the next chunk should have.
    fn chunk_items(&self) -> usize {
        if let Some(size) = self.chunk_size {
            return size;
        }
        if self.item_nanos == 0 {
            // Nothing is known: one long item must not keep others waiting.
            return 1;
        }
        let within = |nanos| usize::try_from(nanos / self.item_nanos).unwrap_or(usize::MAX);
        let by_time = within(CHUNK_NANOS);
        // Towards the end chunks shrink, so that workers end together.
        let by_rest = match self.left() {
            Some(left) => left.div_ceil(2 * self.workers()).max(within(CHUNK_NANOS_LEAST)),
            None => usize::MAX,
        };
        by_time.min(self.by_growth()).min(by_rest).clamp(1, CHUNK_ITEMS_MAX)
    }

    /// Items that came back without an answer; they were pulled before, so
    /// there is always room for them.
    fn next_unfinished(&mut self) -> Option<Chunk> {
        let mut chunk = self.unfinished.pop_front()?;
        let wanted = self.chunk_items();
        if chunk.count() > wanted {
            self.unfinished.push_front(chunk.split_off(wanted));
        }
        Some(chunk)
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Next> {
        let wanted = self.chunk_items().min(room);
        let Some(source) = &mut self.source else { return Poll::Ready(Next::End) };
        let limit = self.supervisor.plan().frame_bytes_max;
        let first = self.pulled;
        let mut pulled = Pulled {
            args: Draft::default(),
            whole: Mark::default(),
            ends: Vec::new(),
            count: 0,
            wanted,
        };
        let pull = catch_unwind(AssertUnwindSafe(|| source.poll_pull(cx, &mut pulled, limit)));
        let Pulled { mut args, whole, ends, count, .. } = pulled;
        self.pulled += count;
        let stopped = match pull {
            Ok(Poll::Ready(Pull::Enough)) => None,
            Ok(Poll::Ready(Pull::Failed(error))) => {
                let index = self.pulled;
                self.pulled += 1;
                Some(Poll::Ready(Next::Failed { index, error }))
            }
            Ok(Poll::Pending) => Some(Poll::Pending),
            Ok(Poll::Ready(Pull::End)) => {
                self.source = None;
                Some(Poll::Ready(Next::End))
            }
            Err(panic) => {
                args.rewind(whole);
                self.panic = Some(panic);
                self.source = None;
                Some(Poll::Ready(Next::End))
            }
        };
        if count == 0 {
            return stopped.unwrap_or(Poll::Ready(Next::End));
        }
        let chunk = Chunk { first, args: args.into(), ends, start: 0 };
        if let Some(Poll::Ready(next @ Next::Failed { .. })) = stopped {
            // Those before it go first.
            self.send(chunk);
            return Poll::Ready(next);
        }
        Poll::Ready(Next::Chunk(chunk))
    }

    fn send(&mut self, mut chunk: Chunk) {
        let count = chunk.count();
        let single = self.chunk_size == Some(1);
        let shape = if single {
            Shape::One
        } else {
            Shape::Batch {
                count: count as u32,
                budget_nanos: if self.chunk_size.is_some() { 0 } else { CHUNK_BUDGET_NANOS },
                stop_on_failure: self.stop_on_failure,
            }
        };
        let request = Request {
            function: self.function,
            name: self.name,
            label: self.label.clone(),
            shape,
            // One item comes back answered or not at all.
            args: if count == 1 { std::mem::take(&mut chunk.args) } else { chunk.args.clone() },
            // The whole is watched, in `poll_cancelled`.
            token: None,
        };
        // The pool's timeout is for one item.
        let timeout = self.supervisor.plan().task_timeout.map(|each| match self.chunk_size {
            Some(_) => each.saturating_mul(count as u32),
            None => each.saturating_add(Duration::from_nanos(CHUNK_BUDGET_NANOS)),
        });
        let terms = Terms { timeout, ..Terms::default() };
        // It has its number before it is submitted: the program's subscriber hears
        // of that, and may panic. Then the chunk lands all the same.
        let number = self.flights.insert(Flight { task: TaskKey::NOWHERE, chunk, single });
        let part = Part::new(&self.landing, number);
        let task = self.supervisor.submit_part(request, terms, part);
        self.flights.get_mut(number).task = task;
    }

    fn handle_landed(&mut self, flight: Flight, ended: Ended) -> Fed {
        let Flight { task, mut chunk, single } = flight;
        let first = chunk.first;
        let count = chunk.count();
        match ended {
            Ok(answer) => {
                let answered = answer.answered as usize;
                if answered < count {
                    self.unfinished.push_back(chunk.split_off(answered));
                }
                self.largest = self.largest.max(answered);
                let nanos = (answer.run_nanos / answered as u64).max(1);
                self.item_nanos = match self.item_nanos {
                    0 => nanos,
                    average => (average / 2 + nanos / 2).max(1),
                };
                Fed::Answered {
                    first,
                    count: answered,
                    payload: answer.payload,
                    single,
                    task: TaskInfo {
                        id: task.id,
                        name: self.name,
                        label: self.label.clone(),
                        index: None,
                    },
                }
            }
            Err(failed) => {
                let error = failed.error;
                if ends_everything(&error) {
                    // No item can be answered any more, and there may be no
                    // end of them.
                    self.source = None;
                    self.unfinished.clear();
                }
                Fed::Lost { first, count, error }
            }
        }
    }
}

/// Whether the pool has ended, and not just one call.
fn ends_everything(error: &TaskError) -> bool {
    matches!(error, TaskError::Closed | TaskError::Terminated | TaskError::Broken(_))
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.abort();
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("name", &self.name)
            .field("pulled", &self.pulled)
            .field("in_flight", &self.flights.len())
            .finish_non_exhaustive()
    }
}

enum Next {
    Chunk(Chunk),
    Failed { index: usize, error: TaskError },
    End,
}

/// A chunk on its way.
struct Flight {
    task: TaskKey,
    chunk: Chunk,
    single: bool,
}

/// Chunks on their way, by a number that is used again once they have landed.
#[derive(Default)]
struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<u32>,
}

impl Flights {
    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns its number.
    fn insert(&mut self, flight: Flight) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = Some(flight);
                number
            }
            None => {
                self.slots.push(Some(flight));
                self.slots.len() as u32 - 1
            }
        }
    }

    fn get_mut(&mut self, number: u32) -> &mut Flight {
        self.slots[number as usize].as_mut().expect("it has not landed")
    }

    fn remove(&mut self, number: u32) -> Flight {
        self.free.push(number);
        self.slots[number as usize].take().expect("each lands once")
    }

    fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.slots.iter().flatten()
    }
}
