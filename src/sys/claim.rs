//! Who may change what processes share: locks that the kernel keeps, on bytes of
//! the shared file, and takes back from whoever dies. Called by `channel`.
//!
//! They belong to an open file (fcntl(2), "open file description locks"), so each
//! process has the file opened for itself: it would share the locks with whoever
//! has sent it otherwise, or with the process that it is a copy of. And since the
//! threads of a process share them in any case, these have a word of their own.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::queue_state::QUEUE_LEASES;
use crate::sys::fork::Incarnation;

/// A shared file, with the locks of this process on it.
#[derive(Debug)]
pub(crate) struct Claim {
    /// A copy of this process has it opened for itself the first time that it
    /// takes the lock, under the same number.
    file: OwnedFd,
    /// The incarnation that has opened it.
    home: AtomicU64,
    /// The incarnation one of whose threads has the lock, or tries to get it;
    /// 0 if none. That of another is what the copy of a process finds.
    holder: AtomicU64,
    /// Bytes that are locked for this process, or will be unlocked yet.
    leases: [AtomicU64; QUEUE_LEASES / 64],
}

/// The byte that is locked by whoever changes the state. Those of leases follow.
const STATE_BYTE: libc::off_t = 0;

impl Claim {
    /// For the process that has made the file, and nobody else has had it.
    pub(crate) fn of_maker(file: OwnedFd) -> io::Result<Claim> {
        let home = Incarnation::current()?.number();
        Ok(Claim {
            file,
            home: AtomicU64::new(home),
            holder: AtomicU64::new(0),
            leases: Default::default(),
        })
    }

    /// For a process that was given the file. Where it can open nothing, in a
    /// sandbox, it has to do with what it was given, if that was opened for it.
    pub(crate) fn of_receiver(file: OwnedFd, is_fresh: bool) -> io::Result<Claim> {
        match open_again(file.as_fd()) {
            Ok(own) => Claim::of_maker(own),
            Err(_) if is_fresh => Claim::of_maker(file),
            Err(error) => Err(error),
        }
    }

    /// The file for somebody else, opened for them.
    pub(crate) fn fresh(&self) -> io::Result<OwnedFd> {
        open_again(self.file())
    }

    /// For reading and writing; and for sending, where nothing can be opened.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Takes the lock, unless somebody has it.
    pub(crate) fn try_lock(&self) -> io::Result<Option<Locked<'_>>> {
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
        let mut locked = Locked { claim: self, is_locked: false };
        if self.home.load(Ordering::Relaxed) != us {
            self.move_in(us)?;
        }
        if !self.set(STATE_BYTE, libc::F_WRLCK)? {
            return Ok(None);
        }
        locked.is_locked = true;
        Ok(Some(locked))
    }

    /// In a copy of the process that has opened the file.
    fn move_in(&self, us: u64) -> io::Result<()> {
        let own = open_again(self.file())?;
        // That one must go: while it is open here, the original's locks outlive the
        // original.
        // SAFETY: replaces what a descriptor of ours stands for, by the same file.
        let moved = unsafe { libc::dup3(own.as_raw_fd(), self.file.as_raw_fd(), libc::O_CLOEXEC) };
        Errno::result(moved)?;
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

    /// Locks or unlocks a byte. `false` if somebody else has it.
    fn set(&self, byte: libc::off_t, kind: libc::c_int) -> io::Result<bool> {
        let lock = lock_of(byte, kind);
        loop {
            match fcntl(self.file(), FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Whether this process has a lease, or is about to give it up.
    pub(crate) fn has_lease(&self, lease: usize) -> bool {
        self.leases[lease / 64].load(Ordering::Acquire) >> (lease % 64) & 1 != 0
    }

    /// Gives a lease up. What was written about it must be there already.
    pub(crate) fn unlock_lease(&self, lease: usize) {
        let _ = self.set(lease_byte(lease), libc::F_UNLCK);
        // Not before it is unlocked: another thread that took it now would lose it.
        self.leases[lease / 64].fetch_and(!(1 << (lease % 64)), Ordering::Release);
    }
}

/// The lock is ours.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    claim: &'a Claim,
    is_locked: bool,
}

impl<'a> Locked<'a> {
    pub(crate) fn file(&self) -> BorrowedFd<'a> {
        self.claim.file()
    }

    /// Takes a lease, unless somebody has it.
    pub(crate) fn try_lease(&self, lease: usize) -> io::Result<bool> {
        let is_ours = self.claim.has_lease(lease);
        if is_ours || !self.claim.set(lease_byte(lease), libc::F_WRLCK)? {
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
        let mut lock = lock_of(lease_byte(lease), libc::F_WRLCK);
        fcntl(self.claim.file(), FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.is_locked {
            // It fails only if the descriptor is none, and then nothing is locked.
            let _ = self.claim.set(STATE_BYTE, libc::F_UNLCK);
        }
        self.claim.holder.store(0, Ordering::Release);
    }
}

fn lease_byte(lease: usize) -> libc::off_t {
    STATE_BYTE + 1 + lease as libc::off_t
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

/// The same file, opened for itself.
fn open_again(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
    Ok(again?.into())
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;
    use crate::sys::memfd;

    fn two() -> (Claim, Claim) {
        let file = memfd::create(c"locked").unwrap();
        let other = Claim::of_receiver(file.try_clone().unwrap().into(), false).unwrap();
        (Claim::of_maker(file.into()).unwrap(), other)
    }

    fn is_free(claim: &Claim) -> bool {
        claim.try_lock().unwrap().is_some()
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no locks")]
    fn one_at_a_time_has_the_lock() {
        let (one, other) = two();
        let locked = one.try_lock().unwrap().unwrap();
        assert!(!is_free(&one) && !is_free(&other));
        drop(locked);
        assert!(is_free(&one));
        let locked = other.try_lock().unwrap();
        assert!(!is_free(&one));
        drop(locked);
        assert!(is_free(&one) && is_free(&other));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no locks")]
    fn leases_are_seen_and_given_up() {
        let (one, other) = two();
        let locked = one.try_lock().unwrap().unwrap();
        assert!(locked.try_lease(7).unwrap() && locked.try_lease(8).unwrap());
        assert!(!locked.try_lease(7).unwrap(), "it is ours already");
        assert!(locked.is_leased(7).unwrap() && !locked.is_leased(9).unwrap());
        drop(locked);
        let locked = other.try_lock().unwrap().unwrap();
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
        let locked = one.try_lock().unwrap().unwrap();
        assert!(locked.try_lease(3).unwrap());
        // SAFETY: the child takes no lock of the allocator's that another thread
        // could have held for long, and does not return.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let alone = one.try_lock().is_ok_and(|locked| locked.is_none());
                // The original still has it.
                let code = if alone && one.is_home() && !one.has_lease(3) { 7 } else { 1 };
                // SAFETY: ends this process, which has nothing to clean up.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => child,
        };
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
        assert!(!is_free(&other), "the end of the copy has unlocked nothing");
        drop(locked);
        assert!(is_free(&other) && one.has_lease(3));
    }
}
