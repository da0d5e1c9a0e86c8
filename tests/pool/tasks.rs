//! Tasks and pools that several tests need.

use std::path::Path;
use std::time::Duration;

use procession::Pool;

use crate::support::note;

pub(crate) fn pool_of(workers: usize) -> Pool {
    Pool::builder().workers(workers).build().unwrap()
}

pub(crate) fn square(n: u64) -> u64 {
    n * n
}

pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// Notes its process in `journal`, then runs until there is a file `gate`.
pub(crate) fn hold(journal: String, gate: String) -> u32 {
    note(journal, &pid().to_string());
    await_file(&gate);
    pid()
}

pub(crate) fn open(gate: &str) {
    std::fs::write(gate, "").unwrap();
}

pub(crate) fn await_file(path: impl AsRef<Path>) {
    while !path.as_ref().exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Gives its argument back, but for the first time, when it takes its worker along.
pub(crate) fn dying_once<T>(path: String, value: T) -> T {
    if !std::fs::exists(&path).unwrap() {
        std::fs::write(&path, "").unwrap();
        std::process::abort();
    }
    value
}

/// Notes `line`.
pub(crate) fn noting(journal: String, line: String) {
    note(journal, &line);
}

/// Notes its process, then never returns.
pub(crate) fn never(journal: String) {
    note(journal, &pid().to_string());
    loop {
        std::thread::park();
    }
}

pub(crate) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Calls `act` in a copy of this process, and returns with what that has exited.
pub(crate) fn in_a_copy(act: impl FnOnce() -> i32) -> i32 {
    // SAFETY: no thread of a worker holds the allocator's lock while its task runs.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let code = act();
            // SAFETY: nothing of the original's is to be cleaned up here.
            unsafe { nix::libc::_exit(code) }
        }
        nix::unistd::ForkResult::Parent { child } => exit_of(child),
    }
}

/// Waits for this child, which exits.
pub(crate) fn exit_of(child: nix::unistd::Pid) -> i32 {
    match nix::sys::wait::waitpid(child, None).unwrap() {
        nix::sys::wait::WaitStatus::Exited(_, code) => code,
        ended => panic!("{ended:?}"),
    }
}
