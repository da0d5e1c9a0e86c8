//! One call, many items.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{FusedStream, Stream};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::apply::Launch;
use super::handle::RawHandle;
use crate::error::TaskError;
use crate::proto::draft::Reply;
use crate::supervisor::Items;

/// The items of a task that returns an iterator, made by
/// [`Pool::stream`](crate::Pool::stream).
///
/// Lazy: nothing is queued before it is first polled. The worker computes at
/// most [`buffer`](Self::buffer) items more than were taken, and one beside,
/// then waits. An error is the last item.
///
/// # Cancel safety
///
/// `next` may be dropped at any time, no item is lost. Dropping the stream
/// cancels the task as dropping a [`TaskHandle`](crate::TaskHandle) does.
#[must_use = "streams do nothing unless polled"]
pub struct TaskStream<T> {
    launch: Launch,
    buffer: u32,
    state: State,
    item: PhantomData<fn() -> T>,
}

enum State {
    /// Not queued yet.
    New(Option<Arc<Items>>),
    /// `taken`: items since credit was last given.
    Running {
        raw: RawHandle,
        items: Arc<Items>,
        taken: u32,
    },
    /// The task has ended; these are left, and then its error.
    Ended {
        items: Arc<Items>,
        error: Option<TaskError>,
    },
    Over,
}

const BUFFER_DEFAULT: u32 = 16;

impl<T> TaskStream<T> {
    pub(super) fn new(launch: Launch) -> Self {
        TaskStream { launch, buffer: BUFFER_DEFAULT, state: State::New(None), item: PhantomData }
    }

    /// How many items the worker may be ahead of the reader. Default: 16.
    ///
    /// # Panics
    ///
    /// If `items` is 0, or the stream was polled before.
    pub fn buffer(mut self, items: usize) -> Self {
        assert!(items > 0, "a stream needs room for an item");
        assert!(matches!(self.state, State::New(None)), "set the buffer before the first poll");
        self.buffer = u32::try_from(items).unwrap_or(u32::MAX / 2).min(u32::MAX / 2);
        self
    }

    /// Stops the task when it has run for this long, waiting for the reader
    /// included. Default: the pool's
    /// [`task_timeout`](crate::PoolBuilder::task_timeout).
    pub fn timeout(mut self, after: Duration) -> Self {
        self.launch.set_timeout(after);
        self
    }

    /// Cancels the call once the token is cancelled, as
    /// [`Apply::cancel_on`](crate::Apply::cancel_on) does: the last item is
    /// [`TaskError::Cancelled`].
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.launch.set_token(token);
        self
    }

    /// A name for this call in logs and errors.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.launch.set_label(label.into());
        self
    }
}

impl<T: DeserializeOwned> TaskStream<T> {
    /// An item; one that cannot be decoded is the last, and stops the task.
    fn decode(&mut self, reply: &Reply) -> Result<T, TaskError> {
        let item = super::handle::decode(reply);
        if item.is_err() {
            self.state = State::Over;
        }
        item
    }
}

impl<T: DeserializeOwned> Stream for TaskStream<T> {
    type Item = Result<T, TaskError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::New(items) => {
                    let buffer = this.buffer;
                    let items = items.get_or_insert_with(|| Arc::new(Items::with_credit(buffer)));
                    let items = Arc::clone(items);
                    let raw = ready!(this.launch.poll_submit(cx, Some(Arc::clone(&items))));
                    this.state = State::Running { raw, items, taken: 0 };
                }
                State::Running { raw, items, taken } => {
                    let Some(bytes) = items.pop_or_wait(cx.waker()) else {
                        let ended = ready!(raw.poll_ended(cx));
                        // Items may have come in between the two looks.
                        let (items, error) =
                            (Arc::clone(items), ended.err().map(|failed| failed.error));
                        this.state = State::Ended { items, error };
                        continue;
                    };
                    *taken += 1;
                    // Half a buffer at a time: a wake-up for each item would
                    // cost more than most items.
                    if *taken >= this.buffer.div_ceil(2) {
                        this.launch.supervisor().grant(raw.task(), items, *taken);
                        *taken = 0;
                    }
                    return Poll::Ready(Some(this.decode(&bytes)));
                }
                State::Ended { items, error } => match items.pop_or_wait(cx.waker()) {
                    Some(bytes) => return Poll::Ready(Some(this.decode(&bytes))),
                    None => {
                        let error = error.take();
                        this.state = State::Over;
                        return Poll::Ready(error.map(Err));
                    }
                },
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

impl<T: DeserializeOwned> FusedStream for TaskStream<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

impl<T> fmt::Debug for TaskStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskStream").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}
