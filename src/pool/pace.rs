//! How many items the next chunk should have, and how many chunks may be on their way:
//! by how long items have been taking. Numbers only; `feed` asks, and tells what has
//! come back.

use std::time::Duration;

use crate::limits::TALLY_BYTES;

/// A chunk should take about this long: some forty times its fixed cost of
/// 50 µs or less, and short enough to spread the last ones evenly.
const CHUNK_NANOS: u64 = 2_000_000;

/// The same for a stream, whose reader waits for single items.
pub(super) const STREAM_CHUNK_NANOS: u64 = 1_000_000;

/// A worker sends a chunk back unfinished after so many times this long, so that
/// items that take longer than those before them can go to other workers.
pub(super) const CHUNK_BUDGET: u64 = 5;

/// Chunks grow at most by this factor from one to the next: one quick item
/// says little.
const CHUNK_GROWTH: usize = 16;

/// Most items and bytes of a chunk that nobody gave a size.
pub(super) const CHUNK_ITEMS_MAX: usize = 1 << 16;
pub(super) const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Chunks do not shrink below this towards the end of the input: to send one
/// takes about as long.
const CHUNK_NANOS_LEAST: u64 = 10_000;

/// Chunks in flight for each worker: one runs, others wait for it at the
/// worker and in the queue.
const CHUNKS_PER_WORKER: usize = 4;

/// And while they grow: each that is sent before the first of its size is back
/// is a small one more.
const GROWING_CHUNKS_PER_WORKER: usize = 2;

/// The same where the size is given: they may be of one tiny item each,
const FIXED_CHUNKS_PER_WORKER: usize = 256;

/// and most of them, where they take next to no time.
const FIXED_CHUNKS_PER_WORKER_MAX: usize = 4096;

/// What is known of items, and wanted of chunks.
#[derive(Debug)]
pub(super) struct Pace {
    /// Items of each chunk, if somebody said so.
    fixed: Option<usize>,
    /// Otherwise, how long a chunk should take, and how many items, and bytes of their
    /// answers, it may have at most.
    chunk_nanos: u64,
    items_max: usize,
    answer_bytes_max: usize,
    /// Nanoseconds that an item takes, on average of late. 0: unknown.
    item_nanos: u64,
    /// And bytes of its answer.
    answer_bytes: usize,
    /// And of its arguments, up to those of a chunk.
    argument_bytes: usize,
    /// Items of the largest chunk that has come back.
    largest: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            fixed: None,
            chunk_nanos: CHUNK_NANOS,
            items_max: CHUNK_ITEMS_MAX,
            answer_bytes_max: usize::MAX,
            item_nanos: 0,
            answer_bytes: 0,
            argument_bytes: 0,
            largest: 0,
        }
    }
}

impl Pace {
    /// From now on all chunks have so many items.
    pub(super) fn fix(&mut self, items: usize) {
        self.fixed = Some(items);
    }

    pub(super) fn fixed(&self) -> Option<usize> {
        self.fixed
    }

    /// Chunks of a stream. `tallied`: what is not put down is not begun.
    pub(super) fn set_streaming(&mut self, tallied: bool) {
        self.chunk_nanos = STREAM_CHUNK_NANOS;
        if tallied {
            self.answer_bytes_max = TALLY_BYTES;
        }
    }

    /// How many items a chunk may have, unless its size is given.
    pub(super) fn set_items_max(&mut self, items: usize) {
        self.items_max = items.clamp(1, CHUNK_ITEMS_MAX);
    }

    /// So many items with so many bytes of arguments were pulled.
    pub(super) fn note_pulled(&mut self, items: usize, argument_bytes: usize) {
        let bytes = argument_bytes.div_ceil(items).min(CHUNK_BYTES_MAX);
        self.argument_bytes = self.argument_bytes - self.argument_bytes / 8 + bytes.div_ceil(8);
    }

    /// So many items of a chunk have come back.
    pub(super) fn learn(&mut self, items: usize, run_nanos: u64, answer_bytes: usize) {
        self.largest = self.largest.max(items);
        let nanos = (run_nanos / items as u64).max(1);
        self.item_nanos = match self.item_nanos {
            0 => nanos,
            average => (average / 2 + nanos / 2).max(1),
        };
        let bytes = answer_bytes.div_ceil(items);
        self.answer_bytes = (self.answer_bytes / 2 + bytes / 2).max(bytes.min(1));
    }

    /// How many items the next chunk should have. `left`: how many there are, if that
    /// is known.
    pub(super) fn items(&self, left: Option<usize>, workers: usize) -> usize {
        if let Some(items) = self.fixed {
            return items;
        }
        if self.item_nanos == 0 {
            // Nothing is known: one long item must not keep others waiting.
            return 1;
        }
        let within = |nanos| usize::try_from(nanos / self.item_nanos).unwrap_or(usize::MAX);
        let by_time = within(self.chunk_nanos);
        // Towards the end chunks shrink, so that workers end together.
        let by_rest = match left {
            Some(left) => left.div_ceil(2 * workers).max(within(CHUNK_NANOS_LEAST)),
            None => usize::MAX,
        };
        let by_bytes = self.answer_bytes_max / self.answer_bytes.max(1);
        let most = self.items_max.min(by_bytes).max(1);
        by_time.min(self.by_growth()).min(by_rest).clamp(1, most)
    }

    /// How many items a worker may have before it or behind it so that it has
    /// something to do while one chunk is read and another is made: short ones with
    /// short answers, `most` of them. And with short arguments, where no chunk is cut for
    /// theirs.
    pub(super) fn items_ahead(&self, most: usize) -> usize {
        if self.item_nanos == 0 {
            return 0;
        }
        let by_time = usize::try_from(2 * self.chunk_nanos / self.item_nanos).unwrap_or(most);
        let by_answers = 2 * TALLY_BYTES / self.answer_bytes.max(1);
        let by_arguments = match self.fixed {
            Some(_) => CHUNK_BYTES_MAX / self.argument_bytes.max(1),
            None => most,
        };
        by_time.min(by_answers).min(by_arguments).min(most)
    }

    /// How many chunks may be on their way.
    pub(super) fn window(&self, workers: usize) -> usize {
        let each = match self.fixed {
            Some(items) => {
                let ahead = self.items_ahead(FIXED_CHUNKS_PER_WORKER_MAX.saturating_mul(items));
                FIXED_CHUNKS_PER_WORKER.max(ahead / items)
            }
            None if self.is_growing() => GROWING_CHUNKS_PER_WORKER,
            None => CHUNKS_PER_WORKER,
        };
        workers.saturating_mul(each)
    }

    /// How long the input may take to give the items of a chunk.
    pub(super) fn patience(&self, items: usize) -> Option<Duration> {
        let waits = self.fixed.is_none() && items > 1;
        waits.then(|| Duration::from_nanos(self.chunk_nanos))
    }

    /// After so long a worker sends a chunk back unfinished. 0: never.
    pub(super) fn budget_nanos(&self) -> u64 {
        match self.fixed {
            Some(_) => 0,
            None => CHUNK_BUDGET * self.chunk_nanos,
        }
    }

    /// How many items the next chunk may have for what is known.
    fn by_growth(&self) -> usize {
        self.largest.saturating_mul(CHUNK_GROWTH)
    }

    /// Whether items turn out so quick that chunks will be longer than that.
    fn is_growing(&self) -> bool {
        let nanos = (self.by_growth() as u64).saturating_mul(self.item_nanos);
        self.by_growth() < self.items_max && nanos < self.chunk_nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a million items that take so long each, as far as is known from so many.
    fn known(items: usize, item_nanos: u64) -> Pace {
        let mut pace = Pace::default();
        pace.learn(items, item_nanos * items as u64, 8 * items);
        pace
    }

    #[test]
    fn chunks_grow_to_what_takes_two_milliseconds() {
        assert_eq!(Pace::default().items(Some(1_000_000), 2), 1, "nothing is known");
        assert_eq!(known(1, 100).items(None, 2), 16);
        assert_eq!(known(16, 100).items(None, 2), 256);
        assert_eq!(known(10_000, 100).items(None, 2), 20_000);
        assert_eq!(known(1 << 16, 1).items(None, 2), CHUNK_ITEMS_MAX);
        assert_eq!(known(100, 5_000_000).items(None, 2), 1, "long items go alone");
        let (growing, grown) = (known(1, 100), known(10_000, 100));
        assert_eq!((growing.window(3), grown.window(3)), (6, 12));
    }

    #[test]
    fn chunks_shrink_towards_the_end() {
        let pace = known(10_000, 100);
        assert_eq!(pace.items(Some(1_000_000), 2), 20_000);
        assert_eq!(pace.items(Some(4000), 2), 1000);
        assert_eq!(pace.items(Some(4200), 3), 700);
        assert_eq!(pace.items(Some(10), 2), 100, "but not below what it takes to send one");
    }

    #[test]
    fn a_given_size_is_kept() {
        let mut pace = known(10_000, 100);
        pace.fix(7);
        assert_eq!(pace.fixed(), Some(7));
        assert_eq!((pace.items(Some(3), 2), pace.window(2)), (7, 2 * 1170), "32 KiB of answers");
        for _ in 0..100 {
            pace.note_pulled(7, 7 * 64);
        }
        let ahead = pace.window(2) / 2 * 7;
        assert!(ahead * 64 <= CHUNK_BYTES_MAX && ahead > 3500, "{ahead}");
        // What is long, or is more than bytes, is one of few.
        pace.note_pulled(7, usize::MAX);
        assert_eq!(pace.window(2), 2 * 256);
        let mut pace = known(10_000, 1_000_000);
        pace.fix(7);
        assert_eq!((pace.items(Some(3), 2), pace.window(2)), (7, 2 * 256));
        assert_eq!((pace.budget_nanos(), pace.patience(7)), (0, None));
    }

    #[test]
    fn what_a_stream_begins_can_be_put_down() {
        let mut pace = Pace::default();
        pace.set_streaming(true);
        pace.learn(1000, 1000, 1000 * (TALLY_BYTES / 10));
        // Half is believed at first.
        assert_eq!(pace.items(None, 2), 20);
        pace.set_items_max(5);
        assert_eq!(pace.items(None, 2), 5);
    }

    #[test]
    fn items_are_taken_for_what_they_have_been_of_late() {
        let mut pace = known(10_000, 100);
        pace.learn(10_000, 300 * 10_000, 0);
        assert_eq!(pace.items(None, 2), 10_000);
    }

    #[test]
    fn what_is_short_is_asked_for_ahead() {
        assert_eq!(Pace::default().items_ahead(1000), 0, "nothing is known");
        assert_eq!(known(10_000, 1000).items_ahead(100_000), 4000);
        assert_eq!(known(10_000, 1000).items_ahead(100), 100);
        assert_eq!(known(10_000, 5_000_000).items_ahead(100), 0);
        let mut pace = Pace::default();
        pace.learn(1, 1, TALLY_BYTES / 4);
        assert_eq!(pace.items_ahead(1000), 16, "half is believed at first");
        pace.learn(1, 1, TALLY_BYTES / 4);
        assert_eq!(pace.items_ahead(1000), 10, "and then three quarters");
    }

    #[test]
    fn no_chunk_waits_for_its_items_for_longer_than_it_takes() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(1), None, "it has what there is to wait for");
        assert_eq!(pace.patience(2), Some(Duration::from_millis(2)));
        assert_eq!(pace.budget_nanos(), 10_000_000);
        pace.set_streaming(false);
        assert_eq!(pace.patience(2), Some(Duration::from_millis(1)));
        assert_eq!(pace.budget_nanos(), 5_000_000);
    }
}
