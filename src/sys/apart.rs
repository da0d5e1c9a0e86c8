//! Open files that this process must not have in common with copies of it, as locks are
//! theirs: while a copy has one open, what was locked by a process that is dead stays
//! locked. So each copy that the C library makes opens them anew, as its first step.
//! Called by `claim`, and where copies are made without the C library.
//!
//! What a copy does there may be done though any lock was taken when it was made, also in
//! the handler of a signal: it is system calls, and a list that is only ever added to.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::libc;

/// A file's number, which is one of those as long as this is there. Drop it before the
/// file.
#[derive(Debug)]
pub(super) struct Apart(&'static Entry);

#[derive(Debug)]
struct Entry {
    number: AtomicI32,
    /// Set before the entry is in the list, and never again.
    next: AtomicPtr<Entry>,
}

const NONE: RawFd = -1;

/// As many as there were files at a time.
static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

/// Copies that were about to be made, and that have been, or not.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

impl Apart {
    pub(super) fn note(file: BorrowedFd<'_>) -> Self {
        static REGISTERED: Once = Once::new();
        // Without memory for that, copies have it in common for as long as they live.
        REGISTERED.call_once(|| {
            // SAFETY: functions of this program, which is not unloaded, that may be
            // called in a copy of a process with many threads.
            unsafe { libc::pthread_atfork(Some(begin), Some(end), Some(part_from_original)) };
        });
        let number = file.as_raw_fd();
        let take = |entry: &&Entry| {
            let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
            entry.number.compare_exchange(NONE, number, order, failed).is_ok()
        };
        Apart(entries().find(take).unwrap_or_else(|| add(number)))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.number.store(NONE, Ordering::Release);
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    // SAFETY: null, or from `add`, which gives its entries away for good.
    let entry = |at: &AtomicPtr<Entry>| unsafe { at.load(Ordering::Acquire).as_ref() };
    std::iter::successors(entry(&ENTRIES), move |before| entry(&before.next))
}

fn add(number: RawFd) -> &'static Entry {
    let next = AtomicPtr::new(ENTRIES.load(Ordering::Acquire));
    let entry = Box::leak(Box::new(Entry { number: AtomicI32::new(number), next }));
    let at = ptr::from_mut(entry);
    // SAFETY: it is given away for good, and has only atomics.
    let entry: &'static Entry = unsafe { &*at };
    loop {
        let next = entry.next.load(Ordering::Relaxed);
        let added = ENTRIES.compare_exchange(next, at, Ordering::AcqRel, Ordering::Acquire);
        match added {
            Ok(_) => return entry,
            Err(other) => entry.next.store(other, Ordering::Relaxed),
        }
    }
}

extern "C" fn begin() {
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn end() {
    ENDED.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn part_from_original() {
    part();
}

/// To be called in a copy of this process that was made without the C library's `fork`.
pub(crate) fn part() {
    // Nobody makes the others here.
    ENDED.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
    let before = Errno::last();
    for entry in entries() {
        let number = entry.number.load(Ordering::Acquire);
        // It is somebody else's by now where a program closes what it does not know.
        if number != NONE && is_memory(number) {
            // Where it cannot, it is to fail when it is used.
            let _ = replace(number);
        }
    }
    before.set();
}

/// Opens a file that is [noted](Apart) anew, under the same number.
pub(super) fn open_anew(file: BorrowedFd<'_>) -> io::Result<()> {
    /// A program that makes copies all the time has to do without.
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let ended = ENDED.load(Ordering::SeqCst);
        replace(file.as_raw_fd())?;
        // Or a copy was made when the file had two numbers, one of which it keeps.
        if BEGUN.load(Ordering::SeqCst) == ended {
            break;
        }
    }
    Ok(())
}

/// The same file, opened for itself.
pub(super) fn open_again(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
    Ok(again?.into())
}

/// Whether it is memory that can be sealed, as all these files are.
fn is_memory(number: RawFd) -> bool {
    // SAFETY: takes two integers, and touches no memory of ours.
    unsafe { libc::fcntl(number, libc::F_GET_SEALS) != -1 }
}

/// Allocates nothing.
fn replace(number: RawFd) -> io::Result<()> {
    let mut path = [0_u8; 32];
    write!(&mut path[..], "/proc/self/fd/{number}\0")?;
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero.
    let own = Errno::result(unsafe { libc::open(path.as_ptr().cast(), flags) })?;
    // SAFETY: replaces what a descriptor of ours stands for, by the same file.
    let moved = Errno::result(unsafe { libc::dup3(own, number, libc::O_CLOEXEC) });
    // SAFETY: it was opened just now, and nobody else has seen it.
    unsafe { libc::close(own) };
    moved?;
    Ok(())
}
