//! `Queue`, `Producer` and `Consumer`.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, Stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{GetError, PutError, PutErrorKind, QueueFault};
use super::handle::{Handle, Limit, Settings};
use super::store::{Letter, Taking};
use crate::queue_state::Kind;

/// A queue between any number of processes and tasks: first in, first out.
///
/// Clones are the same queue, and so is what arrives where one is sent. It is both
/// ends; [`producer`](Self::producer) and [`consumer`](Self::consumer) are one, and
/// only with these does a queue end by itself: once every producer is gone, or its
/// process killed, consumers are told so when they have taken what is left, and
/// the other way round.
///
/// # Whoever dies
///
/// There is no process and no thread behind a queue: it is memory that all who
/// have it share, and what was put stays there until it is taken, whoever has died
/// meanwhile. A process that is killed, at any instant, in the middle of a put or a
/// get included, takes at most the item with it that it was handling, and neither
/// blocks nor disturbs the others. One that is *stopped* (SIGSTOP) in the middle of
/// an operation, which takes microseconds, keeps the others waiting until it goes
/// on; whoever waits can be cancelled, and gives up after its timeout.
///
/// A process that was taken over can take all items, put any, and keep the others
/// waiting; what it writes into the memory ends in items of another type
/// ([`GetError::Decode`]) or in a [`QueueFault`](crate::QueueFault), and never in a
/// panic.
///
/// # How much fits
///
/// As many items as [`new`](Self::new) is told, and at most a gigabyte together
/// unless [`bytes_max`](QueueBuilder::bytes_max) says otherwise. That takes memory
/// only where items lie, and what was taken is given back, but for a megabyte. To
/// put or get one takes three or four system calls, and one or two more where
/// somebody waits at the other end. A queue takes five descriptors in each process,
/// one end of it three, clones none, and one more for each end at which a runtime has
/// waited.
///
/// A limit on the size of files (`RLIMIT_FSIZE`) holds for this memory, too.
///
/// # Why there is no `SimpleQueue`
///
/// Python has one because its `Queue` needs a thread that feeds a pipe: an item is
/// there some time after `put` has returned, and is lost if the process ends before.
/// This queue has no such thread. What is left of the difference is `maxsize`.
///
/// # Examples
///
/// ```
/// use procession::Queue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue: Queue<u32> = Queue::new(2)?;
/// queue.put(1).await?;
/// queue.put(2).await?;
/// assert!(queue.try_put(3).unwrap_err().is_full());
/// let (producer, consumer) = queue.split();
/// drop(producer);
/// assert_eq!(consumer.get().await?, 1);
/// assert_eq!(consumer.get().await?, 2);
/// assert!(consumer.get().await.unwrap_err().is_closed());
/// # Ok(())
/// # }
/// ```
pub struct Queue<T> {
    pub(super) handle: Handle,
    items: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// A queue that holds so many items; 0 for as many as there is room for.
    /// Needs no runtime.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn new(maxsize: usize) -> io::Result<Self> {
        Self::builder().maxsize(maxsize).build()
    }

    pub(super) fn of(handle: Handle) -> Self {
        Queue { handle, items: PhantomData }
    }

    /// A queue with more options.
    pub fn builder() -> QueueBuilder<T> {
        QueueBuilder { settings: Settings::new(Kind::Plain), items: PhantomData }
    }

    /// An end that puts.
    pub fn producer(&self) -> Producer<T> {
        Producer::of(Handle { outlet: None, ..self.handle.clone() })
    }

    /// An end that gets.
    pub fn consumer(&self) -> Consumer<T> {
        Consumer::of(Handle { inlet: None, ..self.handle.clone() })
    }

    /// Both ends. The queue ends once all clones of one of them are gone.
    pub fn split(self) -> (Producer<T>, Consumer<T>) {
        (self.producer(), self.consumer())
    }

    queue_methods!();
    put_methods!();
    get_methods!();
}

/// Options of a [`Queue`].
pub struct QueueBuilder<T> {
    settings: Settings,
    items: PhantomData<fn(T) -> T>,
}

impl<T> QueueBuilder<T> {
    /// How many items the queue may hold. Default: 0, which means as many as there
    /// is room for.
    pub fn maxsize(mut self, items: usize) -> Self {
        self.settings.maxsize = items;
        self
    }

    /// How many bytes the items in the queue may take together, with 24 for each
    /// beside its own. Default: 1 GiB; from 64 KiB to 8 GiB. No item may be longer
    /// than half of it, or than 4 GiB.
    ///
    /// Memory is taken only where items lie. This keeps a consumer that has stopped
    /// from filling the machine.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.settings.bytes_max = bytes;
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// If an option makes no sense, or there are no descriptors left.
    pub fn build(self) -> io::Result<Queue<T>> {
        Ok(Queue::of(self.settings.build()?))
    }
}

/// An end of a [`Queue`] that puts. Clones are the same end.
///
/// It is a [`Sink`], too: what that was given is put once there is room for it.
/// Flush it before you drop it.
pub struct Producer<T> {
    pub(super) handle: Handle,
    /// What the sink could not put at once.
    pending: Pending<Result<(), PutErrorKind>>,
    items: PhantomData<fn(T) -> T>,
}

impl<T> Producer<T> {
    pub(super) fn of(handle: Handle) -> Self {
        Producer { handle, pending: Pending::default(), items: PhantomData }
    }

    queue_methods!();
    put_methods!();
}

/// An end of a [`Queue`] that gets. Clones are the same end, each item is taken by
/// one of them.
///
/// It is a [`Stream`], too, which ends with the queue; see [`get`](Self::get). No
/// item is lost by dropping the future of its `next`, or the stream.
pub struct Consumer<T> {
    pub(super) handle: Handle,
    /// What the stream waits for.
    pending: Pending<Result<Letter, GetError>>,
    items: PhantomData<fn(T) -> T>,
}

impl<T> Consumer<T> {
    pub(super) fn of(handle: Handle) -> Self {
        Consumer { handle, pending: Pending::default(), items: PhantomData }
    }

    queue_methods!();
    get_methods!();
}

/// A future that a stream or a sink is at. In a lock for the compiler's sake: what
/// is polled is never shared.
struct Pending<R>(Mutex<Option<Pin<Box<dyn Future<Output = R> + Send>>>>);

impl<R> Default for Pending<R> {
    fn default() -> Self {
        Pending(Mutex::new(None))
    }
}

impl<R> Pending<R> {
    fn start(&mut self, future: impl Future<Output = R> + Send + 'static) {
        *self.get_mut() = Some(Box::pin(future));
    }

    /// What has come of it; `None` if there is nothing.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<R>> {
        let Some(future) = self.get_mut() else { return Poll::Ready(None) };
        let done = ready!(future.as_mut().poll(cx));
        *self.get_mut() = None;
        Poll::Ready(Some(done))
    }

    fn get_mut(&mut self) -> &mut Option<Pin<Box<dyn Future<Output = R> + Send>>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Items, until the queue ends. Anything else that is wrong is an error, after which
/// the stream goes on, unless the queue [cannot be used](GetError::Fault).
impl<T: DeserializeOwned> Stream for Consumer<T> {
    type Item = Result<T, GetError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let got = match ready!(self.pending.poll(cx)) {
            Some(got) => got,
            None => match self.handle.try_get(Taking::ForGood) {
                Err(GetError::Empty) => {
                    let handle = self.handle.clone();
                    self.pending.start(async move { handle.get(Taking::ForGood).await });
                    let got = ready!(self.pending.poll(cx));
                    got.expect("it was started just now")
                }
                got => got,
            },
        };
        Poll::Ready(match got {
            Err(GetError::Closed) => None,
            got => Some(got.and_then(|letter| letter.decode())),
        })
    }
}

/// Puts what it is given. Its errors do not give items back; use
/// [`put`](Producer::put) for that.
impl<T: Serialize> Sink<T> for Producer<T> {
    type Error = PutErrorKind;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), PutErrorKind>> {
        self.poll_flush(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: T) -> Result<(), PutErrorKind> {
        let handle = self.handle.clone();
        let draft = handle.encode(&item)?;
        self.pending.start(async move { handle.put(draft).await });
        Ok(())
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), PutErrorKind>> {
        Poll::Ready(ready!(self.pending.poll(cx)).unwrap_or(Ok(())))
    }

    /// Flushes it. The queue has other producers, so it stays open.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), PutErrorKind>> {
        self.poll_flush(cx)
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue::of(self.handle.clone())
    }
}

/// What a sink has not put yet stays with the original.
impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Producer::of(self.handle.clone())
    }
}

impl<T> Clone for Consumer<T> {
    fn clone(&self) -> Self {
        Consumer::of(self.handle.clone())
    }
}

impl<T> Clone for QueueBuilder<T> {
    fn clone(&self) -> Self {
        QueueBuilder { settings: self.settings, items: PhantomData }
    }
}

macro_rules! debug_as_queue {
    ($($name:ident)*) => {$(
        /// Without the items, which only whoever takes them can see.
        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("len", &self.len())
                    .field("is_closed", &self.is_closed())
                    .finish_non_exhaustive()
            }
        }
    )*};
}

debug_as_queue!(Queue Producer Consumer);

impl<T> fmt::Debug for QueueBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueBuilder").field("settings", &self.settings).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::store::Outlet;
    use super::*;

    /// A process that dies lets go of one descriptor after the other, and whoever puts may
    /// come between.
    #[test]
    fn the_last_consumer_dies_while_descriptors_are_put() {
        for is_unread in [false, true] {
            let (producer, consumer) = Queue::new(0).unwrap().split();
            // A queue is descriptors, too.
            let item = Queue::<u8>::new(0).unwrap();
            if is_unread {
                producer.try_put(item.clone()).unwrap();
            }
            let Outlet { ear: _dying, side } =
                Arc::into_inner(consumer.handle.outlet.unwrap()).unwrap();
            drop(side);
            let error = producer.try_put(item).unwrap_err();
            assert!(matches!(error.kind(), PutErrorKind::Abandoned), "{error:?}");
        }
    }
}
