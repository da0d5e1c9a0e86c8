//! Names of things that are never used twice: tasks and workers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One call of a task, unique within its pool and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TaskId(pub(crate) u64);

/// One worker process, unique within its pool and never reused: the worker
/// that replaces a lost one has a new id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct WorkerId(pub(crate) u64);

impl TaskId {
    /// The number behind the id. Ids count up in order of submission.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl WorkerId {
    /// The number behind the id. Ids count up in order of start.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
