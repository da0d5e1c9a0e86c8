//! Waits at the end of the program for the processes that are not daemons.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::life::Life;
use crate::sys::exit;

/// Processes that were not seen to end. What has ended is let go of with the next.
static WAITED_FOR: Mutex<Vec<Weak<Life>>> = Mutex::new(Vec::new());

/// Has the program wait for a process when it returns from `main` or exits.
pub(super) fn join_at_exit(life: &Arc<Life>) {
    let mut waited_for = WAITED_FOR.lock().unwrap_or_else(PoisonError::into_inner);
    waited_for.retain(|life| life.strong_count() > 0);
    waited_for.push(Arc::downgrade(life));
    drop(waited_for);
    exit::at_exit_once(join_all);
}

fn join_all() {
    // More may be started meanwhile, by other threads.
    loop {
        let life = WAITED_FOR.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(life) = life else { return };
        // The warden keeps it as long as the process is there. In a forked copy of
        // this program it is not there.
        if let Some(life) = life.upgrade().filter(|life| life.is_current()) {
            life.wait(None);
        }
    }
}
