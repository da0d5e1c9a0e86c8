//! How processes come to be where nobody says it, and how this one has. Noted by `boot`,
//! asked and set by `process`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::start::StartMethod;

struct Methods {
    /// `None` in the main process.
    own: Option<StartMethod>,
    /// Set, or used.
    default: Option<StartMethod>,
}

static METHODS: Mutex<Methods> = Mutex::new(Methods { own: None, default: None });

fn lock() -> MutexGuard<'static, Methods> {
    METHODS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes how this process has come to be. What was set in one that it is a copy of is not
/// its own.
pub(super) fn note_own(method: StartMethod) {
    *lock() = Methods { own: Some(method), default: None };
}

/// How this process has come to be; `None` for the main one.
pub(crate) fn own() -> Option<StartMethod> {
    lock().own
}

/// What is to be where nobody says it: what was set, or as this process has come to be.
pub(crate) fn default() -> StartMethod {
    let mut methods = lock();
    let own = methods.own.unwrap_or_default();
    *methods.default.get_or_insert(own)
}

/// # Errors
///
/// Gives back what was set or used before, if that is another.
pub(crate) fn set_default(method: StartMethod) -> Result<(), StartMethod> {
    let set = *lock().default.get_or_insert(method);
    if set == method { Ok(()) } else { Err(set) }
}

/// Whatever was set or used before.
pub(crate) fn force_default(method: StartMethod) {
    lock().default = Some(method);
}
