//! Pidfds, and how a process ended. Only `start` collects an ending: once, and
//! by one owner. Others may look.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{getpid, gettid};

use crate::exit::Exit;
use crate::limits::DEATH_WAIT;

/// A descriptor for a child that has not been reaped yet. Becomes readable
/// when the child ends.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    open(pid, 0)
}

fn open(id: i32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })?;
    // SAFETY: the kernel made this descriptor just now, close-on-exec, and
    // nobody else has seen it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `PIDFD_THREAD` of pidfd_open(2), Linux 6.9.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;

/// A descriptor that becomes readable when the calling thread ends, as it also
/// does when its process becomes another program. Before Linux 6.9: when its
/// process ends.
pub(crate) fn pidfd_of_this_thread() -> io::Result<OwnedFd> {
    pidfd_of_thread(gettid().as_raw())
}

/// The same, of another thread of this process.
pub(crate) fn pidfd_of_thread(id: i32) -> io::Result<OwnedFd> {
    match open(id, PIDFD_THREAD) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(getpid().as_raw(), 0),
        opened => opened,
    }
}

/// How the child ended, leaving it unreaped: its pid and its group's number
/// stay taken. `None` while it runs.
///
/// # Errors
///
/// `ECHILD` if something else in this program has collected it.
pub(crate) fn peek_exit(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    wait(libc::P_PIDFD, pidfd.as_raw_fd(), libc::WEXITED | libc::WNOWAIT | libc::WNOHANG)
}

/// Whether the child with this number has ended, collected or not.
pub(crate) fn has_ended(pid: i32) -> bool {
    let running = wait(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT | libc::WNOHANG);
    !matches!(running, Ok(None))
}

/// Collects the child's ending. `None` while it runs, and while it is dead and
/// another process traces it, which is told first.
///
/// # Errors
///
/// `ECHILD` if something else in this program has collected it.
pub(crate) fn try_reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    wait(libc::P_PIDFD, pidfd.as_raw_fd(), libc::WEXITED | libc::WNOHANG)
}

/// Ends a child that nobody can watch. It has not been waited for, so that its
/// number still means it.
pub(crate) fn kill_and_reap(pid: i32) {
    // SAFETY: takes two integers and touches no memory of ours.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // One that does not die is left behind: others are to be started.
    let until = Instant::now() + DEATH_WAIT;
    while matches!(wait(libc::P_PID, pid, libc::WEXITED | libc::WNOHANG), Ok(None))
        && Instant::now() < until
    {
        thread::sleep(Duration::from_millis(1));
    }
}

// By hand, because nix has no name for real-time signals and fails on them
// after the kernel has already forgotten the child.
fn wait(which: libc::idtype_t, id: i32, options: libc::c_int) -> io::Result<Option<Exit>> {
    loop {
        // SAFETY: zeroes are a valid siginfo for the kernel to overwrite, and
        // its pid tells afterwards whether the kernel did.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: `info` is ours to write.
        let waited = unsafe { libc::waitid(which, id as libc::id_t, &mut info, options) };
        match Errno::result(waited) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        // SAFETY: waitid fills in the fields of SIGCHLD, or leaves the zeroes.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        return Ok((pid != 0).then(|| decode(info.si_code, status)));
    }
}

fn decode(code: libc::c_int, status: libc::c_int) -> Exit {
    match code {
        libc::CLD_EXITED => Exit::from_code(status),
        libc::CLD_KILLED => Exit::from_signal(status),
        libc::CLD_DUMPED => Exit::from_core_dump(status),
        _ => Exit::UNKNOWN,
    }
}

#[cfg(test)]
#[expect(clippy::zombie_processes, reason = "reaped by what is tested here")]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    /// Waits for the ending, and collects it.
    fn reap(pidfd: BorrowedFd<'_>) -> Exit {
        match wait(libc::P_PIDFD, pidfd.as_raw_fd(), libc::WEXITED) {
            Ok(Some(exit)) => exit,
            Ok(None) | Err(_) => Exit::UNKNOWN,
        }
    }

    fn ending_of(script: &str) -> Exit {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pidfd = pidfd_open(child.id() as i32).unwrap();
        let exit = reap(pidfd.as_fd());
        assert_eq!(
            peek_exit(pidfd.as_fd()).unwrap_err().raw_os_error(),
            Some(libc::ECHILD),
            "it was reaped"
        );
        assert_eq!(reap(pidfd.as_fd()), Exit::UNKNOWN, "an ending is known once");
        exit
    }

    #[test]
    fn codes_and_signals() {
        assert_eq!(ending_of("exit 0"), Exit::from_code(0));
        assert_eq!(ending_of("exit 3"), Exit::from_code(3));
        assert_eq!(ending_of("kill -9 $$"), Exit::from_signal(9));
        assert_eq!(ending_of("kill -40 $$"), Exit::from_signal(40));
    }

    #[test]
    fn every_way_to_end_is_decoded() {
        assert_eq!(decode(libc::CLD_EXITED, 7), Exit::from_code(7));
        assert_eq!(decode(libc::CLD_KILLED, 64), Exit::from_signal(64));
        assert!(decode(libc::CLD_DUMPED, libc::SIGSEGV).core_dumped());
        assert_eq!(decode(libc::CLD_STOPPED, libc::SIGSTOP), Exit::UNKNOWN);
    }

    #[test]
    fn the_end_of_a_thread_is_told_by_its_descriptor() {
        use nix::poll::{PollFd, PollFlags, poll};
        let is_readable = |pidfd: &OwnedFd, wait: u16| {
            let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut watched, wait).unwrap() > 0
        };
        let thread = std::thread::spawn(move || {
            let pidfd = pidfd_of_this_thread().unwrap();
            assert!(!is_readable(&pidfd, 0));
            pidfd
        });
        let pidfd = thread.join().unwrap();
        if open(gettid().as_raw(), PIDFD_THREAD).is_ok() {
            assert!(is_readable(&pidfd, 30_000));
        } else {
            assert!(!is_readable(&pidfd, 0), "the process goes on");
        }
    }

    #[test]
    fn peeking_collects_nothing() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd_open(child.id() as i32).unwrap();
        let pid = child.id() as i32;
        assert_eq!(peek_exit(pidfd.as_fd()).unwrap(), None);
        assert!(!has_ended(pid));
        child.kill().unwrap();
        // Blocks until the ending is there, and leaves it there.
        let waiting = libc::WEXITED | libc::WNOWAIT;
        let seen = wait(libc::P_PIDFD, pidfd.as_raw_fd(), waiting).unwrap();
        assert_eq!(seen, Some(Exit::from_signal(9)));
        assert_eq!(peek_exit(pidfd.as_fd()).unwrap(), Some(Exit::from_signal(9)));
        assert!(has_ended(pid));
        assert_eq!(reap(pidfd.as_fd()), Exit::from_signal(9));
        assert!(has_ended(pid), "it is no child any more");
    }
}
