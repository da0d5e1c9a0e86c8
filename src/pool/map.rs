//! Many calls of one function, and one `Vec` of their answers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::feed::Feed;
use super::flight::Fed;
use super::imap::Answers;
use super::parts::Parts;
use crate::error::TaskError;
use crate::supervisor::Sleep;

/// How long a failure waits for one of an item before it: long enough that the
/// order in which answers of quick items come in does not matter.
const LINGER: Duration = Duration::from_millis(10);

/// The future of many calls, made by [`Pool::map`](crate::Pool::map).
///
/// Lazy: nothing is pulled from the input before it is first polled, and then
/// only as much as keeps the workers busy. The answers come in the order of the
/// input. A failing item ends the map: no further input is pulled, what is under
/// way is cancelled, and [`TaskError::index`] says which item it was. Of items that
/// fail within 10 ms of each other it is the first in the input; a failure does not
/// wait longer for items before it. If the input iterator itself panics, the items
/// before that still run, and the panic continues here.
///
/// # Cancel safety
///
/// Dropping it cancels all that is under way, as dropping a
/// [`TaskHandle`](crate::TaskHandle) does, and nothing else.
#[must_use = "a map does nothing unless awaited or started"]
pub struct Map<R> {
    feed: Feed,
    answers: Parts<R>,
    /// The first item known to have failed.
    failed: Option<(usize, TaskError)>,
    timeout: Option<Duration>,
    sleep: Option<Sleep>,
    /// Runs out when items before the failed one have had their chance.
    linger: Option<Sleep>,
    /// The result has been given.
    over: bool,
}

// The answers are plain values: nothing in here points into itself.
impl<R> Unpin for Map<R> {}

impl<R> Map<R> {
    pub(super) fn new(mut feed: Feed) -> Self {
        feed.stop_on_failure = true;
        // Made before the pool was closed, it may be awaited after that. If the
        // pool is closed already, the first poll says so.
        let _ = feed.begin(false);
        Map {
            feed,
            answers: Parts::default(),
            failed: None,
            timeout: None,
            sleep: None,
            linger: None,
            over: false,
        }
    }

    /// Sends this many items to a worker at a time. Default: as many as take
    /// about two milliseconds, found out on the way, so that tiny items are
    /// cheap and long ones spread evenly.
    ///
    /// # Panics
    ///
    /// If `items` is 0.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.feed.set_chunk_size(items);
        self
    }

    /// Gives up, and stops what runs, if the whole map takes longer than this.
    /// Default: no limit. The clock starts with the first poll.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.timeout = Some(after);
        self
    }

    /// Ends the map with [`TaskError::Cancelled`] once the token is cancelled, as
    /// dropping it does. It is polled for that: a map that is not notices late.
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.feed.cancel_on(token);
        self
    }

    /// A name for this map in logs and errors.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.feed.label = Some(label.into().into());
        self
    }
}

impl<R: DeserializeOwned + Send + 'static> Map<R> {
    /// Lets the map run by itself from now on, on the pool's runtime.
    pub fn start(mut self) -> MapHandle<R> {
        let runtime = self.feed.supervisor().runtime.clone();
        let begun = self.feed.begin(true);
        MapHandle {
            // Its calls are the caller's, wherever they are made.
            task: runtime.spawn(
                async move {
                    begun?;
                    self.await
                }
                .in_current_span(),
            ),
            detached: false,
        }
    }
}

impl<R: DeserializeOwned> Map<R> {
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(after) = self.timeout else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| self.feed.supervisor().sleep(after));
        ready!(Pin::new(sleep).poll(cx));
        Poll::Ready(after)
    }

    /// Puts answers into their places, up to the first failure.
    fn take(&mut self, fed: Fed) {
        if let Fed::Lost { first, error, .. } = fed {
            // The one that ran when the worker was lost, if it is known.
            let index = first + error.index().unwrap_or(0);
            return self.fail(index, error.at_index(index));
        }
        if let Some(left) = self.feed.left() {
            self.answers.expect(self.feed.pulled().saturating_add(left));
        }
        let answers = Answers::new(fed);
        let put = self.answers.put(answers.index(), |part| answers.append_to(part));
        if let Err((index, error)) = put {
            self.fail(index, error);
        }
    }

    fn poll_result(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<R>, TaskError>> {
        self.feed.begin(false)?;
        if let Poll::Ready(error) = self.feed.poll_cancelled(cx) {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(after) = self.poll_timeout(cx) {
            return Poll::Ready(Err(TaskError::TimedOut { after, exit: None }));
        }
        loop {
            if let Some((index, error)) = &self.failed {
                let supervisor = self.feed.supervisor();
                let linger = self.linger.get_or_insert_with(|| supervisor.sleep(LINGER));
                let waited = Pin::new(linger).poll(cx).is_ready();
                if waited || !self.feed.awaits_before(*index) {
                    return Poll::Ready(Err(error.clone()));
                }
            }
            match ready!(self.feed.poll_fed(cx, usize::MAX)) {
                Some(fed) => self.take(fed),
                None => {
                    // Every item was answered, or there was an error.
                    return Poll::Ready(Ok(self.answers.take()));
                }
            }
        }
    }

    fn fail(&mut self, index: usize, error: TaskError) {
        if self.failed.as_ref().is_none_or(|(first, _)| index < *first) {
            self.feed.stop_behind(index);
            self.failed = Some((index, error));
        }
    }
}

impl<R: DeserializeOwned> Future for Map<R> {
    type Output = Result<Vec<R>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.over, "polled after the map has given its result");
        let result = ready!(self.poll_result(cx));
        self.over = true;
        self.feed.abort();
        Poll::Ready(result)
    }
}

impl<R> fmt::Debug for Map<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("feed", &self.feed).finish_non_exhaustive()
    }
}

/// A map that runs by itself, made by [`Pool::map_async`](crate::Pool::map_async).
///
/// # Cancel safety
///
/// Dropping it cancels the map; [`detach`](Self::detach) lets it run on.
#[must_use = "dropping a handle cancels its calls; use `detach` to let them run on"]
pub struct MapHandle<R> {
    task: JoinHandle<Result<Vec<R>, TaskError>>,
    detached: bool,
}

impl<R> MapHandle<R> {
    /// Whether the map has ended. Python's `MapResult.ready`.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Lets the map run on without anybody waiting for it.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl<R> Future for MapHandle<R> {
    type Output = Result<Vec<R>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.task).poll(cx)) {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Its runtime was shut down.
                Err(_) => Err(TaskError::Terminated),
            },
        })
    }
}

impl<R> Drop for MapHandle<R> {
    fn drop(&mut self) {
        if !self.detached {
            self.task.abort();
        }
    }
}

impl<R> fmt::Debug for MapHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapHandle").finish_non_exhaustive()
    }
}
