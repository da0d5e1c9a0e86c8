//! What processes run here.

use std::time::Duration;

pub(crate) fn square(n: u64) -> u64 {
    n * n
}

pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// Says that it runs, and never returns.
pub(crate) fn forever(started: String) {
    crate::support::note(started, &pid().to_string());
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

pub(crate) fn exit_with(code: i32) {
    std::process::exit(code);
}
