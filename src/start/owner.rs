//! Whom the warden tells, and what. Implemented by pools and by processes, each of
//! which is a pool of one here.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::exit::Exit;
use crate::id::WorkerId;
use crate::start::spawn::Ends;

/// Whoever a worker is started for: a pool.
pub(crate) trait Owner: Send + Sync + 'static {
    /// Names the pool. Never used twice in a process.
    fn pool_id(&self) -> u64;

    /// Called on the warden's thread, so it must not block. The warden lets go
    /// of the owner after the last event of each worker.
    fn handle_event(&self, event: Event);
}

/// A number that names one pool and never another.
pub(crate) fn new_pool_id() -> u64 {
    static POOLS: AtomicU64 = AtomicU64::new(1);
    POOLS.fetch_add(1, Ordering::Relaxed)
}

/// What became of a worker. Every start has either one `StartFailed`, or one
/// `Started` and later one `Died`, with at most one `Overdue` between them. One
/// that was taken back while it was under way is never `Started`: it has one
/// `StartFailed`, or one `Overdue` and later one `Died`.
#[derive(Debug)]
pub(crate) enum Event {
    Started {
        worker: WorkerId,
        /// Ours as well. Its number may be another's by now: the program may collect what
        /// it did not start.
        pidfd: Arc<OwnedFd>,
        ends: Ends,
    },
    /// No process is left of it. The kind is `Interrupted` if it was killed
    /// before it was there.
    StartFailed { worker: WorkerId, error: io::Error },
    /// It has been reaped, and its group has been killed. `overdue`: that was
    /// said before.
    Died { worker: WorkerId, exit: Exit, overdue: bool },
    /// It was killed a while ago and is not dead: it is somewhere in the kernel
    /// from where there is no way back yet, maybe on its way to its program. It
    /// will not run on. Its death is waited for, and told.
    Overdue { worker: WorkerId },
}

/// An owner that panics, now or when it is dropped here, has had its message
/// from the panic hook. Other pools need this thread.
pub(super) fn tell(owner: Arc<dyn Owner>, event: Event) {
    let told = catch_unwind(AssertUnwindSafe(move || owner.handle_event(event)));
    if let Err(payload) = told {
        // Dropping it could panic again.
        mem::forget(payload);
    }
}
