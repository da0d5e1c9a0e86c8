//! Holding on to a call: waiting for it, asking about it, ending it.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use serde::de::DeserializeOwned;

use crate::error::{Side, TaskError};
use crate::exit::Exit;
use crate::id::TaskId;
use crate::proto::codec;
use crate::proto::draft::Reply;
use crate::sched::TaskKey;
use crate::supervisor::{Failed, Receiver, Supervisor, TaskView};
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
        self.raw.task.id
    }

    /// Whether the answer, or the reason why there is none, is there: awaiting
    /// the handle then does not wait. Python's `AsyncResult.ready`.
    pub fn is_finished(&self) -> bool {
        self.raw.receiver.as_ref().is_none_or(Receiver::is_ready)
    }

    /// Where the call is now. It may be elsewhere by the time one looks.
    pub fn status(&self) -> TaskStatus {
        match self.raw.supervisor.task(self.raw.task) {
            TaskView::Finished => TaskStatus::Finished,
            TaskView::Queued => TaskStatus::Queued,
            TaskView::Running { pid, since } => TaskStatus::Running { pid, since },
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
        self.raw.receiver = None;
    }
}

impl<R: DeserializeOwned> Future for TaskHandle<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.raw.poll_ended(cx)) {
            Ok(reply) => decode(&reply),
            Err(failed) => Err(failed.error),
        })
    }
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("id", &self.raw.task.id).finish_non_exhaustive()
    }
}

/// Cancels a call without owning its handle, whose future then resolves with
/// [`TaskError::Cancelled`]. Does nothing once the call has ended.
#[derive(Clone)]
pub struct CancelHandle {
    supervisor: Arc<Supervisor>,
    task: TaskKey,
}

impl CancelHandle {
    /// Cancels the call.
    pub fn cancel(&self) {
        self.supervisor.cancel(self.task);
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
        Poll::Ready(match ended {
            Ok(_) => Cancelled { started: true, exit: None },
            Err(failed) => Cancelled { started: failed.started, exit: failed.error.exit() },
        })
    }
}

/// A handle that does not know what the answer is of.
#[derive(Debug)]
pub(super) struct RawHandle {
    supervisor: Arc<Supervisor>,
    task: TaskKey,
    /// `None` once the call was answered, or left to itself.
    receiver: Option<Receiver>,
}

impl RawHandle {
    pub(super) fn new(supervisor: &Arc<Supervisor>, task: TaskKey, receiver: Receiver) -> Self {
        RawHandle { supervisor: Arc::clone(supervisor), task, receiver: Some(receiver) }
    }

    pub(super) fn task(&self) -> TaskKey {
        self.task
    }

    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Box<Failed>>> {
        let receiver = self.receiver.as_ref().expect("polled after the call has given its answer");
        self.supervisor.look_out(self.task, || receiver.is_ready());
        let ended = ready!(receiver.poll_ended(cx));
        self.receiver = None;
        Poll::Ready(ended)
    }

    fn cancel(&self) {
        self.supervisor.cancel(self.task);
    }
}

impl Drop for RawHandle {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            self.cancel();
        }
    }
}

/// The value of a whole answer.
pub(super) fn decode<R: DeserializeOwned>(reply: &Reply) -> Result<R, TaskError> {
    codec::decode_shared::<Sharing, R>(reply, reply.whole())
        .map_err(|failure| TaskError::from_decode(failure, Side::Result))
}
