//! Looks out for an answer for a moment before its caller's task rests: to be
//! woken for it takes longer than many tasks do. The worker does the same for the
//! next task (`worker/lookout.rs`), and as long as both do, nobody sleeps and the
//! answer is taken from the status page without a system call.
//!
//! It holds a thread of the caller's runtime for that long, so it is done only
//! for a call that is the only one of its worker, while a processor is left beside
//! those of the busy workers, and if the worker looks out, too: one that has to be
//! woken may be given this thread's processor. And only where calls have been coming
//! one after the other: a look at the first of several that are to run at once keeps
//! its caller from making the next.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, TryLockError};

use super::Supervisor;
use super::effects::Effects;
use super::intake::Intake;
use super::links::LinkState;
use crate::sched::{Place, TaskKey};
use crate::sys::clock::monotonic_nanos;

/// Longest look.
const LOOK_NANOS: u64 = 50_000;

/// A task that takes longer is not worth it.
const SHORT_NANOS: u64 = LOOK_NANOS / 2;

/// Turns between two looks at the clock, which take as long as twenty.
const TURNS: usize = 20;

/// Calls in a row, each made when there was no other, after which looks begin.
const ROW_LEAST: u32 = 8;

/// In a longer row, one in so many is not looked out for. Those that are seem to come one
/// after the other, whether they are meant to or not; if another is made before this one
/// has ended, they are not.
const ROW_PROBE: u32 = 256;

/// How calls are made: one after the other, or several at once.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// So many, each when there was no other.
    row: u32,
}

impl Pace {
    /// Notes a call. `is_only`: there is no other.
    pub(super) fn handle_submit(&mut self, is_only: bool) {
        self.row = if is_only { self.row.wrapping_add(1) } else { 0 };
    }

    /// Whether the last call may be looked out for.
    pub(super) fn is_sequential(&self) -> bool {
        self.row >= ROW_LEAST && self.row % ROW_PROBE != 0
    }
}

impl LinkState {
    /// Whether to look out for the answer to a task that is sent now, from this
    /// processor. If the worker lies, that costs a look. Not where it has events to tell
    /// of: the program's subscriber hears of them in the pool's runtime, and in no
    /// caller's poll.
    pub(super) fn pays(&self, processor: u32) -> bool {
        self.run_nanos <= SHORT_NANOS && !self.listens && self.page.is_awake(processor)
    }
}

impl Supervisor {
    /// Looks out for the end of a call, if that was found to pay when it was sent.
    pub(crate) fn look_out(self: &Arc<Self>, task: TaskKey, is_ready: impl Fn() -> bool) {
        let id = task.id.as_u64();
        // Mostly it is not, and this is all that it costs.
        if self.lone.load(Ordering::Relaxed) != id
            || self.lone.compare_exchange(id, 0, Ordering::Relaxed, Ordering::Relaxed).is_err()
            || self.is_in_a_copy()
        {
            return;
        }
        let core = self.core();
        let Some(Place::Sent { worker, seq }) = core.sched.place(task) else { return };
        let Some(link) = core.links.get(worker) else { return };
        let (page, intake, known) = (Arc::clone(&link.page), Arc::clone(&link.intake), link.known);
        drop(core);
        page.set_watched(Some(seq));
        let until = monotonic_nanos() + LOOK_NANOS;
        let is_there = || page.outbox_filled() != known;
        while !is_there() && !is_ready() && monotonic_nanos() < until {
            for _ in 0..TURNS {
                if is_there() {
                    break;
                }
                spin_loop();
            }
        }
        if is_there() {
            self.take(&intake);
        }
        page.set_watched(None);
    }

    /// Takes in what a worker has answered, unless its link is at it. That may be in the
    /// user's code, and wait for whom we are called by; so this waits for nothing, and
    /// calls none of that before it has let go.
    fn take(self: &Arc<Self>, intake: &Mutex<Intake>) {
        let mut held = match intake.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let mut effects = Effects::default();
        let taken = held.take(self, &mut effects);
        let (worker, span) = (held.worker, Arc::clone(&held.span));
        drop(held);
        if let Err(error) = taken {
            self.condemn(worker, &span, error);
        }
        let core = self.core();
        // The driver is not polled for this.
        effects.ring_if(core.sched.poll_timeout().is_some_and(|next| next < core.armed));
        drop(core);
        effects.run(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_made_at_once_are_not_looked_out_for() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            for is_only in [true, false, false] {
                pace.handle_submit(is_only);
                assert!(!pace.is_sequential());
            }
        }
    }

    #[test]
    fn calls_one_after_the_other_are_but_for_some() {
        let mut pace = Pace::default();
        let looks = (0..10 * ROW_PROBE).filter(|_| {
            pace.handle_submit(true);
            pace.is_sequential()
        });
        assert_eq!(looks.count() as u32, 10 * (ROW_PROBE - 1) - (ROW_LEAST - 1));
        // Nor are they once there was another.
        pace.handle_submit(false);
        pace.handle_submit(true);
        assert!(!pace.is_sequential());
    }
}
