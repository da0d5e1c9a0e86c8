//! The frame of these tests: that of all, and what a program keeps for good from its
//! first process.

use std::sync::Once;

use procession::process::set_start_method;
use procession::{Process, StartMethod};

use crate::support::{self, one_thread::with_one_thread};

/// How processes come to be in this test binary.
/// The same tests are compiled for each method.
pub(crate) const METHOD: StartMethod = match env!("CARGO_CRATE_NAME").as_bytes() {
    b"forked" => StartMethod::ForkServer,
    b"copied" => StartMethod::Fork,
    _ => StartMethod::Spawn,
};

/// Runs one test, and checks that it leaves nothing: no child, no descriptor.
#[track_caller]
pub(crate) fn checked<F: Future<Output = ()>>(test: F) {
    if METHOD == StartMethod::Fork {
        with_one_thread(|| {
            warm_up();
            support::checked_current_thread(test);
        });
    } else {
        warm_up();
        support::checked(test);
    }
}

/// Runs a test without a runtime, with the same checks.
#[track_caller]
pub(crate) fn alone(test: impl FnOnce()) {
    let framed = || {
        warm_up();
        support::alone(test);
    };
    if METHOD == StartMethod::Fork { with_one_thread(framed) } else { framed() }
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
