//! The calls by which a worker reads and writes its socket, as this program has
//! them: passed on to the kernel, until a task, or the start of a worker, wants
//! the stream cut after so many bytes.
//!
//! A symbol of the program goes before that of the C library, so what std and
//! nix call is what is defined here.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};
use std::{mem, process};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::PoolBuilder;

use crate::blow::Blow;
use crate::support::{Scratch, note};

/// How many more bytes may pass before the fault.
struct Cut {
    left: AtomicI64,
    /// Number of the signal; 0 for none.
    signal: AtomicI64,
}

const NEVER: i64 = i64::MAX;

static READ: Cut = Cut { left: AtomicI64::new(NEVER), signal: AtomicI64::new(0) };
static WRITTEN: Cut = Cut { left: AtomicI64::new(NEVER), signal: AtomicI64::new(0) };

impl Cut {
    fn set(&self, bytes: i64, signal: i64) {
        self.signal.store(signal, Ordering::Relaxed);
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// How many of `wanted` bytes may pass now. After the last one, it strikes.
    fn pass(&self, fd: i32, wanted: usize) -> usize {
        let left = self.left.load(Ordering::Relaxed);
        if left == NEVER || !is_socket(fd) {
            return wanted;
        }
        if left == 0 {
            self.left.store(NEVER, Ordering::Relaxed);
            strike(fd, self.signal.load(Ordering::Relaxed));
            return wanted;
        }
        wanted.min(left as usize)
    }

    fn count(&self, fd: i32, passed: isize) {
        let left = self.left.load(Ordering::Relaxed);
        if passed > 0 && left != NEVER && is_socket(fd) {
            self.left.store(left - passed as i64, Ordering::Relaxed);
        }
    }
}

/// What happens where the stream is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Blow(Blow),
    /// What follows comes later: the other side has read all before it.
    Split,
}

pub(crate) const FAULTS: [Fault; 3] =
    [Fault::Blow(Blow::Kill), Fault::Blow(Blow::Terminate), Fault::Split];

impl Fault {
    /// Number of the signal; 0 for none.
    pub(crate) fn number(self) -> i32 {
        match self {
            Fault::Blow(blow) => blow.number(),
            Fault::Split => 0,
        }
    }
}

fn strike(fd: i32, signal: i64) {
    match signal {
        0 => {
            let mut unread: i32 = 1;
            while unread != 0 {
                std::thread::yield_now();
                // SAFETY: the kernel writes an integer.
                let known = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut unread) };
                assert_eq!(known, 0);
            }
        }
        number => kill(Pid::this(), Signal::try_from(number as i32).unwrap()).unwrap(),
    }
}

fn is_socket(fd: i32) -> bool {
    // SAFETY: zeroes are a valid stat for the kernel to overwrite.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is ours to write.
    let known = unsafe { libc::fstat(fd, &mut stat) } == 0;
    known && stat.st_mode & libc::S_IFMT == libc::S_IFSOCK
}

/// # Safety
///
/// As for recvmsg(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn recvmsg(fd: i32, message: *mut libc::msghdr, flags: i32) -> isize {
    // SAFETY: the caller has promised that it is one.
    let whole = unsafe { &mut *message };
    // A worker that boots has room for a few descriptors; that is no part of the
    // conversation.
    let counts = whole.msg_controllen > 1000;
    assert_eq!(whole.msg_iovlen, 1);
    // SAFETY: there is that one part.
    let part = unsafe { &mut *whole.msg_iov };
    if counts {
        part.iov_len = READ.pass(fd, part.iov_len);
    }
    // SAFETY: what the caller has promised, for no more bytes.
    let read = unsafe { libc::syscall(libc::SYS_recvmsg, fd, message, flags) } as isize;
    if counts {
        READ.count(fd, read);
    }
    read
}

/// # Safety
///
/// As for write(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: i32, buffer: *const libc::c_void, len: usize) -> isize {
    let len = WRITTEN.pass(fd, len);
    // SAFETY: what the caller has promised, for no more bytes.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, buffer, len) } as isize;
    WRITTEN.count(fd, written);
    written
}

/// # Safety
///
/// As for send(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: i32, buffer: *const libc::c_void, len: usize, flags: i32) -> isize {
    let len = WRITTEN.pass(fd, len);
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: what the caller has promised, for no more bytes.
    let sent = unsafe { libc::syscall(libc::SYS_sendto, fd, buffer, len, flags, none, 0) } as isize;
    WRITTEN.count(fd, sent);
    sent
}

/// # Safety
///
/// As for sendmsg(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: i32, message: *const libc::msghdr, flags: i32) -> isize {
    // SAFETY: the caller has promised that it is one.
    let message = unsafe { &*message };
    // SAFETY: and that it has so many parts.
    let parts = unsafe { std::slice::from_raw_parts(message.msg_iov, message.msg_iovlen as _) };
    let wanted = parts.iter().map(|part| part.iov_len).sum();
    let mut left = WRITTEN.pass(fd, wanted);
    let mut parts = parts.to_vec();
    for part in &mut parts {
        part.iov_len = part.iov_len.min(left);
        left -= part.iov_len;
    }
    let message = libc::msghdr { msg_iov: parts.as_mut_ptr(), ..*message };
    // SAFETY: what the caller has promised, for no more bytes.
    let sent = unsafe { libc::syscall(libc::SYS_sendmsg, fd, &message, flags) } as isize;
    WRITTEN.count(fd, sent);
    sent
}

/// # Safety
///
/// As for writev(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: i32, parts: *const libc::iovec, count: i32) -> isize {
    // SAFETY: the caller has promised that there are so many.
    let mut parts = unsafe { std::slice::from_raw_parts(parts, count as usize) }.to_vec();
    let wanted = parts.iter().map(|part| part.iov_len).sum();
    let mut left = WRITTEN.pass(fd, wanted);
    for part in &mut parts {
        part.iov_len = part.iov_len.min(left);
        left -= part.iov_len;
    }
    // SAFETY: what the caller has promised, for no more bytes.
    let written = unsafe { libc::syscall(libc::SYS_writev, fd, parts.as_ptr(), count) } as isize;
    WRITTEN.count(fd, written);
    written
}

/// A direction, as seen from the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Reads,
    Writes,
}

/// In a worker: counts the bytes from now on.
pub(crate) fn cut(direction: Direction, bytes: u64, signal: i32) {
    let cut = match direction {
        Direction::Reads => &READ,
        Direction::Writes => &WRITTEN,
    };
    cut.set(bytes as i64, signal.into());
}

/// Names the folder of [`cut_first`]; who gets the ticket in it is cut.
const CUT: &str = "PROCESSION_TEST_CUT";

extern "C" fn before_main() {
    let Ok(ticket) = env::var(CUT) else { return };
    let taken = format!("{ticket}-taken-by-{}", process::id());
    if fs::rename(ticket, &taken).is_err() {
        return;
    }
    let order = fs::read_to_string(taken).unwrap();
    let [direction, bytes, signal] = order.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{order}")
    };
    let cut = if direction == "Reads" { &READ } else { &WRITTEN };
    cut.set(bytes.parse().unwrap(), signal.parse().unwrap());
}

// SAFETY: the loader calls what is in this section, with arguments that a C
// function may ignore.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE: extern "C" fn() = before_main;

/// Cuts the pool's first worker from its start.
pub(crate) fn cut_first(
    builder: PoolBuilder,
    scratch: &Scratch,
    direction: Direction,
    bytes: u64,
    fault: Fault,
) -> PoolBuilder {
    let ticket = scratch.path("cut");
    note(&ticket, &format!("{direction:?} {bytes} {}", fault.number()));
    builder.env(CUT, ticket)
}
