//! Items of a joinable queue that somebody holds, or held.

use super::QUEUE_LEASES;

/// Numbers of leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LeaseSet(pub(super) [u64; Self::WORDS]);

impl LeaseSet {
    pub(super) const WORDS: usize = QUEUE_LEASES / 64;

    pub(crate) fn contains(&self, lease: usize) -> bool {
        self.0[lease / 64] >> (lease % 64) & 1 != 0
    }

    pub(crate) fn insert(&mut self, lease: usize) {
        self.0[lease / 64] |= 1 << (lease % 64);
    }

    pub(crate) fn remove(&mut self, lease: usize) {
        self.0[lease / 64] &= !(1 << (lease % 64));
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; Self::WORDS]
    }

    pub(crate) fn intersects(&self, other: &LeaseSet) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.0.into_iter().enumerate();
        words.flat_map(|(n, word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(n * 64 + bit)
            })
        })
    }
}

/// What is written down about an item that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    /// Its holder has no more use for it.
    pub(crate) is_done: bool,
    /// And could make nothing of it.
    pub(crate) is_spoilt: bool,
    /// Descriptors came with it, once: it cannot be taken again.
    pub(crate) is_laden: bool,
    /// Where it lies.
    pub(crate) at: u64,
    pub(crate) number: u64,
    /// Its length, header included.
    pub(crate) record: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_what_was_inserted() {
        let mut set = LeaseSet::default();
        let members = [0, 1, 63, 64, 100, 128, 191, 255];
        for lease in members {
            assert!(!set.contains(lease));
            set.insert(lease);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), members);
        assert_eq!(set.len(), 8);
        let mut other = LeaseSet::default();
        assert!(!set.intersects(&other) && other.is_empty());
        other.insert(255);
        assert!(set.intersects(&other));
        set.remove(255);
        assert!(!set.intersects(&other) && set.len() == 7);
    }
}
