//! The first line of `main`: becomes a worker where this process was started
//! as one, and otherwise notes that this program can start workers.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{getpid, gettid};

use crate::registry::{Table, TestMain, test_main};
use crate::start::StartMethod;
use crate::start::boot::{Boot, boot, is_marked};
use crate::start::fork_host::Hooks;
use crate::sys::crew::{self, Member};
use crate::sys::signal;
use crate::worker;

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// This process has become a worker.
static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// Makes this program able to start workers. Must be the first line of `main`.
///
/// A worker is this program, started again. There, `init` runs the tasks it is
/// given and **never returns**; everything before it in `main` runs in every
/// worker too. In a process that is not a worker it returns at once; calling it
/// again has no effect. On any thread but the main one it does not count.
///
/// It may also be the first line of a `main` that is wrapped in
/// `#[tokio::main]`: the runtime that the attribute has built then lies idle in
/// each worker, which costs some startup time and memory.
///
/// For `#[test]` functions, which have no `main`, see
/// [`test_worker!`](crate::test_worker).
///
/// # Examples
///
/// ```no_run
/// procession::init(); // the first line of `main`
/// // … build a runtime, then a `procession::Pool` …
/// ```
pub fn init() {
    // On another thread it is not the first line of `main`: a worker would run
    // the program's own work before it came here, or beside it.
    if gettid() == getpid() {
        // Before this process may become a worker: tasks can have pools too.
        INITIALISED.store(true, Ordering::Release);
    }
    enter(boot(hooks(0)));
}

/// Lets the tests of a test binary start workers: write it once, anywhere at
/// the top level of the binary, and use pools in plain `#[tokio::test]`
/// functions. Works under `cargo test` and `cargo nextest`.
///
/// It adds one test of its own, `procession_test_worker`, which is what a
/// worker process runs; in the test run itself it passes and does nothing.
///
/// # Examples
///
/// ```
/// procession::test_worker!();
///
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! test_worker {
    () => {
        #[test]
        fn procession_test_worker() {
            struct Here;
            impl $crate::__private::TestMain for Here {
                const NAME: &'static str =
                    ::core::concat!(::core::module_path!(), "::procession_test_worker");
            }
            $crate::__private::enter_test_worker::<Here>();
        }
    };
}

/// What [`test_worker!`](crate::test_worker) expands to.
pub fn enter_test_worker<T: TestMain>() {
    test_main::<T>();
    // The harness waits for this test on another thread.
    enter(boot(hooks(1)));
}

/// How workers of this process are to be started, if they can be.
pub(crate) enum Entry {
    /// `main` calls [`init`].
    Main,
    /// This test of a test binary becomes the worker.
    Test(&'static str),
}

/// How this process starts workers; `None` if it never said that it can.
pub(crate) fn entry() -> Option<Entry> {
    if is_marked() && !IS_WORKER.load(Ordering::Acquire) {
        // A worker that does not come to `init` runs the program's own work
        // instead; that must not start workers in its turn.
        return None;
    }
    // The path as the compiler has it starts with the crate's name, the path
    // as libtest has it does not.
    if let Some(path) = Table::global().test_main() {
        // Also where a test calls `init`: a test binary has no `main` of its own.
        return Some(Entry::Test(path.split_once("::").map_or(path, |(_, within)| within)));
    }
    INITIALISED.load(Ordering::Acquire).then_some(Entry::Main)
}

fn hooks(waiting_threads: usize) -> Hooks {
    let warm_up = || {
        worker::warm_up();
        let _ = tokio::runtime::Handle::try_current();
    };
    Hooks { preload: worker::preload, warm_up, waiting_threads }
}

fn enter(boot: std::io::Result<Option<Boot>>) {
    match boot {
        Ok(None) => {}
        Ok(Some(boot)) => become_worker(boot),
        Err(error) => {
            eprintln!("procession: this worker cannot start: {error}");
            std::process::exit(1);
        }
    }
}

/// Does not return.
pub(crate) fn become_worker(boot: Boot) -> ! {
    IS_WORKER.store(true, Ordering::Release);
    if boot.method != StartMethod::Fork && tokio::runtime::Handle::try_current().is_err() {
        worker::run(boot)
    }
    // Inside a runtime no other can be entered; async tasks need one. And a copy's thread
    // still has the original's frames, and all that it keeps for itself.
    let _waits = Member::enrol();
    let thread = std::thread::Builder::new()
        .name("procession-worker".into())
        // As much as the main thread has: tasks should not depend on how `main`
        // is written.
        .stack_size(8 << 20);
    // Before there is a task, which may block one and wait for it.
    let started = signal::leave_to_others().and_then(|()| {
        thread.spawn(move || -> () {
            // It blocks what the thread blocks that has begun it.
            match signal::unblock_all() {
                Ok(()) => worker::run(boot),
                Err(error) => eprintln!("procession: this worker can have no signals: {error}"),
            }
        })
    });
    let joined = started.map(|thread| crew::rest(|| thread.join()));
    eprintln!("procession: this worker has no thread to run on: {joined:?}");
    std::process::exit(1)
}
