//! A task of a pool as a `tower` service.

use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tower_service::Service;

use crate::error::TaskError;
use crate::pool::{Place, Pool, TaskHandle};
use crate::registry::TaskFn;

/// A task as a [`Service`], made by [`Pool::service`]: the request is its
/// arguments, the response its result.
///
/// A clone is another caller of the same pool. It is ready when it has a place
/// in the pool's queue, of which there are
/// [`queue_limit`](crate::PoolBuilder::queue_limit) and one for each worker: with
/// `LoadShed` around it, requests beyond them are refused at once. A place is
/// given back when a service that is ready is dropped.
///
/// The response's future is a [`TaskHandle`]: dropping it, as `Timeout` does,
/// stops the task in its worker, too.
///
/// # Errors
///
/// `poll_ready` fails once the pool takes no more calls. `call` gives what
/// [`Pool::apply`] does; where it was not ready before, the call is queued even
/// if there is no place.
pub struct TaskService<F, Args, M> {
    place: Place,
    task: F,
    signature: PhantomData<fn(Args) -> M>,
}

impl Pool {
    /// A task as a `tower` service, which can be cloned and put under layers
    /// such as `ConcurrencyLimit`, `LoadShed`, `Timeout` or `Buffer`.
    ///
    /// ```standalone_crate
    /// use procession::Pool;
    /// use tower::{Service, ServiceExt};
    ///
    /// fn square(n: u64) -> u64 {
    ///     n * n
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     procession::init();
    ///     tokio::runtime::Runtime::new()?.block_on(async {
    ///         let pool = Pool::builder().workers(1).build()?;
    ///         let mut squares = pool.service::<_, u64, _>(square);
    ///         assert_eq!(squares.ready().await?.call(3).await?, 9);
    ///         Ok(())
    ///     })
    /// }
    /// ```
    pub fn service<F, Args, M>(&self, f: F) -> TaskService<F, Args, M>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        TaskService { place: Place::new(self.clone()), task: f, signature: PhantomData }
    }
}

impl<F, Args, M> Service<Args> for TaskService<F, Args, M>
where
    F: TaskFn<Args, M>,
    Args: Serialize + DeserializeOwned,
{
    type Response = F::Output;
    type Error = TaskError;
    type Future = TaskHandle<F::Output>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TaskError>> {
        self.place.poll_take(cx)
    }

    fn call(&mut self, args: Args) -> TaskHandle<F::Output> {
        self.place.call(self.task, &args)
    }
}

impl<F: Copy, Args, M> Clone for TaskService<F, Args, M> {
    fn clone(&self) -> Self {
        let place = Place::new(self.place.pool().clone());
        TaskService { place, task: self.task, signature: PhantomData }
    }
}

impl<F, Args, M> fmt::Debug for TaskService<F, Args, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskService").field("pool", self.place.pool()).finish_non_exhaustive()
    }
}
