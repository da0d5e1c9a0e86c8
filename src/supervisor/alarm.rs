//! How a driver or a link is called to look at what is new, from any thread.
//! `tests/loom` compiles this file with loom's atomics and tries every order.

use std::task::Waker;

use crate::sys::atomic::{AtomicU8, AtomicWaker, Ordering};

/// Calls one task. While that is being polled anyway, it is not woken, but
/// told to go round once more.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    waker: AtomicWaker,
    state: AtomicU8,
}

const RESTING: u8 = 0;
const POLLED: u8 = 1;
const RUNG: u8 = 2;

impl Alarm {
    pub(super) fn ring(&self) {
        if self.state.swap(RUNG, Ordering::AcqRel) == RESTING {
            self.waker.wake();
        }
    }

    /// What happened before this is seen by what comes after.
    pub(super) fn start_poll(&self, waker: &Waker) {
        self.waker.register(waker);
        self.state.swap(POLLED, Ordering::AcqRel);
    }

    /// Whether the task may rest; if not, it was called since `start_poll`.
    pub(super) fn may_rest(&self) -> bool {
        self.state.compare_exchange(POLLED, RESTING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
