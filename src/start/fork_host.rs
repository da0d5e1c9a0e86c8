//! The fork server: this program, started once more, that has one thread and does
//! nothing but make copies of itself, which are workers. They share the memory that
//! it had when they were made. Called by `boot`; in a worker, this returns.
//!
//! Its copies are children of its *parent*, not of its own: the warden there signals
//! and collects them as any other, and their ends are told whatever becomes of the
//! server.

use std::ffi::{CString, OsStr};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::{env, process};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::unistd::{Pid, setpgid};

use crate::start::StartMethod;
use crate::start::boot::{Boot, Settled, Ties, settle};
use crate::start::fork_request::{receive, send};
use crate::start::order::{Answer, FIXED_FDS, Fork, Order};
use crate::sys::fork::copy_as_sibling;
use crate::sys::signal::{self, exit_group_now};
use crate::sys::{apart, crew, environment, fd};

/// What a higher floor does for the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hooks {
    /// Calls the function of this id with these arguments.
    pub(crate) preload: fn(u64, Vec<u8>) -> Result<(), String>,
    /// Does what each worker does first, and needs to have done once.
    pub(crate) warm_up: fn(),
    /// How many threads there are that wait for this one, and so hold no lock.
    pub(crate) waiting_threads: usize,
}

/// Makes workers until the parent is gone. Returns in each of them.
pub(super) fn serve(socket: UnixStream, ties: Ties, hooks: Hooks) -> io::Result<Boot> {
    // It is in its parent's group: with one of its own, what it has just made would be
    // in there, and go with it.
    signal::block_terminal()?;
    // What is the same in all copies is done once, and they have it: what is kept in
    // memory, the C library's own places for what it calls first included.
    signal::reset_dispositions();
    environment::start_of_arguments();
    (hooks.warm_up)();
    loop {
        await_order(&socket, &ties);
        let (order, fds) = match receive::<Order>(&socket) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => exit_group_now(),
            Err(error) => return Err(error),
        };
        let answer: Answer = match order {
            Order::Preload { function, args } => {
                let preloaded = (hooks.preload)(function, args);
                signal::reset_dispositions();
                // Or each worker would print it again.
                let _ = io::stdout().flush();
                preloaded.map(|()| 0)
            }
            Order::Fork(fork) => match copy(hooks) {
                Ok(Some(pid)) => Ok(pid),
                Ok(None) => {
                    apart::part();
                    drop((socket, ties));
                    return become_worker(*fork, fds, StartMethod::ForkServer);
                }
                Err(error) => Err(error.to_string()),
            },
        };
        send(&socket, &answer, &[])?;
    }
}

/// Returns once there is something to read. Ends this process with its parent.
fn await_order(socket: &UnixStream, ties: &Ties) {
    let half_closed = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut watched = [
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        PollFd::new(ties.leash.as_fd(), half_closed),
        PollFd::new(ties.starter.as_fd(), PollFlags::POLLIN),
    ];
    loop {
        if poll(&mut watched, PollTimeout::NONE).is_ok() {
            let [socket, leash, starter] = &watched;
            if leash.any().unwrap_or(true) || starter.any().unwrap_or(true) {
                exit_group_now();
            }
            if socket.any().unwrap_or(true) {
                return;
            }
        }
    }
}

fn copy(hooks: Hooks) -> io::Result<Option<i32>> {
    let others = crew::count()?.saturating_sub(1);
    if others > hooks.waiting_threads {
        // One of them may hold a lock, for ever in the copy.
        return Err(io::Error::other(format!(
            "the fork server has {others} threads beside its own, and cannot be copied: \
             `procession::init()` must come before any thread is started, so not inside \
             `#[tokio::main]` with its default flavor, and what is preloaded must leave none; \
             or use `StartMethod::Spawn`"
        )));
    }
    copy_as_sibling()
}

/// This is the copy. Goes where a worker that was spawned is after its boot.
pub(super) fn become_worker(
    fork: Fork,
    fds: Vec<OwnedFd>,
    method: StartMethod,
) -> io::Result<Boot> {
    let Fork { birth, once, independent, group, env, current_dir, streams } = fork;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "not the order of a fork");
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(missing);
    let [page, starter, leash, socket]: [OwnedFd; FIXED_FDS] = [next()?, next()?, next()?, next()?];
    let mut socket = UnixStream::from(socket);
    setpgid(Pid::from_raw(0), Pid::from_raw(group))?;
    if method == StartMethod::ForkServer {
        // Its parent does not know its pid yet: see `ANNOUNCEMENT_BYTES`.
        socket.write_all(&(process::id() as i32).to_le_bytes())?;
    }
    signal::continue_on_parent_death()?;
    if parent_id() != birth.parent_pid && !independent {
        // Our parent is dead. Nobody wants this worker.
        process::exit(1);
    }
    let [stdin, stdout, stderr] = streams.map(|is_sent| is_sent.then(&mut next));
    let null = || Ok(OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/null")?));
    let or_null = |stream: Option<io::Result<OwnedFd>>| stream.unwrap_or_else(null);
    let (stdin, stdout) = (Some(or_null(stdin)?), Some(or_null(stdout)?));
    fd::replace_stderr(or_null(stderr)?)?;
    environment::replace(&env);
    if let Some(dir) = current_dir {
        env::set_current_dir(OsStr::from_bytes(&dir))?;
    }
    // For `ps` and `top`; the latter is cut to fifteen bytes.
    environment::set_arg0(&birth.arg0());
    let name = CString::new(birth.name.replace('\0', ""));
    let _ = name.map(|name| prctl::set_name(&name));
    let ties = Ties { starter, leash };
    let ties = if independent { None } else { Some(ties) };
    settle(Settled { socket, page, ties, birth, once, method, stdin, stdout })
}
