//! One call: its options, and its way into the queue.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::handle::{RawHandle, TaskHandle};
use crate::error::TaskError;
use crate::sched::Terms;
use crate::supervisor::{Items, QueuePlace, Receiver, Request, Supervisor};

/// The future of one call, made by [`Pool::apply`](crate::Pool::apply).
///
/// Lazy: nothing is queued before it is first polled, and until then options
/// can be set. Then it waits for a place in the queue, and for the answer.
///
/// Where calls are made one after the other, each takes microseconds, and a
/// processor is left for it, a poll may look out for the answer for up to 50 µs
/// before it returns: to sleep and be woken takes longer. The same goes for a
/// [`TaskHandle`].
///
/// # Cancel safety
///
/// Dropping it before the first poll does nothing at all; after that, it
/// cancels the call as dropping a [`TaskHandle`] does.
#[must_use = "a call does nothing unless awaited or started"]
pub struct Apply<R> {
    launch: Launch,
    handle: Option<TaskHandle<R>>,
}

impl<R> Apply<R> {
    pub(super) fn new(launch: Launch) -> Self {
        Apply { launch, handle: None }
    }

    /// Stops the task when it has run for this long. Default: the pool's
    /// [`task_timeout`](crate::PoolBuilder::task_timeout).
    ///
    /// The clock starts with the task's body, not while it waits in the queue;
    /// for a limit to both, use [`tokio::time::timeout`], which drops the call
    /// and so cancels it. The task is ended as a cancelled one is. A worker that
    /// does not begin it is replaced, so that the clock does start.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.launch.terms.timeout = Some(after);
        self
    }

    /// Runs the task again, up to `times` times, when its worker dies under it.
    /// Default: 0, as only you know whether it can be run twice. Panics,
    /// timeouts and cancellation are never retried.
    pub fn retry(mut self, times: u32) -> Self {
        self.launch.terms.retries = times;
        self
    }

    /// Cancels the call once the token is cancelled, as a
    /// [`CancelHandle`](crate::CancelHandle) does, whether it is polled, has been
    /// [started](Self::start) or detached: its future gives
    /// [`TaskError::Cancelled`]. With a token that is cancelled already nothing is
    /// queued. Costs a task of the pool's runtime, while the call lasts.
    pub fn cancel_on(mut self, token: CancellationToken) -> Self {
        self.launch.set_token(token);
        self
    }

    /// A name for this call in logs and errors.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.launch.set_label(label.into());
        self
    }

    /// Queues the call now. Does not wait for a place in the queue: the call is
    /// queued even if that is full.
    pub fn start(mut self) -> TaskHandle<R> {
        match self.handle.take() {
            Some(handle) => handle,
            None => TaskHandle::new(self.launch.submit(None, QueuePlace::Any)),
        }
    }
}

impl<R: DeserializeOwned> Future for Apply<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Some(handle) = &mut this.handle {
                return Pin::new(handle).poll(cx);
            }
            let raw = ready!(this.launch.poll_submit(cx, None));
            this.handle = Some(TaskHandle::new(raw));
        }
    }
}

impl<R> fmt::Debug for Apply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apply").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// A call that has not been queued yet.
pub(super) struct Launch {
    supervisor: Arc<Supervisor>,
    /// The encoded call, or why there is none. Taken when it is queued.
    request: Option<Result<Request, TaskError>>,
    terms: Terms,
    /// Waits for a place in the queue, and says whether it has one.
    admission: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
}

impl Launch {
    pub(super) fn new(supervisor: &Arc<Supervisor>, request: Result<Request, TaskError>) -> Self {
        Launch {
            supervisor: Arc::clone(supervisor),
            request: Some(request),
            terms: Terms::default(),
            admission: None,
        }
    }

    pub(super) fn supervisor(&self) -> &Arc<Supervisor> {
        &self.supervisor
    }

    pub(super) fn set_timeout(&mut self, after: Duration) {
        self.terms.timeout = Some(after);
    }

    pub(super) fn set_label(&mut self, label: String) {
        if let Some(Ok(request)) = &mut self.request {
            request.label = Some(label.into());
        }
    }

    pub(super) fn set_token(&mut self, token: CancellationToken) {
        if let Some(Ok(request)) = &mut self.request {
            request.token = Some(token);
        }
    }

    /// Queues the call once there is a place.
    pub(super) fn poll_submit(
        &mut self,
        cx: &mut Context<'_>,
        items: Option<Arc<Items>>,
    ) -> Poll<RawHandle> {
        let mut place = QueuePlace::Any;
        // A call that could not be encoded needs none.
        if let Some(Ok(request)) = &self.request {
            place = QueuePlace::Admitted;
            if self.admission.is_some() || !self.supervisor.try_admit() {
                let supervisor = &self.supervisor;
                let admission = self.admission.get_or_insert_with(|| {
                    Box::pin(admitted(Arc::clone(supervisor), request.token.clone()))
                });
                if !ready!(admission.as_mut().poll(cx)) {
                    place = QueuePlace::Any;
                }
                self.admission = None;
            }
        }
        Poll::Ready(self.submit(items, place))
    }

    /// Queues the call now.
    pub(super) fn submit(&mut self, items: Option<Arc<Items>>, place: QueuePlace) -> RawHandle {
        let request = self.request.take().expect("submitted once");
        submit(&self.supervisor, request, self.terms, items, place)
    }
}

/// Queues a call, or what it has failed for.
pub(super) fn submit(
    supervisor: &Arc<Supervisor>,
    request: Result<Request, TaskError>,
    terms: Terms,
    items: Option<Arc<Items>>,
    place: QueuePlace,
) -> RawHandle {
    let failed = match request {
        Ok(Request { token: Some(token), .. }) if token.is_cancelled() => {
            TaskError::Cancelled { exit: None }
        }
        Ok(request) => {
            let (task, receiver) = supervisor.submit(request, terms, items, place);
            return RawHandle::new(supervisor, task, receiver);
        }
        Err(error) => error,
    };
    if place == QueuePlace::Admitted {
        supervisor.give_back_place();
    }
    RawHandle::new(supervisor, supervisor.refuse(), Receiver::of_failed(failed))
}

/// Whether there came to be a place for a call before its token was cancelled.
async fn admitted(supervisor: Arc<Supervisor>, token: Option<CancellationToken>) -> bool {
    match token {
        Some(token) => token.run_until_cancelled(supervisor.admit()).await.is_some(),
        None => {
            supervisor.admit().await;
            true
        }
    }
}
