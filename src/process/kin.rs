//! Which process this is, who started it, and whom it has started.

use std::os::unix::process::parent_id;

use crate::start::identity::{MAIN_NAME, birth};
use crate::start::roll;

/// This process, see [`current`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CurrentProcess {
    name: String,
    pid: u32,
    parent_pid: u32,
    is_main: bool,
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
