//! Starts one worker as a copy of this process. Called by the warden's callers, each on
//! its own thread, which is the one that the copy has.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;

use nix::unistd::{Pid, setpgid};

use crate::start::StartMethod;
use crate::start::boot::Boot;
use crate::start::fork_host::become_worker;
use crate::start::fork_server::{self, Making};
use crate::start::identity::Birth;
use crate::start::roll;
use crate::start::spawn::{SpawnSpec, Spawned};
use crate::start::warden::Warden;
use crate::sys::fork::copy_as_child;
use crate::sys::{descriptor, exit, signal};

/// Makes a copy of this process that is to be `birth` and goes on in `enter`; there, this
/// does not return. `starter` is of a thread that lives as long as this process. The
/// copy's end is not watched yet.
///
/// # Errors
///
/// If there are other threads, or whatever else kept it from being made; nothing is left
/// of it.
pub(super) fn fork(
    spec: &SpawnSpec,
    birth: &Birth,
    starter: OwnedFd,
    enter: fn(Boot) -> !,
) -> io::Result<Spawned> {
    let making = Making::new(spec, birth, starter)?;
    // Or both would write it.
    let _ = io::stdout().flush();
    exit::flush_c_streams();
    let Some((pid, pidfd)) = copy_as_child()? else { go_on(making, enter) };
    if spec.own_group {
        // It does that, too. Whoever is first, the group is there from now on. It may have
        // ended.
        let _ = setpgid(Pid::from_raw(pid), Pid::from_raw(pid));
    }
    making.made(pid, pidfd)
}

/// This is the copy.
fn go_on(making: Making, enter: fn(Boot) -> !) -> ! {
    // Nothing here may come back to the frames of the original.
    let failed = catch_unwind(AssertUnwindSafe(|| -> io::Result<()> {
        exit::forget_at_exit();
        signal::forget_handlers();
        Warden::forget();
        roll::forget();
        fork_server::forget();
        descriptor::forget_unwanted();
        let (fork, fds) = making.into_theirs()?;
        enter(become_worker(fork, fds, StartMethod::Fork)?)
    }));
    if let Ok(Err(error)) = failed {
        eprintln!("procession: this worker cannot start: {error}");
    }
    process::exit(1)
}
