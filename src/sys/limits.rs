//! What a worker sets on itself before its first task. Called by the worker's
//! boot only: setting these from the parent, between fork and exec, would
//! cost the cheap way of starting a process.
//!
//! Niceness and affinity are per thread on Linux. Threads inherit them, so
//! they are set before the worker has a second thread that matters.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use nix::unistd::Pid;

use crate::resource::Resource;
use crate::sys::threads;

/// Sets the niceness of all threads there are, -20 (first) to 19 (last). Out of
/// range is clamped by the kernel.
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    threads::ids()?.into_iter().try_for_each(|thread| set_nice_of(thread, nice))
}

fn set_nice_of(thread: i32, nice: i32) -> io::Result<()> {
    // SAFETY: takes three integers and touches no memory of ours.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, nice) };
    Errno::result(done)?;
    Ok(())
}

/// Allows all threads there are exactly these processors.
///
/// # Errors
///
/// `InvalidInput` if the list names none that exists and is allowed.
pub(crate) fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    threads::ids()?.into_iter().try_for_each(|thread| set_affinity_of(thread, cpus))
}

fn set_affinity_of(thread: i32, cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(thread), &set)?;
    Ok(())
}

/// Sets both limits of a resource.
///
/// Of processor time, the hard one is a second more: at that one the kernel sends
/// SIGKILL, which could have come from anybody, at the soft one SIGXCPU.
pub(crate) fn set_rlimit(resource: Resource, value: u64) -> io::Result<()> {
    let resource = match resource {
        Resource::AddressSpace => Limit::RLIMIT_AS,
        Resource::CoreFile => Limit::RLIMIT_CORE,
        Resource::CpuTime => Limit::RLIMIT_CPU,
        Resource::Data => Limit::RLIMIT_DATA,
        Resource::FileSize => Limit::RLIMIT_FSIZE,
        Resource::LockedMemory => Limit::RLIMIT_MEMLOCK,
        Resource::OpenFiles => Limit::RLIMIT_NOFILE,
        Resource::Processes => Limit::RLIMIT_NPROC,
        Resource::Stack => Limit::RLIMIT_STACK,
    };
    let hard = match resource {
        Limit::RLIMIT_CPU => value.saturating_add(1).min(getrlimit(resource)?.1).max(value),
        _ => value,
    };
    setrlimit(resource, value, hard)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sched::sched_getaffinity;

    use super::*;

    // 0 is the calling thread: one of its own, so that the test leaves no trace.
    fn on_own_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn affinity_names_the_processors_to_use() {
        on_own_thread(|| {
            let this = Pid::from_raw(0);
            let allowed = sched_getaffinity(this).unwrap();
            let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
            set_affinity_of(0, &[first]).unwrap();
            let now = sched_getaffinity(this).unwrap();
            let set: Vec<usize> =
                (0..CpuSet::count()).filter(|&cpu| now.is_set(cpu).unwrap()).collect();
            assert_eq!(set, [first]);
        });
    }

    #[test]
    fn impossible_affinity_is_an_error() {
        on_own_thread(|| {
            assert_eq!(set_affinity_of(0, &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(
                set_affinity_of(0, &[1 << 20]).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        });
    }

    #[test]
    fn being_nicer_is_always_allowed() {
        on_own_thread(|| set_nice_of(0, 19).unwrap());
    }
}
