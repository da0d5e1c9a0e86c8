//! Whether this process is the one in which something was made, or a copy that
//! `fork` made of it. That is asked at every call, so it takes no system call:
//! the kernel wipes a page in every copy.

use std::io;
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

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

#[cfg(test)]
mod tests {
    use nix::libc;
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
