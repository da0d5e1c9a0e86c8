//! Waiting for the pool: until its workers are ready, or nothing of it is left. And calls
//! that submit more calls as they go, for which it stays.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::effects::Effects;
use super::{Core, Supervisor};
use crate::error::{Cause, SpawnError, TaskError};
use crate::sched::Mode;

impl Supervisor {
    /// Notes that a call begins that will submit more by itself. `feeding`: it
    /// needs nobody to poll it for that.
    pub(crate) fn begin(self: &Arc<Self>, feeding: bool) -> Begun {
        self.count_begun(|core| {
            core.begun += 1;
            core.feeding += usize::from(feeding);
        });
        Begun { supervisor: Arc::clone(self), feeding }
    }

    /// Changes who has begun what, and whether workers stay for it: they do, but
    /// not for a stream that nobody may be reading, while somebody waits for the
    /// pool's end.
    fn count_begun(self: &Arc<Self>, change: impl FnOnce(&mut Core)) {
        if self.is_in_a_copy() {
            return;
        }
        let mut effects = Effects::default();
        let mut core = self.core();
        change(&mut core);
        let linger = core.feeding > 0 || (core.begun > 0 && core.joining == 0);
        core.act(self, &mut effects, |sched, now, _| sched.handle_linger(now, linger));
        drop(core);
        effects.run(self);
    }

    /// Waits until nothing is left: no task, no process.
    pub(crate) async fn drained(self: &Arc<Self>) {
        let _joining = Joining::new(self);
        // Nor an answer that its caller could not take yet.
        let is_told = |core: &Core| core.ended == self.told.load(Ordering::SeqCst);
        self.wait_for(|core| core.feeding == 0 && core.sched.is_drained() && is_told(core)).await;
        // The warden reports to us even without a driver.
        self.wait_for(|_| self.processes.load(Ordering::Acquire) == 0).await;
    }

    /// Waits until every worker is ready, or cannot be.
    pub(crate) async fn ready(&self) -> Result<(), SpawnError> {
        let over = |core: &Core| {
            core.abandoned || core.sched.mode() != Mode::Open || core.sched.cannot_start()
        };
        let closed = || SpawnError::new(Cause::Closed);
        loop {
            self.wait_for(|core| over(core) || core.sched.is_ready()).await;
            if self.is_in_a_copy() {
                return Err(closed());
            }
            let core = self.core();
            match core.refusal() {
                Some(TaskError::Broken(error)) => return Err(error),
                _ if core.sched.is_ready() => return Ok(()),
                Some(_) => return Err(closed()),
                None if core.sched.cannot_start() => {
                    return Err(core.last_failure.clone().unwrap_or_else(closed));
                }
                // They have just managed.
                None => {}
            }
        }
    }

    /// Ends after this long.
    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        // Made inside, where the clock is.
        Sleep(Some(self.runtime.spawn(async move { tokio::time::sleep(duration).await })))
    }

    async fn wait_for(&self, done: impl Fn(&Core) -> bool) {
        if self.is_in_a_copy() {
            // Nobody tells it anything.
            return;
        }
        let _waiting = Waiting::new(self);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if done(&self.core()) {
                return;
            }
            changed.await;
        }
    }
}

/// Ends after a while, by the clock of the pool's runtime: it can be awaited
/// in any other, even in one without a clock. Once the pool's runtime is gone
/// it never ends, but then the pool has.
#[derive(Debug)]
pub(crate) struct Sleep(Option<JoinHandle<()>>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = &mut self.0 else { return Poll::Pending };
        let over = ready!(Pin::new(sleep).poll(cx)).is_ok();
        self.0 = None;
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(sleep) = &self.0 {
            sleep.abort();
        }
    }
}

/// A caller waits for the pool's end.
struct Joining<'a>(&'a Arc<Supervisor>);

impl<'a> Joining<'a> {
    fn new(supervisor: &'a Arc<Supervisor>) -> Self {
        supervisor.count_begun(|core| core.joining += 1);
        Joining(supervisor)
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.0.count_begun(|core| core.joining -= 1);
    }
}

/// A caller waits for `changed`.
struct Waiting<'a>(&'a Supervisor);

impl<'a> Waiting<'a> {
    fn new(supervisor: &'a Supervisor) -> Self {
        // Before it looks, as whoever changes something looks here after that.
        supervisor.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(supervisor)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A call that submits more calls as it goes, see [`Supervisor::begin`].
#[derive(Debug)]
pub(crate) struct Begun {
    supervisor: Arc<Supervisor>,
    feeding: bool,
}

impl Begun {
    pub(crate) fn is_feeding(&self) -> bool {
        self.feeding
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.supervisor.count_begun(|core| {
            core.begun -= 1;
            core.feeding -= usize::from(self.feeding);
        });
        self.supervisor.changed.notify_waiters();
        self.supervisor.alarm.ring();
    }
}
