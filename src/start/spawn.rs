//! Starts one worker: this program again, with a socket as its standard input.
//! Called by starters only, because a worker's parent-death signal is tied to
//! the thread that started it.
//!
//! Never `pre_exec`, `uid` or `gid`: with any of them std falls back from
//! `posix_spawn` to fork, which copies the parent's page tables. What else
//! there is to set, the worker sets on itself.

use std::ffi::OsString;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use crate::limits::DEATH_WAIT;
use crate::start::boot::Boot;
use crate::start::identity::Birth;
use crate::start::message::{self, Flags};
use crate::sys::page::Page;
use crate::sys::{fd, wait};

/// Our own image, even after an upgrade has replaced the file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Room that a fork server leaves for longer names than its own.
const ARG0_SPARE_BYTES: usize = 100;

/// How a pool's workers are to be started.
#[derive(Debug)]
pub(crate) struct SpawnSpec {
    pub(crate) way: Way,
    /// The test that becomes the worker, where the program is a test binary.
    pub(crate) test_main: Option<&'static str>,
    pub(crate) role: Role,
    /// It leads a group of its own, which ends with it.
    pub(crate) own_group: bool,
    pub(crate) stdin: Standard,
    pub(crate) stdout: Standard,
    pub(crate) stderr: Standard,
    /// Variables to set, or to remove where there is no value.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) env_clear: bool,
    pub(crate) current_dir: Option<PathBuf>,
}

/// How it comes to be: a [`StartMethod`](crate::start::StartMethod), and what that takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Spawn,
    ForkServer,
    /// A copy goes on here.
    Fork(fn(Boot) -> !),
}

/// What a worker is started for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// To run tasks until its parent has no more.
    Pool,
    /// To run one, and end.
    Once {
        /// It may outlive its parent.
        independent: bool,
    },
    /// To make workers.
    ForkServer,
}

/// What a worker has as standard input, output or error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standard {
    /// What we have.
    Inherit,
    Null,
    /// A pipe, whose other end is in [`Ends`].
    Piped,
}

/// A worker that has just been started.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pidfd: OwnedFd,
    /// Our end. As long as it is open the worker may live.
    pub(crate) leash: UnixStream,
    pub(crate) ends: Ends,
}

/// What the pool holds of its worker.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) pid: i32,
    /// Nonblocking.
    pub(crate) socket: UnixStream,
    pub(crate) page: Page,
    /// The pipe to the worker, if its input is [`Standard::Piped`].
    pub(crate) stdin: Option<OwnedFd>,
    /// The pipe from the worker, if its output is.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Starts a worker that is to be `birth`, and has its pidfd watched. It lives as
/// long as the calling thread, unless it is independent.
///
/// # Errors
///
/// Whatever kept the process from being started or watched; nothing is left of
/// it.
pub(crate) fn spawn(
    spec: &SpawnSpec,
    birth: &Birth,
    watch: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<Spawned> {
    let starter = wait::pidfd_of_this_thread()?;
    let (page, page_fd) = Page::create()?;
    let (ours, theirs) = UnixStream::pair()?;
    let (leash, collar) = UnixStream::pair()?;
    let mut command = Command::new(THIS_PROGRAM);
    let mut arg0 = birth.arg0();
    if spec.role == Role::ForkServer {
        // Its copies write their own names there, which may be longer.
        arg0.push_str(&" ".repeat(ARG0_SPARE_BYTES));
    }
    command.arg0(arg0).stdin(OwnedFd::from(theirs));
    if spec.own_group {
        command.process_group(0);
    }
    set_environment(&mut command, spec);
    command.stderr(stdio(spec.stderr));
    let (their_stdin, stdin) = input_for_message(spec.stdin)?;
    let (mut their_stdout, mut piped) = (None, None);
    match spec.test_main {
        None => drop(command.stdout(stdio(spec.stdout))),
        Some(test) => {
            run_only(&mut command, test);
            (their_stdout, piped) = output_for_message(spec.stdout)?;
        }
    }
    let sent = Sent {
        fixed: [page_fd.as_fd(), starter.as_fd(), collar.as_fd()],
        stdout: their_stdout,
        stdin: their_stdin,
    };
    send_boot_message(&ours, spec.role, birth, sent)?;
    ours.set_nonblocking(true)?;
    let mut child = command.spawn()?;
    // Close our copies of the worker's ends now: while we hold them, its death
    // never shows up as end-of-file.
    drop((command, collar));
    let pid = child.id() as i32;
    let pidfd = wait::pidfd_open(pid).and_then(|pidfd| watch(&pidfd).map(|()| pidfd));
    let pidfd = match pidfd {
        Ok(pidfd) => pidfd,
        Err(error) => {
            end(child);
            return Err(error);
        }
    };
    let stdout = piped.or_else(|| child.stdout.take().map(OwnedFd::from));
    let stderr = child.stderr.take().map(OwnedFd::from);
    Ok(Spawned { pidfd, leash, ends: Ends { pid, socket: ours, page, stdin, stdout, stderr } })
}

fn set_environment(command: &mut Command, spec: &SpawnSpec) {
    if spec.env_clear {
        command.env_clear();
    }
    for (key, value) in &spec.env {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    if let Some(dir) = &spec.current_dir {
        command.current_dir(dir);
    }
}

fn stdio(output: Standard) -> Stdio {
    match output {
        Standard::Inherit => Stdio::inherit(),
        Standard::Null => Stdio::null(),
        Standard::Piped => Stdio::piped(),
    }
}

/// Makes a test binary run one test, which becomes the worker there. The
/// harness greets on standard output; so it gets none, and the worker's own
/// travels in the boot message.
fn run_only(command: &mut Command, test: &str) {
    command.args([test, "--exact"]);
    // Else the harness keeps what tasks print, in memory, until the test ends.
    command.arg("--nocapture");
    // Else it reads RUST_TEST_THREADS, and refuses what is no number. The
    // variable itself, and the others it has, do no harm to one test and
    // stay: tasks see the environment of their parent.
    command.arg("--test-threads=1");
    command.stdout(Stdio::null());
}

/// The standard output to send, and the end to keep of it.
fn output_for_message(output: Standard) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    Ok(match output {
        Standard::Inherit => (fd::clone_open(io::stdout().as_fd())?, None),
        Standard::Null => (None, None),
        Standard::Piped => {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (Some(write), Some(read))
        }
    })
}

/// The standard input to send, and the end to keep of it. At descriptor 0 is the
/// socket.
fn input_for_message(input: Standard) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    Ok(match input {
        Standard::Inherit => (fd::clone_open(io::stdin().as_fd())?, None),
        Standard::Null => (None, None),
        Standard::Piped => {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (Some(read), Some(write))
        }
    })
}

/// The descriptors in a boot message.
struct Sent<'a> {
    fixed: [BorrowedFd<'a>; 3],
    stdout: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
}

/// Leaves the message in the socket before there is anybody to read it: the
/// buffer is empty, so this cannot block, and a worker that is there at all
/// has its message.
fn send_boot_message(
    mut socket: &UnixStream,
    role: Role,
    birth: &Birth,
    Sent { fixed, stdout, stdin }: Sent<'_>,
) -> io::Result<()> {
    let flags = Flags {
        has_stdout: stdout.is_some(),
        has_stdin: stdin.is_some(),
        once: matches!(role, Role::Once { .. }),
        independent: role == Role::Once { independent: true },
        fork_server: role == Role::ForkServer,
    };
    let others = [&stdout, &stdin].into_iter().flatten().map(AsFd::as_fd);
    let fds: Vec<BorrowedFd<'_>> = fixed.into_iter().chain(others).collect();
    let bytes = message::encode(flags, birth);
    let sent = fd::send_with_fds(socket.as_fd(), &[IoSlice::new(&bytes)], &fds)?;
    socket.write_all(&bytes[sent..])
}

/// Ends a child that nobody can watch. It has not been waited for, so that
/// its number still means its group.
fn end(mut child: Child) {
    // Both fail if the child is gone already, which is as good.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = child.kill();
    // One that does not die, or is kept by a tracer, is left behind: others are
    // to be started.
    let until = Instant::now() + DEATH_WAIT;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
}
