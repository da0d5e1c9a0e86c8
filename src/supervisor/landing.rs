//! Where the parts of one map or stream of calls come back: all in one place,
//! so that what comes together wakes the reader once, and no part needs a
//! channel of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::call::{Ended, Failed, wake};
use crate::error::TaskError;

/// Parts that have ended and were not taken, each with its number.
#[derive(Debug, Default)]
pub(crate) struct Landing {
    state: Mutex<LandingState>,
}

#[derive(Debug, Default)]
struct LandingState {
    landed: VecDeque<(u32, Ended)>,
    waker: Option<Waker>,
}

impl Landing {
    fn state(&self) -> MutexGuard<'_, LandingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Trades what has landed for `taken`, which is empty. If nothing has,
    /// `waker` is woken when something does.
    pub(crate) fn swap_or_wait(&self, taken: &mut VecDeque<(u32, Ended)>, waker: &Waker) {
        debug_assert!(taken.is_empty());
        let mut state = self.state();
        if !state.landed.is_empty() {
            std::mem::swap(&mut state.landed, taken);
            return;
        }
        if state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        drop(state);
        // Cloned and dropped without the lock: wakers are the user's.
        let waker = waker.clone();
        let mut state = self.state();
        if state.landed.is_empty() {
            let old = state.waker.replace(waker);
            drop(state);
            drop(old);
        } else {
            std::mem::swap(&mut state.landed, taken);
        }
    }
}

/// One part on its way. It lands in any case.
#[derive(Debug)]
pub(crate) struct Part {
    landing: Option<Arc<Landing>>,
    number: u32,
}

impl Part {
    pub(crate) fn new(landing: &Arc<Landing>, number: u32) -> Self {
        Part { landing: Some(Arc::clone(landing)), number }
    }

    /// Whether whoever takes what lands has taken all there is, and waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.landing.as_ref().is_some_and(|landing| {
            let state = landing.state();
            state.landed.is_empty() && state.waker.is_some()
        })
    }

    /// Lands it; the reader is to be woken.
    pub(super) fn land(mut self, ended: Ended) -> Option<Waker> {
        let landing = self.landing.take()?;
        let mut state = landing.state();
        state.landed.push_back((self.number, ended));
        state.waker.take()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(landing) = self.landing.take() {
            let lost = Part { landing: Some(landing), number: self.number };
            let ended = Err(Failed::new(TaskError::Terminated, true));
            lost.land(ended).into_iter().for_each(wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    fn ended() -> Ended {
        Err(Failed::new(TaskError::Closed, false))
    }

    fn taken(landing: &Landing) -> Vec<u32> {
        let mut taken = VecDeque::new();
        landing.swap_or_wait(&mut taken, &noop_waker());
        taken.into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn what_lands_together_wakes_the_reader_once() {
        let landing = Arc::default();
        assert!(Part::new(&landing, 3).land(ended()).is_none(), "nobody waits yet");
        assert_eq!(taken(&landing), [3]);
        assert!(taken(&landing).is_empty());
        assert!(Part::new(&landing, 1).land(ended()).is_some());
        assert!(Part::new(&landing, 2).land(ended()).is_none(), "it is awake");
        assert_eq!(taken(&landing), [1, 2]);
    }

    #[test]
    fn a_part_that_is_dropped_lands() {
        let landing = Arc::default();
        drop(Part::new(&landing, 7));
        assert_eq!(taken(&landing), [7]);
    }
}
