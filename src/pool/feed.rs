//! Cuts the input of `map` and `imap` into chunks, and keeps them in flight.
//! Pulls input only as there is room for it; how long chunks are is for `pace`.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::flight::{Chunk, Fed, Flight, Flights, Form, info};
use super::pace::{CHUNK_BUDGET, Pace, STREAM_CHUNK_NANOS};
use super::source::{Pull, Pulled, Source};
use crate::error::{TaskError, TaskInfo};
use crate::proto::draft::{Draft, Mark};
use crate::proto::message::Shape;
use crate::sched::{TaskKey, Terms};
use crate::supervisor::{Begun, Ended, Landing, Part, Request, Sleep, Supervisor};
use crate::sys::layout::Tallied;

/// How often somebody who waits looks for chunks that were there the last time too: a
/// long item keeps those behind it from workers that may be free. They look at the
/// clock themselves, but after some hundred short items only.
const STALL: Duration = Duration::from_nanos(2 * CHUNK_BUDGET * STREAM_CHUNK_NANOS);

/// And while nothing comes of it twice as long each time, up to this.
const STALL_MAX: Duration = Duration::from_secs(1);

/// The chunks of one `map` or `imap`.
pub(super) struct Feed {
    supervisor: Arc<Supervisor>,
    function: u64,
    name: &'static str,
    source: Option<Box<dyn Source>>,
    /// The input panicked; the caller gets it after the items before.
    panic: Option<Box<dyn Any + Send>>,
    pub(super) label: Option<Arc<str>>,
    /// Done when the caller's token is cancelled.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    pub(super) stop_on_failure: bool,
    pace: Pace,
    /// What was answered outlives a worker, and its death is that of one item only:
    /// those behind it go to others.
    tallied: bool,
    /// Parts of chunks that came back unfinished.
    unfinished: VecDeque<Chunk>,
    flights: Flights,
    landing: Arc<Landing>,
    /// Taken from there, in the order they came.
    landed: VecDeque<(u32, Ended)>,
    /// What else there is to tell of those.
    fed: VecDeque<Fed>,
    /// When to look at what is on its way, and how long that was put off.
    stall: Option<(Sleep, Duration)>,
    pulled: usize,
    /// Keeps the pool's driver until all is done.
    begun: Option<Begun>,
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
            label: None,
            cancelled: None,
            stop_on_failure: false,
            pace: Pace::default(),
            tallied: false,
            unfinished: VecDeque::new(),
            flights: Flights::default(),
            landing: Arc::default(),
            landed: VecDeque::new(),
            fed: VecDeque::new(),
            stall: None,
            pulled: 0,
            begun: None,
        }
    }

    pub(super) fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    pub(super) fn set_chunk_size(&mut self, items: usize) {
        assert!(items > 0, "a chunk needs at least one item");
        self.pace.fix(items);
    }

    /// Feeds a stream: answers come soon, and each item has a fate of its own.
    pub(super) fn set_streaming(&mut self) {
        let plan = self.supervisor.plan();
        self.tallied = plan.settings.trusted;
        self.pace.set_streaming(self.tallied);
        // What the pool's settings say of a task goes for an item.
        let is_counted = plan.settings.tasks_per_worker_max.is_some();
        if is_counted || plan.task_timeout.is_some() || !self.tallied {
            self.pace.fix(1);
        }
    }

    /// As [`Pace::items_ahead`].
    pub(super) fn items_ahead(&self, most: usize) -> usize {
        self.pace.items_ahead(most)
    }

    /// As [`Pace::set_items_max`].
    pub(super) fn set_chunk_items_max(&mut self, items: usize) {
        self.pace.set_items_max(items);
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
        loop {
            if let Some(fed) = self.fed.pop_front() {
                return Poll::Ready(Some(fed));
            }
            self.fill(cx, &mut room);
            if !self.fed.is_empty() {
                continue;
            }
            if self.flights.len() == 0 {
                break;
            }
            if self.landed.is_empty() {
                self.landing.swap_or_wait(&mut self.landed, cx.waker());
            }
            if !self.landed.is_empty() {
                // As tokio's channels do: who never waits lets others run.
                ready!(pin!(consume_budget()).poll(cx));
            }
            match self.landed.pop_front() {
                Some((number, ended)) => {
                    let flight = self.flights.remove(number);
                    self.handle_landed(flight, ended);
                }
                None if self.poll_stalled(cx) => {}
                None => return Poll::Pending,
            }
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

    /// Sends as many chunks as may be on their way, with `room` new items at most.
    fn fill(&mut self, cx: &mut Context<'_>, room: &mut usize) {
        while self.flights.len() < self.pace.window(self.workers()) {
            if let Some(chunk) = self.next_unfinished() {
                self.send(chunk);
                continue;
            }
            if *room == 0 {
                return;
            }
            match self.poll_chunk(cx, *room) {
                Poll::Ready(Next::Chunk(chunk)) => {
                    *room = room.saturating_sub(chunk.count());
                    self.send(chunk);
                }
                Poll::Ready(Next::Failed { index, error }) => {
                    return self.fed.push_back(Fed::Unsent { index, error });
                }
                Poll::Ready(Next::End) | Poll::Pending => return,
            }
        }
    }

    /// Whether there is something to do or to tell of chunks that nothing has come of
    /// for long: one long item keeps the answers before it, and those behind it from
    /// workers that may be free. If not, the reader is woken to ask again, as long as
    /// there can be.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let can_be = match self.pace.fixed() {
            Some(items) => self.tallied && items > 1,
            None => true,
        };
        if !can_be || !self.flights.iter().any(Flight::is_divisible) {
            return false;
        }
        let stall = self.stall.get_or_insert_with(|| (self.supervisor.sleep(STALL), STALL));
        while Pin::new(&mut stall.0).poll(cx).is_ready() {
            let wait = (2 * stall.1).min(STALL_MAX);
            *stall = (self.supervisor.sleep(wait), wait);
            let news = self.fed.len() + self.unfinished.len();
            for flight in self.flights.iter_mut().filter(|flight| flight.is_divisible()) {
                if !std::mem::replace(&mut flight.is_old, true) {
                    continue;
                }
                let cut = self.pace.fixed().is_none();
                let Some(tallied) = self.supervisor.look_into(flight.task, cut) else { continue };
                if !self.tallied {
                    // The worker sends back what it has come to.
                    continue;
                }
                // Whatever it says, what was given is not run again.
                let begun = (tallied.begun as usize).max(flight.given).max(1);
                if cut && begun < flight.chunk.count() {
                    self.unfinished.push_back(flight.chunk.split_off(begun));
                }
                let task = info(flight.task, self.name, &self.label);
                self.fed.extend(flight.give(&tallied, task));
            }
            if self.fed.len() + self.unfinished.len() > news {
                return true;
            }
        }
        false
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
        self.fed.clear();
        self.stall = None;
        self.begun = None;
    }

    fn workers(&self) -> usize {
        self.supervisor.workers_wanted()
    }

    /// How many items the next chunk should have.
    fn chunk_items(&self) -> usize {
        self.pace.items(self.left(), self.workers())
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
        let patience = self.pace.patience(wanted);
        let Some(source) = &mut self.source else { return Poll::Ready(Next::End) };
        let limit = self.supervisor.plan().frame_bytes_max;
        let first = self.pulled;
        let mut pulled = Pulled {
            args: Draft::default(),
            whole: Mark::default(),
            ends: Vec::new(),
            count: 0,
            wanted,
            patience,
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
        let bytes = if args.attached().is_empty() { args.len() } else { usize::MAX };
        self.pace.note_pulled(count, bytes);
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
        let form = match self.pace.fixed() {
            Some(1) => Form::Single,
            _ if self.tallied => Form::Sized,
            _ => Form::Row,
        };
        let budget_nanos = self.pace.budget_nanos();
        let shape = if form == Form::Single {
            Shape::One
        } else {
            Shape::Batch {
                count: count as u32,
                budget_nanos,
                // What is tallied is answers and nothing else.
                stop_on_failure: self.stop_on_failure || self.tallied,
                tallied: self.tallied,
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
        let timeout = self.supervisor.plan().task_timeout.map(|each| match self.pace.fixed() {
            Some(_) => each.saturating_mul(count as u32),
            None => each.saturating_add(Duration::from_nanos(budget_nanos)),
        });
        let terms = Terms { timeout, ..Terms::default() };
        // It has its number before it is submitted: the program's subscriber hears
        // of that, and may panic. Then the chunk lands all the same.
        let flight = Flight { task: TaskKey::NOWHERE, chunk, form, given: 0, is_old: false };
        let number = self.flights.insert(flight);
        let part = Part::new(&self.landing, number);
        let task = self.supervisor.submit_part(request, terms, part);
        self.flights.get_mut(number).task = task;
    }

    fn handle_landed(&mut self, flight: Flight, ended: Ended) {
        // Not begun anew each time: to make a timer takes longer than many chunks.
        if self.stall.as_ref().is_some_and(|(_, wait)| *wait > STALL) {
            self.stall = None;
        }
        let task = info(flight.task, self.name, &self.label);
        if let Err(failed) = &ended {
            if let Some(tallied) = &failed.tallied {
                return self.handle_tallied(flight, tallied, &failed.error, task);
            }
        }
        let Flight { mut chunk, form, given, .. } = flight;
        let first = chunk.first;
        let count = chunk.count();
        let fed = match ended {
            Ok(answer) => {
                // One that was cut short had more items once.
                let answered = (answer.answered as usize).clamp(given.max(1), count);
                if answered < count {
                    self.unfinished.push_back(chunk.split_off(answered));
                }
                let payload = answer.payload;
                self.pace.learn(answered, answer.run_nanos, payload.len());
                Fed::Answered { first, count: answered, given, payload, form, task }
            }
            Err(failed) => {
                let error = failed.error;
                if ends_everything(&error) {
                    // No item can be answered any more, and there may be no
                    // end of them.
                    self.source = None;
                    for Chunk { first, ends, .. } in self.unfinished.drain(..) {
                        let (count, error) = (ends.len() + 1, error.clone());
                        self.fed.push_back(Fed::Lost { first, count, error });
                    }
                }
                Fed::Lost { first: first + given, count: count - given, error }
            }
        };
        self.fed.push_back(fed);
    }

    /// A worker was lost with a chunk: what it has answered is answered, the item
    /// that it was at is lost with it, and those behind were not begun.
    fn handle_tallied(
        &mut self,
        mut flight: Flight,
        tallied: &Tallied,
        error: &TaskError,
        task: TaskInfo,
    ) {
        let first = flight.chunk.first;
        let count = flight.chunk.count();
        self.fed.extend(flight.give(tallied, task));
        let answered = flight.given;
        let begun = tallied.begun as usize;
        // One that has not begun any may have been killed by what it was sent.
        let is_lost = answered < count && (begun > answered || answered == 0);
        let known = answered + usize::from(is_lost);
        if known < count {
            self.unfinished.push_back(flight.chunk.split_off(known));
        }
        if is_lost {
            self.fed.push_back(Fed::Lost {
                first: first + answered,
                count: 1,
                error: error.clone(),
            });
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
