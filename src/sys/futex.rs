//! Sleeping until a shared word changes. Called by `sys::layout`, whose words lie in
//! memory that two processes map, so that `FUTEX_PRIVATE_FLAG` is never set, and by
//! `sentry`.

use std::ptr;

use nix::libc;

use crate::sys::atomic::AtomicU32;

/// Sleeps while `word` holds `expected`. May return for no reason (a signal,
/// a stray wake-up), so the caller looks at its condition again.
pub(crate) fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the address is a live, aligned u32 for the whole call, and the
    // kernel only reads it. A null timeout means for ever.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            ptr::null::<libc::timespec>(),
        );
    }
}

/// Wakes every thread of every process that sleeps on `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    // SAFETY: as above; waking only uses the address as a name.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}
