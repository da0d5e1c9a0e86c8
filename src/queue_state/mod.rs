//! What a queue between processes is made of, and what each operation makes of
//! it. A [`State`] is a plain value: every operation takes one and returns the
//! next, so that whoever is killed has either changed all of it or nothing.
//! `channel::store` reads it, writes it and does what it says with the bytes.
//!
//! ```text
//!  base        head                       tail
//!   │ held by   │ queued                   │
//!   ▼ leases    ▼                          ▼
//! ──┬───┬───┬───┬───────┬───────┬──────────┬── … a ring of bytes
//!   │ 1 │ 2 │ 3 │ 4     │ 5     │ 6        │
//! ──┴───┴───┴───┴───────┴───────┴──────────┴──
//! ```
//!
//! Positions only grow, until nothing is left: then they are 0 again, so that a
//! short queue uses the same memory all the time. Where a position lies in the
//! ring is its remainder.
//!
//! Nothing that is read is trusted: a process that was taken over can write
//! whatever it likes. [`State::check`] comes before everything else.

mod leases;
#[cfg(test)]
mod tests;
mod written;

use std::fmt;
use std::ops::Range;

pub(crate) use self::leases::{Lease, LeaseSet};
pub(crate) use self::written::{HEADER_BYTES, Header, STATE_WORDS};

/// A queue gives back the memory of what was taken whenever it is so much: to do
/// it after each item would take longer than all else.
pub(crate) const QUEUE_SPARE_BYTES: u64 = 1 << 20;

/// How many items of a joinable queue may be held at a time: each takes a record,
/// and a lock that the kernel keeps.
pub(crate) const QUEUE_LEASES: usize = 256;

/// A queue's ring is whole pages, in which memory is given back.
pub(crate) const RING_PAGE_BYTES: u64 = 4096;

/// Positions beyond this are nobody's who counts bytes.
const POSITION_MAX: u64 = 1 << 62;

/// What was agreed on when the queue was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// Length of the ring, in whole pages.
    pub(crate) ring_bytes: u64,
    /// How many items it may hold.
    pub(crate) items_max: u64,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An item is over when it was taken.
    Plain,
    /// And here when somebody says so.
    Joinable {
        /// Items whose holder died are put back.
        requeue: bool,
    },
}

impl Terms {
    /// Longest item, with its header. Whoever must wait for room for one then
    /// needs no more than half of the others to go.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        self.ring_bytes / 2
    }

    fn requeues(&self) -> bool {
        self.kind == Kind::Joinable { requeue: true }
    }
}

/// No queue that is handled as it should be is ever like that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Corrupt(pub(crate) &'static str);

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// All that changes with an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct State {
    /// Before it nothing is needed any more.
    base: u64,
    /// Where the first item that is queued begins.
    head: u64,
    /// Where the next one will.
    tail: u64,
    /// Items between head and tail.
    count: u64,
    /// Number of the next item. No two have the same.
    next: u64,
    /// Items that were put and are not done; of a plain queue none.
    unfinished: u64,
    /// Items whose holder died with them.
    lost: u64,
    /// Memory before this position was given back.
    punched: u64,
    /// Memory of the ring from here on was never used, or given back.
    extent: u64,
    /// Nothing can be put any more. Stands by itself, since it only ever becomes
    /// true.
    closed: bool,
    /// Somebody waits for an item: the next one that comes is to be told of.
    hungry: bool,
    /// The least room that somebody waits for, or 0: they are to be told when there
    /// is so much.
    wanted: u64,
    /// The room of which they were told last, and their bell still rings; or 0. Who
    /// wanted more must not silence it while those have yet to come.
    called: u64,
    /// Somebody waits until all is done.
    joining: bool,
    /// Descriptors were on their way beside the queue when this began to count: if it
    /// still does, their item was not put, and nobody will take them.
    strays: bool,
    /// Items that somebody holds.
    held: LeaseSet,
    /// Items that were put back. They come before all that is queued.
    returned: LeaseSet,
}

/// Why nothing was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotPut {
    Closed,
    /// For now.
    Full,
}

/// Where an item goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) number: u64,
    /// Those who wait for items are to be woken, before the state counts.
    pub(crate) wakes: bool,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Front {
    /// The first item in the ring, which is no longer than `most`, header
    /// included.
    Queued { at: u64, number: u64, most: u64 },
    /// One that was put back.
    Returned { lease: usize },
}

/// What goes with a new state: who is to be woken before it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wakes {
    /// Those who wait for room.
    pub(crate) space: bool,
    /// Those who wait for items.
    pub(crate) items: bool,
    /// Those who wait until all is done.
    pub(crate) joiners: bool,
}

impl Wakes {
    pub(crate) fn and(self, more: Wakes) -> Wakes {
        Wakes {
            space: self.space | more.space,
            items: self.items | more.items,
            joiners: self.joiners | more.joiners,
        }
    }
}

/// What is left to say of an item of a joinable queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done,
    /// Its holder died.
    Lost,
    /// And it can be taken again.
    PutBack,
}

/// Where the items that are held, or were put back, lie. Asked of what was
/// written down about them, so the answer can be anything.
pub(crate) type Positions<'a> = &'a dyn Fn(usize) -> u64;

impl State {
    /// Whether a queue can be like that. After this no operation overflows, and
    /// none leaves the ring.
    pub(crate) fn check(&self, terms: &Terms) -> Result<(), Corrupt> {
        let wrong = |what| Err(Corrupt(what));
        let State { base, head, tail, .. } = *self;
        if !(self.punched <= base && base <= head && head <= tail && tail <= POSITION_MAX) {
            return wrong("its positions are out of order");
        }
        // Whatever was not given back fits into the ring.
        if tail - self.punched > terms.ring_bytes || self.extent > terms.ring_bytes {
            return wrong("it holds more than fits into it");
        }
        if self.count > (tail - head) / HEADER_BYTES || (self.count == 0) != (head == tail) {
            return wrong("it counts items that are not there");
        }
        if self.next < self.count || self.next > POSITION_MAX {
            return wrong("its items have no numbers");
        }
        if self.held.intersects(&self.returned) {
            return wrong("an item is held and was put back");
        }
        let apart = self.held.len() + self.returned.len();
        let books = match terms.kind {
            Kind::Plain => apart == 0 && self.unfinished == 0 && self.lost == 0 && !self.joining,
            Kind::Joinable { .. } => {
                self.count + apart <= self.unfinished && self.unfinished <= POSITION_MAX
            }
        };
        if !books || self.lost > POSITION_MAX {
            return wrong("its books are not in balance");
        }
        if !terms.requeues() && (base != head || !self.returned.is_empty()) {
            return wrong("it keeps what it does not put back");
        }
        Ok(())
    }

    /// Items that can be taken.
    pub(crate) fn len(&self) -> u64 {
        self.count.saturating_add(self.returned.len())
    }

    pub(crate) fn is_full(&self, terms: &Terms) -> bool {
        let used = self.tail.saturating_sub(self.base);
        let free = terms.ring_bytes.saturating_sub(used);
        self.len() >= terms.items_max || free <= HEADER_BYTES
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether items may still be put back.
    pub(crate) fn may_return(&self, terms: &Terms) -> bool {
        terms.requeues() && !self.held.is_empty()
    }

    /// Whether somebody waits for room, or until all is done.
    pub(crate) fn is_waited_on(&self) -> Wakes {
        Wakes { space: self.wanted != 0, items: self.hungry, joiners: self.joining }
    }

    /// How many items were put, and how many of them taken.
    pub(crate) fn put_and_taken(&self) -> (u64, u64) {
        (self.next, self.next.saturating_sub(self.len()))
    }

    /// Whether a lease is neither held nor kept for what was put back.
    pub(crate) fn is_free(&self, lease: usize) -> bool {
        !self.held.contains(lease) && !self.returned.contains(lease)
    }

    /// Items that were put and are not done.
    pub(crate) fn unfinished(&self) -> u64 {
        self.unfinished
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn held(&self) -> &LeaseSet {
        &self.held
    }

    /// One more item of so many bytes, header included.
    pub(crate) fn put(&self, terms: &Terms, record: u64) -> Result<(State, Place), NotPut> {
        if self.closed {
            return Err(NotPut::Closed);
        }
        if !self.fits(terms, record) {
            return Err(NotPut::Full);
        }
        let tail = self.tail + record;
        // Where the ring begins anew, memory that was not given back is used
        // again.
        let punched = self.punched.max(tail.saturating_sub(terms.ring_bytes));
        let end = match (self.tail / terms.ring_bytes, (tail - 1) / terms.ring_bytes) {
            (first, last) if first == last => (tail - 1) % terms.ring_bytes + 1,
            _ => terms.ring_bytes,
        };
        let next = State {
            tail,
            punched,
            extent: self.extent.max(end),
            count: self.count + 1,
            next: self.next + 1,
            unfinished: self.unfinished + u64::from(terms.kind != Kind::Plain),
            hungry: false,
            ..*self
        };
        Ok((next, Place { at: self.tail, number: self.next, wakes: self.hungry }))
    }

    /// What must count before the bytes of an item are written, and its descriptors
    /// sent if it `is_laden`, after which `next` will: whoever is killed meanwhile leaves
    /// memory, and descriptors, that somebody must know of.
    pub(crate) fn reaching(&self, next: &State, is_laden: bool) -> Option<State> {
        let reaching = State { extent: next.extent, strays: self.strays | is_laden, ..*self };
        (reaching != *self).then_some(reaching)
    }

    /// Whether nothing is queued, and there may be descriptors of nothing.
    pub(crate) fn has_only_strays(&self) -> bool {
        self.strays && self.count == 0
    }

    /// There are none any more.
    pub(crate) fn without_strays(&self) -> State {
        State { strays: false, ..*self }
    }

    /// What comes next, if anything does.
    pub(crate) fn front(&self, numbers: Positions<'_>) -> Option<Front> {
        if let Some(lease) = self.returned.iter().min_by_key(|lease| numbers(*lease)) {
            return Some(Front::Returned { lease });
        }
        (self.count > 0).then(|| Front::Queued {
            at: self.head,
            number: self.next - self.count,
            // Those behind it have headers, too.
            most: self.tail - self.head - (self.count - 1) * HEADER_BYTES,
        })
    }

    /// Length that an item at a position can have, of those that were put back.
    pub(crate) fn most_at(&self, at: u64) -> Result<u64, Corrupt> {
        if !(self.base..self.head).contains(&at) {
            return Err(Corrupt("an item was put back that is not there"));
        }
        Ok(self.head - at)
    }

    /// Takes the first item in the ring, of so many bytes, out of the queue; or
    /// leaves it where it is, for the holder of `lease`.
    pub(crate) fn take(
        &self,
        terms: &Terms,
        record: u64,
        lease: Option<usize>,
        positions: Positions<'_>,
    ) -> Result<(State, Wakes), Corrupt> {
        let most = self.tail - self.head - self.count.saturating_sub(1) * HEADER_BYTES;
        // Items lie end to end: of the last one the end is known.
        if self.count == 0 || record > most || (self.count == 1 && record != most) {
            return Err(Corrupt("an item is longer than it can be"));
        }
        let (head, count) = (self.head + record, self.count - 1);
        let mut next = State { head, count, ..*self };
        let at = self.head;
        if let Some(lease) = lease {
            next.held.insert(lease);
        }
        let positions = |other| if lease == Some(other) { at } else { positions(other) };
        next.settle(terms, &positions)
    }

    /// Takes one that was put back; for good, or for the holder of its lease.
    pub(crate) fn take_returned(
        &self,
        terms: &Terms,
        lease: usize,
        is_held: bool,
        positions: Positions<'_>,
    ) -> Result<(State, Wakes), Corrupt> {
        let mut next = *self;
        next.returned.remove(lease);
        if is_held {
            next.held.insert(lease);
        }
        next.settle(terms, positions)
    }

    /// An item of this queue was dealt with. `None` if there is none of which
    /// that was not said.
    pub(crate) fn task_done(&self) -> Option<(State, Wakes)> {
        let known = self.count + self.held.len() + self.returned.len();
        if self.unfinished <= known {
            return None;
        }
        let mut next = State { unfinished: self.unfinished - 1, ..*self };
        let wakes = Wakes { joiners: next.tell_joiners(), ..Wakes::default() };
        Some((next, wakes))
    }

    /// An item was taken that is of no use to anybody.
    pub(crate) fn write_off(&self) -> (State, Wakes) {
        match self.task_done() {
            Some((next, wakes)) => (State { lost: next.lost + 1, ..next }, wakes),
            None => (*self, Wakes::default()),
        }
    }

    /// What became of an item that was held.
    pub(crate) fn settle_lease(
        &self,
        terms: &Terms,
        lease: usize,
        outcome: Outcome,
        positions: Positions<'_>,
    ) -> Result<(State, Wakes), Corrupt> {
        let mut next = *self;
        // Somebody may wait because all leases were taken.
        let all_were_held = next.held.len() + next.returned.len() >= QUEUE_LEASES as u64;
        next.held.remove(lease);
        if outcome == Outcome::PutBack && terms.requeues() {
            next.returned.insert(lease);
        } else {
            next.unfinished -= 1;
            next.lost += u64::from(outcome != Outcome::Done);
        }
        let wakes_items = next.hungry && (all_were_held || !next.returned.is_empty());
        next.hungry &= !wakes_items;
        let joiners = next.tell_joiners();
        let (next, wakes) = next.settle(terms, positions)?;
        Ok((next, Wakes { items: wakes_items, joiners, ..wakes }))
    }

    fn tell_joiners(&mut self) -> bool {
        let tell = self.joining && self.unfinished == 0;
        self.joining &= !tell;
        tell
    }

    /// Finds out what is not needed any more.
    fn settle(
        mut self,
        terms: &Terms,
        positions: Positions<'_>,
    ) -> Result<(State, Wakes), Corrupt> {
        let mut base = self.head;
        if terms.requeues() {
            for lease in self.held.iter().chain(self.returned.iter()) {
                let at = positions(lease);
                if !(self.base..self.head).contains(&at) {
                    return Err(Corrupt("an item is held that is not there"));
                }
                base = base.min(at);
            }
        }
        self.base = base;
        if base == self.tail {
            // From the beginning again.
            (self.base, self.head, self.tail, self.punched) = (0, 0, 0, 0);
        }
        let wakes = Wakes { space: self.fits(terms, self.wanted), ..Wakes::default() };
        if wakes.space {
            (self.called, self.wanted) = (self.wanted, 0);
        }
        Ok((self, wakes))
    }

    /// As it is once the queue was closed, if it was.
    pub(crate) fn closed_if(self, closed: bool) -> State {
        State { closed, ..self }
    }

    /// Somebody is about to wait for an item. What wakes them is silent from
    /// then on, until one comes.
    pub(crate) fn wait_for_items(&self) -> State {
        State { hungry: true, ..*self }
    }

    /// Somebody is about to wait for room for an item. Whether they may silence what
    /// wakes them: not if there is room for somebody who was told so, and may not
    /// have come yet.
    pub(crate) fn wait_for_space(&self, terms: &Terms, record: u64) -> (State, bool) {
        let wanted = if self.wanted == 0 { record } else { self.wanted.min(record) };
        let others_come = self.called < record && self.fits(terms, self.called);
        let called = if others_come { self.called } else { 0 };
        (State { wanted, called, ..*self }, !others_come)
    }

    /// Whether somebody wants so much room, and there is.
    fn fits(&self, terms: &Terms, record: u64) -> bool {
        let free = terms.ring_bytes.saturating_sub(self.tail - self.base);
        record != 0 && record <= free && self.len() < terms.items_max
    }

    /// Somebody is about to wait until all is done.
    pub(crate) fn wait_for_end(&self) -> State {
        State { joining: true, ..*self }
    }

    /// Which memory can be given back: positions, and behind them nothing of
    /// what is needed. `None` as long as it is little.
    pub(crate) fn spare(&self) -> Option<Range<u64>> {
        let range = if self.tail == 0 {
            QUEUE_SPARE_BYTES..self.extent.next_multiple_of(RING_PAGE_BYTES)
        } else {
            self.punched.next_multiple_of(RING_PAGE_BYTES)..self.base - self.base % RING_PAGE_BYTES
        };
        let least = if self.tail == 0 { 1 } else { QUEUE_SPARE_BYTES };
        (range.end >= range.start.saturating_add(least)).then_some(range)
    }

    /// It was.
    pub(crate) fn without(&self, spare: &Range<u64>) -> State {
        if self.tail == 0 {
            State { extent: spare.start.min(self.extent), ..*self }
        } else {
            State { punched: spare.end, ..*self }
        }
    }
}

/// Where positions lie in a ring: in one piece, or in two.
pub(crate) fn pieces(range: &Range<u64>, ring_bytes: u64) -> [Range<u64>; 2] {
    let len = (range.end - range.start).min(ring_bytes);
    let start = range.start % ring_bytes;
    let first = len.min(ring_bytes - start);
    [start..start + first, 0..len - first]
}
