//! Holding on to a call: waiting for it, asking about it, ending it.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::error::{Side, TaskError};
use crate::exit::Exit;
use crate::id::TaskId;
use crate::proto::codec;
use crate::sched::TaskKey;
use crate::supervisor::{Answer, Ended, Submitted, Supervisor, TaskView};
use crate::sys::cast::Sharing;

/// A call that has been queued: a future of its answer.
///
/// # Cancel safety
///
/// Dropping the handle cancels the call: a queued one is removed without a
/// trace, one that was sent and has not started is skipped, and one that runs
/// is stopped by SIGTERM, and SIGKILL after the pool's
/// [`grace_period`](crate::PoolBuilder::grace_period), together with every
/// process that it has started; other calls go on undisturbed. An answer that
/// is already on its way is thrown away. To let the call run on, use
/// [`detach`](Self::detach).
///
/// # Panics
///
/// Like most futures, a handle may not be polled again after it has given its
/// answer.
#[must_use = "dropping a handle cancels its call; use `detach` to let it run on"]
pub struct TaskHandle<R> {
    raw: RawHandle,
    answer: PhantomData<fn() -> R>,
}

/// Where a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskStatus {
    /// Waits, in the queue or for its turn on a worker.
    Queued,
    /// Runs.
    Running {
        /// The worker's process.
        pid: u32,
        /// When its body started.
        since: Instant,
    },
    /// Has ended. The answer waits in the handle, if it was not taken.
    Finished,
}

/// What cancelling came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cancelled {
    /// Whether the task's body may have begun.
    pub started: bool,
    /// How the worker ended for it. `None` if it lives on: the task had not
    /// started, was over already, or ended politely.
    pub exit: Option<Exit>,
}

impl<R> TaskHandle<R> {
    pub(super) fn new(raw: RawHandle) -> Self {
        TaskHandle { raw, answer: PhantomData }
    }

    /// The call's id.
    pub fn id(&self) -> TaskId {
        self.raw.id
    }

    /// Whether the answer, or the reason why there is none, is there: awaiting
    /// the handle then does not wait. Python's `AsyncResult.ready`.
    pub fn is_finished(&self) -> bool {
        self.raw.over || !self.raw.receiver.is_empty()
    }

    /// Where the call is now. It may be elsewhere by the time one looks.
    pub fn status(&self) -> TaskStatus {
        let view = self.raw.task.map(|task| self.raw.supervisor.task(task));
        match view {
            None | Some(TaskView::Finished) => TaskStatus::Finished,
            Some(TaskView::Queued) => TaskStatus::Queued,
            Some(TaskView::Running { pid, since }) => TaskStatus::Running { pid, since },
        }
    }

    /// Cancels the call now; the future resolves when it has ended, and says
    /// how: a running task's process is gone by then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the call is cancelled all the same.
    pub fn cancel(self) -> Cancelling {
        self.raw.cancel();
        Cancelling { raw: self.raw }
    }

    /// A way to cancel the call without owning its handle.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle { supervisor: Arc::clone(&self.raw.supervisor), task: self.raw.task }
    }

    /// Lets the call run on without anybody waiting for it.
    pub fn detach(mut self) {
        self.raw.over = true;
    }
}

impl<R: DeserializeOwned> Future for TaskHandle<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(self.raw.poll_ended(cx));
        Poll::Ready(ended.outcome.and_then(|answer| decode(&answer)))
    }
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("id", &self.raw.id).finish_non_exhaustive()
    }
}

/// Cancels a call without owning its handle, whose future then resolves with
/// [`TaskError::Cancelled`]. Does nothing once the call has ended.
#[derive(Clone)]
pub struct CancelHandle {
    supervisor: Arc<Supervisor>,
    task: Option<TaskKey>,
}

impl CancelHandle {
    /// Cancels the call.
    pub fn cancel(&self) {
        if let Some(task) = self.task {
            self.supervisor.cancel(task);
        }
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").finish_non_exhaustive()
    }
}

/// The future of [`TaskHandle::cancel`].
#[derive(Debug)]
#[must_use = "await it to know when the task has ended; it is cancelled in any case"]
pub struct Cancelling {
    raw: RawHandle,
}

impl Future for Cancelling {
    type Output = Cancelled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Cancelled> {
        let ended = ready!(self.raw.poll_ended(cx));
        let exit = ended.outcome.err().and_then(|error| error.exit());
        Poll::Ready(Cancelled { started: ended.started, exit })
    }
}

/// A handle that does not know what the answer is of.
#[derive(Debug)]
pub(super) struct RawHandle {
    supervisor: Arc<Supervisor>,
    id: TaskId,
    task: Option<TaskKey>,
    receiver: oneshot::Receiver<Ended>,
    /// Answered, or left to itself.
    over: bool,
}

impl RawHandle {
    pub(super) fn new(
        supervisor: &Arc<Supervisor>,
        submitted: Submitted,
        receiver: oneshot::Receiver<Ended>,
    ) -> Self {
        let Submitted { id, task } = submitted;
        RawHandle { supervisor: Arc::clone(supervisor), id, task, receiver, over: false }
    }

    pub(super) fn task(&self) -> Option<TaskKey> {
        self.task
    }

    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        assert!(!self.over, "polled after the call has given its answer");
        let ended = ready!(Pin::new(&mut self.receiver).poll(cx));
        self.over = true;
        Poll::Ready(ended.unwrap_or(Ended { outcome: Err(TaskError::Terminated), started: true }))
    }

    fn cancel(&self) {
        if let Some(task) = self.task {
            self.supervisor.cancel(task);
        }
    }
}

impl Drop for RawHandle {
    fn drop(&mut self) {
        if !self.over {
            self.cancel();
        }
    }
}

/// The value of a whole answer.
pub(super) fn decode<R: DeserializeOwned>(answer: &Answer) -> Result<R, TaskError> {
    codec::decode_shared::<Sharing, R>(&answer.payload)
        .map_err(|failure| TaskError::from_decode(failure, Side::Result))
}
