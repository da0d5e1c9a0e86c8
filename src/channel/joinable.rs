//! `JoinableQueue`: who puts hears when all is done.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{GetError, PutError, QueueFault};
use super::handle::{Handle, Limit, Settings};
use super::store::{Letter, Taken, Taking};
use crate::queue_state::Kind;

/// A [`Queue`](crate::Queue) that knows when all that was put is done.
///
/// There are two ways to say that an item is. [`take`](Self::take) gives a
/// [`QueueItem`], which is done when it is dropped; if its process dies before, the
/// item counts as lost, and [`join`](Self::join) says so, or it is put back for
/// another one to take ([`requeue_lost`](JoinableQueueBuilder::requeue_lost)). Or, as
/// in Python, each [`get`](Self::get) is followed by a
/// [`task_done`](Self::task_done): then nobody hears of the death of whoever got it,
/// and `join` waits for ever.
///
/// In all else it is like a `Queue`; each handle is both ends. It takes seven
/// descriptors in each process.
///
/// # Examples
///
/// ```
/// use procession::JoinableQueue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: JoinableQueue<String> = JoinableQueue::new(0)?;
/// queue.put("one".into()).await?;
/// queue.put("two".into()).await?;
/// let item = queue.take().await?;
/// assert_eq!(*item, "one");
/// drop(item);
/// assert_eq!(queue.get().await?, "two");
/// assert_eq!(queue.unfinished(), 1);
/// queue.task_done()?;
/// queue.join().await?;
/// assert!(queue.task_done().is_err());
/// # Ok(())
/// # }
/// ```
pub struct JoinableQueue<T> {
    pub(super) handle: Handle,
    /// Lost items that `join` has told of in this process.
    told: Arc<AtomicU64>,
    items: PhantomData<fn(T) -> T>,
}

impl<T> JoinableQueue<T> {
    /// A queue that holds so many items; 0 for as many as there is room for.
    /// Needs no runtime.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn new(maxsize: usize) -> io::Result<Self> {
        Self::builder().maxsize(maxsize).build()
    }

    /// A queue with more options.
    pub fn builder() -> JoinableQueueBuilder<T> {
        let settings = Settings::new(Kind::Joinable { requeue: false });
        JoinableQueueBuilder { settings, items: PhantomData }
    }

    pub(super) fn of(handle: Handle) -> Self {
        JoinableQueue { handle, told: Arc::default(), items: PhantomData }
    }

    queue_methods!();
    put_methods!();
    get_methods!();

    /// Takes the next item, as [`get`](Self::get) does, and holds it: it is not done
    /// until what this returns is dropped.
    ///
    /// All processes together may hold 256 items; whoever would be one more waits. An
    /// item of another type is [`GetError::Decode`], and counts as lost.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready takes nothing.
    pub async fn take(&self) -> Result<QueueItem<T>, GetError>
    where
        T: DeserializeOwned,
    {
        self.hold(self.handle.get(Taking::Held).await?)
    }

    /// As [`take`](Self::take), and gives up after so long:
    /// [`GetError::is_empty`].
    pub async fn take_timeout(&self, after: Duration) -> Result<QueueItem<T>, GetError>
    where
        T: DeserializeOwned,
    {
        self.hold(self.handle.get_timeout(Taking::Held, after).await?)
    }

    /// As [`take`](Self::take), without waiting.
    pub fn try_take(&self) -> Result<QueueItem<T>, GetError>
    where
        T: DeserializeOwned,
    {
        self.hold(self.handle.try_get(Taking::Held)?)
    }

    /// As [`take`](Self::take), for code that is not async. Blocks the thread.
    pub fn blocking_take(&self) -> Result<QueueItem<T>, GetError>
    where
        T: DeserializeOwned,
    {
        self.hold(self.handle.blocking_get(Taking::Held, Limit::None)?)
    }

    /// As [`blocking_take`](Self::blocking_take), and gives up after so long:
    /// [`GetError::is_empty`].
    pub fn blocking_take_timeout(&self, after: Duration) -> Result<QueueItem<T>, GetError>
    where
        T: DeserializeOwned,
    {
        self.hold(self.handle.blocking_get(Taking::Held, Limit::After(after))?)
    }

    fn hold(&self, letter: Letter) -> Result<QueueItem<T>, GetError>
    where
        T: DeserializeOwned,
    {
        let taken = letter.hold.expect("it was taken to be held");
        // Lost, if the type's own code panics over it.
        let mut hold = Hold { handle: self.handle.clone(), taken, is_spoilt: true };
        let item = letter.decode()?;
        hold.is_spoilt = false;
        Ok(QueueItem { item, hold })
    }

    /// Says of one item that was got, not taken, that it is done.
    ///
    /// # Errors
    ///
    /// If that was said of all that were got already. Python's `ValueError`.
    pub fn task_done(&self) -> Result<(), JoinError> {
        match self.handle.task_done()? {
            true => Ok(()),
            false => Err(JoinError::OverDone),
        }
    }

    /// How many items were put and are not done, as of a moment ago.
    pub fn unfinished(&self) -> usize {
        self.handle.unfinished()
    }

    /// How many items were lost so far: taken by processes that died before they
    /// were done with them, and not put back.
    pub fn lost(&self) -> u64 {
        self.handle.store.state().lost()
    }

    /// Waits until all that was put is done.
    ///
    /// # Errors
    ///
    /// [`JoinError::Lost`] if all is done but for items that were lost since `join`
    /// has last told of any in this process. A death is seen a twentieth of a second
    /// later at most.
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime, or in one without I/O and time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn join(&self) -> Result<(), JoinError> {
        let lost = self.handle.join().await?;
        self.joined(lost)
    }

    /// As [`join`](Self::join), and gives up after so long:
    /// [`JoinError::TimedOut`].
    pub async fn join_timeout(&self, after: Duration) -> Result<(), JoinError> {
        match tokio::time::timeout(after, self.handle.join()).await {
            Ok(lost) => self.joined(lost?),
            Err(_) => Err(JoinError::TimedOut { after }),
        }
    }

    /// As [`join`](Self::join), for code that is not async. Blocks the thread.
    pub fn blocking_join(&self) -> Result<(), JoinError> {
        match self.handle.blocking_join(Limit::None)? {
            Some(lost) => self.joined(lost),
            None => Err(JoinError::TimedOut { after: Duration::MAX }),
        }
    }

    /// As [`blocking_join`](Self::blocking_join), and gives up after so long:
    /// [`JoinError::TimedOut`].
    pub fn blocking_join_timeout(&self, after: Duration) -> Result<(), JoinError> {
        match self.handle.blocking_join(Limit::After(after))? {
            Some(lost) => self.joined(lost),
            None => Err(JoinError::TimedOut { after }),
        }
    }

    fn joined(&self, lost: u64) -> Result<(), JoinError> {
        let told = self.told.fetch_max(lost, Ordering::Relaxed);
        match lost.saturating_sub(told) {
            0 => Ok(()),
            items => Err(JoinError::Lost { items }),
        }
    }
}

/// Options of a [`JoinableQueue`].
pub struct JoinableQueueBuilder<T> {
    settings: Settings,
    items: PhantomData<fn(T) -> T>,
}

impl<T> JoinableQueueBuilder<T> {
    /// How many items the queue may hold. Default: 0, which means as many as there
    /// is room for.
    pub fn maxsize(mut self, items: usize) -> Self {
        self.settings.maxsize = items;
        self
    }

    /// As of a [`Queue`](crate::QueueBuilder::bytes_max). Default: 1 GiB. With
    /// [`requeue_lost`](Self::requeue_lost) items that are held count as well, and
    /// all that was put after the first of them.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.settings.bytes_max = bytes;
        self
    }

    /// Whether an item whose holder died is put back, before all others, for
    /// somebody else to take. Default: no, since what it was taken for may have been
    /// done in part.
    ///
    /// Whoever takes or waits sees a death a twentieth of a second later at most.
    ///
    /// Items with descriptors in them are lost all the same: those went to the
    /// holder.
    pub fn requeue_lost(mut self, requeue: bool) -> Self {
        self.settings.kind = Kind::Joinable { requeue };
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// If an option makes no sense, or there are no descriptors left.
    pub fn build(self) -> io::Result<JoinableQueue<T>> {
        Ok(JoinableQueue::of(self.settings.build()?))
    }
}

/// An item that was [taken](JoinableQueue::take) out of a [`JoinableQueue`], and is
/// not done until this is dropped.
///
/// If its process dies before, it is lost, or put back. What a forked copy of the
/// process drops counts for nothing.
#[must_use = "an item that is dropped is done"]
pub struct QueueItem<T> {
    item: T,
    hold: Hold,
}

impl<T> QueueItem<T> {
    /// Says that the item is done. So does dropping it; this gives the item itself
    /// back.
    pub fn done(self) -> T {
        // Not before the hold is dropped, which is the last thing here.
        let QueueItem { item, hold } = self;
        drop(hold);
        item
    }
}

impl<T> Deref for QueueItem<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for QueueItem<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: fmt::Debug> fmt::Debug for QueueItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QueueItem").field(&self.item).finish()
    }
}

/// A lease, which ends when this is dropped.
struct Hold {
    handle: Handle,
    taken: Taken,
    is_spoilt: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.handle.store.finish(self.handle.ends(), self.taken, self.is_spoilt);
    }
}

/// Why a [`JoinableQueue`] is not done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// All is done but for items that were lost: whoever had taken them died before
    /// they were done.
    Lost {
        /// How many there are of which this process was not told before.
        items: u64,
    },
    /// It was not done in all the time that somebody wanted to wait.
    TimedOut {
        /// How long that was.
        after: Duration,
    },
    /// [`task_done`](JoinableQueue::task_done) was called more often than items were
    /// got.
    OverDone,
    /// The queue cannot be used.
    Fault(QueueFault),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Lost { items: 1 } => f.write_str("an item was lost with its holder"),
            JoinError::Lost { items } => write!(f, "{items} items were lost with their holders"),
            JoinError::TimedOut { after } => write!(f, "not all items were done in {after:?}"),
            JoinError::OverDone => f.write_str("more items were said to be done than were got"),
            JoinError::Fault(_) => f.write_str("the queue cannot be used"),
        }
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JoinError::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<QueueFault> for JoinError {
    fn from(fault: QueueFault) -> Self {
        JoinError::Fault(fault)
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        let (handle, told) = (self.handle.clone(), Arc::clone(&self.told));
        JoinableQueue { handle, told, items: PhantomData }
    }
}

impl<T> Clone for JoinableQueueBuilder<T> {
    fn clone(&self) -> Self {
        JoinableQueueBuilder { settings: self.settings, items: PhantomData }
    }
}

/// Without the items, which only whoever takes them can see.
impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueue")
            .field("len", &self.len())
            .field("unfinished", &self.unfinished())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for JoinableQueueBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueueBuilder").field("settings", &self.settings).finish()
    }
}
