//! Who may change what processes share, and who has which item. Called by `channel`.
//!
//! The lock is a word that all share: 0, or the *name* of the process that has it. To
//! take it and to give it back are no system calls. A name is a byte of the shared
//! file, beyond its end, that the kernel keeps locked for its process for as long as
//! that lives. So whoever finds the lock taken for long asks the kernel whether its
//! holder is still there, and takes it over if not: what the dead one has left is
//! whole (see `board`). Names are drawn at random from so many that none comes twice.
//!
//! A lease is a byte that is locked, too. Such locks belong to an open file (fcntl(2),
//! "open file description locks"), so each process has the file opened for itself: it
//! would share them with whoever has sent it otherwise, or with the process that it is
//! a copy of. A copy does so as its first step (see `apart`), whether it uses the queue
//! or not: nobody's locks are to outlive who has them. And since the threads of a
//! process share a name and the leases in any case, these have a word of their own.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::queue_state::QUEUE_LEASES;
use crate::sys::apart::{Apart, open_again, open_anew};
use crate::sys::clock;
use crate::sys::fork::Incarnation;

/// A shared file, with the locks of this process on it.
#[derive(Debug)]
pub(crate) struct Claim {
    _apart: Apart,
    /// A copy of this process has another under the same number.
    file: OwnedFd,
    /// The incarnation that has opened it.
    home: AtomicU64,
    /// What that one is called in the word that all share.
    name: AtomicU64,
    /// The incarnation one of whose threads has the lock, or tries to get it;
    /// 0 if none. That of another is what the copy of a process finds.
    holder: AtomicU64,
    /// Who was found to have the lock the last time, and how often in a row.
    suspect: AtomicU64,
    found: AtomicU32,
    /// Bytes that are locked for this process, or will be unlocked yet.
    leases: [AtomicU64; QUEUE_LEASES / 64],
}

/// Names are bytes of this range. Those of leases are below.
const NAMES: std::ops::Range<u64> = 1 << 32..1 << 62;

/// Whoever has been found to have the lock so often in a row may be dead.
const FINDS_BEFORE_A_LOOK: u32 = 32;

impl Claim {
    /// For a process that has made the file, or was given it. Where it can open
    /// nothing, in a sandbox, it has to do with what it was given, if that was opened
    /// for it.
    pub(crate) fn new(file: OwnedFd, is_fresh: bool) -> io::Result<Claim> {
        let apart = Apart::note(file.as_fd());
        match open_anew(file.as_fd()) {
            Err(error) if !is_fresh => Err(error),
            Ok(()) | Err(_) => Claim::of_noted(file, apart),
        }
    }

    fn of_noted(file: OwnedFd, apart: Apart) -> io::Result<Claim> {
        let home = Incarnation::current()?.number();
        let name = take_name(file.as_fd())?;
        Ok(Claim {
            _apart: apart,
            file,
            home: AtomicU64::new(home),
            name: AtomicU64::new(name),
            holder: AtomicU64::new(0),
            suspect: AtomicU64::new(0),
            found: AtomicU32::new(0),
            leases: Default::default(),
        })
    }

    /// The file for somebody else, opened for them.
    pub(crate) fn fresh(&self) -> io::Result<OwnedFd> {
        open_again(self.file())
    }

    /// For reading and writing; and for sending, where nothing can be opened.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes the lock, which is `word`, unless somebody has it.
    pub(crate) fn try_lock<'a>(&'a self, word: &'a AtomicU64) -> io::Result<Option<Locked<'a>>> {
        let us = Incarnation::current()?.number();
        let holder = self.holder.load(Ordering::Relaxed);
        let taken = holder != us
            && self
                .holder
                .compare_exchange(holder, us, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !taken {
            return Ok(None);
        }
        // From here on, so that any failure lets go of the word.
        let mut locked = Locked { claim: self, word, is_locked: false };
        if self.home.load(Ordering::Relaxed) != us {
            self.move_in(us)?;
        }
        let name = self.name.load(Ordering::Relaxed);
        locked.is_locked = match take(word, 0, name) {
            Ok(()) => true,
            Err(other) => self.is_free(other, name)? && take(word, other, name).is_ok(),
        };
        Ok(locked.is_locked.then_some(locked))
    }

    /// Whether whoever has the lock cannot have it. Asks the kernel now and then.
    fn is_free(&self, holder: u64, us: u64) -> io::Result<bool> {
        // No thread of ours has it. Somebody means to confuse.
        if holder == us || !NAMES.contains(&holder) {
            return Ok(true);
        }
        if self.suspect.swap(holder, Ordering::Relaxed) != holder {
            self.found.store(0, Ordering::Relaxed);
        }
        let found = self.found.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        Ok(found % FINDS_BEFORE_A_LOOK == 0 && !is_locked(self.file(), holder as libc::off_t)?)
    }

    /// In a copy of the process that has opened the file.
    fn move_in(&self, us: u64) -> io::Result<()> {
        // Where that is not done, what is locked here is the original's.
        open_anew(self.file())?;
        self.name.store(take_name(self.file())?, Ordering::Relaxed);
        for word in &self.leases {
            word.store(0, Ordering::Relaxed);
        }
        self.home.store(us, Ordering::Release);
        Ok(())
    }

    /// Which copy of the process has leases here. What another one has taken is not
    /// ours to give up.
    pub(crate) fn home(&self) -> u64 {
        self.home.load(Ordering::Acquire)
    }

    /// Whether this is the copy that has leases here.
    pub(crate) fn is_home(&self) -> bool {
        let us = Incarnation::current().map(Incarnation::number);
        us.is_ok_and(|us| us == self.home())
    }

    /// Whether this process has a lease, or is about to give it up.
    pub(crate) fn has_lease(&self, lease: usize) -> bool {
        self.leases[lease / 64].load(Ordering::Acquire) >> (lease % 64) & 1 != 0
    }

    /// Gives a lease up. What was written about it must be there already.
    pub(crate) fn unlock_lease(&self, lease: usize) {
        let _ = set(self.file(), lease_byte(lease), libc::F_UNLCK);
        // Not before it is unlocked: another thread that took it now would lose it.
        self.leases[lease / 64].fetch_and(!(1 << (lease % 64)), Ordering::Release);
    }
}

/// The lock is ours.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    claim: &'a Claim,
    word: &'a AtomicU64,
    is_locked: bool,
}

impl<'a> Locked<'a> {
    pub(crate) fn file(&self) -> BorrowedFd<'a> {
        self.claim.file()
    }

    /// Takes a lease, unless somebody has it.
    pub(crate) fn try_lease(&self, lease: usize) -> io::Result<bool> {
        let is_ours = self.claim.has_lease(lease);
        if is_ours || !set(self.file(), lease_byte(lease), libc::F_WRLCK)? {
            return Ok(false);
        }
        self.claim.leases[lease / 64].fetch_or(1 << (lease % 64), Ordering::AcqRel);
        Ok(true)
    }

    /// Whether a lease's holder is still there.
    pub(crate) fn is_leased(&self, lease: usize) -> io::Result<bool> {
        // Our own locks are none to us.
        if self.claim.has_lease(lease) {
            return Ok(true);
        }
        is_locked(self.file(), lease_byte(lease))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.is_locked {
            // Unless somebody has taken it away, who has no right to.
            let name = self.claim.name.load(Ordering::Relaxed);
            let _ = self.word.compare_exchange(name, 0, Ordering::Release, Ordering::Relaxed);
        }
        self.claim.holder.store(0, Ordering::Release);
    }
}

/// Makes the lock another's. Whose it is if it is not `from`'s.
fn take(word: &AtomicU64, from: u64, to: u64) -> Result<(), u64> {
    word.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).map(drop)
}

/// A name that nobody has, or will have.
fn take_name(file: BorrowedFd<'_>) -> io::Result<u64> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        // Each seed is random; but copies of a process have the same, and the same count.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let known = (process::id(), count, clock::monotonic_nanos());
        let random = RandomState::new().hash_one(known);
        let name = NAMES.start + random % (NAMES.end - NAMES.start);
        if set(file, name as libc::off_t, libc::F_WRLCK)? {
            return Ok(name);
        }
    }
}

fn lease_byte(lease: usize) -> libc::off_t {
    lease as libc::off_t
}

/// Locks or unlocks a byte. `false` if somebody else has it.
fn set(file: BorrowedFd<'_>, byte: libc::off_t, kind: libc::c_int) -> io::Result<bool> {
    let lock = lock_of(byte, kind);
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether another process has locked a byte. Our own locks are none to us.
fn is_locked(file: BorrowedFd<'_>, byte: libc::off_t) -> io::Result<bool> {
    let mut lock = lock_of(byte, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn lock_of(byte: libc::off_t, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::num::NonZeroUsize;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::sys::memfd;

    fn two() -> (Claim, Claim) {
        let file = memfd::create(c"locked").unwrap();
        let other = Claim::new(file.try_clone().unwrap().into(), false).unwrap();
        (Claim::new(file.into(), true).unwrap(), other)
    }

    fn is_free(claim: &Claim, word: &AtomicU64) -> bool {
        claim.try_lock(word).unwrap().is_some()
    }

    /// As often as it takes to find a holder that is dead.
    fn is_free_at_last(claim: &Claim, word: &AtomicU64) -> bool {
        (0..FINDS_BEFORE_A_LOOK).any(|_| is_free(claim, word))
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no locks")]
    fn one_at_a_time_has_the_lock() {
        let ((one, other), word) = (two(), AtomicU64::new(0));
        let locked = one.try_lock(&word).unwrap().unwrap();
        assert!(!is_free_at_last(&one, &word) && !is_free_at_last(&other, &word));
        drop(locked);
        assert!(is_free(&one, &word));
        let locked = other.try_lock(&word).unwrap();
        assert!(!is_free_at_last(&one, &word));
        drop(locked);
        assert!(is_free(&one, &word) && is_free(&other, &word));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no locks")]
    fn a_holder_that_cannot_be_keeps_nobody_waiting() {
        let ((one, other), word) = (two(), AtomicU64::new(0));
        std::mem::forget(other.try_lock(&word).unwrap());
        assert!(!is_free_at_last(&one, &word));
        drop(other);
        assert!(is_free_at_last(&one, &word), "it has gone with its file");
        // What nobody is called, what no byte is, and what we are ourselves.
        let nobody = NAMES.start + (one.name.load(Ordering::Relaxed) + 1) % NAMES.start;
        for written in [nobody, 1, u64::MAX, one.name.load(Ordering::Relaxed)] {
            word.store(written, Ordering::Relaxed);
            assert!(is_free_at_last(&one, &word), "{written:x}");
            assert_eq!(word.load(Ordering::Relaxed), 0);
        }
        let locked = one.try_lock(&word).unwrap();
        word.store(7, Ordering::Relaxed);
        drop(locked);
        assert_eq!(word.load(Ordering::Relaxed), 7, "it is not ours to give back");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no locks")]
    fn no_two_have_one_name() {
        let (one, other) = two();
        let names = [&one, &other].map(|claim| claim.name.load(Ordering::Relaxed));
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| NAMES.contains(name)));
        assert!(!set(other.file(), names[0] as libc::off_t, libc::F_WRLCK).unwrap());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no locks")]
    fn leases_are_seen_and_given_up() {
        let ((one, other), word) = (two(), AtomicU64::new(0));
        let locked = one.try_lock(&word).unwrap().unwrap();
        assert!(locked.try_lease(7).unwrap() && locked.try_lease(8).unwrap());
        assert!(!locked.try_lease(7).unwrap(), "it is ours already");
        assert!(locked.is_leased(7).unwrap() && !locked.is_leased(9).unwrap());
        drop(locked);
        let locked = other.try_lock(&word).unwrap().unwrap();
        assert!(locked.is_leased(7).unwrap() && !locked.is_leased(6).unwrap());
        assert!(!locked.try_lease(7).unwrap());
        one.unlock_lease(7);
        assert!(!locked.is_leased(7).unwrap() && locked.is_leased(8).unwrap());
        drop(one);
        assert!(!locked.is_leased(8).unwrap(), "they go with their file");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no fork")]
    fn a_copy_of_this_process_has_locks_of_its_own() {
        let (one, other) = two();
        let word = shared_word();
        let locked = one.try_lock(word).unwrap().unwrap();
        assert!(locked.try_lease(3).unwrap());
        // SAFETY: the child takes no lock of the allocator's that another thread
        // could have held for long, and does not return.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // The original still has it.
                let alone = (0..2 * FINDS_BEFORE_A_LOOK)
                    .all(|_| one.try_lock(word).is_ok_and(|locked| locked.is_none()));
                let code = if alone && one.is_home() && !one.has_lease(3) { 7 } else { 1 };
                // SAFETY: ends this process, which has nothing to clean up.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => child,
        };
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
        assert!(!is_free_at_last(&other, word), "the end of the copy has unlocked nothing");
        drop(locked);
        assert!(is_free(&other, word) && one.has_lease(3));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no fork")]
    fn a_copy_that_ends_with_the_lock_has_it_no_more() {
        let (one, other) = two();
        let word = shared_word();
        // SAFETY: as above.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let locked = one.try_lock(word).is_ok_and(|locked| {
                    std::mem::forget(locked);
                    word.load(Ordering::Relaxed) != 0
                });
                // SAFETY: as above.
                unsafe { libc::_exit(if locked { 7 } else { 1 }) }
            }
            ForkResult::Parent { child } => child,
        };
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
        assert_ne!(word.load(Ordering::Relaxed), 0);
        assert!(is_free_at_last(&other, word) && is_free(&one, word));
    }

    /// It has the file, and never uses it.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no fork")]
    fn a_copy_keeps_nothing_of_its_dead_original() {
        let (one, other) = two();
        let word = shared_word();
        let (hold, mut held) = UnixStream::pair().unwrap();
        // SAFETY: as above.
        let original = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let locked = one.try_lock(word).is_ok_and(|locked| {
                    let has_lease = locked.as_ref().is_some_and(|it| it.try_lease(3).is_ok());
                    std::mem::forget(locked);
                    has_lease
                });
                // SAFETY: as above.
                if let Ok(ForkResult::Child) = unsafe { fork() } {
                    drop(hold);
                    let _ = held.read(&mut [0]);
                }
                // SAFETY: as above.
                unsafe { libc::_exit(if locked { 7 } else { 1 }) }
            }
            ForkResult::Parent { child } => child,
        };
        assert_eq!(waitpid(original, None).unwrap(), WaitStatus::Exited(original, 7));
        assert_ne!(word.load(Ordering::Relaxed), 0);
        // Once the copy has come to its first step.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_free_at_last(&other, word) {
            assert!(Instant::now() < deadline, "its copy keeps it");
            std::thread::yield_now();
        }
        let locked = other.try_lock(word).unwrap().unwrap();
        assert!(!locked.is_leased(3).unwrap());
        drop(hold);
    }

    fn shared_word() -> &'static AtomicU64 {
        let len = NonZeroUsize::new(size_of::<AtomicU64>()).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which lies over nothing else.
        let page = unsafe { mmap_anonymous(None, len, access, MapFlags::MAP_SHARED) }.unwrap();
        // SAFETY: mapped, zeroed, aligned to a page, never unmapped.
        unsafe { page.cast().as_ref() }
    }
}
