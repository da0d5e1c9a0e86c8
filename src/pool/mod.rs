//! The pool and its handles: what users meet. Encodes calls, decodes answers;
//! everything between is the supervisor's.
//!
//! - `builder`: options;
//! - `apply`, `handle`: one call;
//! - `feed`, `flight`: many calls, cut into chunks, and those on their way; `map`
//!   and `imap` collect them;
//! - `stream`: one call, many items;
//! - `status`: what a pool says about itself.

mod apply;
mod builder;
mod feed;
mod flight;
mod handle;
mod imap;
mod map;
mod pace;
mod parts;
#[cfg(feature = "tower")]
mod place;
mod source;
mod status;
mod stream;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::apply::Apply;
pub use self::builder::{InitOutcome, PoolBuilder};
pub use self::handle::{CancelHandle, Cancelled, Cancelling, TaskHandle, TaskStatus};
pub use self::imap::{Imap, Indexed};
pub use self::map::{Map, MapHandle};
#[cfg(feature = "tower")]
pub(crate) use self::place::Place;
#[cfg(feature = "histograms")]
pub use self::status::SlowTask;
pub use self::status::{PoolState, RunningTask, Stats, Status, WorkerInfo, WorkerState};
pub use self::stream::TaskStream;

use self::apply::Launch;
use self::builder::WORKERS_MAX;
use self::feed::Feed;
use self::source::Encoded;
use crate::error::{Side, SpawnError, TaskError};
use crate::proto::codec;
use crate::proto::draft::Draft;
use crate::proto::message::Shape;
use crate::registry::{self, StreamFn, TaskFn, stream_id, value_id};
use crate::sched::Terms;
use crate::supervisor::{QueuePlace, Request, Supervisor};
use crate::sys::cast::Sharing;

/// Room that is made for the arguments of a call at first. Most have no more.
const ARGS_BYTES: usize = 64;

thread_local! {
    /// Where arguments are encoded: the short ones then stay with their call.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A pool of worker processes.
///
/// Cloning it is cheap, and all clones are the same pool. It works from any
/// thread and any runtime, as long as the runtime that it was made in lives.
///
/// # Dropping
///
/// When the last clone is dropped, the workers are killed and every call that
/// has not ended ends with [`TaskError::Terminated`]; handles and streams do not
/// keep a pool alive. To let it finish first, call [`close`](Self::close) and
/// await [`join`](Self::join), or [`shutdown`](Self::shutdown). The same happens
/// when the runtime that the pool was made in is shut down.
///
/// # Examples
///
/// ```standalone_crate
/// fn square(n: u64) -> u64 { n * n }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let pool = procession::Pool::new()?;
///         assert_eq!(pool.apply(square, 3).await?, 9);
///         assert_eq!(pool.map(square, 0..4).await?, [0, 1, 4, 9]);
///         Ok(())
///     })
/// }
/// ```
#[derive(Clone)]
pub struct Pool {
    supervisor: Arc<Supervisor>,
    _last: Arc<LastHandle>,
}

/// Ends the pool when the last clone of it goes.
struct LastHandle(Arc<Supervisor>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Pool {
    /// A pool with one worker for each processor, and default options.
    ///
    /// # Errors
    ///
    /// As for [`PoolBuilder::build`].
    pub fn new() -> Result<Pool, SpawnError> {
        Pool::builder().build()
    }

    /// Options for a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    fn new_from(supervisor: Arc<Supervisor>) -> Pool {
        let last = Arc::new(LastHandle(Arc::clone(&supervisor)));
        Pool { supervisor, _last: last }
    }

    /// Calls `f(args)` in a worker: a future of the result.
    ///
    /// `f` is any function, `async fn` or closure that captures nothing, with up
    /// to eight arguments: one is passed as it is, none as `()`, several as a
    /// tuple. Options such as [`timeout`](Apply::timeout) and
    /// [`retry`](Apply::retry) are chained before `.await`. Nothing happens
    /// before the first poll, apart from encoding the arguments. For many bytes
    /// use `Bytes`, which are [not copied](crate#large-byte-strings).
    ///
    /// # Errors
    ///
    /// The future gives a [`TaskError`] if there is no result.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call: see [`Apply`].
    pub fn apply<F, Args, M>(&self, f: F, args: Args) -> Apply<F::Output>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        Apply::new(Launch::new(&self.supervisor, self.request(f, &args)))
    }

    /// Calls `f(args)` in a worker: queued now, and awaited through the handle.
    /// Python's `apply_async`; the same as `apply(f, args).start()`.
    ///
    /// Never waits for a place in the queue and never fails for want of one: for
    /// calls that should be held back, use [`apply`](Self::apply) or
    /// [`try_apply`](Self::try_apply).
    pub fn apply_async<F, Args, M>(&self, f: F, args: Args) -> TaskHandle<F::Output>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        let request = self.request(f, &args);
        self.submit(request, QueuePlace::Any)
    }

    /// Calls `f(args)` in a worker if there is a place in the queue.
    ///
    /// # Errors
    ///
    /// Gives the arguments back if the queue is full or the pool takes no more
    /// calls.
    pub fn try_apply<F, Args, M>(
        &self,
        f: F,
        args: Args,
    ) -> Result<TaskHandle<F::Output>, TryApplyError<Args>>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        if self.supervisor.refusal().is_some() {
            return Err(TryApplyError::Closed(args));
        }
        // Encoded first: that is the caller's code, and may panic.
        let request = self.request(f, &args);
        if !self.supervisor.try_admit() {
            return Err(TryApplyError::Full(args));
        }
        Ok(self.submit(request, QueuePlace::Admitted))
    }

    /// Calls `f` once for each input: a future of all results, in order.
    ///
    /// Inputs are sent in chunks, sized by how long items take unless
    /// [`chunk_size`](Map::chunk_size) says otherwise. With several arguments
    /// each input is a tuple, so this is Python's `starmap` too.
    ///
    /// # Errors
    ///
    /// The first item that fails fails the map and stops the rest.
    ///
    /// # Panics
    ///
    /// If the input panics, so does the future, after the items before that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all its calls: see [`Map`].
    pub fn map<F, I, M>(&self, f: F, inputs: I) -> Map<F::Output>
    where
        F: TaskFn<I::Item, M>,
        I: IntoIterator<Item: Serialize + DeserializeOwned, IntoIter: Send + 'static>,
    {
        Map::new(self.feed(f, futures_util::stream::iter(inputs)))
    }

    /// Like [`map`](Self::map), and runs by itself from now on, whether the
    /// handle is polled or not. Python's `map_async`.
    pub fn map_async<F, I, M>(&self, f: F, inputs: I) -> MapHandle<F::Output>
    where
        F: TaskFn<I::Item, M, Output: Send + 'static>,
        I: IntoIterator<Item: Serialize + DeserializeOwned, IntoIter: Send + 'static>,
    {
        self.map(f, inputs).start()
    }

    /// Calls `f` once for each input: a stream of the results in the inputs'
    /// order, each as soon as it and those before it are there. The input is
    /// pulled only as results are read, see [`Imap::buffer`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream cancels what is under way: see [`Imap`].
    pub fn imap<F, I, M>(&self, f: F, inputs: I) -> Imap<F::Output>
    where
        F: TaskFn<I::Item, M>,
        I: IntoIterator<Item: Serialize + DeserializeOwned, IntoIter: Send + 'static>,
    {
        Imap::new(self.feed(f, futures_util::stream::iter(inputs)), true)
    }

    /// Like [`imap`](Self::imap), with results as they finish. To know which is
    /// which, use [`Imap::indexed`].
    pub fn imap_unordered<F, I, M>(&self, f: F, inputs: I) -> Imap<F::Output>
    where
        F: TaskFn<I::Item, M>,
        I: IntoIterator<Item: Serialize + DeserializeOwned, IntoIter: Send + 'static>,
    {
        Imap::new(self.feed(f, futures_util::stream::iter(inputs)), false)
    }

    /// Like [`imap`](Self::imap), with inputs from a stream.
    pub fn imap_stream<F, S, M>(&self, f: F, inputs: S) -> Imap<F::Output>
    where
        F: TaskFn<S::Item, M>,
        S: Stream<Item: Serialize + DeserializeOwned> + Send + 'static,
    {
        Imap::new(self.feed(f, inputs), true)
    }

    /// Calls `f(args)`, which returns an iterator, in a worker: a stream of its
    /// items, each sent as it is made, with backpressure: a worker whose items
    /// are not read waits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream cancels the task: see [`TaskStream`].
    pub fn stream<F, Args, M>(&self, f: F, args: Args) -> TaskStream<F::Item>
    where
        F: StreamFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        let request = self.encode(stream_id(f).0, registry::name::<F>(), Shape::Stream, &args);
        TaskStream::new(Launch::new(&self.supervisor, request))
    }

    /// Waits until all workers have started and run their initializer, spares
    /// among them.
    ///
    /// # Errors
    ///
    /// If some could not, [`restart_limit`](PoolBuilder::restart_limit) times in
    /// a row: the pool is broken then, unless it has another ready worker, with
    /// which it goes on and goes on trying. If the pool was closed meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), SpawnError> {
        self.supervisor.ready().await
    }

    /// Takes no more calls. Those it has are finished, and futures and streams of
    /// `map` and `imap` that were made before can still be awaited and read; an
    /// [`Apply`] or a [`TaskStream`] that was not polled before gets
    /// [`TaskError::Closed`]. Workers leave when there is nothing left for them.
    /// Calling it again changes nothing.
    pub fn close(&self) {
        self.supervisor.close();
    }

    /// Waits until a closed pool has finished all its calls and its workers'
    /// processes are gone. On a pool that is open, it waits for somebody to
    /// close it.
    ///
    /// An [`Imap`] that has been begun and is not being read does not keep
    /// `join` waiting; if it is read on later, workers are started for it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn join(&self) {
        self.supervisor.drained().await;
    }

    /// Ends the pool now, and waits until its processes are gone: waiting calls
    /// end at once, running ones as cancelled ones do, all of them with
    /// [`TaskError::Terminated`].
    ///
    /// # Cancel safety
    ///
    /// Once polled, dropping the future changes nothing: the pool ends.
    pub async fn terminate(&self) {
        self.supervisor.terminate();
        self.supervisor.drained().await;
    }

    /// Closes the pool, waits for its calls up to `limit`, then terminates it.
    /// Says what had to be ended.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the pool is closed; dropping the future leaves it at that.
    pub async fn shutdown(&self, limit: Duration) -> Shutdown {
        self.close();
        let join = std::pin::pin!(self.join());
        if let Either::Left(_) = select(join, self.supervisor.sleep(limit)).await {
            return Shutdown { queued: 0, running: 0 };
        }
        let left = self.status();
        self.terminate().await;
        Shutdown { queued: left.queued, running: left.running }
    }

    /// Changes the number of workers, beside which there are as many spares as
    /// before. New ones are started at once; those too many finish what they have
    /// and leave.
    ///
    /// # Panics
    ///
    /// If `workers` is 0 or more than 65536.
    pub fn resize(&self, workers: usize) {
        assert!(workers > 0, "a pool needs at least one worker");
        assert!(workers <= WORKERS_MAX, "a pool has at most {WORKERS_MAX} workers");
        self.supervisor.resize(workers);
    }

    /// What the pool does now.
    pub fn status(&self) -> Status {
        Status::new(&self.supervisor.view())
    }

    /// What the pool has done since it was made.
    pub fn stats(&self) -> Stats {
        Stats::new(&self.supervisor)
    }

    /// The calls of the last ten minutes whose bodies ran longest, of those that were
    /// answered, up to ten, longest first. Feature `histograms`.
    ///
    /// No more than ten are kept in mind: what ten longer ones kept out is not found
    /// again when those are ten minutes old.
    #[cfg(feature = "histograms")]
    pub fn slowest(&self) -> Vec<SlowTask> {
        SlowTask::all_of(&self.supervisor)
    }

    /// The workers there are now, in the order of their places.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.supervisor.view().workers.into_iter().map(WorkerInfo::new).collect()
    }

    fn submit<R>(&self, request: Result<Request, TaskError>, place: QueuePlace) -> TaskHandle<R> {
        let terms = Terms::default();
        TaskHandle::new(apply::submit(&self.supervisor, request, terms, None, place))
    }

    fn request<F, Args, M>(&self, f: F, args: &Args) -> Result<Request, TaskError>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        self.encode(value_id(f).0, registry::name::<F>(), Shape::One, args)
    }

    fn encode<Args: Serialize>(
        &self,
        function: u64,
        name: &'static str,
        shape: Shape,
        args: &Args,
    ) -> Result<Request, TaskError> {
        let scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let mut encoded = Draft::within(scratch, ARGS_BYTES);
        let limit = self.supervisor.plan().frame_bytes_max;
        codec::draft::<Sharing, _>(args, &mut encoded, limit)
            .map_err(|failure| TaskError::from_encode(failure, Side::Arguments))?;
        let (args, scratch) = encoded.into_payload();
        if let Some(scratch) = scratch {
            let _ = SCRATCH.try_with(|place| place.set(scratch));
        }
        Ok(Request { function, name, label: None, shape, args, token: None })
    }

    fn feed<F, S, M>(&self, f: F, inputs: S) -> Feed
    where
        F: TaskFn<S::Item, M>,
        S: Stream<Item: Serialize + DeserializeOwned> + Send + 'static,
    {
        let source = Box::new(Encoded(Box::pin(inputs)));
        Feed::new(&self.supervisor, value_id(f).0, registry::name::<F>(), source)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.supervisor.plan().name).finish_non_exhaustive()
    }
}

/// Why [`Pool::try_apply`] did not take a call; with the call's arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TryApplyError<Args> {
    /// The queue is full.
    Full(Args),
    /// The pool takes no more calls: it is closed, terminated or broken.
    Closed(Args),
}

impl<Args> TryApplyError<Args> {
    /// The arguments.
    pub fn into_args(self) -> Args {
        match self {
            TryApplyError::Full(args) | TryApplyError::Closed(args) => args,
        }
    }

    /// Whether trying again later may help.
    pub fn is_full(&self) -> bool {
        matches!(self, TryApplyError::Full(_))
    }

    /// Whether the pool takes no more calls.
    pub fn is_closed(&self) -> bool {
        matches!(self, TryApplyError::Closed(_))
    }
}

impl<Args> fmt::Debug for TryApplyError<Args> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "Full(..)" } else { "Closed(..)" })
    }
}

impl<Args> fmt::Display for TryApplyError<Args> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "the queue is full" } else { "the pool is closed" })
    }
}

impl<Args> std::error::Error for TryApplyError<Args> {}

/// What [`Pool::shutdown`] had to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shutdown {
    /// Calls that were waiting.
    pub queued: usize,
    /// Calls that were running.
    pub running: usize,
}

impl Shutdown {
    /// Whether everything had finished in time.
    pub fn is_clean(&self) -> bool {
        self.queued == 0 && self.running == 0
    }
}
