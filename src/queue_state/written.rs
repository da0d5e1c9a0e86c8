//! How a queue stands in memory: its terms and its state as words, and what is before
//! each item. Read back without belief; [`State::check`] comes after.

use super::{Corrupt, Kind, LeaseSet, POSITION_MAX, RING_PAGE_BYTES, State, Terms};

/// What stands before an item's bytes: see [`Header`].
pub(crate) const HEADER_BYTES: u64 = 24;

/// So many words has a state that is written down.
pub(crate) const STATE_WORDS: usize = NUMBERS + 2 * LeaseSet::WORDS;

const NUMBERS: usize = 12;

const HUNGRY: u64 = 1;
const JOINING: u64 = 2;
const STRAYS: u64 = 4;

impl Terms {
    /// As words to write down.
    pub(crate) fn to_words(self) -> [u64; 3] {
        let kind = match self.kind {
            Kind::Plain => 0,
            Kind::Joinable { requeue: false } => 1,
            Kind::Joinable { requeue: true } => 2,
        };
        [self.ring_bytes, self.items_max, kind]
    }

    /// What somebody has written down.
    pub(crate) fn from_words([ring_bytes, items_max, kind]: [u64; 3]) -> Result<Terms, Corrupt> {
        let kind = match kind {
            0 => Kind::Plain,
            1 => Kind::Joinable { requeue: false },
            2 => Kind::Joinable { requeue: true },
            _ => return Err(Corrupt("it is of no kind that there is")),
        };
        let is_whole = ring_bytes > 0 && ring_bytes % RING_PAGE_BYTES == 0;
        if !is_whole || ring_bytes > POSITION_MAX || items_max == 0 {
            return Err(Corrupt("its limits are none"));
        }
        Ok(Terms { ring_bytes, items_max, kind })
    }
}

impl State {
    pub(crate) fn to_words(self) -> [u64; STATE_WORDS] {
        let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let flags =
            flag(self.hungry, HUNGRY) | flag(self.joining, JOINING) | flag(self.strays, STRAYS);
        let mut words = [0; STATE_WORDS];
        let (numbers, sets) = words.split_at_mut(NUMBERS);
        numbers.copy_from_slice(&[
            self.base,
            self.head,
            self.tail,
            self.count,
            self.next,
            self.unfinished,
            self.lost,
            self.punched,
            self.extent,
            self.wanted,
            self.called,
            flags,
        ]);
        let (held, returned) = sets.split_at_mut(LeaseSet::WORDS);
        held.copy_from_slice(&self.held.0);
        returned.copy_from_slice(&self.returned.0);
        words
    }

    /// Without a look at what it means.
    pub(crate) fn from_words(words: &[u64; STATE_WORDS]) -> State {
        let [base, head, tail, count, next, unfinished, rest @ ..] = *words;
        let [lost, punched, extent, wanted, called, flags, sets @ ..] = rest;
        let set = |from: usize| LeaseSet(std::array::from_fn(|n| sets[from + n]));
        State {
            base,
            head,
            tail,
            count,
            next,
            unfinished,
            lost,
            punched,
            extent,
            wanted,
            called,
            closed: false,
            hungry: flags & HUNGRY != 0,
            joining: flags & JOINING != 0,
            strays: flags & STRAYS != 0,
            held: set(0),
            returned: set(LeaseSet::WORDS),
        }
    }
}

/// What stands before an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Bytes after this header.
    pub(crate) len: u32,
    /// How many descriptors go beside them: of shared memory, and others.
    pub(crate) memory: u16,
    pub(crate) others: u16,
    pub(crate) number: u64,
    /// By which those are recognised.
    pub(crate) mark: u64,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.memory.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.others.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..].copy_from_slice(&self.mark.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; HEADER_BYTES as usize]) -> Header {
        let word = |from: usize| {
            u64::from_le_bytes(bytes[from..from + 8].try_into().expect("these are eight bytes"))
        };
        let first = word(0);
        let (len, memory, others) = (first as u32, (first >> 32) as u16, (first >> 48) as u16);
        Header { len, memory, others, number: word(8), mark: word(16) }
    }

    /// How many descriptors go beside it.
    pub(crate) fn attached(&self) -> usize {
        usize::from(self.memory) + usize::from(self.others)
    }

    /// Of the whole item.
    pub(crate) fn record_bytes(&self) -> u64 {
        HEADER_BYTES + u64::from(self.len)
    }
}
