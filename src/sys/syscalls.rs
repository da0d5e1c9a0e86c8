//! The system calls that computing takes, and a filter that refuses the others.
//! Called by `sys::sandbox` only.
//!
//! What is refused fails with `EPERM`. Two rules make the list: what names another
//! process, a path or an address is not on it, unless its sandbox allows such; and
//! where an argument decides that, the argument is looked at.

use std::collections::BTreeMap;
use std::process;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use crate::sandbox::Sandbox;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters the system calls of all threads of this process, for good.
pub(super) fn filter(sandbox: &Sandbox) -> Result<(), Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let refuse = |number| SeccompAction::Errno(number as u32);
    let allowed = rules(sandbox)?;
    let list =
        SeccompFilter::new(allowed, refuse(libc::EPERM), SeccompAction::Allow, architecture)?;
    // A new thread's flags are in memory there, which a filter cannot see. As if
    // this kernel did not have it: then they are an argument of `clone`.
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let clone3 =
        SeccompFilter::new(clone3, SeccompAction::Allow, refuse(libc::ENOSYS), architecture)?;
    for filter in [clone3, list] {
        apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

/// Refuses the network alone, to all threads of this process, for good: Landlock
/// knows TCP, but neither by its other ways (MPTCP, `MSG_FASTOPEN`) nor the rest.
/// Programs of another architecture, such as those of 32 bits, die of it.
pub(super) fn filter_network() -> Result<(), Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let not = SeccompCmpOp::Ne;
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, not, libc::AF_UNIX as u64)?;
    let other = SeccompRule::new(vec![other])?;
    // By which sockets are made too, where no filter sees it.
    let mut refused = Rules::from([(libc::SYS_io_uring_setup, Vec::new())]);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        refused.insert(call, vec![other.clone()]);
    }
    // The same, by the numbers that x32 programs use.
    #[cfg(target_arch = "x86_64")]
    for (call, rules) in refused.clone() {
        refused.insert(call | X32, rules);
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, refuse, architecture)?;
    apply_filter_all_threads(&BpfProgram::try_from(filter)?)
}

#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

fn rules(sandbox: &Sandbox) -> Result<Rules, BackendError> {
    let mut rules: Rules = COMPUTING.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(COMPUTING_X86_64.iter().map(|call| (*call, Vec::new())));
    let pid = process::id();
    let argument = |index, value| {
        let length = SeccompCmpArgLen::Dword;
        SeccompCondition::new(index, length, SeccompCmpOp::Eq, u64::from(value))
    };
    let masked = |index, mask, value| {
        let masked = SeccompCmpOp::MaskedEq(mask);
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, masked, value)
    };
    let null = |index| SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0);
    let mut one_of = |call, index, values: &[u32]| {
        let rule = |value: &u32| SeccompRule::new(vec![argument(index, *value)?]);
        rules.insert(call, values.iter().map(rule).collect::<Result<_, _>>()?);
        Ok::<_, BackendError>(())
    };
    // To itself, and to the group that it leads.
    one_of(libc::SYS_kill, 0, &[pid, pid.wrapping_neg()])?;
    one_of(libc::SYS_tgkill, 0, &[pid])?;
    one_of(libc::SYS_fcntl, 1, &FCNTLS.map(|command| command as u32))?;
    one_of(libc::SYS_ioctl, 1, &IOCTLS)?;
    one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32, PR_SET_VMA])?;
    // With `O_ASYNC` the kernel sends signals: of a terminal to those before it,
    // whoever asked.
    let quiet = vec![argument(1, libc::F_SETFL as u32)?, masked(2, libc::O_ASYNC as u64, 0)?];
    rules.entry(libc::SYS_fcntl).or_default().push(SeccompRule::new(quiet)?);
    let mut only = |call, conditions| {
        rules.insert(call, vec![SeccompRule::new(conditions)?]);
        Ok::<_, BackendError>(())
    };
    let thread = libc::CLONE_THREAD as u64;
    only(libc::SYS_clone, vec![masked(0, thread, thread)?])?;
    // Its own limits, to look at.
    only(libc::SYS_prlimit64, vec![argument(0, 0)?, null(2)?])?;
    // With datagrams it could write to any socket that has a path.
    let [unix, stream] = [libc::AF_UNIX, libc::SOCK_STREAM].map(|value| value as u32);
    only(libc::SYS_socketpair, vec![argument(0, unix)?, masked(1, 0xf, stream.into())?])?;
    if sandbox.has_files() {
        rules.extend(FILES.iter().map(|call| (*call, Vec::new())));
        #[cfg(target_arch = "x86_64")]
        rules.extend(FILES_X86_64.iter().map(|call| (*call, Vec::new())));
        if !sandbox.writable.is_empty() {
            rules.insert(libc::SYS_fchmod, Vec::new());
        }
    } else {
        // How `fstat` is spelled by some versions of glibc.
        let empty_path = libc::AT_EMPTY_PATH as u64;
        rules.insert(
            libc::SYS_newfstatat,
            vec![SeccompRule::new(vec![masked(3, empty_path, empty_path)?])?],
        );
    }
    if sandbox.network {
        rules.extend(NETWORK.iter().map(|call| (*call, Vec::new())));
        let internet = [libc::AF_INET, libc::AF_INET6];
        let rule = |family| SeccompRule::new(vec![argument(0, family as u32)?]);
        let families = internet.into_iter().map(rule).collect::<Result<_, _>>()?;
        rules.insert(libc::SYS_socket, families);
    }
    Ok(rules)
}

/// With a name for memory, which allocators give.
const PR_SET_VMA: u32 = 0x5356_4d41;

/// Not `F_SETOWN` and its kin, by which the kernel sends signals for others. And
/// `F_SETFL` has a rule of its own.
const FCNTLS: [libc::c_int; 15] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_GETLK,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
];

/// Not `TIOCSTI`, by which one types into the terminal that stderr may be, nor
/// `FIOASYNC`, which is `O_ASYNC` again.
const IOCTLS: [u32; 6] = [
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
    libc::TCGETS as u32,
    libc::TIOCGWINSZ as u32,
];

const COMPUTING: [i64; 97] = [
    // Memory.
    libc::SYS_brk,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    // Threads.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getpgid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // Signals to itself.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    // What is open.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // Its connection, and pairs of its own.
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Runtimes.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Clocks, and what there is to know.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_nanosleep,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_uname,
];

/// The older names of some.
#[cfg(target_arch = "x86_64")]
const COMPUTING_X86_64: [i64; 13] = [
    libc::SYS_alarm,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_signalfd,
    libc::SYS_time,
];

/// Which ones is Landlock's to say. Not there: what changes the mode, owner, times
/// or attributes of a file, which Landlock does not look at. But for `fchmod`, where
/// something may be written: copying a file takes it.
const FILES: [i64; 29] = [
    libc::SYS_chdir,
    libc::SYS_copy_file_range,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fchdir,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_unlinkat,
];

#[cfg(target_arch = "x86_64")]
const FILES_X86_64: [i64; 14] = [
    libc::SYS_access,
    libc::SYS_creat,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_unlink,
    libc::SYS_ustat,
];

const NETWORK: [i64; 5] =
    [libc::SYS_accept, libc::SYS_accept4, libc::SYS_bind, libc::SYS_connect, libc::SYS_listen];
