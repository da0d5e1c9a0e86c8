//! Answers of consecutive items that come back in any order, joined to one
//! `Vec`. Used by `map`. What comes in order, as most does, is decoded where it
//! stays; the rest waits in pieces of its own.

use std::collections::BTreeMap;

/// Memory that answers may be given before they come.
const EXPECTED_BYTES_MAX: usize = 64 << 20;

pub(super) struct Parts<R> {
    /// From the first item on, without a gap.
    joined: Vec<R>,
    /// By the position of their first.
    early: BTreeMap<usize, Vec<R>>,
    /// The memory of one of these, for the next.
    spare: Vec<R>,
}

impl<R> Default for Parts<R> {
    fn default() -> Self {
        Parts { joined: Vec::new(), early: BTreeMap::new(), spare: Vec::new() }
    }
}

impl<R> Parts<R> {
    /// Makes room for so many in all, if that is not too much to take before they
    /// are there: what grows on the way is copied again and again.
    pub(super) fn expect(&mut self, count: usize) {
        let most = EXPECTED_BYTES_MAX / size_of::<R>().max(1);
        self.joined.reserve_exact(count.min(most).saturating_sub(self.joined.len()));
    }

    /// Lets `append` add the answers from the item `first` on. What it has added
    /// before a failure belongs to no whole.
    pub(super) fn put<E>(
        &mut self,
        first: usize,
        append: impl FnOnce(&mut Vec<R>) -> Result<(), E>,
    ) -> Result<(), E> {
        if first != self.joined.len() {
            let part = self.early.entry(first).or_insert(std::mem::take(&mut self.spare));
            return append(part);
        }
        append(&mut self.joined)?;
        while let Some(mut next) = self.early.remove(&self.joined.len()) {
            self.joined.append(&mut next);
            self.spare = next;
        }
        Ok(())
    }

    /// All of them, once there is no gap.
    pub(super) fn take(&mut self) -> Vec<R> {
        debug_assert!(self.early.is_empty(), "an item has no answer");
        std::mem::take(&mut self.joined)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_order_gives_the_same(
            pieces in prop::collection::vec((1_usize..5, any::<u32>()), 0..8),
        ) {
            let mut all = 0;
            let mut pieces: Vec<_> = pieces
                .into_iter()
                .map(|(len, turn)| {
                    all += len;
                    (turn, all - len..all)
                })
                .collect();
            pieces.sort_by_key(|(turn, _)| *turn);
            let mut parts = Parts::default();
            for (_, piece) in pieces {
                let put = parts.put(piece.start, |part| {
                    part.extend(piece);
                    Ok::<_, ()>(())
                });
                prop_assert_eq!(put, Ok(()));
            }
            prop_assert_eq!(parts.take(), (0..all).collect::<Vec<_>>());
        }
    }
}
