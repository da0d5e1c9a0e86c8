//! The life of a pool with handles of every kind, which outlive what they came
//! from, in the tests of runtimes and pools that go.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use procession::{Pool, TaskError};

use crate::support::{Scratch, noted};
use crate::tasks::*;

/// What a handle came to in the end: its error, if any.
type End = Result<(), TaskError>;

/// Handles, each with a name, that wait to be awaited.
#[derive(Default)]
pub(crate) struct Handles(Mutex<Vec<(&'static str, BoxFuture<'static, End>)>>);

impl Handles {
    pub(crate) fn keep(
        &self,
        name: &'static str,
        handle: impl Future<Output = End> + Send + 'static,
    ) {
        self.0.lock().unwrap().push((name, handle.boxed()));
    }

    /// Polls them all once.
    async fn touch(&self) {
        std::future::poll_fn(|cx| {
            let mut handles = self.0.lock().unwrap();
            handles.retain_mut(|(_, handle)| Pin::new(handle).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    /// Awaits them all: each has its answer, or the pool was ended under it.
    pub(crate) async fn end(&self) {
        let handles = std::mem::take(&mut *self.0.lock().unwrap());
        for (name, handle) in handles {
            // Shown if the test fails: the last one is the one that hangs.
            println!("awaiting {name}");
            let end = handle.await;
            assert!(matches!(end, Ok(()) | Err(TaskError::Terminated)), "{name}: {end:?}");
        }
    }

    /// Drops them one by one.
    pub(crate) fn take(&self) -> Vec<BoxFuture<'static, End>> {
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().map(|(_, handle)| handle).collect()
    }
}

async fn all<T>(items: impl futures::Stream<Item = Result<T, TaskError>>) -> End {
    let mut items = std::pin::pin!(items);
    let mut end = Ok(());
    // An error of one item is not the stream's end.
    while let Some(item) = items.next().await {
        end = end.and(item.map(drop));
    }
    end
}

/// A moment in a pool's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Starting,
    Idle,
    Running,
    Cancelling,
    Feeding,
    Streaming,
    Ending,
    /// It was closed, and has done all that it had; more may come of what was
    /// begun before.
    Closed,
}

pub(crate) const STAGES: [Stage; 8] = [
    Stage::Starting,
    Stage::Idle,
    Stage::Running,
    Stage::Cancelling,
    Stage::Feeding,
    Stage::Streaming,
    Stage::Ending,
    Stage::Closed,
];

/// Makes a pool and brings it there. No handle that is kept can get an answer.
pub(crate) async fn pool_at(stage: Stage, scratch: &Scratch, handles: &Handles) -> Pool {
    let started = scratch.path("started");
    let grace = Duration::from_secs(1000);
    let pool = Pool::builder().workers(1).queue_limit(4).grace_period(grace).build().unwrap();
    if stage != Stage::Starting {
        pool.ready().await.unwrap();
    }
    if !matches!(stage, Stage::Idle | Stage::Streaming | Stage::Closed) {
        let running = pool.apply_async(stubborn, started.clone());
        if stage != Stage::Starting {
            noted(&started).await;
        }
        if stage == Stage::Cancelling {
            let cancelling = running.cancel();
            handles.keep("a cancellation", async {
                let cancelled = cancelling.await;
                assert!(cancelled.started && cancelled.exit.is_none(), "{cancelled:?}");
                Err(TaskError::Terminated)
            });
        } else {
            handles.keep("what runs", running);
        }
        let waiting = pool.apply_async(answer, 1);
        handles.keep("what waits", waiting.map(|result| result.map(drop)));
        for _ in 0..8 {
            let apply = pool.apply(answer, 1);
            handles.keep("an apply", apply.map(|result| result.map(drop)));
        }
    }
    match stage {
        Stage::Starting | Stage::Idle | Stage::Running | Stage::Cancelling => {}
        Stage::Feeding => {
            let map = pool.map(answer, 0..1_000_000).timeout(grace);
            handles.keep("a map", map.map(|result| result.map(drop)));
            let map = pool.map_async(answer, 0..1_000_000);
            handles.keep("a map by itself", map.map(|result| result.map(drop)));
            handles.keep("an imap", all(pool.imap(answer, 0..)));
            handles.keep("an imap without order", all(pool.imap_unordered(answer, 0..)));
            let endless = futures::stream::pending().chain(futures::stream::iter(0..));
            let both = futures::stream::iter(0..3).chain(endless);
            handles.keep("an imap of a stream", all(pool.imap_stream(answer, both)));
        }
        Stage::Streaming => {
            let mut stream = pool.stream(|n: u64| n.., 0).buffer(1);
            assert_eq!(stream.next().await.unwrap().unwrap(), 0);
            handles.keep("a stream", async move {
                loop {
                    if let Err(error) = stream.next().await.expect("an end without an error") {
                        assert!(stream.next().await.is_none());
                        return Err(error);
                    }
                }
            });
            handles.keep("a stream that waits", all(pool.stream(|n: u64| 0..n, 3)));
            // What was granted has been used up.
            return pool;
        }
        Stage::Closed => {
            let mut imap = pool.imap(answer, 0..10).buffer(1);
            imap.next().await.unwrap().unwrap();
            let map = pool.map(answer, 0..10);
            pool.close();
            pool.join().await;
            handles.keep("an imap", all(imap));
            handles.keep("a map", map.map(|result| result.map(drop)));
            // To poll them would start workers for them.
            return pool;
        }
        Stage::Ending => {
            pool.close();
            let (joining, shutting) = (pool.clone(), pool.clone());
            handles.keep("join", async move {
                joining.join().await;
                Err(TaskError::Terminated)
            });
            handles.keep("shutdown", async move {
                shutting.shutdown(Duration::from_secs(1000)).await;
                Err(TaskError::Terminated)
            });
        }
    }
    handles.touch().await;
    pool
}

/// A whole life, which keeps what it makes.
pub(crate) async fn life(handles: &Handles, keep: impl FnOnce(Pool)) {
    let pool = Pool::builder().workers(2).queue_limit(4).build().unwrap();
    keep(pool.clone());
    handles.keep("early", pool.apply_async(answer, 1).map(|result| result.map(drop)));
    pool.ready().await.unwrap();
    let map = pool.map_async(answer, 0..100);
    handles.keep("a map by itself", map.map(|result| result.map(drop)));
    for n in 0..6 {
        let apply = pool.apply_async(answer, n);
        handles.keep("an apply", apply.map(|result| result.map(drop)));
    }
    let mut imap = pool.imap(answer, 0..20).buffer(3);
    for n in 0..10 {
        assert_eq!(imap.next().await.unwrap().unwrap(), answer(n));
    }
    handles.keep("an imap", all(imap));
    let mut stream = pool.stream(|n: u64| n.., 0).buffer(2);
    for n in 0..10 {
        assert_eq!(stream.next().await.unwrap().unwrap(), n);
    }
    handles.keep("a stream", all(stream));
    assert_eq!(pool.map(answer, 0..10).await.unwrap().len(), 10);
    handles.touch().await;
    pool.resize(3);
    assert_eq!(pool.apply(answer, 3).await.unwrap(), answer(3));
    pool.close();
    // The stream has no end, and is not read on.
    let left = pool.shutdown(Duration::from_millis(10)).await;
    assert_eq!(left.running, 1);
}
