//! A place in the queue that was taken ahead of the call that will use it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pool;
use super::handle::TaskHandle;
use crate::error::TaskError;
use crate::registry::TaskFn;
use crate::supervisor::QueuePlace;

/// At most one place in a pool's queue. Given back when it is dropped.
pub(crate) struct Place {
    pool: Pool,
    is_taken: bool,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Place {
    pub(crate) fn new(pool: Pool) -> Self {
        Place { pool, is_taken: false, waiting: None }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes a place, unless there is one, or says why the pool takes no calls.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TaskError>> {
        let supervisor = &self.pool.supervisor;
        if !self.is_taken && (self.waiting.is_some() || !supervisor.try_admit()) {
            let waiting = self.waiting.get_or_insert_with(|| {
                let supervisor = supervisor.clone();
                Box::pin(async move { supervisor.admit().await })
            });
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        self.is_taken = true;
        Poll::Ready(supervisor.refusal().map_or(Ok(()), Err))
    }

    /// Calls `f(args)` in the place that was taken; without one, it is queued
    /// all the same.
    pub(crate) fn call<F, Args, M>(&mut self, f: F, args: &Args) -> TaskHandle<F::Output>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        let request = self.pool.request(f, args);
        let is_taken = std::mem::take(&mut self.is_taken);
        let place = if is_taken { QueuePlace::Admitted } else { QueuePlace::Any };
        self.pool.submit(request, place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_taken {
            self.pool.supervisor.give_back_place();
        }
    }
}
