//! Which process this is, who started it, and whom it has started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::start::identity::{MAIN_NAME, birth};
use crate::start::{StartMethod, method, roll};
use crate::sys::fd::{self, Direction};
use crate::sys::wait;

/// This process, see [`current`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CurrentProcess {
    name: String,
    pid: u32,
    parent_pid: u32,
    is_main: bool,
    start_method: Option<StartMethod>,
}

impl CurrentProcess {
    /// Its name: `MainProcess`, unless this crate has started it. A pool's worker is
    /// named after its pool and its place there, as in `pool-0/1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The pid of its parent, or of whoever has taken it over if that is dead.
    pub fn parent_pid(&self) -> u32 {
        self.parent_pid
    }

    /// How it came to be; `None` if it was not started by this crate.
    pub fn start_method(&self) -> Option<StartMethod> {
        self.start_method
    }

    /// Whether it was not started by this crate.
    pub fn is_main(&self) -> bool {
        self.is_main
    }
}

/// The process that calls this: the program's own, one that a
/// [`Process`](crate::Process) is about, or a pool's worker.
///
/// # Examples
///
/// ```
/// let this = procession::process::current();
/// assert_eq!(this.name(), "MainProcess");
/// assert_eq!(this.pid(), std::process::id());
/// assert!(this.is_main());
/// ```
pub fn current() -> CurrentProcess {
    let birth = birth();
    CurrentProcess {
        is_main: birth.is_none(),
        name: birth.map_or_else(|| MAIN_NAME.to_owned(), |birth| birth.name.clone()),
        pid: std::process::id(),
        parent_pid: parent_id(),
        start_method: method::own(),
    }
}

/// The process that has started this one, see [`parent`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentProcess {
    name: String,
    pid: u32,
}

impl ParentProcess {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid; if it is dead, somebody else's maybe.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not ended. Only a process that is
    /// [`daemon(false)`](crate::process::ProcessBuilder::daemon) lives to see that.
    pub fn is_alive(&self) -> bool {
        // Its children are given to another one when it ends.
        parent_id() == self.pid
    }

    /// Waits until it has ended. How is only known to its own parent. Needs a tokio
    /// runtime with I/O.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn join(&self) -> io::Result<()> {
        if let Some(pidfd) = self.pidfd()? {
            #[allow(
                deprecated,
                reason = "what its successor asks of the type is so; older versions have none"
            )]
            let ended = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
            let _ = ended.readable().await?;
        }
        Ok(())
    }

    /// As [`join`](Self::join), but not for longer than `limit`. Returns whether it has
    /// ended. Needs a runtime with time, too.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn join_timeout(&self, limit: Duration) -> io::Result<bool> {
        match tokio::time::timeout(limit, self.join()).await {
            Ok(joined) => joined.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// As [`join`](Self::join), for where there is no runtime: blocks the thread.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn blocking_join(&self) -> io::Result<()> {
        self.wait(None).map(|_| ())
    }

    /// As [`blocking_join`](Self::blocking_join), but not for longer than `limit`.
    /// Returns whether it has ended.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn blocking_join_timeout(&self, limit: Duration) -> io::Result<bool> {
        self.wait(Some(limit))
    }

    fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let Some(pidfd) = self.pidfd()? else { return Ok(true) };
        // A limit too long for the clock is none.
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            fd::await_ready(pidfd.as_fd(), Direction::Read, left)?;
            // A signal handler may have run.
            if fd::is_readable(pidfd.as_fd()) {
                return Ok(true);
            }
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
        }
    }

    /// Tells of its end. `None` if that has come.
    fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let opened = wait::pidfd_open(self.pid as i32);
        // Otherwise it may be somebody else's.
        if self.is_alive() { opened.map(Some) } else { Ok(None) }
    }
}

/// The process that has started this one; `None` in the main one.
///
/// # Examples
///
/// ```
/// assert_eq!(procession::process::parent(), None);
/// ```
pub fn parent() -> Option<ParentProcess> {
    let birth = birth()?;
    Some(ParentProcess { name: birth.parent.clone(), pid: birth.parent_pid })
}

/// A child of this process, see [`active_children`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildInfo {
    name: String,
    pid: u32,
}

impl ChildInfo {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// The children of this process that live, in the order of their pids: processes,
/// detached ones among them, and workers of pools. None that something else than this
/// crate has started.
pub fn active_children() -> Vec<ChildInfo> {
    let child = |(pid, name)| ChildInfo { name, pid: pid as u32 };
    roll::alive().into_iter().map(child).collect()
}
