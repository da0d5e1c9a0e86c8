//! Inside a worker: what a task can learn about its own cancellation, and how what
//! it tells to `tracing` comes to the pool's process.
//!
//! A worker runs one task at a time, in the order they came, and ends when its
//! parent does, whatever it is doing.
//!
//! # Ending politely
//!
//! By default a cancelled task is stopped by SIGTERM, and SIGKILL after the
//! pool's [`grace_period`](crate::PoolBuilder::grace_period): its process ends
//! and another takes its place. A task that would rather clean up calls one of
//! the functions here. From its first such call on, cancelling it is a request:
//! no signal is sent, and if the task returns within the grace period its
//! worker lives on. If it does not, it is killed.
//!
//! Outside a worker nothing is ever cancelled: the functions may be called and
//! have no effect. So it is in a copy of the worker that a task has made by `fork`,
//! which is no worker. It ends, with exit code 1, if it returns from the task or
//! panics out of it, and what it tells `tracing` is not forwarded.
//!
//! ```
//! use procession::worker;
//!
//! fn count_primes(limit: u64) -> Option<u64> {
//!     let mut found = 0;
//!     for n in 2..limit {
//!         if worker::is_cancelled() {
//!             return None; // nobody waits for the answer any more
//!         }
//!         found += u64::from((2..n).take_while(|d| d * d <= n).all(|d| n % d != 0));
//!     }
//!     Some(found)
//! }
//! assert_eq!(count_primes(10), Some(4));
//! ```

// `run` is the worker's loop, `desk` where one call is worked on, `outbox` what
// is answered and not yet sent, `forward` what its `tracing` is told; `guard`
// catches panics, `lookout` saves sleeps between tasks, `lifeline` watches for the
// parent's end, `memory` for a task that takes too much. Before each task, `run`
// asks the status page whether it may.
mod desk;
mod forward;
mod guard;
mod lifeline;
mod lookout;
mod memory;
mod outbox;
mod run;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub use self::forward::{ForwardError, forward_tracing};
pub(crate) use self::run::{preload, run, warm_up};

use crate::slot_word::Phase;
use crate::sys::crew;
use crate::sys::fork::{self, Incarnation};
use crate::sys::latest::Latest;
use crate::sys::page::Page;

/// The status page, in a worker.
static PAGE: Latest<Arc<Page>> = Latest::new();

/// The process that is the worker.
static HOME: Latest<Incarnation> = Latest::new();

/// Number of the task that runs; 0 between tasks.
static RUNNING: AtomicU64 = AtomicU64::new(0);

/// Instead of its number: it is over its memory limit, and the process about to
/// end for that.
const CLAIMED: u64 = u64::MAX;

type Callback = Box<dyn FnOnce() + Send>;

/// What the running task wants called when it is cancelled.
static CALLBACKS: Mutex<Vec<Callback>> = Mutex::new(Vec::new());

/// Whether there may be any: each task asks.
static HAS_CALLBACKS: AtomicBool = AtomicBool::new(false);

/// Somebody waits for the parent's bell.
static WATCHES: AtomicBool = AtomicBool::new(false);

/// Wakes the futures of [`cancelled`].
static CANCELLED: Notify = Notify::const_new();

/// Whether somebody wants the running task to end.
///
/// Costs a few memory accesses; call it in inner loops. The first call makes
/// cancelling this task polite, see the [module](self).
pub fn is_cancelled() -> bool {
    running().is_some_and(|(page, seq)| {
        page.set_polite(seq, true);
        is_asked_to_end(page, seq)
    })
}

/// Waits until somebody wants the running task to end; for ever, if nobody
/// does.
///
/// ```
/// # async fn fetch() -> u32 { 1 }
/// async fn patient() -> Option<u32> {
///     tokio::select! {
///         answer = fetch() => Some(answer),
///         () = procession::worker::cancelled() => None,
///     }
/// }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap()
/// #     .block_on(async { assert_eq!(patient().await, Some(1)) });
/// ```
///
/// # Cancel safety
///
/// Dropping the future loses nothing. The task stays polite.
pub async fn cancelled() {
    let mut notified = std::pin::pin!(CANCELLED.notified());
    loop {
        notified.as_mut().enable();
        if is_cancelled() {
            return;
        }
        watch();
        // The watcher looks at the page after it has started, so a request
        // that came before it did is not missed.
        notified.as_mut().await;
        notified.set(CANCELLED.notified());
    }
}

/// Calls `f` when somebody wants the running task to end, on a thread of its
/// own, while the task goes on: to make whatever the task waits for come back.
///
/// `f` is called at most once, and forgotten when the task returns. If the task
/// has been cancelled already, `f` is called at once. A panic in it is
/// reported on stderr and changes nothing.
pub fn on_terminate(f: impl FnOnce() + Send + 'static) {
    let Some((page, seq)) = running() else { return };
    let mut callbacks = callbacks();
    callbacks.push(Box::new(f));
    HAS_CALLBACKS.store(true, Ordering::Release);
    drop(callbacks);
    page.set_polite(seq, true);
    watch();
}

fn running() -> Option<(&'static Arc<Page>, u64)> {
    let page = PAGE.get().filter(|_| !is_in_a_copy())?;
    let seq = RUNNING.load(Ordering::Acquire);
    (seq != 0 && seq != CLAIMED).then_some((page, seq))
}

/// Whether this process is a copy of the worker, made by a task. It has the worker's
/// socket and its page, and whatever it did with them the worker would have done.
/// It may have been made while other threads held any lock.
fn is_in_a_copy() -> bool {
    HOME.get().is_some_and(|home| !home.is_current())
}

/// Nothing but the worker comes past here.
fn end_copies() {
    if is_in_a_copy() {
        fork::end_copy("procession: a forked copy of a worker ends where its task does\n");
    }
}

fn is_asked_to_end(page: &Page, seq: u64) -> bool {
    let word = page.load(seq);
    word.seq() == seq && matches!(word.phase(), Some(Phase::CancelReq | Phase::Killing))
}

fn callbacks() -> MutexGuard<'static, Vec<Callback>> {
    CALLBACKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process becomes a worker. It may be a copy of one that was a worker, too.
fn begin(page: &Arc<Page>, home: Incarnation) {
    PAGE.set(Arc::clone(page));
    HOME.set(home);
    RUNNING.store(0, Ordering::Release);
    WATCHES.store(false, Ordering::Release);
    // They are the original's to call and to drop.
    std::mem::forget(std::mem::take(&mut *callbacks()));
    memory::forget();
    forward::forget();
}

/// The task has ended: what it wanted called is dropped. That is the user's
/// code too: not under the lock, and its panic ends nothing.
fn forget_callbacks() {
    if !HAS_CALLBACKS.load(Ordering::Acquire) {
        return;
    }
    let mut callbacks = callbacks();
    let forgotten = std::mem::take(&mut *callbacks);
    HAS_CALLBACKS.store(false, Ordering::Release);
    drop(callbacks);
    if !forgotten.is_empty() {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(forgotten)));
    }
}

/// Starts the thread that waits for the parent's bell, or makes it look again.
fn watch() {
    let Some(page) = PAGE.get() else { return };
    if !WATCHES.swap(true, Ordering::AcqRel) {
        let page = Arc::clone(page);
        let started = crew::spawn("procession-watch", move || {
            loop {
                // Read the bell before the words: a request between the
                // two makes the wait return at once.
                let bell = page.bell();
                tell_if_cancelled();
                crew::rest(|| page.await_bell(bell));
            }
        });
        if let Err(error) = started {
            // The task can still be killed; it will only not hear of it first.
            // The next one tries again.
            WATCHES.store(false, Ordering::Release);
            eprintln!("procession: cannot watch for cancellation: {error}");
        }
    }
    tell_if_cancelled();
}

fn tell_if_cancelled() {
    // The lock keeps the task from ending meanwhile: what is taken is its own,
    // and not the next one's, which nobody wants to end.
    let mut callbacks = callbacks();
    let Some((page, seq)) = running() else { return };
    if !is_asked_to_end(page, seq) {
        return;
    }
    let called = std::mem::take(&mut *callbacks);
    drop(callbacks);
    for callback in called {
        // The hook has reported a panic; the watcher must go on.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback));
    }
    CANCELLED.notify_waiters();
}
