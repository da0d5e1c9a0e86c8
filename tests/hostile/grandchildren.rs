//! Workers that refuse to die, and processes that they leave behind: what the
//! pool gets rid of, and what it only does not mind.
//!
//! A process that has left its worker's group by `setsid` survives it: nothing
//! short of a container could find it. It can keep the socket, keep the page
//! and write to it, trace the worker: the pool does not wait for it.

use std::fs;
use std::time::Duration;

use nix::libc;
use procession::{Cancelled, Pool, TaskError};

use crate::attack::{self, echo, socket};
use crate::support::{Scratch, checked, is_alive, note, noted, notes, until};

/// Forks. The child runs `body`, which must get by without allocating, and
/// then sleeps for ever.
fn fork(body: impl FnOnce()) -> i32 {
    // SAFETY: the child does nothing but system calls until it is killed.
    match unsafe { libc::fork() } {
        0 => {
            // Not for ever, should the test forget it.
            // SAFETY: sets a timer.
            unsafe { libc::alarm(100) };
            body();
            loop {
                // SAFETY: waits for signals.
                unsafe { libc::pause() };
            }
        }
        child => child,
    }
}

fn leave_the_group() {
    // SAFETY: the child of a fork leads no group.
    unsafe { libc::setsid() };
}

/// Waits until a child is out of reach, and tells its number.
pub(crate) fn tell_of(stranger: i32, told: &str) {
    // SAFETY: asks for a number.
    while unsafe { libc::getpgid(stranger) } != stranger {
        std::thread::yield_now();
    }
    note(told, &stranger.to_string());
}

fn wait_for_the_end() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Leaves a child outside of the group, which has the socket and the page.
fn leave_a_stranger(told: String) {
    tell_of(fork(leave_the_group), &told);
    std::process::abort()
}

/// The same, and the child goes on writing to the page.
fn leave_a_scribbler(told: String) {
    let (at, length) = attack::page_in_memory();
    let child = fork(|| {
        leave_the_group();
        let mut n = 0_u32;
        loop {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (at as usize + n as usize % length) as *mut u8;
            // SAFETY: within the mapping of the page, which the fork has too.
            unsafe { at.write_volatile((n >> 24) as u8) };
        }
    });
    tell_of(child, &told);
    std::process::abort()
}

/// Is traced by a child outside of the group, which never looks at it.
fn be_traced(told: String) {
    // SAFETY: changes a permission of this process.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = fork(|| {
        leave_the_group();
        // SAFETY: attaches to the parent, without stopping it.
        let traces = unsafe { libc::ptrace(libc::PTRACE_SEIZE, libc::getppid(), 0, 0) };
        let byte = [u8::from(traces == 0)];
        // SAFETY: sends a byte.
        unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&theirs), byte.as_ptr().cast(), 1) };
    });
    let mut traced = [0];
    std::io::Read::read_exact(&mut &ours, &mut traced).unwrap();
    assert_eq!(traced, [1], "tracing is not allowed here");
    note(&told, &child.to_string());
    wait_for_the_end()
}

fn ignore_signals(told: String) {
    for signal in 1..=64 {
        // SAFETY: SIG_IGN runs no code of ours. Fails where it is not allowed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    note(&told, "ignores");
    wait_for_the_end()
}

fn block_signals(told: String) {
    nix::sys::signal::SigSet::all().thread_block().unwrap();
    note(&told, "blocks");
    wait_for_the_end()
}

fn stop(told: String) {
    note(&told, "stops");
    // SAFETY: stops this process.
    unsafe { libc::raise(libc::SIGSTOP) };
    wait_for_the_end()
}

/// A chain of processes, each of which starts the next one and ends.
fn hop(told: String) {
    fork(|| {
        loop {
            // SAFETY: the child does nothing but system calls.
            if unsafe { libc::fork() } != 0 {
                // SAFETY: runs no exit handlers.
                unsafe { libc::_exit(0) };
            }
        }
    });
    note(&told, "hops");
    wait_for_the_end()
}

/// Goes into its parent's process group, with a child left in its own.
fn change_the_group(told: String) {
    let child = fork(|| ());
    // SAFETY: asks for the parent's group, and enters it.
    assert_eq!(unsafe { libc::setpgid(0, libc::getpgid(libc::getppid())) }, 0);
    note(&told, &child.to_string());
    wait_for_the_end()
}

/// The same, and from there into a session of its own, with a child in that.
fn change_the_session(told: String) {
    // SAFETY: as above; then this process leads no group, and may.
    unsafe {
        assert_eq!(libc::setpgid(0, libc::getpgid(libc::getppid())), 0);
        assert!(libc::setsid() > 0);
    }
    note(&told, &fork(|| ()).to_string());
    wait_for_the_end()
}

/// Who is in a process group, zombies not counted.
fn members(group: u32) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats =
        processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let member = |stat: &String| {
        let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
        let state = fields.next().unwrap();
        state != "Z" && state != "X" && fields.nth(1) == Some(&group.to_string())
    };
    stats.filter(member).collect()
}

/// Ends a process that a test has let escape.
fn end(pid: i32) {
    // SAFETY: sends a signal to a process that the test has had started.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn pool() -> Pool {
    Pool::builder().workers(1).grace_period(Duration::from_millis(50)).build().unwrap()
}

/// Cancels such a task; the worker dies of `signal` and is replaced, and
/// nothing is left of its group.
async fn cancelled(task: fn(&Pool, String) -> procession::TaskHandle<()>, signal: i32) -> String {
    let scratch = Scratch::new();
    let told = scratch.path("told");
    let pool = pool();
    let running = task(&pool, told.clone());
    noted(&told).await;
    let pid = pool.workers()[0].pid.unwrap();
    let Cancelled { started, exit, .. } = running.cancel().await;
    assert!(started);
    assert_eq!(exit.and_then(|exit| exit.signal()), Some(signal), "{exit:?}");
    assert!(!is_alive(pid as i32));
    until("its group is gone", || members(pid).is_empty()).await;
    assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
    pool.terminate().await;
    notes(&told).remove(0)
}

#[test]
fn refusing_to_die() {
    checked(async {
        cancelled(|pool, told| pool.apply_async(ignore_signals, told), 9).await;
        cancelled(|pool, told| pool.apply_async(stop, told), 9).await;
        // The threads that only watch leave it to the task's.
        cancelled(|pool, told| pool.apply_async(block_signals, told), 9).await;
    });
}

#[test]
fn processes_that_start_processes() {
    checked(async {
        cancelled(|pool, told| pool.apply_async(hop, told), 15).await;
    });
}

/// It is found in its new place, and its children in theirs.
#[test]
fn a_worker_that_changes_its_group_or_session() {
    checked(async {
        let child = cancelled(|pool, told| pool.apply_async(change_the_group, told), 15).await;
        assert!(!is_alive(child.parse().unwrap()));
        let child = cancelled(|pool, told| pool.apply_async(change_the_session, told), 15).await;
        assert!(!is_alive(child.parse().unwrap()));
    });
}

/// Runs a task that leaves such a process behind and dies. Returns its error.
async fn left_behind(task: fn(&Pool, String) -> procession::TaskHandle<()>) -> TaskError {
    let scratch = Scratch::new();
    let told = scratch.path("told");
    let pool = pool();
    let error = task(&pool, told.clone()).await.unwrap_err();
    for n in 0..100 {
        assert_eq!(pool.apply(echo, n).await.unwrap(), n);
    }
    assert_eq!(pool.stats().workers_started, 2);
    pool.terminate().await;
    let stranger = notes(&told)[0].parse().unwrap();
    assert!(is_alive(stranger), "it has left the group");
    end(stranger);
    error
}

#[test]
fn a_stranger_that_keeps_the_socket_and_the_page() {
    checked(async {
        let error = left_behind(|pool, told| pool.apply_async(leave_a_stranger, told)).await;
        assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
        assert_eq!(error.exit().and_then(|exit| exit.signal()), Some(libc::SIGABRT));
    });
}

#[test]
fn a_stranger_that_scribbles_on_the_page_of_a_dead_worker() {
    checked(async {
        let error = left_behind(|pool, told| pool.apply_async(leave_a_scribbler, told)).await;
        // As it has scribbled before the page was looked at, or has not.
        assert!(error.is_worker_lost(), "{error:?}");
    });
}

#[test]
fn a_grandchild_that_keeps_the_socket() {
    fn leave(_: ()) {
        let held = std::os::fd::OwnedFd::from(socket());
        std::process::Command::new("sleep").arg("1000").stdin(held).spawn().unwrap();
        std::process::abort()
    }
    checked(async {
        let pool = pool();
        let error = pool.apply(leave, ()).await.unwrap_err();
        assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
    });
}

/// Whoever traces a process is told first how it ended, and keeps it from
/// being collected until then. The thread that looks after all workers of all
/// pools once waited for that.
#[test]
fn a_dead_worker_that_somebody_traces_holds_nobody_up() {
    checked(async {
        let scratch = Scratch::new();
        let told = scratch.path("told");
        let pool = pool();
        let running = pool.apply_async(be_traced, told.clone());
        noted(&told).await;
        let cancelled = running.cancel().await;
        assert!(cancelled.started);
        // Nobody but the tracer knows.
        assert_eq!(
            cancelled.exit.map(|exit| exit.to_string()).as_deref(),
            Some("ended in an unknown way")
        );
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        let another = self::pool();
        assert_eq!(another.apply(echo, 2).await.unwrap(), 2);
        another.terminate().await;
        pool.terminate().await;
        // And then it is collected after all.
        end(notes(&told)[0].parse().unwrap());
    });
}
