//! Answers of consecutive items that come back in any order, joined to one
//! `Vec`. Used by `map`. What comes in order, as most does, is decoded where it
//! stays; the rest waits in pieces of its own.

use std::collections::BTreeMap;

pub(super) struct Parts<R> {
    /// From the first item on, without a gap.
    joined: Vec<R>,
    /// By the position of their first.
    early: BTreeMap<usize, Vec<R>>,
}

impl<R> Default for Parts<R> {
    fn default() -> Self {
        Parts { joined: Vec::new(), early: BTreeMap::new() }
    }
}

impl<R> Parts<R> {
    /// Lets `append` add the answers from the item `first` on. What it has added
    /// before a failure belongs to no whole.
    pub(super) fn put<E>(
        &mut self,
        first: usize,
        append: impl FnOnce(&mut Vec<R>) -> Result<(), E>,
    ) -> Result<(), E> {
        if first != self.joined.len() {
            return append(self.early.entry(first).or_default());
        }
        append(&mut self.joined)?;
        while let Some(mut next) = self.early.remove(&self.joined.len()) {
            self.joined.append(&mut next);
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
