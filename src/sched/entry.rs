//! Tasks that come while no worker has room, or while each has a task and somebody is about
//! to look at them all: for now they only wait, so that whoever brings them need not come to
//! the scheduler. It gives out tickets for that, as long as it has nothing to decide, and
//! takes the tasks in when it next has.

use super::key::TaskKey;
use super::task::{Task, Terms};
use super::{Mode, Scheduler, Words};
use crate::id::TaskId;
use crate::time::Time;

/// So many tasks there must be, or wait, before tickets are worth while: with few it is
/// soon over.
const TASKS_LEAST: usize = 64;

/// A place that is kept for one task.
#[derive(Debug)]
pub(crate) struct Ticket(u32);

/// A task that is to be taken in, in the place that was kept for it.
#[derive(Debug)]
pub(crate) struct Entrant<T> {
    index: u32,
    task: Task<T>,
}

impl<T> Entrant<T> {
    pub(crate) fn new(ticket: Ticket, id: TaskId, data: T, terms: Terms) -> Self {
        Entrant { index: ticket.0, task: Task::new(id, data, terms) }
    }

    /// Where the task is found, once it has been taken in.
    pub(crate) fn key(&self) -> TaskKey {
        TaskKey { index: self.index, id: self.task.id }
    }
}

impl<T> Scheduler<T> {
    /// Whether a task that comes now changes nothing but the queue's length: no worker
    /// could be given it, or would be started for it.
    pub(crate) fn only_queues(&self) -> bool {
        // With fewer that wait, one more could be what another worker is needed for.
        self.full && self.tasks.queued() >= self.settings.workers && self.is_busy()
    }

    /// Whether that will be so for a while.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.tasks.queued() >= self.settings.workers + TASKS_LEAST && self.only_queues()
    }

    /// Whether a task that comes now begins no sooner for being taken in at once: all
    /// workers that there should be are there, and those that are ready have others.
    pub(crate) fn is_busy(&self) -> bool {
        let census = self.census();
        self.mode == Mode::Open
            && (self.idle.is_empty() || census.serving >= self.settings.workers)
            && census.empty == 0
    }

    /// Whether more of them are to be expected in a moment.
    pub(crate) fn is_in_demand(&self) -> bool {
        self.tasks.len() >= TASKS_LEAST && self.is_busy()
    }

    /// Keeps a place for a task.
    pub(crate) fn give_ticket(&mut self) -> Ticket {
        Ticket(self.tasks.reserve())
    }

    /// For a ticket no task will come.
    pub(crate) fn handle_return(&mut self, ticket: Ticket) {
        self.tasks.release(ticket.0);
    }

    /// Takes a task in. Once all that have come are in the queue,
    /// [`handle_entered`](Self::handle_entered) has to follow, unless they
    /// [only queue](Self::only_queues).
    pub(crate) fn handle_entry(&mut self, entrant: Entrant<T>) -> TaskKey {
        let key = entrant.key();
        self.tasks.enter(entrant.index, entrant.task);
        key
    }

    /// These tasks were taken in, last of all: they end here if the pool has come to its end
    /// before them. None have to be named while it is open.
    pub(crate) fn handle_entered(&mut self, now: Time, tasks: &[TaskKey], words: &impl Words) {
        self.welcome(now, tasks, words);
    }
}
