//! What is to be done when the program ends: returns from `main`, or calls `exit`.

use std::panic::catch_unwind;
use std::ptr;
use std::sync::OnceLock;

use nix::libc;

static AT_EXIT: OnceLock<fn()> = OnceLock::new();

/// Has `f` called when the program ends, once, however often this is called. It is
/// always the same function.
pub(crate) fn at_exit_once(f: fn()) {
    AT_EXIT.get_or_init(|| {
        // SAFETY: `call` is a function of this program, which is never unloaded: it
        // is not called once the program has ended.
        unsafe { libc::atexit(call) };
        f
    });
}

extern "C" fn call() {
    if let Some(f) = AT_EXIT.get() {
        // Unwinding into C is not allowed.
        let _ = catch_unwind(f);
    }
}

/// What was buffered for C's streams is written, so that a copy does not write it again.
pub(crate) fn flush_c_streams() {
    // SAFETY: null means all streams that are written to; each has a lock of its own.
    unsafe { libc::fflush(ptr::null_mut()) };
}

/// To be called in a copy of a process: what its original has registered to be called
/// when *that* ends is not called when the copy does. What the copy registers is.
#[cfg(target_env = "gnu")]
pub(crate) fn forget_at_exit() {
    unsafe extern "C" {
        /// As on_exit(3): as `atexit`, and tells the exit code.
        fn on_exit(
            f: extern "C" fn(libc::c_int, *mut libc::c_void),
            arg: *mut libc::c_void,
        ) -> libc::c_int;
    }
    // The last that was registered is called first.
    extern "C" fn leave(code: libc::c_int, _: *mut libc::c_void) {
        call();
        flush_c_streams();
        // SAFETY: ends this process; whatever was to be called has been.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: as above.
    unsafe { on_exit(leave, ptr::null_mut()) };
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn forget_at_exit() {}
