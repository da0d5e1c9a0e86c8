//! A thread that does nothing but wait until there is news of some descriptors. Called by
//! the lifeline.
//!
//! The standard library allocates for each of its threads, and for that glibc maps a heap
//! of the thread's own. Here nothing does, which saves a tenth of a worker's start.
//! A fork server has it rehearsed.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{io, ptr, thread};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_short, c_void};

use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::{crew, fd, futex, signal};

/// As much as the standard library's threads have: a handler of the program's, of what reports
/// a fault, may run on this one, too.
const STACK_BYTES: usize = 2 << 20;

/// The program's thread-locals are on it as well. No program has more than that of them:
/// it would not be loaded.
const STACK_BYTES_MOST: usize = 4 << 30;

/// Between two looks while there is no way to be told.
const BLIND_WAIT: Duration = Duration::from_millis(100);

/// How many descriptors it watches.
pub(crate) const WATCHED: usize = 3;

/// What the thread is told, by one that waits until it has heard it.
struct Brief {
    name: &'static CStr,
    watched: [libc::pollfd; WATCHED],
    react: fn() -> !,
}

/// 0 until the thread has heard: then its number, and `KEEPS` if its descriptors are its
/// own.
static HEARD: AtomicU32 = AtomicU32::new(0);

/// No number of a thread is as large.
const KEEPS: u32 = 1 << 31;

/// Begins the only such thread of this process. It calls `react`, which must not allocate,
/// once there is one of these events, or a hang-up, at one of these descriptors. It never
/// ends by itself.
///
/// Returns whether it has the descriptors for itself, whatever becomes of the caller's. If
/// not, which is so before Linux 5.9, they have to stay open.
///
/// # Errors
///
/// If there can be no thread.
pub(crate) fn post(
    name: &'static CStr,
    watched: [(BorrowedFd<'_>, c_short); WATCHED],
    react: fn() -> !,
) -> io::Result<bool> {
    let watched =
        watched.map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
    // In a copy of a process that had one, what that one has heard.
    HEARD.store(0, Ordering::Relaxed);
    let brief = Brief { name, watched, react };
    // It is there until the thread has heard it.
    let thread = begin(stand, ptr::from_ref(&brief).cast_mut().cast())?;
    let heard = loop {
        match HEARD.load(Ordering::Acquire) {
            0 => futex::wait(&HEARD, 0),
            heard => break heard,
        }
    };
    // SAFETY: it was begun just above, and has not been joined.
    checked(unsafe { libc::pthread_detach(thread) }).map_err(io::Error::from_raw_os_error)?;
    // It is at rest wherever it is.
    crew::enrol_for_good((heard & !KEEPS) as i32);
    Ok(heard & KEEPS != 0)
}

/// Begins a thread that ends at once, and waits until it is gone. What the C library looks
/// up for its first one, and the stack, are there for the next, also in copies of this
/// process.
pub(crate) fn rehearse() -> io::Result<()> {
    extern "C" fn nothing(_: *mut c_void) -> *mut c_void {
        ptr::null_mut()
    }
    /// It is joined a moment before the kernel does not count it any more.
    const GONE_WAIT: Duration = Duration::from_secs(1);
    let (before, until) = (crew::count()?, Instant::now() + GONE_WAIT);
    let thread = begin(nothing, ptr::null_mut())?;
    // SAFETY: it was begun just above, and nobody else has its handle.
    let joined = checked(unsafe { libc::pthread_join(thread, ptr::null_mut()) });
    joined.map_err(io::Error::from_raw_os_error)?;
    while crew::count()? > before && Instant::now() < until {
        thread::yield_now();
    }
    Ok(())
}

/// To be joined, or detached.
fn begin(
    work: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> io::Result<libc::pthread_t> {
    let mut stack_bytes = STACK_BYTES;
    loop {
        match begin_with(stack_bytes, work, argument) {
            // It has no room for the thread-locals, and glibc does not say how much they take.
            Err(libc::EINVAL) if stack_bytes < STACK_BYTES_MOST => stack_bytes *= 2,
            begun => return begun.map_err(io::Error::from_raw_os_error),
        }
    }
}

fn begin_with(
    stack_bytes: usize,
    work: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> Result<libc::pthread_t, c_int> {
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are initialised before they are used, and destroyed after;
    // and the handle is, where a thread has been begun.
    unsafe {
        checked(libc::pthread_attr_init(attributes.as_mut_ptr()))?;
        let attributes = attributes.assume_init_mut();
        let begun =
            checked(libc::pthread_attr_setstacksize(attributes, stack_bytes)).and_then(|()| {
                checked(libc::pthread_create(thread.as_mut_ptr(), attributes, work, argument))
            });
        libc::pthread_attr_destroy(attributes);
        begun.map(|()| thread.assume_init())
    }
}

fn checked(error: c_int) -> Result<(), c_int> {
    if error == 0 { Ok(()) } else { Err(error) }
}

extern "C" fn stand(brief: *mut c_void) -> *mut c_void {
    // SAFETY: whoever began this thread keeps it there until that has heard.
    let &Brief { name, mut watched, react } = unsafe { &*brief.cast::<Brief>() };
    // Before the table of descriptors is its own, in which handlers would not find theirs.
    let _ = signal::leave_to_others();
    // SAFETY: a string, which the kernel copies.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    let keeps = fd::keep_for_this_thread(&mut watched.map(|watched| watched.fd)).is_ok();
    // SAFETY: takes nothing.
    let number = unsafe { libc::gettid() } as u32;
    HEARD.store(number | if keeps { KEEPS } else { 0 }, Ordering::Release);
    futex::wake_all(&HEARD);
    loop {
        // SAFETY: as many as there are, and this thread's own.
        let ready = unsafe { libc::poll(watched.as_mut_ptr(), WATCHED as libc::nfds_t, -1) };
        if ready > 0 {
            react();
        }
        // The program may have taken away its right to three descriptors. What ends the
        // worker then is its leash.
        if ready < 0 && Errno::last() != Errno::EINTR {
            thread::sleep(BLIND_WAIT);
        }
    }
}
