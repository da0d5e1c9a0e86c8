//! Many calls of one function, and a stream of their answers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FusedStream, Stream};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::feed::Feed;
use super::flight::{Fed, Form};
use crate::error::{DecodeError, Side, TaskError, TaskInfo};
use crate::proto::answers;
use crate::proto::codec::{self, Budget};
use crate::proto::draft::Reply;
use crate::proto::message::Failure;
use crate::supervisor::failure_error;
use crate::sys::cast::Sharing;

/// The answers of many calls as a stream, made by [`Pool::imap`](crate::Pool::imap)
/// and its kin.
///
/// Lazy: nothing is pulled from the input before it is first polled. At most
/// [`buffer`](Self::buffer) items are between the input and the reader, so a
/// reader that stops stops the pool's work for it, and an endless input is
/// welcome. An item that fails is an `Err` in its place and the stream goes on.
/// If the input iterator panics, the items before that still come, and then the
/// panic continues here.
///
/// # Cancel safety
///
/// `next` may be dropped at any time, no item is lost. Dropping the stream
/// cancels all that is under way, as dropping a
/// [`TaskHandle`](crate::TaskHandle) does.
#[must_use = "streams do nothing unless polled"]
pub struct Imap<R> {
    feed: Feed,
    ordered: bool,
    /// `None`: as it turns out best.
    buffer: Option<usize>,
    /// Answers in the order to be given, and those that wait for others before
    /// them.
    ready: VecDeque<(usize, Result<R, TaskError>)>,
    early: BTreeMap<usize, Result<R, TaskError>>,
    /// Position of the next answer, if ordered.
    next: usize,
    /// Items pulled and not yet given.
    under_way: usize,
    over: bool,
}

impl<R> Unpin for Imap<R> {}

/// Items under way for each worker, unless told otherwise: enough for the
/// deepest pipeline of calls,
const BUFFER_PER_WORKER: usize = 256;

/// and most of them, where they take next to no time in chunks.
const BUFFER_PER_WORKER_MAX: usize = 4096;

impl<R> Imap<R> {
    pub(super) fn new(mut feed: Feed, ordered: bool) -> Self {
        feed.set_streaming();
        // Made before the pool was closed, it may be read after that. If the pool
        // is closed already, the first poll says so.
        let _ = feed.begin(false);
        Imap {
            feed,
            ordered,
            buffer: None,
            ready: VecDeque::new(),
            early: BTreeMap::new(),
            next: 0,
            under_way: 0,
            over: false,
        }
    }

    /// How many items may be between the input and the reader. The input is never
    /// pulled further than this ahead of what was read. Default: 256 for each worker,
    /// and up to 4096 as long as those take less than two milliseconds and their
    /// answers less than 32 KiB; in chunks of a given size, if their arguments take less
    /// than 256 KiB, too.
    ///
    /// # Panics
    ///
    /// If `items` is 0.
    pub fn buffer(mut self, items: usize) -> Self {
        assert!(items > 0, "a stream needs room for an item");
        self.buffer = Some(items);
        self
    }

    /// Sends this many items to a worker at a time. Default: as many as take about a
    /// millisecond, found out on the way, and one at a time where the pool
    /// has a limit for each: a [`task_timeout`], [`max_tasks_per_worker`], or
    /// workers that are [`untrusted`]. Answers come a chunk at a time.
    ///
    /// If a worker dies, that is the end of the item it was at. The items before have
    /// their answers, those behind go to others; only if it is `untrusted` the whole
    /// chunk has failed. A chunk of a given size that is over its `task_timeout`,
    /// which is so many times that of an item, has failed as a whole, too.
    ///
    /// [`task_timeout`]: crate::PoolBuilder::task_timeout
    /// [`max_tasks_per_worker`]: crate::PoolBuilder::max_tasks_per_worker
    /// [`untrusted`]: crate::PoolBuilder::untrusted
    ///
    /// # Panics
    ///
    /// If `items` is 0.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.feed.set_chunk_size(items);
        self
    }

    /// Ends the stream with [`TaskError::Cancelled`] as its last item once the
    /// token is cancelled, and what is under way as dropping it does. It is polled
    /// for that: a stream that is not read notices late.
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.feed.cancel_on(token);
        self
    }

    /// A name for these calls in logs and errors.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.feed.label = Some(label.into().into());
        self
    }

    /// Gives each answer together with its item's position in the input.
    pub fn indexed(self) -> Indexed<R> {
        Indexed(self)
    }
}

impl<R: DeserializeOwned> Imap<R> {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Result<R, TaskError>)>> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                self.under_way -= 1;
                return Poll::Ready(Some(answer));
            }
            if self.over {
                return Poll::Ready(None);
            }
            if let Err(refusal) = self.feed.begin(false) {
                self.over = true;
                return Poll::Ready(Some((0, Err(refusal))));
            }
            if let Poll::Ready(error) = self.feed.poll_cancelled(cx) {
                self.over = true;
                self.feed.abort();
                return Poll::Ready(Some((self.next, Err(error))));
            }
            let before = self.feed.pulled();
            let room = self.room();
            let fed = self.feed.poll_fed(cx, room);
            self.under_way += self.feed.pulled() - before;
            match fed {
                Poll::Ready(Some(fed)) => self.take(fed),
                Poll::Ready(None) => {
                    debug_assert!(self.under_way == 0 && self.early.is_empty(), "{self:?}");
                    self.over = true;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// How many items may be pulled now. Where many may, a quarter of them at a
    /// time: for each one that is read, a worker would be woken for one.
    fn room(&mut self) -> usize {
        let workers = self.feed.supervisor().workers_wanted();
        let each = || self.feed.items_ahead(BUFFER_PER_WORKER_MAX).max(BUFFER_PER_WORKER);
        let buffer = self.buffer.unwrap_or_else(|| workers.saturating_mul(each()));
        // At least two chunks for each worker.
        self.feed.set_chunk_items_max(buffer / workers / 2);
        let room = buffer.saturating_sub(self.under_way);
        let is_wide = buffer / workers >= BUFFER_PER_WORKER / 4;
        if is_wide && room < buffer / 4 { 0 } else { room }
    }

    fn take(&mut self, fed: Fed) {
        for (index, answer) in Answers::new(fed) {
            if !self.ordered {
                self.ready.push_back((index, answer));
            } else if index == self.next {
                self.next += 1;
                self.ready.push_back((index, answer));
            } else {
                self.early.insert(index, answer);
            }
        }
        while let Some(answer) = self.early.remove(&self.next) {
            self.ready.push_back((self.next, answer));
            self.next += 1;
        }
    }
}

impl<R: DeserializeOwned> Stream for Imap<R> {
    type Item = Result<R, TaskError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_answer(cx).map(|answer| answer.map(|(_, answer)| answer))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.over {
            return (self.ready.len(), Some(self.ready.len()));
        }
        let known = self.feed.left().map(|left| left + self.under_way);
        (self.under_way, known)
    }
}

impl<R: DeserializeOwned> FusedStream for Imap<R> {
    fn is_terminated(&self) -> bool {
        self.over && self.ready.is_empty()
    }
}

impl<R> fmt::Debug for Imap<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap").field("feed", &self.feed).finish_non_exhaustive()
    }
}

/// The stream of [`Imap::indexed`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Indexed<R>(Imap<R>);

impl<R: DeserializeOwned> Stream for Indexed<R> {
    type Item = (usize, Result<R, TaskError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_answer(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// The single answers in what came back, with their positions.
pub(super) struct Answers<R> {
    index: usize,
    left: usize,
    payload: Reply,
    /// Bytes of the payload already read.
    at: usize,
    budget: Budget,
    form: Form,
    /// How many values come next, and then a failure. `None`: their number.
    values: Option<u32>,
    /// The chunk's, for reports.
    task: Option<TaskInfo>,
    /// All answers are this.
    error: Option<TaskError>,
    answer: PhantomData<fn() -> R>,
}

impl<R> Answers<R> {
    pub(super) fn new(fed: Fed) -> Self {
        let mut answers = Answers {
            index: 0,
            left: 1,
            payload: Reply::default(),
            at: 0,
            budget: Budget::for_payload(0),
            form: Form::Row,
            values: None,
            task: None,
            error: None,
            answer: PhantomData,
        };
        match fed {
            Fed::Unsent { index, error } => {
                answers.index = index;
                answers.error = Some(error);
            }
            Fed::Answered { first, count, given, payload, form, task } => {
                answers.index = first;
                answers.left = count;
                answers.budget = Budget::for_payload(payload.len());
                answers.payload = payload;
                answers.form = form;
                answers.task = Some(task);
                answers.pass(given);
            }
            Fed::Lost { first, count, error } => {
                answers.index = first;
                answers.left = count;
                answers.error = Some(error);
            }
        }
        answers
    }

    /// Leaves out the next `count`, which are values.
    fn pass(&mut self, count: usize) {
        for _ in 0..count {
            match self.values() {
                Ok(1..) if self.take_sized().is_some() => {
                    self.values = self.values.map(|values| values - 1);
                }
                // What there is instead is told of those behind.
                _ => {}
            }
        }
        self.index += count;
        self.left -= count;
    }

    /// Where the next value with a length is in the payload.
    fn take_sized(&mut self) -> Option<Range<usize>> {
        let mut rest = &self.payload[self.at..];
        let len = answers::take_sized(&mut rest)?.len();
        self.at = self.payload.len() - rest.len();
        Some(self.at - len..self.at)
    }

    /// How many values come next.
    fn values(&mut self) -> Result<u32, TaskError> {
        if self.form == Form::Single || self.error.is_some() {
            return Ok(0);
        }
        if let Some(values) = self.values {
            return Ok(values);
        }
        let mut rest = &self.payload[self.at..];
        match answers::take_count(&mut rest) {
            Some(values) if values as usize <= self.left => {
                self.at = self.payload.len() - rest.len();
                self.values = Some(values);
                Ok(values)
            }
            Some(_) => Err(malformed("the answer has more values than calls")),
            None => Err(malformed("the answer is too short")),
        }
    }
}

impl<R: DeserializeOwned> Answers<R> {
    /// The position of the next one.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Appends all of them, up to the first failure, to `out`.
    pub(super) fn append_to(mut self, out: &mut Vec<R>) -> Result<(), (usize, TaskError)> {
        out.reserve(self.left.min(self.payload.len()));
        while self.left > 0 {
            self.append_values(out);
            if let Some((index, answer)) = self.next() {
                out.push(answer.map_err(|error| (index, error))?);
            }
        }
        Ok(())
    }

    /// Appends the values that come next, up to one that cannot be decoded, and
    /// without the last of all: what there is to look out for in those costs as
    /// much as a value.
    fn append_values(&mut self, out: &mut Vec<R>) {
        let Ok(values) = self.values() else { return };
        let values = (values as usize).min(self.left - 1);
        let before = out.len();
        let mut rest = &self.payload[self.at..];
        while out.len() - before < values {
            let (whole, budget) = (self.payload.whole(), &mut self.budget);
            let answer = codec::decode_front_shared::<Sharing, R>(&mut rest, whole, budget);
            let Ok(answer) = answer else { break };
            out.push(answer);
        }
        self.at = self.payload.len() - rest.len();
        let taken = out.len() - before;
        self.values = self.values.map(|values| values - taken as u32);
        self.index += taken;
        self.left -= taken;
    }

    /// The next answer, a value with a length: all of those bytes, or none.
    fn sized(&mut self) -> Result<R, TaskError> {
        let Some(range) = self.take_sized() else {
            let error = malformed("an answer is cut off");
            self.error = Some(error.clone());
            return Err(error);
        };
        if self.left == 1 && range.end != self.payload.len() {
            return Err(malformed("the answer is too long"));
        }
        let mut value = &self.payload[range];
        let (whole, budget) = (self.payload.whole(), &mut self.budget);
        let answer = codec::decode_front_shared::<Sharing, R>(&mut value, whole, budget)
            .map_err(|failure| TaskError::from_decode(failure, Side::Result))?;
        if value.is_empty() { Ok(answer) } else { Err(malformed("the answer is too long")) }
    }

    fn answer(&mut self) -> Result<R, TaskError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let decode_error = |failure| TaskError::from_decode(failure, Side::Result);
        if self.form == Form::Single {
            self.at = self.payload.len();
            return super::handle::decode(&self.payload);
        }
        let values = self.values()?;
        let mut rest = &self.payload[self.at..];
        let answer = if values > 0 {
            self.values = Some(values - 1);
            if self.form == Form::Sized {
                return self.sized();
            }
            let (whole, budget) = (self.payload.whole(), &mut self.budget);
            codec::decode_front_shared::<Sharing, R>(&mut rest, whole, budget).map_err(decode_error)
        } else {
            self.values = None;
            match codec::decode_front::<Failure>(&mut rest, &mut self.budget) {
                Ok(failure) => Err(failure_error(failure, self.task.clone())),
                Err(failure) => Err(decode_error(failure)),
            }
        };
        self.at = self.payload.len() - rest.len();
        if self.left == 1 && !rest.is_empty() && answer.is_ok() {
            return Err(malformed("the answer is too long"));
        }
        if matches!(answer, Err(TaskError::Decode(_))) {
            // Where the next one begins is anybody's guess.
            self.error = answer.as_ref().err().cloned();
        }
        answer
    }
}

impl<R: DeserializeOwned> Iterator for Answers<R> {
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let index = self.index;
        let answer = self.answer().map_err(|error| error.at_index(index));
        self.index += 1;
        self.left -= 1;
        Some((index, answer))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

fn malformed(reason: &str) -> TaskError {
    TaskError::Decode(DecodeError { side: Side::Result, reason: reason.into(), index: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attached::Arrived;
    use crate::id::TaskId;

    fn answers(count: usize, payload: &[u8]) -> Answers<u64> {
        let task = TaskInfo { id: TaskId(1), name: "task", label: None, index: None };
        let payload = Reply::detach(payload.into(), 0, Arrived::NOTHING);
        Answers::new(Fed::Answered { first: 10, count, given: 0, payload, form: Form::Row, task })
    }

    /// Where each failure is, and each value; joined as `map` does it, up to the
    /// first failure.
    fn read(count: usize, payload: &[u8]) -> (Vec<Result<u64, String>>, Vec<u64>) {
        let each = answers(count, payload).enumerate().map(|(nth, (index, answer))| {
            assert_eq!(index, 10 + nth);
            answer.map_err(|error| error.to_string())
        });
        let each: Vec<_> = each.collect();
        assert_eq!(each.len(), count);
        let mut joined = Vec::new();
        let result = answers(count, payload).append_to(&mut joined);
        let values: Vec<u64> = each.iter().map_while(|answer| answer.clone().ok()).collect();
        assert_eq!(joined, values);
        assert_eq!(result.err().map(|(index, _)| index - 10), each.iter().position(Result::is_err));
        (each, joined)
    }

    /// Five calls, of which the third has failed.
    fn payload() -> Vec<u8> {
        let mut out = Vec::new();
        let mut values = answers::begin(&mut out);
        out.extend([1, 2]);
        values.count = 2;
        let failure = Failure::ResultTooLarge { size: 9, limit: 8 };
        let mut values = answers::fail(&mut out, values, &failure);
        out.extend([4, 0x85, 0x02]);
        values.count = 2;
        answers::end(&mut out, values);
        out
    }

    #[test]
    fn failures_stand_between_values() {
        let (each, joined) = read(5, &payload());
        assert!(matches!(&each[..], [Ok(1), Ok(2), Err(_), Ok(4), Ok(261)]), "{each:?}");
        assert_eq!(joined, [1, 2]);
    }

    #[test]
    fn an_answer_that_is_cut_off_ends_in_an_error() {
        let whole = payload();
        for len in 0..whole.len() {
            let (each, _) = read(5, &whole[..len]);
            assert!(each.last().is_some_and(Result::is_err), "{len}: {each:?}");
        }
    }

    #[test]
    fn an_answer_that_is_too_long_is_an_error() {
        let mut long = payload();
        long.push(0);
        let (each, _) = read(5, &long);
        assert!(each[4].as_ref().is_err_and(|error| error.contains("too long")), "{each:?}");
        let (each, joined) = read(1, &1_u32.to_le_bytes());
        assert!(each[0].is_err() && joined.is_empty());
    }

    #[test]
    fn more_values_than_calls_are_no_answer() {
        for values in [3, u32::MAX] {
            let payload = [&values.to_le_bytes()[..], &[1, 2, 3]].concat();
            let (each, joined) = read(2, &payload);
            assert!(joined.is_empty(), "{joined:?}");
            for answer in each {
                assert!(answer.is_err_and(|error| error.contains("more values")));
            }
        }
    }
}
