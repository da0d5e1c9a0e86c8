//! How tasks and workers are found: a place in a table, and an id as proof that
//! the place is still theirs. Ids are never used twice.

use crate::id::{TaskId, WorkerId};

/// Where a task is found: its place in the table, and its id as proof that the
/// place is still its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TaskKey {
    pub(super) index: u32,
    pub(crate) id: TaskId,
}

impl TaskKey {
    /// No task was or will be there.
    pub(crate) const NOWHERE: TaskKey = TaskKey::of_none(TaskId(0));

    /// Of a task that the scheduler never has.
    pub(crate) const fn of_none(id: TaskId) -> TaskKey {
        TaskKey { index: u32::MAX, id }
    }
}

/// Where a worker is found: its seat, and its id as proof that the seat is
/// still its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct WorkerKey {
    pub(crate) seat: u32,
    pub(crate) id: WorkerId,
}
