//! What is to be done when the program ends: returns from `main`, or calls `exit`.

use std::panic::catch_unwind;
use std::sync::OnceLock;

use nix::libc;

static AT_EXIT: OnceLock<fn()> = OnceLock::new();

/// Has `f` called when the program ends, once, however often this is called. It is
/// always the same function.
pub(crate) fn at_exit_once(f: fn()) {
    extern "C" fn call() {
        if let Some(f) = AT_EXIT.get() {
            // Unwinding into C is not allowed.
            let _ = catch_unwind(f);
        }
    }
    AT_EXIT.get_or_init(|| {
        // SAFETY: `call` is a function of this program, which is never unloaded: it
        // is not called once the program has ended.
        unsafe { libc::atexit(call) };
        f
    });
}
