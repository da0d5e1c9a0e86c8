//! Signals: to a worker's group, and a worker's own dispositions. Called by
//! the warden and by a worker's boot. Installs no handler, ever: handlers
//! belong to the program we live in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, process, ptr};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::getpgrp;

/// `PIDFD_SIGNAL_PROCESS_GROUP` of pidfd_send_signal(2), Linux 6.9.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Sends `signal` to the process `pid` and to every process of the group that
/// it was started to lead. A group that has nobody left is fine.
///
/// The process itself is named beside its group: it may have left that.
///
/// The leader must not have been reaped by us: kernels before 6.9 only know
/// groups by number, sandboxes may know no pidfds at all, and until then the
/// number is taken.
pub(crate) fn kill_group(pidfd: BorrowedFd<'_>, pid: i32, signal: Signal) -> io::Result<()> {
    // SAFETY: takes an integer and touches no memory of ours.
    let left = unsafe { libc::getpgid(pid) } != pid;
    let itself = if left || signal == Signal::SIGKILL {
        send_by_pidfd(pidfd, signal, 0).or_else(|_| send_by_number(pid, signal))
    } else {
        Ok(())
    };
    kill_group_by_pidfd(pidfd, signal).or_else(|_| send_by_number(-pid, signal)).and(itself)
}

/// As [`kill_group`], and right even if the leader has been reaped: a pidfd
/// never means another process. Fails with `InvalidInput` before Linux 6.9.
pub(crate) fn kill_group_by_pidfd(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    send_by_pidfd(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

/// Sends the process itself a signal, by number. One that is gone is fine.
pub(crate) fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    send_number(pidfd, signal, 0)
}

fn send_by_pidfd(pidfd: BorrowedFd<'_>, signal: Signal, flags: libc::c_uint) -> io::Result<()> {
    send_number(pidfd, signal as libc::c_int, flags)
}

fn send_number(pidfd: BorrowedFd<'_>, signal: i32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the null siginfo asks the kernel to
    // fill in what kill(2) would.
    gone_is_fine(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            flags,
        )
    })
}

fn send_by_number(pid: i32, signal: Signal) -> io::Result<()> {
    // SAFETY: takes two integers and touches no memory of ours.
    gone_is_fine(unsafe { libc::kill(pid, signal as libc::c_int) }.into())
}

fn gone_is_fine(sent: libc::c_long) -> io::Result<()> {
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives a worker the signals of a fresh process, but for what is blocked: nothing
/// ignored, SIGTERM deadly.
///
/// Exec resets handlers but keeps what was ignored, so a parent started by
/// nohup, or one that ignores SIGCHLD, would hand that on. A handler that is
/// there now was installed in this process by something that came before us
/// (std's report of a stack overflow, a preloaded profiler) and stays, except
/// on SIGTERM, which is ours. SIGPIPE stays ignored, as std has it.
pub(crate) fn reset_dispositions() {
    for signal in 1..=libc::SIGRTMAX() {
        if signal == libc::SIGPIPE {
            continue;
        }
        // SAFETY: zeroes are a valid sigaction for the kernel to overwrite.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `action` is ours to write. Numbers that may not be asked
        // about (libc keeps some real-time signals) fail with EINVAL.
        if unsafe { libc::sigaction(signal, ptr::null(), &mut action) } != 0 {
            continue;
        }
        if action.sa_sigaction == libc::SIG_IGN || signal == libc::SIGTERM {
            // SAFETY: SIG_DFL runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// What was put off comes now.
pub(crate) fn unblock_all() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Takes away the handlers that a copy has from its original, which were to tell that
/// one. Those stay that report a fault of a thread itself.
pub(crate) fn forget_handlers() {
    for signal in 1..=libc::SIGRTMAX() {
        if FAULTS.iter().any(|fault| *fault as libc::c_int == signal) {
            continue;
        }
        // SAFETY: zeroes are a valid sigaction for the kernel to overwrite.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `action` is ours to write.
        let known = unsafe { libc::sigaction(signal, ptr::null(), &mut action) } == 0;
        if known && action.sa_sigaction != libc::SIG_IGN {
            // SAFETY: SIG_DFL runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Signals that report a fault of the thread that gets them.
const FAULTS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGTRAP];

/// Puts off what a terminal sends to whole groups. Workers undo it when they boot, and
/// have then what was sent to them before: had they ignored it, it would be lost.
pub(crate) fn block_terminal() -> io::Result<()> {
    let mut blocked = SigSet::empty();
    blocked.extend([Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP]);
    blocked.thread_block()?;
    Ok(())
}

/// Runs `start` with the signals blocked that the program might handle, so
/// that a thread begun in it never runs the program's handlers, nor takes what others
/// have blocked and wait for.
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> io::Result<T> {
    let before = others().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = start();
    before.thread_set_mask()?;
    Ok(started)
}

/// Leaves signals to the other threads of this process, from here on.
pub(crate) fn leave_to_others() -> io::Result<()> {
    others().thread_set_mask()?;
    Ok(())
}

/// What a thread need not have that only waits: all but what reports a fault of the thread
/// itself, and the last of the real-time ones, by which `threads` reaches it.
fn others() -> SigSet {
    let mut others = SigSet::all();
    for fault in FAULTS {
        others.remove(fault);
    }
    let mut others = *others.as_ref();
    // SAFETY: the set is ours to change.
    unsafe { libc::sigdelset(&mut others, libc::SIGRTMAX()) };
    // SAFETY: it is initialised.
    unsafe { SigSet::from_sigset_t_unchecked(others) }
}

/// Asks for a SIGCONT when the thread that started this process ends. The
/// wish is the calling thread's, and ends with it.
///
/// A worker's lifeline notices its parent's death, and kills the worker's group.
/// In one that is stopped it notices nothing until somebody continues that. So
/// let the kernel do it. SIGKILL here would leave the group behind.
pub(crate) fn continue_on_parent_death() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGCONT)?;
    Ok(())
}

/// Commands of fcntl(2), the same on all machines that we support; libc has no
/// names for them.
const F_SETOWN: libc::c_int = 8;
const F_SETSIG: libc::c_int = 10;

/// Has the kernel send SIGKILL to the group that this process leads, when
/// `socket` hangs up or has data: nobody may ever send any. That needs no thread
/// of ours that runs, and spares nobody who is stopped, again and again even.
///
/// Holds as long as the socket is open in any process. What is too late is not
/// told: whether the socket has hung up already has to be looked at.
pub(crate) fn kill_group_on_hang_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    let control = |command, argument: libc::c_int| {
        // SAFETY: these commands take an integer and touch no memory of ours.
        Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), command, argument) })
    };
    // A group that somebody else leads is none of our business.
    let pid = process::id() as i32;
    control(F_SETOWN, if getpgrp().as_raw() == pid { -pid } else { pid })?;
    control(F_SETSIG, libc::SIGKILL)?;
    let flags = control(libc::F_GETFL, 0)?;
    control(libc::F_SETFL, flags | libc::O_ASYNC)?;
    Ok(())
}

/// Ends this process and everything it has started, at once.
pub(crate) fn exit_group_now() -> ! {
    let pid = process::id() as i32;
    // Only we can have led this group, and it may have others in it even if we
    // have left it. (For the first process of a namespace, which ends with it
    // anyway, the number would mean everybody.)
    if pid > 1 {
        // SAFETY: takes two integers and touches no memory of ours.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
    // SAFETY: runs no exit handlers, which is the point: they may wait for
    // locks held by threads that are stuck.
    unsafe { libc::_exit(libc::EXIT_FAILURE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disposition(signal: libc::c_int) -> libc::sighandler_t {
        // SAFETY: zeroes are a valid sigaction for the kernel to overwrite.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `action` is ours to write.
        assert_eq!(unsafe { libc::sigaction(signal, ptr::null(), &mut action) }, 0);
        action.sa_sigaction
    }

    #[test]
    fn a_reset_undoes_what_is_inherited_and_nothing_else() {
        std::thread::spawn(|| {
            let realtime = libc::SIGRTMIN() + 3;
            for signal in [libc::SIGUSR2, realtime, libc::SIGTERM] {
                // SAFETY: SIG_IGN runs no code of ours.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            let overflow_report = disposition(libc::SIGSEGV);
            SigSet::all().thread_block().unwrap();
            reset_dispositions();
            unblock_all().unwrap();
            for signal in [libc::SIGUSR2, realtime, libc::SIGTERM] {
                assert_eq!(disposition(signal), libc::SIG_DFL);
            }
            assert_eq!(disposition(libc::SIGPIPE), libc::SIG_IGN);
            assert_eq!(disposition(libc::SIGSEGV), overflow_report);
            assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::empty());
        })
        .join()
        .unwrap();
    }
}
