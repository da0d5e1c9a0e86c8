//! That of all tests, with workers that are copies of this process, which has one thread.

#[path = "../support/mod.rs"]
mod common;

use procession::StartMethod;
use procession::process::set_start_method;

use common::one_thread::with_one_thread;
pub(crate) use common::*;

#[track_caller]
pub(crate) fn checked<F: Future<Output = ()>>(test: F) {
    checked_current_thread(test);
}

#[track_caller]
pub(crate) fn checked_current_thread<F: Future<Output = ()>>(test: F) {
    with_one_thread(|| {
        set_start_method(StartMethod::Fork).unwrap();
        common::checked_current_thread(test);
    });
}

#[track_caller]
pub(crate) fn alone(test: impl FnOnce()) {
    with_one_thread(|| {
        set_start_method(StartMethod::Fork).unwrap();
        common::alone(test);
    });
}
