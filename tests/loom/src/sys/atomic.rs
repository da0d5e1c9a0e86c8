//! Loom's atomics, and an `AtomicWaker` out of them.

use std::task::Waker;

use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

const WAITING: u8 = 0;
const REGISTERING: u8 = 1;
const WAKING: u8 = 2;

/// futures-core's, step by step: loom's own is a mutex, which would order more
/// than what the library uses.
#[derive(Debug)]
pub(crate) struct AtomicWaker {
    state: AtomicU8,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the cell is used by whoever has moved `state` out of `WAITING`, until
// it is back there. Loom checks it.
unsafe impl Sync for AtomicWaker {}

impl Default for AtomicWaker {
    fn default() -> Self {
        AtomicWaker { state: AtomicU8::new(WAITING), waker: UnsafeCell::new(None) }
    }
}

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        let entered =
            self.state.compare_exchange(WAITING, REGISTERING, Ordering::Acquire, Ordering::Acquire);
        match entered {
            Ok(_) => {
                // SAFETY: `state` is ours.
                self.waker.with_mut(|cell| unsafe { *cell = Some(waker.clone()) });
                let left = self.state.compare_exchange(
                    REGISTERING,
                    WAITING,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if left.is_err() {
                    // SAFETY: as above.
                    let waker = self.waker.with_mut(|cell| unsafe { (*cell).take() });
                    self.state.swap(WAITING, Ordering::AcqRel);
                    waker.unwrap().wake();
                }
            }
            // Somebody is taking the last waker: to be polled again, and again,
            // until that is over.
            Err(WAKING) => {
                waker.wake_by_ref();
                loom::thread::yield_now();
            }
            Err(state) => panic!("registered by two tasks at once: {state}"),
        }
    }

    pub(crate) fn wake(&self) {
        if self.state.fetch_or(WAKING, Ordering::AcqRel) == WAITING {
            // SAFETY: `state` is ours.
            let waker = self.waker.with_mut(|cell| unsafe { (*cell).take() });
            self.state.swap(WAITING, Ordering::Release);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
