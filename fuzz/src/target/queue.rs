//! `queue`: processes that share a queue, one of which writes into its memory what it
//! likes, whenever it likes. Nobody panics, leaves the ring, takes more than there is or
//! goes round for ever; and where nobody scribbles, it is a list.
//!
//! What is here in the order of `channel::store::operation` is bound to memory and system
//! calls there. If that changes, change it here.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use arbitrary::{Arbitrary, Unstructured};

use crate::queue_state::{
    Corrupt, Front, HEADER_BYTES, Header, Lease, NotPut, Outcome, QUEUE_LEASES, RING_PAGE_BYTES,
    STATE_WORDS, State, Terms, pieces,
};

/// Positions and numbers beyond this make the next operation fail.
const POSITION_MAX: u64 = 1 << 62;

/// Where they are among the words of a state.
const BASE: usize = 0;
const TAIL: usize = 2;
const NEXT: usize = 4;

#[derive(Arbitrary, Debug)]
struct Plan {
    /// Of the ring, in pages.
    pages: u16,
    /// What the terms are, where that is asked for.
    terms: [u64; 3],
    own_terms: bool,
    items_max: u8,
    kind: u8,
    /// Somebody scribbles.
    is_hostile: bool,
    seed: u64,
}

#[derive(Arbitrary, Debug)]
enum Act {
    Put { len: u32, attached: u8 },
    Get,
    Take,
    Finish { which: u8, is_spoilt: bool },
    Die { which: u8 },
    TaskDone,
    Join,
    WaitForSpace { record: u32 },
    WaitForItems,
    Close,
    Scribble(Scribble),
}

#[derive(Arbitrary, Debug)]
enum Scribble {
    State {
        which: bool,
        word: u8,
        to: u64,
    },
    Nudge {
        which: bool,
        word: u8,
        by: i8,
    },
    Turn(u64),
    Lease {
        lease: u8,
        at: u64,
        number: u64,
        record: u64,
        bits: u8,
    },
    Header {
        at: u64,
        bytes: [u8; HEADER_BYTES as usize],
    },
    /// From here on, what stands in leases and before items changes between two looks.
    Flicker,
}

pub fn queue(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(plan) = Plan::arbitrary(&mut data) else { return };
    let words = if plan.own_terms {
        plan.terms
    } else {
        let items_max = if plan.items_max == 0 { u64::MAX } else { plan.items_max.into() };
        [(u64::from(plan.pages) + 1) * RING_PAGE_BYTES, items_max, u64::from(plan.kind % 3)]
    };
    let Ok(terms) = Terms::from_words(words) else { return };
    assert_eq!(terms.to_words(), words);
    let mut shared = Shared::new(terms, plan.seed);
    let mut honest = (!plan.is_hostile).then(Ledger::default);
    while let Ok(act) = Act::arbitrary(&mut data) {
        if let Act::Scribble(scribble) = act {
            if honest.is_none() {
                shared.scribble(scribble);
            }
            continue;
        }
        let done = shared.act(&act, honest.as_mut());
        assert!(done.is_ok() || honest.is_none(), "{act:?}: {done:?}");
        if data.is_empty() {
            break;
        }
    }
}

/// What an honest queue is, beside it.
#[derive(Default)]
struct Ledger {
    queued: VecDeque<(u64, u64)>,
    held: BTreeMap<usize, (u64, u64)>,
}

struct Shared {
    terms: Terms,
    states: [[u64; STATE_WORDS]; 2],
    turn: u64,
    closed: bool,
    leases: Vec<Lease>,
    /// What the kernel says of each: nobody can write that.
    locked: [bool; QUEUE_LEASES],
    /// Headers of items, by where they lie in the ring.
    headers: BTreeMap<u64, [u8; HEADER_BYTES as usize]>,
    flickers: bool,
    noise: Cell<u64>,
}

const NO_LEASE: Lease =
    Lease { is_done: false, is_spoilt: false, is_laden: false, at: 0, number: 0, record: 0 };

impl Shared {
    fn new(terms: Terms, seed: u64) -> Shared {
        let words = State::default().wait_for_items().to_words();
        Shared {
            terms,
            states: [words; 2],
            turn: 0,
            closed: false,
            leases: vec![NO_LEASE; QUEUE_LEASES],
            locked: [false; QUEUE_LEASES],
            headers: BTreeMap::new(),
            flickers: false,
            noise: Cell::new(seed | 1),
        }
    }

    /// Another number each time.
    fn noise(&self) -> u64 {
        let mut noise = self.noise.get();
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        self.noise.set(noise);
        noise
    }

    /// What is there, or what somebody has just written over it.
    fn seen(&self, known: u64) -> u64 {
        if !self.flickers {
            return known;
        }
        let state = self.states[(self.turn & 1) as usize];
        match self.noise() % 8 {
            0 => state[BASE],
            1 => state[1],
            2 => state[TAIL],
            3 => known.wrapping_add(1),
            4 => known.wrapping_sub(1),
            5 => self.noise(),
            _ => known,
        }
    }

    fn lease(&self, lease: usize) -> Lease {
        let known = self.leases[lease];
        let (at, number) = (self.seen(known.at), self.seen(known.number));
        Lease { at, number, record: self.seen(known.record), ..known }
    }

    fn scribble(&mut self, scribble: Scribble) {
        match scribble {
            Scribble::State { which, word, to } => {
                self.states[usize::from(which)][usize::from(word) % STATE_WORDS] = to;
            }
            Scribble::Nudge { which, word, by } => {
                let word = &mut self.states[usize::from(which)][usize::from(word) % STATE_WORDS];
                *word = word.wrapping_add_signed(by.into());
            }
            Scribble::Turn(turn) => self.turn = turn,
            Scribble::Lease { lease, at, number, record, bits } => {
                let is_set = |bit: u8| bits & bit != 0;
                let (is_done, is_spoilt, is_laden) = (is_set(1), is_set(2), is_set(4));
                self.leases[usize::from(lease)] =
                    Lease { is_done, is_spoilt, is_laden, at, number, record };
            }
            Scribble::Header { at, bytes } => {
                self.headers.insert(at % self.terms.ring_bytes, bytes);
            }
            Scribble::Flicker => self.flickers = true,
        }
    }

    /// The lock is taken.
    fn begin(&self) -> Result<State, Corrupt> {
        let words = &self.states[(self.turn & 1) as usize];
        let state = State::from_words(words).closed_if(self.closed);
        // What is asked without a check, and without the lock.
        let _ = (state.len(), state.is_full(&self.terms), state.put_and_taken());
        state.check(&self.terms)?;
        Ok(state)
    }

    fn make(&mut self, next: State) -> State {
        let words = next.to_words();
        let is_at_the_end = words[TAIL] > POSITION_MAX || words[NEXT] > POSITION_MAX;
        let checked = next.check(&self.terms);
        assert!(checked.is_ok() || is_at_the_end, "{checked:?}: {next:?}");
        self.turn = self.turn.wrapping_add(1);
        self.states[(self.turn & 1) as usize] = words;
        next
    }

    fn act(&mut self, act: &Act, ledger: Option<&mut Ledger>) -> Result<(), Corrupt> {
        match *act {
            Act::Put { len, attached } => {
                let most = self.terms.record_bytes_max() - HEADER_BYTES;
                let record = HEADER_BYTES + u64::from(len) % (most + 1).min(1 << 32);
                self.put(record, attached, ledger)
            }
            Act::Get => self.get(false, ledger),
            Act::Take => self.get(self.terms.to_words()[2] != 0, ledger),
            Act::Finish { which, is_spoilt } => {
                if let Some(lease) = self.some_lease(which) {
                    self.leases[lease].is_done = true;
                    self.leases[lease].is_spoilt |= is_spoilt;
                    self.locked[lease] = false;
                    if let Some(ledger) = ledger {
                        ledger.held.remove(&lease);
                    }
                }
                Ok(())
            }
            Act::Die { which } => {
                let Some(lease) = self.some_lease(which) else { return Ok(()) };
                self.locked[lease] = false;
                if let Some(ledger) = ledger {
                    let item = ledger.held.remove(&lease).expect("it was locked");
                    if self.terms.to_words()[2] == 2 && !self.leases[lease].is_laden {
                        let at = ledger.queued.partition_point(|other| other.0 < item.0);
                        ledger.queued.insert(at, item);
                    }
                    let state = self.begin()?;
                    self.sweep(state, true)?;
                }
                Ok(())
            }
            Act::TaskDone => {
                let state = self.begin()?;
                if let Some((next, _)) = state.task_done() {
                    self.make(next);
                }
                Ok(())
            }
            Act::Join => {
                let state = self.begin()?;
                let state = self.sweep(state, true)?;
                if self.terms.to_words()[2] != 0 && state.unfinished() > 0 {
                    let state = self.make(state.wait_for_end());
                    self.sweep(state, false)?;
                }
                Ok(())
            }
            Act::WaitForSpace { record } => {
                let state = self.begin()?;
                let record = HEADER_BYTES + u64::from(record);
                let (next, _) = state.wait_for_space(&self.terms, record);
                self.make(next);
                Ok(())
            }
            Act::WaitForItems => {
                let state = self.begin()?;
                self.make(state.wait_for_items());
                Ok(())
            }
            Act::Close => {
                self.closed = true;
                Ok(())
            }
            Act::Scribble(_) => Ok(()),
        }
    }

    fn some_lease(&self, which: u8) -> Option<usize> {
        let mut leases = (0..QUEUE_LEASES).filter(|lease| self.locked[*lease]);
        let count = leases.clone().count();
        leases.nth(usize::from(which) % count.max(1))
    }

    fn put(
        &mut self,
        record: u64,
        attached: u8,
        ledger: Option<&mut Ledger>,
    ) -> Result<(), Corrupt> {
        let mut state = self.begin()?;
        let mut put = state.put(&self.terms, record);
        if put == Err(NotPut::Full) && !state.held().is_empty() {
            state = self.sweep(state, true)?;
            put = state.put(&self.terms, record);
        }
        let (next, place) = match put {
            Ok(put) => put,
            Err(NotPut::Closed) => return Ok(()),
            Err(NotPut::Full) => {
                let (next, _) = state.wait_for_space(&self.terms, record);
                self.make(next);
                return Ok(());
            }
        };
        assert!(next.len() <= self.terms.items_max);
        let (memory, others) = (u16::from(attached >> 6), u16::from(attached & 1));
        if let Some(reaching) = state.reaching(&next, memory + others > 0) {
            self.make(reaching);
        }
        // What is needed is not written over.
        let base = state.to_words()[BASE];
        assert!(place.at + record - base <= self.terms.ring_bytes);
        for piece in self.pieces(place.at..place.at + record) {
            let over: Vec<u64> = self.headers.range(piece).map(|(at, _)| *at).collect();
            for at in over {
                self.headers.remove(&at);
            }
        }
        let len = (record - HEADER_BYTES) as u32;
        let header = Header { len, memory, others, number: place.number, mark: 1 };
        self.headers.insert(place.at % self.terms.ring_bytes, header.to_bytes());
        self.make(next);
        if let Some(ledger) = ledger {
            ledger.queued.push_back((place.number, record));
        }
        Ok(())
    }

    fn get(&mut self, is_held: bool, mut ledger: Option<&mut Ledger>) -> Result<(), Corrupt> {
        let state = self.begin()?;
        let mut state = self.sweep(state, false)?;
        let mut was_swept = false;
        loop {
            let front = state.front(&|lease| self.lease(lease).number);
            let taken = match front {
                Some(front) => self.take(&state, front, is_held, ledger.as_deref_mut())?,
                None => None,
            };
            if let Some(next) = taken {
                self.give_back(next);
                return Ok(());
            }
            if !state.held().is_empty() && !was_swept {
                was_swept = true;
                state = self.sweep(state, true)?;
                continue;
            }
            if let (None, Some(ledger)) = (front, ledger) {
                assert!(ledger.queued.is_empty(), "{:?}", ledger.queued);
            }
            if front.is_none() {
                if state.has_only_strays() {
                    state = state.without_strays();
                    self.make(state);
                }
                self.make(state.wait_for_items());
            }
            return Ok(());
        }
    }

    fn take(
        &mut self,
        state: &State,
        front: Front,
        is_held: bool,
        ledger: Option<&mut Ledger>,
    ) -> Result<Option<State>, Corrupt> {
        let (at, number, most) = match front {
            Front::Queued { at, number, most } => (at, number, most),
            Front::Returned { lease } => {
                let lease = self.lease(lease);
                (lease.at, lease.number, state.most_at(lease.at)?.min(lease.record))
            }
        };
        let lease = match (is_held, front) {
            (false, _) => None,
            (true, Front::Returned { lease }) => Some(lease).filter(|lease| !self.locked[*lease]),
            (true, Front::Queued { .. }) => {
                (0..QUEUE_LEASES).find(|lease| state.is_free(*lease) && !self.locked[*lease])
            }
        };
        if is_held && lease.is_none() {
            return Ok(None);
        }
        let header = self.read(at, number, most)?;
        let record = header.record_bytes();
        if let Some(lease) = lease {
            let is_laden = header.attached() > 0;
            self.leases[lease] =
                Lease { is_done: false, is_spoilt: false, is_laden, at, number, record };
        }
        let positions = |lease| self.lease(lease).at;
        let (next, _) = match front {
            Front::Queued { .. } => state.take(&self.terms, record, lease, &positions)?,
            Front::Returned { lease: old } => {
                state.take_returned(&self.terms, old, is_held, &positions)?
            }
        };
        if let Some(lease) = lease {
            self.locked[lease] = true;
        }
        if let Some(ledger) = ledger {
            let item = ledger.queued.pop_front();
            assert_eq!(item, Some((number, record)));
            if let Some(lease) = lease {
                ledger.held.insert(lease, (number, record));
            }
        }
        Ok(Some(self.make(next)))
    }

    /// Reads an item that is no longer than `most`.
    fn read(&self, at: u64, number: u64, most: u64) -> Result<Header, Corrupt> {
        assert!(most <= self.terms.ring_bytes);
        if most < HEADER_BYTES {
            return Err(Corrupt("an item is shorter than it can be"));
        }
        self.pieces(at..at + most);
        let known = self.headers.get(&(at % self.terms.ring_bytes));
        let mut bytes = known.copied().unwrap_or_default();
        if self.flickers && self.noise() % 4 == 0 {
            bytes[(self.noise() % HEADER_BYTES) as usize] = self.noise() as u8;
        }
        let header = Header::from_bytes(&bytes);
        if header.number != number || header.record_bytes() > most {
            return Err(Corrupt("an item is not the one that it should be"));
        }
        Ok(header)
    }

    fn sweep(&mut self, state: State, the_dead_too: bool) -> Result<State, Corrupt> {
        let positions = |lease| self.lease(lease).at;
        let mut next = state;
        for lease in state.held().iter() {
            let known = self.lease(lease);
            let outcome = match known {
                Lease { is_done: true, is_spoilt: true, .. } => Outcome::Lost,
                Lease { is_done: true, .. } => Outcome::Done,
                _ if !the_dead_too || self.locked[lease] => continue,
                Lease { is_laden: true, .. } => Outcome::Lost,
                _ => Outcome::PutBack,
            };
            (next, _) = next.settle_lease(&self.terms, lease, outcome, &positions)?;
        }
        Ok(if next == state { state } else { self.make(next) })
    }

    fn give_back(&mut self, state: State) {
        let Some(spare) = state.spare() else { return };
        for piece in self.pieces(spare.clone()) {
            assert!(piece.start % RING_PAGE_BYTES == 0 && piece.end % RING_PAGE_BYTES == 0);
        }
        let words = state.to_words();
        // Nothing of what is needed goes: that is from the base on, and what lies a whole
        // ring before the tail is written over already.
        if words[TAIL] != 0 {
            assert!(spare.end <= words[BASE]);
            assert!(spare.start + self.terms.ring_bytes >= words[TAIL]);
        }
        self.make(state.without(&spare));
    }

    /// Where these positions lie, which is within the ring.
    fn pieces(&self, range: Range<u64>) -> [Range<u64>; 2] {
        let ring = self.terms.ring_bytes;
        assert!(range.end >= range.start && range.end - range.start <= ring, "{range:?}");
        let pieces = pieces(&range, ring);
        let lens = pieces.clone().map(|piece| {
            assert!(piece.end <= ring);
            piece.end - piece.start
        });
        assert_eq!(lens.iter().sum::<u64>(), range.end - range.start);
        pieces
    }
}
