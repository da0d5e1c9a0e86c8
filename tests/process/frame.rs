//! The frame of these tests: that of all, and what a program keeps for good from its
//! first process.

use std::sync::Once;

use procession::process::set_start_method;
use procession::{Process, StartMethod};

use crate::support;

/// How processes come to be in this test binary.
pub(crate) const METHOD: StartMethod =
    if is_forked() { StartMethod::ForkServer } else { StartMethod::Spawn };

/// The same tests are compiled for each method.
pub(crate) const fn is_forked() -> bool {
    matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"forked")
}

/// Runs one test, and checks that it leaves nothing: no child, no descriptor.
#[track_caller]
pub(crate) fn checked<F: Future<Output = ()>>(test: F) {
    warm_up();
    support::checked(test);
}

/// Runs a test without a runtime, with the same checks.
#[track_caller]
pub(crate) fn alone(test: impl FnOnce()) {
    warm_up();
    support::alone(test);
}

/// The thread that serves processes, and the fork server.
fn warm_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_start_method(METHOD).unwrap();
        let process = Process::spawn(|| (), ()).unwrap();
        process.blocking_join();
        futures::executor::block_on(process).unwrap();
    });
}
