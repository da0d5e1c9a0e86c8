//! Payloads in the making: bytes that were encoded, long `Bytes` between them that were
//! not copied, and memory that goes beside them; and in [`payload`], made. Used by both
//! ends.

mod payload;

use std::io::IoSlice;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

pub(crate) use self::payload::{Payload, Reply, Whole, shared};
use crate::attached::{Attached, Count};
use crate::limits::TOGETHER_ATTACHED_MAX;

/// What is being encoded: results, arguments, and the heads of their frames.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// All but what is kept.
    bytes: Vec<u8>,
    kept: Vec<Kept>,
    /// Memory once, descriptors each time.
    attached: Vec<Attached>,
}

/// A `Bytes` that belongs before the byte `at` of those around it.
#[derive(Debug)]
pub(crate) struct Kept {
    at: usize,
    piece: Bytes,
    /// Length of this one and all before it.
    total: usize,
}

impl Kept {
    /// Where it ends among all bytes, copied and kept.
    fn end(&self) -> usize {
        self.at + self.total
    }
}

/// A place in a draft to come back to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    bytes: usize,
    kept: usize,
    attached: usize,
}

impl Draft {
    /// A draft that begins in this memory, with room for so many bytes.
    pub(crate) fn within(mut memory: Vec<u8>, bytes: usize) -> Self {
        memory.clear();
        memory.reserve(bytes);
        Draft { bytes: memory, ..Draft::default() }
    }

    /// Bytes so far, copied and kept, without those of what is attached.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + kept_bytes(&self.kept)
    }

    /// Bytes so far, with those of what is attached; without end, if that may be no
    /// more.
    #[inline]
    pub(crate) fn weight(&self) -> usize {
        if self.attached.is_empty() { self.len() } else { self.laden_weight() }
    }

    #[cold]
    fn laden_weight(&self) -> usize {
        if self.attached.len() >= TOGETHER_ATTACHED_MAX {
            return usize::MAX;
        }
        self.attached.iter().map(Attached::len).fold(self.len(), usize::saturating_add)
    }

    /// Where bytes are appended. What is there must stay.
    #[inline]
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Where the encoder writes.
    #[inline]
    pub(super) fn parts(&mut self) -> (&mut Vec<u8>, &mut Vec<Kept>, &mut Vec<Attached>) {
        (&mut self.bytes, &mut self.kept, &mut self.attached)
    }

    /// What goes beside the bytes.
    #[inline]
    pub(crate) fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// How much of each kind goes beside the bytes.
    #[inline]
    pub(crate) fn attached_count(&self) -> Count {
        if self.attached.is_empty() { Count::NONE } else { Count::of(&self.attached) }
    }

    /// The first `len` bytes, if they are before everything that is kept.
    pub(crate) fn head_mut(&mut self, len: usize) -> &mut [u8] {
        debug_assert!(self.kept.first().is_none_or(|kept| kept.at >= len));
        &mut self.bytes[..len]
    }

    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), kept: self.kept.len(), attached: self.attached.len() }
    }

    /// What came after the mark, if it is bytes and nothing else.
    #[inline]
    pub(crate) fn since(&self, mark: Mark) -> Option<&[u8]> {
        let is_plain = self.kept.len() == mark.kept && self.attached.len() == mark.attached;
        is_plain.then(|| &self.bytes[mark.bytes..])
    }

    /// Bytes that came after the mark, copied and kept.
    #[inline]
    pub(crate) fn len_since(&self, mark: Mark) -> usize {
        let kept_before = kept_bytes(&self.kept[..mark.kept]);
        self.bytes.len() - mark.bytes + kept_bytes(&self.kept) - kept_before
    }

    /// Those of them that are copied.
    #[inline]
    pub(crate) fn tail_since(&mut self, mark: Mark) -> &mut [u8] {
        &mut self.bytes[mark.bytes..]
    }

    /// Takes back what came after the mark.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.kept.truncate(mark.kept);
        self.attached.truncate(mark.attached);
    }

    /// Makes it empty; gives memory back beyond so many bytes.
    pub(crate) fn clear(&mut self, spare_bytes_max: usize) {
        self.kept.clear();
        self.attached.clear();
        self.bytes.clear();
        if self.bytes.capacity() > spare_bytes_max {
            self.bytes = Vec::new();
        }
    }

    /// All of it, if nothing is kept or attached.
    pub(crate) fn as_slice(&self) -> Option<&[u8]> {
        (self.kept.is_empty() && self.attached.is_empty()).then_some(&self.bytes)
    }

    /// The pieces in order, behind the first `skipped` of those that are kept.
    fn pieces(&self, skipped: usize) -> impl Iterator<Item = &[u8]> {
        let between = |from: usize, to: usize| &self.bytes[from..to];
        let (before, kept) = self.kept.split_at(skipped);
        let first = before.last().map_or(0, |kept| kept.at);
        let starts = [first].into_iter().chain(kept.iter().map(|kept| kept.at));
        let last = self.kept.last().map_or(0, |kept| kept.at);
        kept.iter()
            .zip(starts)
            .flat_map(move |(kept, start)| [between(start, kept.at), &kept.piece[..]])
            .chain([&self.bytes[last..]])
    }

    /// Fills in as many slices as there are, of what is behind the first
    /// `written` bytes, and returns how many.
    pub(crate) fn slices<'a>(&'a self, written: usize, slices: &mut [IoSlice<'a>]) -> usize {
        // Not from the first piece on: each write of thousands would pass by all
        // that went before.
        let skipped = self.kept.partition_point(|kept| kept.end() <= written);
        let before = self.kept[..skipped].last().map_or(0, Kept::end);
        fill(self.pieces(skipped), written - before, slices)
    }

    /// In one piece, without what is attached.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        if self.kept.is_empty() { self.bytes } else { self.pieces(0).collect::<Vec<_>>().concat() }
    }
}

/// Slices of the pieces, without the first `written` bytes of all.
fn fill<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    mut written: usize,
    slices: &mut [IoSlice<'a>],
) -> usize {
    let mut count = 0;
    for piece in pieces {
        let skipped = written.min(piece.len());
        written -= skipped;
        if skipped == piece.len() {
            continue;
        }
        let Some(slice) = slices.get_mut(count) else { break };
        *slice = IoSlice::new(&piece[skipped..]);
        count += 1;
    }
    count
}

/// Bytes of all that are kept.
#[inline]
pub(super) fn kept_bytes(kept: &[Kept]) -> usize {
    kept.last().map_or(0, |last| last.total)
}

/// Keeps `piece` behind the first `at` bytes.
pub(super) fn keep(kept: &mut Vec<Kept>, at: usize, piece: Bytes) {
    let total = kept_bytes(kept) + piece.len();
    kept.push(Kept { at, piece: Bytes::from_owner(Released(piece)), total });
}

/// A `Bytes` of the user's, which may come with code to free it. That runs
/// wherever the last piece is let go of, and if it panics, that ends neither the
/// pool's driver nor a worker, and disturbs no other call.
struct Released(Bytes);

impl AsRef<[u8]> for Released {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        let bytes = mem::take(&mut self.0);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(bytes))) {
            // The panic hook has told of it; dropping it could panic again.
            mem::forget(payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Letters that are kept are large, others small.
    fn draft(text: &str) -> Draft {
        let mut draft = Draft::default();
        for letter in text.chars() {
            if letter.is_uppercase() {
                let (bytes, kept, _) = draft.parts();
                keep(kept, bytes.len(), Bytes::from(vec![letter as u8; 3]));
            } else {
                draft.tail().push(letter as u8);
            }
        }
        draft
    }

    fn plain(text: &str) -> Vec<u8> {
        let times = |letter: char| if letter.is_uppercase() { 3 } else { 1 };
        text.chars().flat_map(|letter| vec![letter as u8; times(letter)]).collect()
    }

    fn whole(payload: &Payload) -> Vec<u8> {
        payload.slices().inspect(|piece| assert!(!piece.is_empty())).flatten().copied().collect()
    }

    const TEXTS: [&str; 9] = ["", "a", "A", "AB", "aA", "Aa", "abABcdCe", "AaB", "aABb"];

    #[test]
    fn what_is_kept_stays_in_its_place() {
        for text in TEXTS {
            let plain = plain(text);
            let made = draft(text);
            assert_eq!(made.len(), plain.len(), "{text}");
            for written in 0..=plain.len() {
                let mut slices = [IoSlice::new(&[]); 9];
                let count = made.slices(written, &mut slices);
                assert!(slices[..count].iter().all(|slice| !slice.is_empty()));
                let left = slices[..count].iter().flat_map(|slice| slice.iter().copied());
                assert_eq!(left.collect::<Vec<_>>(), plain[written..], "{text}");
            }
            let payload = Payload::from(draft(text));
            assert_eq!((payload.len(), whole(&payload)), (plain.len(), plain.clone()));
            assert_eq!(made.into_vec(), plain);
        }
    }

    #[test]
    fn the_last_of_many_pieces_is_found_as_quickly_as_the_first() {
        let made = draft(&"aA".repeat(if cfg!(miri) { 100 } else { 100_000 }));
        let quickest = |written| {
            let find = || {
                let mut slices = [IoSlice::new(&[]); 2];
                let started = Instant::now();
                assert!(made.slices(written, &mut slices) > 0);
                started.elapsed()
            };
            (0..100).map(|_| find()).min().unwrap().max(Duration::from_micros(1))
        };
        let (first, last) = (quickest(0), quickest(made.len() - 1));
        assert!(last < 100 * first, "{last:?}, and {first:?} at first");
    }

    #[test]
    fn a_few_slices_are_the_first() {
        let draft = draft("aAbBc");
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(draft.slices(2, &mut slices), 2);
        assert_eq!((&slices[0][..], &slices[1][..]), (&b"AA"[..], &b"b"[..]));
    }

    #[test]
    fn a_payload_is_cut_anywhere() {
        for text in TEXTS {
            let plain = plain(text);
            for at in 0..=plain.len() {
                let mut payload = Payload::from(draft(text));
                let behind = payload.split_off(at);
                assert_eq!(whole(&payload), plain[..at], "{text}");
                assert_eq!(whole(&behind), plain[at..], "{text}");
            }
        }
    }

    #[test]
    fn both_parts_of_a_payload_keep_what_is_attached() {
        let mut laden = draft("abAB");
        laden.attached.push(Attached::Memory(crate::attached::Shared::empty()));
        let mark = laden.mark();
        laden.attached.push(Attached::Memory(crate::attached::Shared::empty()));
        laden.rewind(mark);
        assert_eq!(laden.as_slice(), None);
        let mut payload = Payload::from(laden);
        assert_eq!((payload.len(), whole(&payload)), (8, plain("abAB")));
        let behind = payload.split_off(3);
        for part in [&payload, &behind] {
            let attached = part.attached().expect("it is still there");
            assert_eq!(attached.len(), 1);
        }
        assert_eq!([whole(&payload), whole(&behind)].concat(), plain("abAB"));
        assert!(Payload::from(draft("abAB")).attached().is_none());
    }

    #[test]
    fn what_came_after_a_mark_is_taken_back() {
        let mut made = draft("aA");
        let mark = made.mark();
        let (bytes, kept, _) = made.parts();
        bytes.push(b'b');
        keep(kept, bytes.len(), Bytes::from_static(b"more"));
        made.rewind(mark);
        assert_eq!(made.len(), 4);
        assert_eq!(made.as_slice(), None);
        made.clear(0);
        assert_eq!(made.as_slice(), Some(&[][..]));
    }

    #[test]
    fn a_cleared_draft_keeps_no_more_memory_than_it_may() {
        let mut made = Draft::default();
        made.tail().extend([1; 100]);
        made.clear(1000);
        assert!(made.len() == 0 && made.tail().capacity() >= 100);
        made.clear(99);
        assert_eq!(made.tail().capacity(), 0);
    }

    #[test]
    fn the_head_of_a_draft_can_be_filled_in_later() {
        let mut made = draft("abA");
        made.head_mut(2).copy_from_slice(b"cd");
        assert_eq!(made.into_vec(), b"cdAAA");
    }
}
