//! One call on its way through the pool, and how its caller is told what became
//! of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::Span;

use super::landing::Part;
use crate::error::{DecodeError, EncodeError, RemotePanic, Side, SpawnError, TaskError, TaskInfo};
use crate::id::TaskId;
use crate::proto::draft::Payload;
use crate::proto::message::{Failure, Shape};
use crate::sched::Ending;

/// What the pool needs to know to make a call.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) function: u64,
    pub(crate) name: &'static str,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) shape: Shape,
    pub(crate) args: Payload,
}

/// A call in the scheduler's hands.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) sink: Sink,
    /// `None` if nobody listens. Shared and not cloned under the pool's lock:
    /// to clone a span is to call the program's subscriber.
    pub(crate) span: Option<Arc<Span>>,
    /// Uses up a place in the queue.
    pub(crate) has_place: bool,
}

/// Where the answer goes.
#[derive(Debug)]
pub(crate) enum Sink {
    One(oneshot::Sender<Ended>),
    Part(Part),
    Stream(Arc<Items>, oneshot::Sender<Ended>),
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Result<Answer, TaskError>,
    /// Whether the task's body may have begun.
    pub(crate) started: bool,
}

/// What a worker answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) payload: Bytes,
    /// How many of a chunk's calls it covers.
    pub(crate) answered: u32,
    /// How long it took, as the worker says.
    pub(crate) run_nanos: u64,
}

impl Call {
    pub(crate) fn info(&self, id: TaskId) -> TaskInfo {
        let Request { name, label, .. } = &self.request;
        TaskInfo { id, name, label: label.clone(), index: None }
    }

    /// Tells the caller, if it still listens, and is to be woken yet.
    pub(crate) fn resolve(self, ended: Ended) -> Option<Waker> {
        match self.sink {
            Sink::One(sender) => {
                drop(sender.send(ended));
                None
            }
            Sink::Part(part) => part.land(ended),
            Sink::Stream(items, sender) => {
                // The end is there before the reader is woken to look for it.
                drop(sender.send(ended));
                items.take_waker()
            }
        }
    }
}

/// Items of a stream that have arrived and not been taken.
#[derive(Debug, Default)]
pub(crate) struct Items {
    state: Mutex<ItemsState>,
}

#[derive(Debug, Default)]
struct ItemsState {
    waiting: VecDeque<Bytes>,
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
    pub(crate) fn push(&self, item: Bytes) -> Result<Option<Waker>, ()> {
        let mut state = self.state();
        if state.received == state.granted {
            return Err(());
        }
        state.received = state.received.wrapping_add(1);
        state.waiting.push_back(item);
        Ok(state.waker.take())
    }

    /// The next item; without one, `waker` is woken when there is.
    pub(crate) fn pop_or_wait(&self, waker: &Waker) -> Option<Bytes> {
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

/// What the caller is told of an ending without an answer. `obituary`: pid and
/// last words of the worker, if it was lost.
pub(crate) fn ending_error(
    ending: Ending,
    task: TaskInfo,
    obituary: (u32, String),
    broken: Option<&SpawnError>,
) -> TaskError {
    match ending {
        Ending::Cancelled { exit, .. } => TaskError::Cancelled { exit },
        Ending::TimedOut { after, exit } => TaskError::TimedOut { after, exit },
        Ending::Terminated { .. } => TaskError::Terminated,
        Ending::Lost { exit, .. } => {
            let (pid, stderr) = obituary;
            TaskError::WorkerLost { exit, pid, task, stderr }
        }
        Ending::Violated { error } => TaskError::Protocol(error),
        Ending::Broken => {
            broken.map_or(TaskError::Terminated, |error| TaskError::Broken(error.clone()))
        }
    }
}
