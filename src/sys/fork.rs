//! Copies of this process: to make one, and whether this is one.
//!
//! Whether this process is the one in which something was made, or a copy of it, is
//! asked at every call, so it takes no system call: the kernel wipes a page in every
//! copy.

use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::{ForkResult, fork, gettid};

use crate::limits::FORK_WAIT;
use crate::sys::crew::Halt;
use crate::sys::wait;

/// A process, from its beginning or from the `fork` that made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Incarnation(u64);

impl Incarnation {
    /// The one that this code runs in.
    pub(crate) fn current() -> io::Result<Self> {
        /// As of the process that this one is a copy of, if it is: each has a
        /// number above that of its original.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let word = match WORD.get() {
            Some(word) => word,
            None => {
                let word = map_word()?;
                WORD.get_or_init(|| word)
            }
        };
        let known = word.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(Incarnation(known));
        }
        let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let set = word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        Ok(Incarnation(set.map_or_else(|first| first, |_| new)))
    }

    /// Not 0, and no other's on the way from the first original to here.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// Whether it is the one that this code runs in.
    pub(crate) fn is_current(self) -> bool {
        WORD.get().is_some_and(|word| word.load(Ordering::Relaxed) == self.0)
    }
}

/// The number of this incarnation; 0 in a fresh copy.
static WORD: OnceLock<&AtomicU64> = OnceLock::new();

/// A word that is zero in every copy of this process. It is there for good.
fn map_word() -> io::Result<&'static AtomicU64> {
    let len = NonZero::new(size_of::<AtomicU64>()).expect("a word has bytes");
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which lies over nothing else.
    let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: nothing is in there yet that wiping could take away.
    unsafe { madvise(page, len.get(), MmapAdvise::MADV_WIPEONFORK) }?;
    // SAFETY: mapped, aligned to a page, zeroed, never unmapped, and reached
    // through this reference alone; what the kernel wipes is a copy.
    Ok(unsafe { page.cast::<AtomicU64>().as_ref() })
}

/// Ends this process, which is a copy, and says why. Takes no lock, which others may
/// have held when it was made, and runs nothing that is to run at the original's exit.
pub(crate) fn end_copy(why: &str) -> ! {
    let _ = nix::unistd::write(io::stderr(), why.as_bytes());
    // SAFETY: touches no memory of ours.
    unsafe { libc::_exit(libc::EXIT_FAILURE) }
}

/// Makes a copy of this process, as another child of its *parent*, to which it sends
/// SIGCHLD in the end. Returns the copy's pid here, and `None` there. The copy has the
/// calling thread alone.
///
/// No other thread may hold a lock that the copy will want: this is for processes
/// with one thread, or whose others wait for it.
///
/// The C library knows nothing of it, so what it does in its own `fork` for a process
/// with one thread is done here: it keeps the number of each thread in a place that
/// the kernel knows, and gives the kernel a list of the robust mutexes that a thread
/// holds. What was registered by `pthread_atfork` is not called.
///
/// # Errors
///
/// Where the C library is not glibc, which keeps other things in these places; and
/// where the kernel does not tell them (it was built without checkpoint and restore).
pub(crate) fn copy_as_sibling() -> io::Result<Option<i32>> {
    if !cfg!(target_env = "gnu") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the fork server needs glibc"));
    }
    let number = thread_number()?;
    let (mut robust, mut robust_len) = (ptr::null_mut::<libc::c_void>(), 0_usize);
    // SAFETY: the kernel writes to two variables of ours. 0 is the calling thread.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_get_robust_list, 0, &mut robust, &mut robust_len)
    })?;
    let flags =
        libc::CLONE_PARENT | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let (none, no_tls) = (ptr::null::<libc::c_void>(), 0_usize);
    // SAFETY: without CLONE_VM the copy has memory of its own, stack included, so that
    // both may return. `number` is where glibc keeps the calling thread's, there as
    // here.
    let copied = unsafe {
        #[cfg(target_arch = "x86_64")]
        let copied = libc::syscall(libc::SYS_clone, flags, none, none, number, no_tls);
        #[cfg(not(target_arch = "x86_64"))]
        let copied = libc::syscall(libc::SYS_clone, flags, none, none, no_tls, number);
        copied
    };
    match Errno::result(copied)? {
        0 => {
            // SAFETY: the list is this thread's own, at the place where it was in the
            // original. It is empty: we hold no such mutex.
            unsafe { libc::syscall(libc::SYS_set_robust_list, robust, robust_len) };
            Ok(None)
        }
        pid => Ok(Some(pid as i32)),
    }
}

/// Makes a copy of this process, as a child of it. Returns the copy's pid and its pidfd
/// here, and `None` there, where all signals are blocked. The copy has the calling thread
/// alone: it is made only if the program has no other, and while our own are at rest.
///
/// # Errors
///
/// If the program has other threads, which are named, or ours do not come to rest; or if
/// there is no descriptor for it. Nothing is left of it.
pub(crate) fn copy_as_child() -> io::Result<Option<(i32, OwnedFd)>> {
    if !cfg!(target_env = "gnu") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "StartMethod::Fork needs glibc"));
    }
    let mut halt = Halt::new(FORK_WAIT)?;
    check(halt.strangers()?)?;
    // In the copy no handler of the program's is to run, which has been told nothing yet.
    // Nor here: one that collects all children would have the copy's pid be another's.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: there is no other thread but those of the crew, and these hold nothing
    // that the copy will want.
    let copied = unsafe { fork() };
    if let Ok(ForkResult::Child) = copied {
        halt.disband();
        return Ok(None);
    }
    let watched = copied.map_err(io::Error::from).and_then(|copied| match copied {
        ForkResult::Parent { child } => watch(child.as_raw()),
        ForkResult::Child => unreachable!("it has returned"),
    });
    drop(halt);
    before.thread_set_mask()?;
    watched.map(Some)
}

fn watch(pid: i32) -> io::Result<(i32, OwnedFd)> {
    let pidfd = wait::pidfd_open(pid).inspect_err(|_| wait::kill_and_reap(pid))?;
    Ok((pid, pidfd))
}

/// Fails if this process could not be copied now.
pub(crate) fn check_alone() -> io::Result<()> {
    check(Halt::new(FORK_WAIT)?.strangers()?)
}

fn check(strangers: Vec<String>) -> io::Result<()> {
    if strangers.is_empty() {
        return Ok(());
    }
    /// Of the threads that are named.
    const NAMES_MAX: usize = 8;
    let named = strangers[..strangers.len().min(NAMES_MAX)].join(", ");
    let more = if strangers.len() > NAMES_MAX { ", …" } else { "" };
    Err(io::Error::other(format!(
        "StartMethod::Fork needs a process with one thread, as others may hold locks that \
         would stay locked in the copy; this one has {} more: {named}{more}. Use \
         StartMethod::ForkServer or StartMethod::Spawn, or a current-thread runtime",
        strangers.len()
    )))
}

/// Where the C library keeps the number of the calling thread.
fn thread_number() -> io::Result<*mut libc::pid_t> {
    /// `PR_GET_TID_ADDRESS` of prctl(2).
    const PR_GET_TID_ADDRESS: libc::c_int = 40;
    let mut number = ptr::null_mut::<libc::pid_t>();
    // SAFETY: the kernel writes an address to a variable of ours.
    let told = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut number, 0, 0, 0) };
    // SAFETY: the kernel writes there when the thread ends, so it is ours to read.
    let is_known = told == 0 && !number.is_null() && unsafe { *number } == gettid().as_raw();
    let what = "this kernel does not say where the number of a thread is kept, \
                which the fork server needs";
    is_known.then_some(number).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, what))
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    #[test]
    fn a_copy_knows_that_it_is_one() {
        let ours = Incarnation::current().unwrap();
        assert!(ours.is_current());
        assert_eq!(Incarnation::current().unwrap(), ours);
        // SAFETY: the child takes no lock, allocates nothing and does not return.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let wiped = !ours.is_current();
                let own = Incarnation::current().unwrap();
                let is_new = wiped && own != ours && own.is_current();
                // SAFETY: ends this process, which has nothing to clean up.
                unsafe { libc::_exit(if is_new { 7 } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
            }
        }
        assert!(ours.is_current());
    }
}
