//! That of all tests, with workers from a fork server.

#[path = "../support/mod.rs"]
mod common;

use std::sync::Once;

use procession::process::set_start_method;
use procession::{Process, StartMethod};

pub(crate) use common::*;

fn use_fork_server() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_start_method(StartMethod::ForkServer).unwrap();
        // The server stays.
        Process::spawn(|| (), ()).unwrap().blocking_join();
    });
}

#[track_caller]
pub(crate) fn checked<F: Future<Output = ()>>(test: F) {
    use_fork_server();
    common::checked(test);
}

#[track_caller]
pub(crate) fn checked_current_thread<F: Future<Output = ()>>(test: F) {
    use_fork_server();
    common::checked_current_thread(test);
}

#[track_caller]
pub(crate) fn alone(test: impl FnOnce()) {
    use_fork_server();
    common::alone(test);
}
