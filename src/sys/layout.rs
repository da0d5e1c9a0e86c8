//! What lies in a status page, and the order in which both sides look at it.
//! `sys::page` maps it. Here are atomics, never a decision about a task.
//!
//! Nothing read from here is trusted: a hostile worker can store any number at
//! any time, and each of them is a value, never undefined behaviour.
//!
//! `tests/loom` compiles this file with loom's atomics and tries every order.

use std::mem;

use crate::limits::{OUTBOX_BYTES, SLOTS, TALLY_BYTES};
use crate::slot_word::{Phase, SlotWord};
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::sys::futex;

/// At most this much of the ring is ever unsent, see [`Layout::outbox_fetch`].
pub(crate) const UNSENT_BYTES_MAX: u64 = OUTBOX_BYTES as u64 / 2;

const WORD_BYTES: usize = mem::size_of::<u64>();
/// How often the parent tries to cut a chunk while the worker begins items of it.
/// One that does so all the time needs no cut, or is hostile.
const CUTS: usize = 8;

const OUTBOX_WORDS: usize = OUTBOX_BYTES / WORD_BYTES;

#[repr(C)]
pub(crate) struct Layout {
    pub(super) header: Header,
    /// The slot words, beside each other: both sides write to those of many tasks in a
    /// row, and to fetch a cache line from another processor takes longer than to swap.
    pub(super) words: [AtomicU64; SLOTS],
    /// When the tasks' bodies began. The worker writes it with each word.
    pub(super) started_at: [AtomicU64; SLOTS],
    pub(super) slots: [Slot; SLOTS],
    /// Words, not bytes: atomics of one size, eight bytes at a time.
    pub(super) outbox: [AtomicU64; OUTBOX_WORDS],
    /// Answers of the chunk that runs.
    pub(super) tally: [AtomicU64; TALLY_BYTES / WORD_BYTES],
}

#[repr(C, align(4096))]
pub(super) struct Header {
    pub(super) magic: AtomicU64,
    pub(super) layout_version: AtomicU32,
    cancel_bell: AtomicU32,
    /// Whether the worker may look out for its next task before it sleeps: 1 and the
    /// processor that the parent was on when it sent the last one. 0: not.
    lookout: AtomicU32,
    /// The task whose answer somebody in the parent looks out for; 0: none.
    watched: AtomicU64,
    /// Resident bytes with which the worker ended itself; 0: it did not.
    pub(super) over_memory: AtomicU64,
    /// What is in force of the worker's sandbox, see `SandboxReport`.
    pub(super) sandbox: AtomicU64,
    pub(super) outbox: OutboxState,
}

/// On a cache line of its own: the worker stores to it with every answer.
#[repr(C, align(64))]
pub(super) struct OutboxState {
    filled: AtomicU64,
    /// Stream position from which on everything has gone through the ring.
    held_from: AtomicU64,
    /// Stream position up to which it is settled how the bytes get to the parent:
    /// through the socket, or taken from the ring. Whoever moves it decides.
    settled: AtomicU64,
    /// 1 and the processor that the worker was on when it began to look out for its
    /// next task; 0: it has to be woken.
    awake: AtomicU32,
}

/// What else there is of a task, which most do not use.
#[repr(C, align(64))]
pub(super) struct Slot {
    item: AtomicU32,
    credit: AtomicU32,
    /// Changes whenever a thread waiting for credit must look again. Credit
    /// itself cannot be slept on: a cancel leaves it as it is, and would be
    /// missed by a thread just about to sleep.
    nudge: AtomicU32,
    /// The last task here that has asked to hear of a cancel. A number and no flag:
    /// what a task has left behind may ask for it when the slot is another's.
    polite: AtomicU64,
    /// Of a chunk that is tallied: how many items were begun, and in the upper
    /// half how many may be.
    claimed: AtomicU64,
    /// How many of its answers are put down, and in the upper half their bytes.
    tally: AtomicU64,
}

/// What a worker has put down of a chunk that it has not answered.
#[derive(Debug)]
pub(crate) struct Tallied {
    /// Items that were begun.
    pub(crate) begun: u32,
    /// Answers, and their bytes, one after the other.
    pub(crate) answered: u32,
    pub(crate) answers: Vec<u8>,
}

/// How many items of a chunk may be begun, which may become fewer at any time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a>(&'a AtomicU64);

impl Bound<'_> {
    #[inline]
    pub(crate) fn allows(self, begun: u32) -> bool {
        begun < high(self.0.load(Ordering::Relaxed))
    }
}

impl Layout {
    /// A page that no other process has, to look at from several threads.
    #[cfg(test)]
    pub(crate) fn new() -> Layout {
        let outbox = OutboxState {
            filled: AtomicU64::new(0),
            held_from: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            awake: AtomicU32::new(0),
        };
        let header = Header {
            magic: AtomicU64::new(0),
            layout_version: AtomicU32::new(0),
            cancel_bell: AtomicU32::new(0),
            lookout: AtomicU32::new(0),
            watched: AtomicU64::new(0),
            over_memory: AtomicU64::new(0),
            sandbox: AtomicU64::new(0),
            outbox,
        };
        let slots = std::array::from_fn(|_| Slot {
            item: AtomicU32::new(0),
            credit: AtomicU32::new(0),
            nudge: AtomicU32::new(0),
            polite: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
            tally: AtomicU64::new(0),
        });
        Layout {
            header,
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            started_at: std::array::from_fn(|_| AtomicU64::new(0)),
            slots,
            outbox: std::array::from_fn(|_| AtomicU64::new(0)),
            tally: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    fn slot(&self, seq: u64) -> &Slot {
        &self.slots[index(seq)]
    }

    fn word(&self, seq: u64) -> &AtomicU64 {
        &self.words[index(seq)]
    }

    /// What the slot of `seq` holds, which may be another task by now.
    pub(crate) fn load(&self, seq: u64) -> SlotWord {
        SlotWord(self.word(seq).load(Ordering::Acquire))
    }

    /// Parent: takes the slot for a task whose frame is about to be written.
    /// The slot's last task must be over.
    pub(crate) fn enqueue(&self, seq: u64, credit: u32) {
        let slot = self.slot(seq);
        self.started_at[index(seq)].store(0, Ordering::Relaxed);
        reset(&slot.item, 0);
        reset(&slot.credit, credit);
        reset_wide(&slot.polite, 0);
        reset_wide(&slot.claimed, halves(0, u32::MAX));
        reset_wide(&slot.tally, 0);
        // Release: whoever sees `Queued` sees a fresh slot.
        self.word(seq).store(SlotWord::new(seq, Phase::Queued).0, Ordering::Release);
    }

    /// Moves a task from one phase to another, if it is there. The error is
    /// what is there instead.
    pub(crate) fn swap(&self, seq: u64, from: Phase, to: Phase) -> Result<(), SlotWord> {
        let (from, to) = (SlotWord::new(seq, from).0, SlotWord::new(seq, to).0);
        self.word(seq)
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(SlotWord)
    }

    /// Parent: says whether a processor is left for it while this worker looks
    /// out for its next task, and which one it was on last.
    pub(crate) fn set_lookout(&self, processor: Option<u32>) {
        let (lookout, number) = (&self.header.lookout, numbered(processor));
        // The worker need not fetch again what stays as it is.
        if lookout.load(Ordering::Relaxed) != number {
            lookout.store(number, Ordering::Relaxed);
        }
    }

    /// Worker: whether the parent said so, and was not on this processor: it would
    /// be kept from running.
    pub(crate) fn lookout(&self, processor: u32) -> bool {
        is_elsewhere(self.header.lookout.load(Ordering::Relaxed), processor)
    }

    /// Worker: says whether it goes on without sleep until its next task, and on
    /// which processor.
    pub(crate) fn set_awake(&self, processor: Option<u32>) {
        self.header.outbox.awake.store(numbered(processor), Ordering::Relaxed);
    }

    /// Parent: whether the worker said so, and was not on this processor.
    pub(crate) fn is_awake(&self, processor: u32) -> bool {
        is_elsewhere(self.header.outbox.awake.load(Ordering::Relaxed), processor)
    }

    /// Parent: says whose answer it looks out for.
    pub(crate) fn set_watched(&self, seq: Option<u64>) {
        self.header.watched.store(seq.unwrap_or(0), Ordering::Relaxed);
    }

    /// Worker: whether the parent looks out for this task's answer, and will take
    /// it from the ring.
    pub(crate) fn is_watched(&self, seq: u64) -> bool {
        self.header.watched.load(Ordering::Relaxed) == seq
    }

    /// When the task's body began, by `clock::monotonic_nanos`. 0: not yet.
    pub(crate) fn started_at(&self, seq: u64) -> u64 {
        self.started_at[index(seq)].load(Ordering::Relaxed)
    }

    /// Worker: before the swap to `Running`, which publishes it.
    pub(crate) fn set_started_at(&self, seq: u64, nanos: u64) {
        self.started_at[index(seq)].store(nanos, Ordering::Relaxed);
    }

    /// Whether the task may end by itself when it is cancelled.
    pub(crate) fn polite(&self, seq: u64) -> bool {
        self.slot(seq).polite.load(Ordering::Relaxed) == seq
    }

    /// Worker: the task has asked to hear of a cancel, or has not.
    pub(crate) fn set_polite(&self, seq: u64, polite: bool) {
        let cell = &self.slot(seq).polite;
        let swap = |from, to| {
            cell.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).map(drop)
        };
        if !polite {
            let _ = swap(seq, 0);
            return;
        }
        let mut known = cell.load(Ordering::Relaxed);
        // Nothing to do if it has asked before, or the slot is a later one's.
        while known < seq {
            match swap(known, seq) {
                Ok(()) => return,
                Err(now) => known = now,
            }
        }
    }

    /// Which item of a chunk is being run.
    pub(crate) fn item(&self, seq: u64) -> u32 {
        self.slot(seq).item.load(Ordering::Relaxed)
    }

    /// Worker: where it says that.
    pub(crate) fn item_cell(&self, seq: u64) -> &AtomicU32 {
        &self.slot(seq).item
    }

    /// Worker: whether the next item of a chunk may be begun, which it then is.
    pub(crate) fn claim_item(&self, seq: u64) -> bool {
        let before = self.slot(seq).claimed.fetch_add(1, Ordering::AcqRel);
        low(before) < high(before)
    }

    /// Worker: what says the same of a chunk whose items are not claimed one by one.
    pub(crate) fn bound(&self, seq: u64) -> Bound<'_> {
        Bound(&self.slot(seq).claimed)
    }

    /// Parent: lets no item of a running chunk be begun any more, except a first
    /// one. Returns how many there are now.
    pub(crate) fn cut(&self, seq: u64) -> u32 {
        let claimed = &self.slot(seq).claimed;
        let mut before = claimed.load(Ordering::Acquire);
        for _ in 0..CUTS {
            let begun = low(before).clamp(1, high(before).max(1));
            let after = halves(low(before), begun);
            match claimed.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return begun,
                Err(now) => before = now,
            }
        }
        u32::MAX
    }

    /// Worker: puts an answer down behind the `len` bytes that are there, so that it
    /// outlives the worker. `answered`: how many there are then.
    pub(crate) fn tally(&self, seq: u64, answered: u32, len: usize, answer: &[u8]) {
        let end = len + answer.len();
        debug_assert!(end <= TALLY_BYTES);
        write(&self.tally, len, answer);
        self.slot(seq).tally.store(halves(answered, end as u32), Ordering::Release);
    }

    /// Parent: what has been put down of a chunk that runs; `None` if it does not.
    pub(crate) fn tallied_so_far(&self, seq: u64) -> Option<Tallied> {
        let running = SlotWord::new(seq, Phase::Running);
        // Looked at after the rest: what is written over it is written when the word
        // says something else.
        let tallied = self.tallied(seq);
        if self.load(seq) == running { tallied } else { None }
    }

    /// Parent: what a worker that is dead has put down of a chunk.
    pub(crate) fn tallied(&self, seq: u64) -> Option<Tallied> {
        let claimed = self.slot(seq).claimed.load(Ordering::Acquire);
        let tally = self.slot(seq).tally.load(Ordering::Acquire);
        let len = high(tally) as usize;
        (len <= TALLY_BYTES).then(|| Tallied {
            begun: low(claimed).min(high(claimed)),
            answered: low(tally),
            answers: read(&self.tally, 0, len),
        })
    }

    /// How many items a stream may have sent by now. Wraps.
    pub(crate) fn credit(&self, seq: u64) -> u32 {
        self.slot(seq).credit.load(Ordering::Acquire)
    }

    /// Parent: lets a stream send `n` more items.
    pub(crate) fn grant(&self, seq: u64, n: u32) {
        self.slot(seq).credit.fetch_add(n, Ordering::AcqRel);
        self.wake_credit(seq);
    }

    /// Parent: makes a stream that waits for credit look at its slot word,
    /// which has just been swapped.
    pub(crate) fn wake_credit(&self, seq: u64) {
        let nudge = &self.slot(seq).nudge;
        nudge.fetch_add(1, Ordering::AcqRel);
        futex::wake_all(nudge);
    }

    /// Worker: sleeps while the credit is `seen` and the task is `Running`.
    /// May return early for no reason.
    pub(crate) fn await_credit(&self, seq: u64, seen: u32) {
        let nudge = &self.slot(seq).nudge;
        // First the nudge, then what it is about: a change after our look has
        // changed the nudge too, and the kernel refuses to sleep.
        let before = nudge.load(Ordering::Acquire);
        if self.credit(seq) == seen && self.load(seq) == SlotWord::new(seq, Phase::Running) {
            futex::wait(nudge, before);
        }
    }

    /// Parent: some task of this worker has been asked to end.
    pub(crate) fn ring_bell(&self) {
        self.header.cancel_bell.fetch_add(1, Ordering::AcqRel);
        futex::wake_all(&self.header.cancel_bell);
    }

    /// How often the bell has rung. Wraps.
    pub(crate) fn bell(&self) -> u32 {
        self.header.cancel_bell.load(Ordering::Acquire)
    }

    /// Worker: sleeps until the bell has rung more often than `seen`. May
    /// return early for no reason.
    pub(crate) fn await_bell(&self, seen: u32) {
        futex::wait(&self.header.cancel_bell, seen);
    }

    /// Up to where the outbox is complete, as a position in the stream of all
    /// bytes that this worker has answered.
    pub(crate) fn outbox_filled(&self) -> u64 {
        self.header.outbox.filled.load(Ordering::Acquire)
    }

    /// Worker: everything before `filled` is in the ring, so that the parent
    /// can have it even if we die before sending it.
    pub(crate) fn outbox_publish(&self, filled: u64) {
        self.header.outbox.filled.store(filled, Ordering::Release);
    }

    /// Worker: all before `position` is in the socket, and some of it was
    /// never in the ring. Before the publishing of what comes after.
    pub(crate) fn outbox_skip(&self, position: u64) {
        self.header.outbox.held_from.store(position, Ordering::Release);
    }

    /// From where on the ring has held what was published: what is before that
    /// may be there or not, but is in the socket.
    fn outbox_held_from(&self) -> u64 {
        self.header.outbox.held_from.load(Ordering::Acquire)
    }

    /// Worker: copies bytes into the ring at stream position `at`. One thread
    /// at a time; others would leave mixed bytes, nothing worse.
    pub(crate) fn outbox_write(&self, at: u64, bytes: &[u8]) {
        debug_assert!(bytes.len() <= OUTBOX_BYTES);
        write(&self.outbox, (at % OUTBOX_BYTES as u64) as usize, bytes);
    }

    /// Settles that what is between these positions is sent, if the worker asks,
    /// or that it never will be, if the parent does. The error is how far it was
    /// settled already, where that is not `from`.
    pub(crate) fn outbox_settle(&self, from: u64, to: u64) -> Result<(), u64> {
        let settled = &self.header.outbox.settled;
        settled.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    /// Worker: up to where that is settled.
    pub(crate) fn outbox_settled(&self) -> u64 {
        self.header.outbox.settled.load(Ordering::Acquire)
    }

    /// Parent: all that the stream has from `wanted` on. `None` where that has
    /// left the ring, or was never in it: then it is in the socket.
    ///
    /// A living worker goes on writing meanwhile. It never lets more than half
    /// of the ring be unsent, so what we read is whole as long as the end of
    /// what is published is at most that far away, also after reading.
    pub(crate) fn outbox_fetch(&self, wanted: u64) -> Option<Vec<u8>> {
        let filled = self.outbox_filled();
        if filled <= wanted {
            return Some(Vec::new());
        }
        // A long frame is never in the ring. Looked at after `filled`, so that
        // it covers all of that.
        if filled - wanted > UNSENT_BYTES_MAX || wanted < self.outbox_held_from() {
            return None;
        }
        let bytes = self.outbox_read(wanted, filled);
        let now = self.outbox_filled();
        (now.wrapping_sub(wanted) <= UNSENT_BYTES_MAX).then_some(bytes)
    }

    /// Parent: copies `[from, to)` of the stream out of the ring. The bytes
    /// are whatever the worker has left there.
    ///
    /// # Panics
    ///
    /// Unless `from <= to` and the range fits into the ring.
    pub(super) fn outbox_read(&self, from: u64, to: u64) -> Vec<u8> {
        read(&self.outbox, (from % OUTBOX_BYTES as u64) as usize, range_len(from, to))
    }
}

fn index(seq: u64) -> usize {
    (seq % SLOTS as u64) as usize
}

/// Stores what is not there yet: a line that stays as it is need not be fetched again.
fn reset(cell: &AtomicU32, value: u32) {
    if cell.load(Ordering::Relaxed) != value {
        cell.store(value, Ordering::Relaxed);
    }
}

fn reset_wide(cell: &AtomicU64, value: u64) {
    if cell.load(Ordering::Relaxed) != value {
        cell.store(value, Ordering::Relaxed);
    }
}

/// How a processor is written down; 0: none.
fn numbered(processor: Option<u32>) -> u32 {
    processor.map_or(0, |processor| processor.wrapping_add(1))
}

/// Whether there is one, and it is another.
fn is_elsewhere(written: u32, processor: u32) -> bool {
    written != 0 && written != numbered(Some(processor))
}

fn halves(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn low(word: u64) -> u32 {
    word as u32
}

fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Copies bytes into a ring of words, from its byte `at` on.
fn write(ring: &[AtomicU64], at: usize, bytes: &[u8]) {
    // Who sees these bytes must see what was stored before them: by that a reader
    // knows that what it has read was not overwritten meanwhile.
    fence(Ordering::Release);
    let (mut word, skip) = (at / WORD_BYTES, at % WORD_BYTES);
    let mut rest = bytes;
    if skip != 0 {
        let (head, tail) = rest.split_at(rest.len().min(WORD_BYTES - skip));
        blend(&ring[word], skip, head);
        word = (word + 1) % ring.len();
        rest = tail;
    }
    let mut whole = rest.chunks_exact(WORD_BYTES);
    for chunk in &mut whole {
        let value = u64::from_ne_bytes(chunk.try_into().expect("chunks of a word"));
        ring[word].store(value, Ordering::Relaxed);
        word = (word + 1) % ring.len();
    }
    blend(&ring[word % ring.len()], 0, whole.remainder());
}

/// Copies `len` bytes out of it.
fn read(ring: &[AtomicU64], at: usize, len: usize) -> Vec<u8> {
    let (mut word, skip) = (at / WORD_BYTES, at % WORD_BYTES);
    let mut bytes = Vec::with_capacity(skip + len + WORD_BYTES);
    while bytes.len() < skip + len {
        bytes.extend(ring[word].load(Ordering::Relaxed).to_ne_bytes());
        word = (word + 1) % ring.len();
    }
    // With the fence in `write`: what is loaded after this is as new as the bytes at
    // least.
    fence(Ordering::Acquire);
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    bytes
}

pub(super) fn range_len(from: u64, to: u64) -> usize {
    let len = to.checked_sub(from).expect("a range of the outbox begins before it ends");
    assert!(len <= OUTBOX_BYTES as u64, "a range of the outbox fits into the ring");
    len as usize
}

/// Replaces part of a word, from its byte `skip` on.
fn blend(word: &AtomicU64, skip: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        let mut value = word.load(Ordering::Relaxed).to_ne_bytes();
        value[skip..skip + bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
    }
}
