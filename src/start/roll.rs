//! Which processes this one has started and not yet buried. Kept by the warden,
//! read by whoever asks for the children there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::wait::has_ended;

/// Names by pid. A pid stays taken until it is struck off.
static ROLL: Mutex<BTreeMap<i32, String>> = Mutex::new(BTreeMap::new());

fn lock() -> MutexGuard<'static, BTreeMap<i32, String>> {
    ROLL.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn enter(pid: i32, name: String) {
    lock().insert(pid, name);
}

pub(super) fn strike_off(pid: i32) {
    lock().remove(&pid);
}

/// This is a copy of the process that had them.
pub(super) fn forget() {
    lock().clear();
}

/// Pids and names of the children that live.
pub(crate) fn alive() -> Vec<(i32, String)> {
    // Under the lock, as long as the numbers are theirs.
    let roll = lock();
    roll.iter()
        .filter(|(pid, _)| !has_ended(**pid))
        .map(|(pid, name)| (*pid, name.clone()))
        .collect()
}
