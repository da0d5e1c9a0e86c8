//! Where calls wait for whoever has the pool's lock next, so that whoever makes one after
//! the other, while the driver sends and takes in what came before, does not wait for the
//! lock, nor the driver for them.
//!
//! Who has a ticket waits here. There are tickets while a call that comes changes nothing
//! but the queue's length, whenever it is taken in; and while the driver is at work, as long
//! as no worker is without a task: it takes in what has come before it rests. So nobody has
//! to be told of a call here. Whoever has the lock takes in what waits before anything else,
//! and closes the entrance, where nobody comes in any more, before what it does makes a
//! difference to who waits here.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::Call;
use super::effects::Effects;
use super::{Core, QueuePlace, Supervisor};
use crate::id::TaskId;
use crate::limits::TICKETS_MOST;
use crate::observe::Meter;
use crate::sched::{Entrant, TaskKey, Terms, Ticket};
use crate::sys::clock::monotonic_nanos;
use crate::time::Time;

/// Tickets that are given out at first. Whoever finds none takes the lock.
const TICKETS_FIRST: usize = 32;

/// Whether calls may wait while nobody is at work: a recorder of metrics has to be told of
/// each, for which the lock is taken in any case.
const MAY_BE_LEFT: bool = !Meter::LISTENS;

/// Calls that wait, and tickets for more. Its lock is held for a few moves only; it comes
/// after the pool's.
#[derive(Debug, Default)]
pub(super) struct Entrance(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Calls that have got an id.
    named: u64,
    tickets: Vec<Ticket>,
    calls: Vec<Entry>,
}

impl State {
    /// In the order in which calls are queued.
    fn next_id(&mut self) -> TaskId {
        self.named += 1;
        TaskId(self.named)
    }
}

/// A call that waits.
#[derive(Debug)]
struct Entry {
    entrant: Entrant<Call>,
    /// There was no place in the queue for it.
    is_overdrawn: bool,
}

/// What whoever has the pool's lock knows of its entrance.
#[derive(Debug, Default)]
pub(super) struct Porter {
    /// The driver is at work.
    at_work: bool,
    /// Tickets that are out, or calls that came with one. 0: the entrance is closed.
    out: usize,
    /// Tickets that were enough the last time.
    enough: usize,
    /// Calls were taken in, and nobody has looked yet who could be given them.
    entered: bool,
    /// Tickets for next time.
    tickets: Vec<Ticket>,
    /// Room for calls.
    calls: Vec<Entry>,
}

impl Entrance {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    /// Lets a call wait, if that is all that it can do now; else gives it back.
    pub(super) fn enter(
        &self,
        call: Call,
        terms: Terms,
        place: Option<QueuePlace>,
    ) -> Result<TaskKey, Call> {
        let mut state = self.entrance.state();
        let Some(ticket) = state.tickets.pop() else { return Err(call) };
        let id = state.next_id();
        let is_overdrawn = place == Some(QueuePlace::Any) && !self.try_admit();
        let entrant = Entrant::new(ticket, id, call, terms);
        let key = entrant.key();
        state.calls.push(Entry { entrant, is_overdrawn });
        Ok(key)
    }

    pub(super) fn next_task(&self) -> TaskId {
        self.entrance.state().next_id()
    }
}

impl Supervisor {
    /// The driver begins to look at what there is.
    pub(super) fn begin_work(&self) {
        let mut core = self.core();
        core.porter.at_work = true;
        core.open_entrance(&self.entrance);
    }

    /// The driver is about to rest, and takes in what has come.
    pub(super) fn end_work(self: &Arc<Self>) {
        let mut effects = Effects::default();
        let mut core = self.core();
        core.porter.at_work = false;
        if core.porter.out == 0 {
            return;
        }
        core.perform(self, &mut effects);
        drop(core);
        effects.run(self);
    }
}

impl Core {
    /// Takes in what waits. To be called before anything else, as soon as one has the lock.
    pub(super) fn take_in(&mut self, entrance: &Entrance) {
        if self.porter.out == 0 {
            return;
        }
        mem::swap(&mut entrance.state().calls, &mut self.porter.calls);
        let came = self.note_entries();
        self.porter.entered |= came > 0;
        for entry in self.porter.calls.drain(..) {
            self.sched.handle_entry(entry.entrant);
        }
        self.porter.out -= came;
        // As many again, and twice as many where those were not enough.
        self.porter.enough = (2 * came).max(self.porter.enough).min(TICKETS_MOST);
        self.give_tickets();
    }

    /// Whether who comes in may wait.
    fn may_wait(&self) -> bool {
        if self.porter.at_work {
            self.sched.is_busy()
        } else {
            MAY_BE_LEFT && self.sched.only_queues()
        }
    }

    /// Gives what was taken in to workers.
    pub(super) fn hand_out(&mut self) {
        if mem::take(&mut self.porter.entered) {
            let now = Time(monotonic_nanos());
            self.sched.handle_entered(now, &[], &self.links);
        }
    }

    /// Closes the entrance if whoever comes now could get a worker, or an end.
    pub(super) fn close_entrance_if_due(&mut self, entrance: &Entrance) {
        if self.porter.out == 0 || self.may_wait() {
            return;
        }
        let mut state = entrance.state();
        let mut tickets = mem::take(&mut state.tickets);
        self.porter.calls = mem::take(&mut state.calls);
        drop(state);
        tickets.append(&mut self.porter.tickets);
        let came = self.note_entries();
        let calls = mem::take(&mut self.porter.calls).into_iter();
        let tasks: Vec<_> = calls.map(|entry| self.sched.handle_entry(entry.entrant)).collect();
        if came > 0 {
            let now = Time(monotonic_nanos());
            self.sched.handle_entered(now, &tasks, &self.links);
        }
        tickets.into_iter().for_each(|ticket| self.sched.handle_return(ticket));
        // Fewer where there was no need of so many.
        self.porter.enough = (2 * came).max(self.porter.enough / 2);
        self.porter.out = 0;
    }

    /// Opens the entrance if that is worth while, or lets more come in.
    pub(super) fn open_entrance(&mut self, entrance: &Entrance) {
        let opens = self.porter.out == 0
            && (MAY_BE_LEFT && self.sched.is_backed_up()
                || self.porter.at_work && self.sched.is_in_demand());
        if opens {
            self.give_tickets();
        }
        if !self.porter.tickets.is_empty() {
            entrance.state().tickets.append(&mut self.porter.tickets);
        }
    }

    /// Counts what has come.
    fn note_entries(&mut self) -> usize {
        let came = self.porter.calls.len();
        if came > 0 {
            self.counts.submitted += came as u64;
            self.overdraft += self.porter.calls.iter().filter(|call| call.is_overdrawn).count();
            self.pace.handle_submit(false);
            self.note_unheard(came as u32);
        }
        came
    }

    /// Prepares tickets.
    fn give_tickets(&mut self) {
        let most = self.porter.enough.clamp(TICKETS_FIRST, TICKETS_MOST);
        while self.porter.out < most {
            self.porter.tickets.push(self.sched.give_ticket());
            self.porter.out += 1;
        }
    }
}
