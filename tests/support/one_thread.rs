//! Tests in a process with one thread, which the harness does not give them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, gettid};

/// Set where nothing but one test runs.
const MARK: &str = "PROCESSION_TEST_ALONE";

/// Runs the calling test in a process that has one thread: this program again, for this
/// test alone, makes a copy of itself while its other thread, the harness's, waits.
#[track_caller]
pub(crate) fn with_one_thread(test: impl FnOnce()) {
    with_one_thread_as(Box::new(test));
}

#[track_caller]
fn with_one_thread_as(test: Box<dyn FnOnce() + '_>) {
    if env::var_os(MARK).is_none() {
        let name = thread::current().name().expect("the harness names threads").to_owned();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([&name, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "");
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
        return;
    }
    await_others();
    // SAFETY: nothing here is locked: the others wait, and there is nobody else.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: nobody else uses the environment here.
            unsafe { env::remove_var(MARK) };
            let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
            // SAFETY: the frames below are of the process that this is a copy of.
            unsafe { libc::_exit(i32::from(!passed)) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            assert_eq!(status, WaitStatus::Exited(child, 0), "what it says is above");
        }
    }
}

/// Waits until all other threads sleep.
fn await_others() {
    let is_awake = |id: Pid| {
        // One that has ended since it was listed is none.
        fs::read_to_string(format!("/proc/self/task/{id}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('S'))
    };
    let others = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let ids = tasks.map(|task| task.file_name().to_str().unwrap().parse().unwrap());
        ids.map(Pid::from_raw).filter(|id| *id != gettid())
    };
    while others().any(is_awake) {
        thread::sleep(Duration::from_millis(1));
    }
}
