//! One function in one process; and which process this is, and which others there
//! are.
//!
//! A [`Process`] is made by [`Process::spawn`] or [`Process::builder`], and is a
//! future of its function's result. [`current`], [`parent`] and
//! [`active_children`] tell a process, a pool's worker among them, about its
//! family.
//!
//! # Which one?
//!
//! A [`Pool`](crate::Pool) keeps its workers and gives them many calls, each in
//! some 20 µs. A process is for one long call that is to have a life of its own,
//! with a name, a pid, streams, and signals: a server, a helper, something that may
//! hang. It takes about a millisecond to start.
//!
//! # How it ends
//!
//! With 0 if the function returns, with 1 if it panics or its result cannot be sent,
//! with what [`std::process::exit`] is told, or by a signal. What the function has
//! printed is flushed. When the process has ended, whatever it has started and left
//! in its group is killed.
//!
//! | | `daemon(true)`, the default | detached | `daemon(false)` |
//! |---|---|---|---|
//! | its handle is dropped | SIGTERM; SIGKILL after the [`grace_period`](ProcessBuilder::grace_period) | runs on | runs on |
//! | its parent returns from `main`, or calls `exit` | killed | killed | its parent waits for it |
//! | its parent is killed, aborts, or becomes another program | killed | killed | runs on |
//!
//! So what is dropped is ended, as everywhere in this crate, and a process never
//! outlives its parent, unless one of them was told otherwise. The signals are sent
//! by a thread of their own: no runtime is needed for it.
//!
//! # Names
//!
//! Are Python's: `Process-1`, and `Process-1:2` for the second that this one
//! starts. Workers of pools count, too, and so does a process with a name of its
//! own.
//!
//! # What stays
//!
//! With its first pool or process, a program begins two threads that sleep until there
//! is something to do, and opens two descriptors; with its first process another thread
//! and two descriptors; with its first by [`StartMethod::ForkServer`] three descriptors
//! more, and the server, which is a child. They stay until the program ends. Whatever else
//! a pool or process takes is given back when it has ended.

// `line` is the socket of one process, `post` the thread that looks after all of
// them, `life` what is known of a process by whoever asks, `streams` its pipes.
// `surroundings` are the options that pools have as well.
mod at_exit;
mod builder;
mod kin;
mod life;
mod line;
mod method;
mod post;
mod streams;
mod surroundings;

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::{io, mem};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::builder::ProcessBuilder;
pub use self::kin::{ChildInfo, CurrentProcess, ParentProcess, active_children, current, parent};
pub use self::life::Exited;
pub use self::method::{
    ForkServer, force_start_method, fork_server, set_start_method, start_method,
};
pub use self::streams::{ProcessStderr, ProcessStdin, ProcessStdout};
pub use self::surroundings::Stdio;
pub(crate) use self::surroundings::{
    Surroundings, check_frame_limit, check_name, setting, test_main,
};
pub use crate::start::StartMethod;

use self::life::{Interest, Life};
use crate::error::{Side, SpawnError, TaskError};
use crate::exit::Exit;
use crate::proto::codec;
use crate::registry::TaskFn;
use crate::sys::cast::Sharing;
use crate::sys::{fd, signal};

/// One function, running in a process of its own: a future of its result.
///
/// The future is ready once the process has ended, so that nothing is left of it
/// then. It can be polled in any runtime, or in none, and through `&mut`; so can
/// everything else here be called anywhere, but for what says otherwise.
///
/// # Errors
///
/// The future gives a [`TaskError`] if there is no result: as a pool's call, with
/// message, place and stack of a panic, with exit, pid and last output of a process
/// that was lost. One that [`terminate`](Self::terminate) or [`kill`](Self::kill)
/// has ended is [`TaskError::Cancelled`].
///
/// # Cancel safety
///
/// Dropping the handle of a process that runs ends it, unless it was
/// [detached](Self::detach) or is [`daemon(false)`](ProcessBuilder::daemon): see the
/// [table](self#how-it-ends). A reference to it may be dropped freely. What a forked
/// copy of this program drops is not ended, and what it awaits is over at once: the
/// processes are the original's.
///
/// # Panics
///
/// Like most futures, it may not be polled again after it has given its answer.
///
/// # Examples
///
/// ```standalone_crate
/// use procession::Process;
///
/// fn square(n: u64) -> u64 { n * n }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let mut process = Process::spawn(square, 3)?;
///         assert_ne!(process.pid(), std::process::id());
///         assert_eq!((&mut process).await?, 9);
///         assert_eq!(process.exit().unwrap().code(), Some(0));
///         Ok(())
///     })
/// }
/// ```
#[must_use = "dropping a process ends it; use `detach` to let it run on"]
pub struct Process<R> {
    life: Arc<Life>,
    interest: Interest,
    is_daemon: bool,
    /// Goes on when the handle is dropped.
    runs_on: bool,
    /// The pipe to its standard input, if that is [piped](Stdio::piped). Take it out to
    /// write to it while the process runs. What is left here is closed when the process
    /// is awaited, so that one that reads to the end gets there;
    /// [`join`](Self::join) and its kin leave it open.
    pub stdin: Option<ProcessStdin>,
    /// The pipe from its standard output, if that is piped. A process waits once
    /// some 64 KiB are in there that nobody reads.
    pub stdout: Option<ProcessStdout>,
    /// The pipe from its standard error, if that is piped. The same.
    pub stderr: Option<ProcessStderr>,
    result: PhantomData<fn() -> R>,
}

impl Process<()> {
    /// Options for a process.
    pub fn builder() -> ProcessBuilder {
        ProcessBuilder::new()
    }

    /// Calls `f(args)` in a new process, with default options.
    ///
    /// `f` is any function, `async fn` or closure that captures nothing, as for
    /// [`Pool::apply`](crate::Pool::apply). Waits until the process is there, which
    /// takes about a millisecond, as [`std::process::Command::spawn`] does.
    ///
    /// # Errors
    ///
    /// As for [`ProcessBuilder::spawn`].
    pub fn spawn<F, Args, M>(f: F, args: Args) -> Result<Process<F::Output>, SpawnError>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        ProcessBuilder::new().spawn(f, args)
    }
}

impl<R> Process<R> {
    /// Its pid, which is nobody else's while it [is alive](Self::is_alive).
    pub fn pid(&self) -> u32 {
        self.life.pid()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.life.name()
    }

    /// Whether it was built as [`daemon`](ProcessBuilder::daemon).
    pub fn is_daemon(&self) -> bool {
        self.is_daemon
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        self.life.is_alive()
    }

    /// How it ended, and `None` while it runs. Python's `exitcode` is
    /// [`Exit::exitcode`].
    pub fn exit(&self) -> Option<Exit> {
        self.life.exit()
    }

    /// Waits until it has ended. Its result is still there after that.
    ///
    /// If it was killed and does not die, as somewhere in the kernel it cannot, this
    /// is over five seconds later, with an exit that is unknown.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn join(&self) -> Exit {
        self.exited().await
    }

    /// As [`join`](Self::join), but not for longer than `limit`; `None` then. Needs
    /// a tokio runtime with time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn join_timeout(&self, limit: Duration) -> Option<Exit> {
        tokio::time::timeout(limit, self.exited()).await.ok()
    }

    /// As [`join`](Self::join), for where there is no runtime: blocks the thread.
    pub fn blocking_join(&self) -> Exit {
        self.life.wait(None).unwrap_or(Exit::UNKNOWN)
    }

    /// As [`blocking_join`](Self::blocking_join), but not for longer than `limit`;
    /// `None` then.
    pub fn blocking_join_timeout(&self, limit: Duration) -> Option<Exit> {
        self.life.wait(Some(limit))
    }

    /// A future of its end that does not borrow the handle: to wait for the first of
    /// many.
    pub fn exited(&self) -> Exited {
        Exited::new(&self.life)
    }

    /// A descriptor that becomes readable when it ends: for `poll`, `epoll`, or
    /// tokio's `AsyncFd`. It is a pidfd.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.life.pidfd()
    }

    /// Sends SIGTERM to it and to its group. Nothing follows: one that ignores it
    /// runs on. Does nothing if it has ended.
    pub fn terminate(&self) {
        self.life.terminate(Duration::MAX);
    }

    /// Sends SIGKILL to it and to its group. Does nothing if it has ended.
    pub fn kill(&self) {
        self.life.kill();
    }

    /// Sends it a signal, by number: to the process alone, and never to another that
    /// has its pid now. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// If there is no such signal, or this process may not send it.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        signal::send(self.life.pidfd(), signal)
    }

    /// Lets it run on without anybody waiting for it, until its end or that of this
    /// program.
    pub fn detach(mut self) {
        self.runs_on = true;
    }
}

impl<R: DeserializeOwned> Future for Process<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // It may read to the end, and nobody writes to this while waiting here.
        this.stdin = None;
        let outcome = ready!(this.life.poll_outcome(&mut this.interest, cx));
        Poll::Ready(outcome.and_then(|reply| {
            codec::decode_shared::<Sharing, R>(&reply, reply.whole())
                .map_err(|failure| TaskError::from_decode(failure, Side::Result))
        }))
    }
}

/// Waits until one of several processes has ended, or whatever else these descriptors
/// stand for is readable, but not for longer than `limit`, if there is one. Blocks the
/// thread. Python's `multiprocessing.connection.wait`.
///
/// Takes [`Process`]es, or [sentinels](Process::sentinel) where they are of different
/// types. Returns which are ready, by their places, in order; none if it took too long,
/// or there are none.
/// In async code, wait for the first of many [`exited`](Process::exited).
///
/// # Errors
///
/// If there are more than this process may have open.
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// # use procession::{Process, process};
/// # fn example(processes: Vec<Process<u64>>) -> std::io::Result<()> {
/// for at in process::blocking_wait(&processes, Duration::from_secs(5))? {
///     println!("{} has ended", processes[at].name());
/// }
/// # Ok(()) }
/// ```
pub fn blocking_wait(
    processes: &[impl AsFd],
    limit: impl Into<Option<Duration>>,
) -> io::Result<Vec<usize>> {
    let fds: Vec<_> = processes.iter().map(AsFd::as_fd).collect();
    if fds.is_empty() {
        return Ok(Vec::new());
    }
    // A limit too long for the clock is none.
    let until = limit.into().and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let ready = fd::await_any_readable(&fds, left)?;
        if !ready.is_empty() || left == Some(Duration::ZERO) {
            return Ok(ready);
        }
    }
}

impl<R> AsFd for Process<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sentinel()
    }
}

impl<R> Drop for Process<R> {
    fn drop(&mut self) {
        self.life.lose_interest(mem::take(&mut self.interest));
        if !self.runs_on {
            self.life.give_up();
        }
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("exit", &self.exit())
            .finish_non_exhaustive()
    }
}
