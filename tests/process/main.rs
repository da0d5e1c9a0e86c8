//! One function in one process, as its users see it. Many of the promises are those
//! of CPython's own tests of `multiprocessing.Process`.

mod crashes;
mod daemons;
mod drops;
mod endings;
mod family;
mod kill_at_random;
mod many;
mod results;
mod streams;
mod surroundings;
mod waiting;
mod without_runtime;

#[path = "../support/mod.rs"]
mod support;

/// Runs one test, and checks that it leaves nothing: no child, no descriptor.
#[track_caller]
fn checked<F: Future<Output = ()>>(test: F) {
    warm_up();
    support::checked(test);
}

/// Runs a test without a runtime, with the same checks.
#[track_caller]
fn alone(test: impl FnOnce()) {
    warm_up();
    support::alone(test);
}

/// What a program keeps for good from its first process: the thread that serves them.
fn warm_up() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        procession::Process::spawn(|| (), ()).unwrap().blocking_join();
    });
}

/// What processes run here.
mod tasks {
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
}

procession::test_worker!();
