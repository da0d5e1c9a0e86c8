//! Looks out for an answer for a moment before its caller's task rests: to be
//! woken for it takes longer than many tasks do. The worker does the same for the
//! next task (`worker/lookout.rs`), and as long as both do, nobody sleeps and the
//! answer is taken from the status page without a system call.
//!
//! It holds a thread of the caller's runtime for that long, so it is done only
//! for a call that is the only one of its worker, while a processor is left beside
//! those of the busy workers, and if the worker looks out, too: one that has to be
//! woken may be given this thread's processor.

use std::hint::spin_loop;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

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

impl LinkState {
    /// Whether to look out for the answer to a task that is sent now, from this
    /// processor. If the worker lies, that costs a look.
    pub(super) fn pays(&self, processor: u32) -> bool {
        self.run_nanos <= SHORT_NANOS && self.page.is_awake(processor)
    }
}

impl Supervisor {
    /// Looks out for the end of a call, if that was found to pay when it was sent.
    pub(crate) fn look_out(self: &Arc<Self>, task: TaskKey, is_ready: impl Fn() -> bool) {
        // Nobody else submits a task with this id.
        if self.lone.load(Ordering::Relaxed) != task.id.as_u64() || self.is_in_a_copy() {
            return;
        }
        self.lone.store(0, Ordering::Relaxed);
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

    /// Takes in what a worker has answered, unless its link is at it.
    fn take(self: &Arc<Self>, intake: &Mutex<Intake>) {
        let Ok(mut held) = intake.try_lock() else { return };
        let mut effects = Effects::default();
        let taken = held.take(self, &mut effects);
        // It may have to wake somebody who needs it.
        drop(held);
        effects.run(self);
        if let Err(error) = taken {
            let mut held = intake.lock().unwrap_or_else(PoisonError::into_inner);
            held.condemn(self, error);
        }
    }
}
