//! What the kernel keeps for each thread, set on all of them. Called by a
//! worker before its first task: the program may have begun threads before it
//! came to be one (a runtime's, a test harness's), and what is begun later
//! inherits.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, mem, process, ptr, thread};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::gettid;

/// Something for each thread to do. It runs in a signal handler, beside
/// whatever the thread is at: system calls, and nothing else. Returns 0, or the
/// number of an error.
pub(crate) type Job = fn() -> i32;

/// How long a thread may take to do it. One that blocks all signals never does.
const THREAD_WAIT: Duration = Duration::from_secs(2);

/// How long the signals of a thread that begins another are looked at again.
const MOMENT: Duration = Duration::from_millis(100);

/// Lists in a row that say nothing new, and there is nobody else. One is not enough:
/// the kernel's ends early where it comes to a thread that is just ending, and those
/// behind that are not in it. (Seen: once in some ten thousand lists, while threads
/// end; never twice in a row.)
const QUIET_LISTS: usize = 3;

/// Who is to do it. The signal may reach nobody else, but may be sent by others.
static TARGET: AtomicI32 = AtomicI32::new(0);
static JOB: AtomicUsize = AtomicUsize::new(0);
/// What came of it; -1: nothing yet.
static OUTCOME: AtomicI32 = AtomicI32::new(-1);

/// Has every thread of this process do `job`, one after the other, until there
/// is none that has not. This one is the last: whatever the job takes from it, it
/// has found the others.
///
/// # Errors
///
/// The first that a thread had, or `TimedOut` if one does not take signals. Some
/// have done it then and some have not.
pub(crate) fn on_every_thread(job: Job) -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut signal = None;
    each_new(gettid().as_raw(), ids, |id| {
        let signal = match &signal {
            Some(signal) => signal,
            None => signal.insert(Borrowed::new()?),
        };
        signal.reach(id, job)
    })?;
    outcome(job())
}

/// Calls `reach` for each id that is ever listed, but for `own`, until lists say
/// nothing new.
fn each_new(
    own: i32,
    mut list: impl FnMut() -> io::Result<Vec<i32>>,
    mut reach: impl FnMut(i32) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = vec![own];
    let mut quiet = 0;
    while quiet < QUIET_LISTS {
        let new: Vec<i32> = list()?.into_iter().filter(|id| !done.contains(id)).collect();
        quiet = if new.is_empty() { quiet + 1 } else { 0 };
        for id in new {
            reach(id)?;
            done.push(id);
        }
    }
    Ok(())
}

/// Ids of this process's threads.
pub(crate) fn ids() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc/self/task")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// No program that is executed from here on, whatever its file says, has more
/// rights than this process. Cannot be taken back.
pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    on_every_thread(no_new_privs)
}

/// As [`forbid_new_privileges`], as a job.
pub(crate) fn no_new_privs() -> i32 {
    // SAFETY: takes integers and touches no memory of ours.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    number(done.into())
}

/// The number of the error, of a system call that has just returned.
pub(crate) fn number(done: libc::c_long) -> i32 {
    if done == -1 { Errno::last_raw() } else { 0 }
}

fn outcome(number: i32) -> io::Result<()> {
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(number)) }
}

/// A signal that nobody has a use for, until it is dropped.
struct Borrowed {
    signal: libc::c_int,
    before: libc::sigaction,
}

impl Borrowed {
    fn new() -> io::Result<Self> {
        let blocked = blocked()?;
        let realtime = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev();
        // Threads that were begun before `init` still have the mask of whoever
        // started the worker, which leaves those of faults open.
        let candidates = realtime.chain([libc::SIGTRAP, libc::SIGFPE, libc::SIGILL]);
        for signal in candidates.filter(|signal| blocked & 1 << (signal - 1) == 0) {
            // SAFETY: zeroes are a valid sigaction for the kernel to overwrite.
            let mut before: libc::sigaction = unsafe { mem::zeroed() };
            // SAFETY: `before` is ours to write.
            let known = unsafe { libc::sigaction(signal, ptr::null(), &mut before) } == 0;
            if known && before.sa_sigaction == libc::SIG_DFL {
                // SAFETY: zeroes are a valid sigaction: no flags, no signals masked.
                let mut ours: libc::sigaction = unsafe { mem::zeroed() };
                ours.sa_sigaction = handle as *const () as libc::sighandler_t;
                // ONSTACK: runtimes of other languages have threads with stacks
                // too small for a handler, and one beside them.
                ours.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
                // SAFETY: `handle` does what handlers may, and stays.
                Errno::result(unsafe { libc::sigaction(signal, &ours, ptr::null_mut()) })?;
                return Ok(Borrowed { signal, before });
            }
        }
        Err(io::Error::other("its threads block, or the program handles, all signals"))
    }

    fn reach(&self, id: i32, job: Job) -> io::Result<()> {
        JOB.store(job as usize, Ordering::Relaxed);
        OUTCOME.store(-1, Ordering::Relaxed);
        TARGET.store(id, Ordering::Release);
        // SAFETY: takes integers and touches no memory of ours. The thread, if it
        // is there, is of this process, which has a handler.
        let sent =
            unsafe { libc::syscall(libc::SYS_tgkill, process::id() as i32, id, self.signal) };
        match Errno::result(sent) {
            Err(Errno::ESRCH) => return Ok(()),
            sent => sent?,
        };
        let until = Instant::now() + THREAD_WAIT;
        loop {
            match OUTCOME.load(Ordering::Acquire) {
                -1 if !Path::new(&format!("/proc/self/task/{id}")).exists() => return Ok(()),
                -1 if Instant::now() > until => {
                    let problem = format!("thread {id} of this process blocks signals");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
                }
                // It is on its way to the kernel and back.
                -1 => thread::sleep(Duration::from_micros(50)),
                number => return outcome(number),
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        TARGET.store(0, Ordering::Release);
        // One that blocks the signal may still get it, and is not to die of it.
        self.before.sa_sigaction = libc::SIG_IGN;
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe { libc::sigaction(self.signal, &self.before, ptr::null_mut()) };
        self.before.sa_sigaction = libc::SIG_DFL;
        // SAFETY: as above, and what is pending was thrown away just now.
        unsafe { libc::sigaction(self.signal, &self.before, ptr::null_mut()) };
    }
}

/// The signals that some thread of this process blocks, as bits.
///
/// One that begins another, or ends, blocks all of them for a moment, and has to
/// be looked at again; one that does so for good will be waited for in vain.
fn blocked() -> io::Result<u64> {
    let until = Instant::now() + MOMENT;
    let is_passing = |mask: &u64| mask & 1 << (libc::SIGSEGV - 1) != 0;
    loop {
        let masks: Vec<u64> = ids()?.into_iter().filter_map(mask_of).collect();
        if !masks.iter().any(is_passing) || Instant::now() > until {
            let lasting = masks.into_iter().filter(|mask| !is_passing(mask));
            return Ok(lasting.fold(0, |all, mask| all | mask));
        }
        thread::yield_now();
    }
}

fn mask_of(id: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/self/task/{id}/status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

extern "C" fn handle(_signal: libc::c_int) {
    // What the thread was at may be about to look at its own.
    let errno = Errno::last_raw();
    if TARGET.load(Ordering::Acquire) == gettid().as_raw() {
        let job = JOB.load(Ordering::Relaxed);
        // SAFETY: `reach` has stored a function of this type, before the target.
        let job = unsafe { mem::transmute::<usize, Job>(job) };
        TARGET.store(0, Ordering::Relaxed);
        OUTCOME.store(job(), Ordering::Release);
    }
    Errno::set_raw(errno);
}

/// The processor that this thread is on, or was a moment ago.
pub(crate) fn current_processor() -> u32 {
    // Known on every kernel that this needs; else all are one.
    nix::sched::sched_getcpu().map_or(0, |processor| processor as u32)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use super::*;
    use crate::sys::signal::leave_to_others;

    fn has_no_new_privs(id: i32) -> bool {
        let status = fs::read_to_string(format!("/proc/self/task/{id}/status")).unwrap();
        status.lines().any(|line| line == "NoNewPrivs:\t1")
    }

    #[test]
    fn a_list_that_ends_early_hides_nobody() {
        for cut in 0..5 {
            // One that is cut short at that place, and all others whole.
            for short in 0..6 {
                let mut lists = 0;
                let list = || {
                    lists += 1;
                    let all = [1, 2, 3, 4, 5];
                    Ok(if lists == short + 1 { all[..cut].to_vec() } else { all.to_vec() })
                };
                let mut reached = Vec::new();
                each_new(3, list, |id| {
                    reached.push(id);
                    Ok(())
                })
                .unwrap();
                reached.sort_unstable();
                assert_eq!(reached, [1, 2, 4, 5], "list {short} is cut at {cut}");
            }
        }
    }

    /// In a process of its own, as it cannot be taken back.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no threads of the kernel's")]
    fn every_thread_does_it_whatever_it_is_at() {
        let name = "sys::threads::tests::every_thread_does_it_whatever_it_is_at";
        if std::env::var_os("PROCESSION_ON_EVERY_THREAD").is_none() {
            let mut command = process::Command::new(std::env::current_exe().unwrap());
            command.args([name, "--exact", "--nocapture"]);
            command.env("PROCESSION_ON_EVERY_THREAD", "");
            assert!(command.status().unwrap().success());
            return;
        }
        let (busy, reading) = (mpsc::channel::<()>(), UnixStream::pair().unwrap());
        thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
        thread::spawn(move || busy.1.recv());
        let (mut reader, _writer) = reading;
        thread::spawn(move || io::Read::read(&mut reader, &mut [0]).map(drop).unwrap_err());
        thread::spawn(|| {
            loop {
                // Comes and goes.
                thread::spawn(|| {}).join().unwrap();
            }
        });
        // Whatever the program handles.
        for fault in [libc::SIGTRAP, libc::SIGFPE, libc::SIGILL] {
            // SAFETY: to ignore a signal runs no code of ours.
            unsafe { libc::signal(fault, libc::SIG_IGN) };
        }
        let (left, is_left) = mpsc::channel();
        thread::spawn(move || {
            leave_to_others().unwrap();
            left.send(()).unwrap();
            loop {
                thread::park();
            }
        });
        is_left.recv().unwrap();
        forbid_new_privileges().unwrap();
        let gone = |id: &i32| !Path::new(&format!("/proc/self/task/{id}")).exists();
        for id in ids().unwrap() {
            // Of those that come and go.
            let seen = std::panic::catch_unwind(|| has_no_new_privs(id));
            assert!(seen.unwrap_or_else(|_| gone(&id)), "thread {id} has not");
        }
        // SAFETY: runs nothing; the threads would be in the way of a plain end.
        unsafe { libc::_exit(0) }
    }
}
