//! The workers of a pool as the rest of it sees them, under its lock: what is to be
//! sent to each, its page, and how it is over with it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::alarm::Alarm;
use super::call::Obituary;
use super::intake::Intake;
use crate::error::MemoryExceeded;
use crate::exit::Exit;
use crate::sched::{Place, Words, WorkerKey};
use crate::slot_word::{Phase, SlotWord};
use crate::sys::layout::Tallied;
use crate::sys::page::Page;
use crate::time::Time;
use crate::transport::Outgoing;

/// A worker as the rest of the pool sees it.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) worker: WorkerKey,
    pub(super) pid: u32,
    pub(super) page: Arc<Page>,
    /// Frames that the link has yet to take.
    pub(super) outgoing: Outgoing,
    /// The first task among them.
    pub(super) unsent_from: Option<u64>,
    pub(super) socket: Arc<OwnedFd>,
    /// The link has written all that it took, and could write more.
    pub(super) is_clear: bool,
    /// Calls the link.
    pub(super) alarm: Arc<Alarm>,
    /// Where what it says is taken in. Never locked under the pool's lock.
    pub(super) intake: Arc<Mutex<Intake>>,
    /// How long its last task took, as it says.
    pub(super) run_nanos: u64,
    /// How far its outbox was filled when it was last sent a task without any other.
    pub(super) known: u64,
    /// The outbox is worth a look.
    pub(super) probe: bool,
    pub(super) greeted: bool,
    /// What it said, before it had a task, of its sandbox.
    #[cfg(feature = "sandbox")]
    pub(super) sandbox: u64,
    /// Somebody there hears of calls.
    pub(super) listens: bool,
    /// It is over with the process.
    pub(super) end: Option<End>,
    /// The last it printed to stderr; filled in at its death.
    pub(super) stderr: String,
}

impl LinkState {
    /// Sends what has gathered without waking the link for it, if that has
    /// nothing to write before it. Returns whether nothing is left to send.
    pub(super) fn send_now(&mut self) -> bool {
        let sent = self.is_clear && self.outgoing.send_now(&self.socket);
        if sent {
            self.unsent_from = None;
        }
        sent
    }

    /// What there is to say of a worker that has just died.
    pub(super) fn obituary(&self, memory_limit: Option<u64>) -> Obituary {
        // A hostile one may say this of any end of its own, but only where there
        // is a limit, and not below that.
        let over = |limit| self.page.over_memory().filter(|resident| *resident > limit);
        let memory =
            memory_limit.and_then(|limit| Some(MemoryExceeded { limit, resident: over(limit)? }));
        Obituary { pid: self.pid, stderr: self.stderr.clone(), memory }
    }
}

/// How it is over with a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Died(Exit),
    /// It was killed, and does not die.
    Overdue,
}

/// All workers that there are processes of.
#[derive(Debug, Default)]
pub(super) struct Links {
    seats: Vec<Option<LinkState>>,
    /// Those that do not die, and their pids.
    abandoned: Vec<(WorkerKey, u32)>,
}

impl Links {
    pub(super) fn get(&self, worker: WorkerKey) -> Option<&LinkState> {
        self.seats.get(worker.seat as usize)?.as_ref().filter(|link| link.worker == worker)
    }

    pub(super) fn get_mut(&mut self, worker: WorkerKey) -> Option<&mut LinkState> {
        self.seats.get_mut(worker.seat as usize)?.as_mut().filter(|link| link.worker == worker)
    }

    pub(super) fn insert(&mut self, link: LinkState) {
        let seat = link.worker.seat as usize;
        if self.seats.len() <= seat {
            self.seats.resize_with(seat + 1, || None);
        }
        self.seats[seat] = Some(link);
    }

    /// Takes it out. Not to be dropped under the lock: arguments that it was
    /// yet to be sent may be the user's memory, with code of theirs to free it.
    pub(super) fn remove(&mut self, worker: WorkerKey) -> Option<LinkState> {
        self.get(worker)?;
        self.seats[worker.seat as usize].take()
    }

    /// As `remove`, and keeps the pid in mind.
    pub(super) fn abandon(&mut self, worker: WorkerKey) -> Option<LinkState> {
        self.abandoned.extend(self.get(worker).map(|link| (worker, link.pid)));
        self.remove(worker)
    }

    /// One that did not die is dead.
    pub(super) fn forget_abandoned(&mut self, worker: WorkerKey) {
        self.abandoned.retain(|(key, _)| *key != worker);
    }

    pub(super) fn pid(&self, worker: WorkerKey) -> Option<u32> {
        let abandoned = || self.abandoned.iter().find(|(key, _)| *key == worker);
        self.get(worker).map(|link| link.pid).or_else(|| abandoned().map(|(_, pid)| *pid))
    }

    /// What there is so far of the chunk that is in this place, if it runs there; it
    /// is cut short before that.
    pub(super) fn look_into(&self, place: Place, cut: bool) -> Option<Tallied> {
        let Place::Sent { worker, seq } = place else { return None };
        let page = &self.get(worker)?.page;
        if page.load(seq) != SlotWord::new(seq, Phase::Running) {
            return None;
        }
        let begun = cut.then(|| page.cut(seq));
        let answers = page.tallied_so_far(seq);
        match (begun, answers) {
            (None, answers) => answers,
            (Some(begun), Some(answers)) => Some(Tallied { begun, ..answers }),
            // It has just come to its end, such as that is now.
            (Some(begun), None) => Some(Tallied { begun, answered: 0, answers: Vec::new() }),
        }
    }

    /// Lets the stream that is in this place send `n` more items.
    pub(super) fn grant(&self, place: Option<Place>, n: u32) {
        if let Some(Place::Sent { worker, seq }) = place {
            if let Some(link) = self.get(worker) {
                link.page.grant(seq, n);
            }
        }
    }
}

impl Words for Links {
    fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
        self.get(worker).map_or(SlotWord::new(seq, Phase::Empty), |link| link.page.load(seq))
    }

    fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
        self.get(worker).is_some_and(|link| link.page.swap(seq, from, to).is_ok())
    }

    fn enqueue(&self, worker: WorkerKey, seq: u64) {
        if let Some(link) = self.get(worker) {
            link.page.enqueue(seq, 0);
        }
    }

    fn is_polite(&self, worker: WorkerKey, seq: u64) -> bool {
        self.get(worker).is_some_and(|link| link.page.polite(seq))
    }

    fn started_at(&self, worker: WorkerKey, seq: u64) -> Time {
        self.get(worker).map_or(Time::default(), |link| Time(link.page.started_at(seq)))
    }
}
