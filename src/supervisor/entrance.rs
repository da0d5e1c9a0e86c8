//! Where calls wait that only queue (`sched/entry.rs`): whoever makes one after the other,
//! while the driver sends and takes in what came before, does not wait for the pool's lock,
//! nor does the driver for them.
//!
//! There are tickets here as long as a call that comes changes nothing but the queue. So
//! nobody has to be told of it: whoever has the pool's lock takes in what waits before
//! anything else, and closes the entrance, where nobody comes in any more, before what it
//! does can make a difference to anybody who waits here.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::call::Call;
use super::{Core, QueuePlace, Supervisor};
use crate::id::TaskId;
use crate::sched::{Entrant, TaskKey, Terms, Ticket};
use crate::sys::clock::monotonic_nanos;
use crate::time::Time;

/// Tickets that are given out at first. Whoever finds none takes the lock.
const TICKETS_FIRST: usize = 32;

/// Most tickets that are out: what comes in the time in which a driver takes in what its
/// workers have sent.
const TICKETS_MOST: usize = 256;

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
    /// Tickets that are out, or calls that came with one. 0: the entrance is closed.
    out: usize,
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
        place: QueuePlace,
    ) -> Result<TaskKey, Call> {
        let mut state = self.entrance.state();
        let Some(ticket) = state.tickets.pop() else { return Err(call) };
        let id = state.next_id();
        let is_overdrawn = place == QueuePlace::Any && !self.try_admit();
        let entrant = Entrant::new(ticket, id, call, terms);
        let key = entrant.key();
        state.calls.push(Entry { entrant, is_overdrawn });
        Ok(key)
    }

    pub(super) fn next_task(&self) -> TaskId {
        self.entrance.state().next_id()
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
        let entries = self.porter.calls.drain(..).map(|entry| entry.entrant);
        self.sched.handle_entries(entries);
        self.porter.out -= came;
        // As many again, and twice as many where those were not enough.
        let most = (2 * came).clamp(TICKETS_FIRST, TICKETS_MOST);
        self.give_tickets(most);
    }

    /// Closes the entrance if whoever comes now could get a worker, or an end.
    pub(super) fn watch_entrance(&mut self, entrance: &Entrance) {
        if self.porter.out > 0 && !self.sched.only_queues() {
            let mut state = entrance.state();
            let mut tickets = mem::take(&mut state.tickets);
            self.porter.calls = mem::take(&mut state.calls);
            drop(state);
            tickets.append(&mut self.porter.tickets);
            self.note_entries();
            let now = Time(monotonic_nanos());
            let entries = mem::take(&mut self.porter.calls).into_iter();
            let entrants = entries.map(|entry| entry.entrant);
            self.sched.handle_last_entries(now, entrants, &self.links);
            tickets.into_iter().for_each(|ticket| self.sched.handle_return(ticket));
            self.porter.out = 0;
        }
    }

    /// Opens the entrance if that is worth while, or lets more come in.
    pub(super) fn open_entrance(&mut self, entrance: &Entrance) {
        if self.porter.out == 0 && self.sched.is_backed_up() {
            self.give_tickets(TICKETS_FIRST);
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

    /// Prepares tickets, up to so many that are out in all.
    fn give_tickets(&mut self, most: usize) {
        while self.porter.out < most {
            self.porter.tickets.push(self.sched.give_ticket());
            self.porter.out += 1;
        }
    }
}
