//! What processes that share a queue look at together: one memfd, whose first
//! pages are mapped and hold the queue's state, and whose rest is a ring of bytes
//! that is read and written by system calls. `queue_state` says what the numbers
//! mean, `claim` who may change them.
//!
//! ```text
//!      0  magic │ layout version │ terms │ whether it is closed
//!     64  which state counts
//!     96  who has the lock
//!    128  state 0
//!    384  state 1
//!   4096  256 records of 32 bytes, of items that are held: word, at, number, length
//!  12288  the ring, sparse
//! ```
//!
//! There are two states. The one whose turn it is not is written, and then it
//! becomes the one that counts, by a single store: whoever is killed leaves the
//! old state or the new one.
//!
//! The file keeps its length, which is sealed, so that no look at it can fault;
//! and the ring is not mapped, so that where the machine has no memory left, a
//! write to it is an error.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::{self, offset_of};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, SealFlag, fallocate};
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::queue_state::{Lease, QUEUE_LEASES, STATE_WORDS, State, Terms, pieces};
use crate::sys::atomic::{AtomicU64, Ordering, fence};
use crate::sys::memfd;

const MAGIC: u64 = u64::from_be_bytes(*b"procqueu");
const NAME: &CStr = c"procession-queue";
const LAYOUT_VERSION: u64 = 3;

/// Where the ring begins.
const RING_START: u64 = mem::size_of::<Layout>() as u64;

const _: () = {
    assert!(offset_of!(Layout, turn) == 64);
    assert!(offset_of!(Layout, turn) + offset_of!(Turn, holder) == 96);
    assert!(offset_of!(Layout, states) == 128);
    assert!(mem::size_of::<StateWords>() == 256);
    assert!(offset_of!(Layout, leases) == 4096);
    assert!(RING_START == 12288);
};

#[repr(C, align(4096))]
struct Layout {
    magic: AtomicU64,
    layout_version: AtomicU64,
    terms: [AtomicU64; 3],
    closed: AtomicU64,
    turn: Turn,
    states: [StateWords; 2],
    leases: Leases,
}

#[repr(C, align(64))]
struct Turn {
    /// Counts changes: its last bit says which state counts.
    count: AtomicU64,
    _apart: [u64; 3],
    /// The lock: see `claim`. Whoever takes it looks at the count next.
    holder: AtomicU64,
}

#[repr(C, align(128))]
struct StateWords([AtomicU64; STATE_WORDS]);

#[repr(C, align(4096))]
struct Leases([LeaseRecord; QUEUE_LEASES]);

#[repr(C, align(32))]
struct LeaseRecord {
    word: AtomicU64,
    at: AtomicU64,
    number: AtomicU64,
    record: AtomicU64,
}

/// Bits of a lease's word.
const DONE: u64 = 1;
const SPOILT: u64 = 2;
const LADEN: u64 = 4;

/// A reader that does not hold the lock gives up after so many changes meanwhile.
const LOOKS_MAX: u32 = 100;

/// One process's mapping of the state.
#[derive(Debug)]
pub(crate) struct Board {
    /// Invariant: the start of a mapping of `size_of::<Layout>()` bytes, of a
    /// file that cannot shrink, unmapped by `drop` only.
    layout: NonNull<Layout>,
    terms: Terms,
}

// SAFETY: the mapping belongs to the process, not to a thread, and everything
// in it is atomic.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// Makes a queue's file.
    pub(crate) fn create(terms: Terms) -> io::Result<(Board, File)> {
        let file = memfd::create(NAME)?;
        file.set_len(file_bytes(&terms))?;
        memfd::seal(&file, seals())?;
        let board = Board { layout: map(file.as_fd())?, terms };
        let layout = board.layout();
        for (word, value) in layout.terms.iter().zip(terms.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        layout.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
        layout.magic.store(MAGIC, Ordering::Release);
        Ok((board, file))
    }

    /// Looks into a queue's file that somebody has sent.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is anything else.
    pub(crate) fn open(file: BorrowedFd<'_>) -> io::Result<Board> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        // First of all: of what is no memory the kernel says so at once.
        let sealed = memfd::seals(file).is_ok_and(|seals| seals.contains(self::seals()));
        // Huge pages may be missing. In a sandbox that question is refused, and what
        // comes is the parent's.
        let is_huge = fstatfs(file).is_ok_and(|known| known.filesystem_type() != TMPFS_MAGIC);
        if !sealed || is_huge {
            return Err(invalid("this is no queue"));
        }
        let len = nix::sys::stat::fstat(file)?.st_size as u64;
        if len < RING_START {
            return Err(invalid("this is no queue"));
        }
        let layout = map(file)?;
        let mut board = Board { layout, terms: NO_TERMS };
        let words = board.layout();
        if words.magic.load(Ordering::Acquire) != MAGIC
            || words.layout_version.load(Ordering::Relaxed) != LAYOUT_VERSION
        {
            return Err(invalid("the queue has another layout"));
        }
        let terms = std::array::from_fn(|n| words.terms[n].load(Ordering::Relaxed));
        let terms = Terms::from_words(terms).map_err(|corrupt| invalid(corrupt.0))?;
        if len != file_bytes(&terms) {
            return Err(invalid("the queue has another size"));
        }
        board.terms = terms;
        Ok(board)
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The word that says who may change the state.
    pub(crate) fn holder(&self) -> &AtomicU64 {
        &self.layout().turn.holder
    }

    fn layout(&self) -> &Layout {
        // SAFETY: by the field's invariant the mapping is live and long
        // enough; it is aligned to a page; any bytes are a valid `Layout`.
        unsafe { self.layout.as_ref() }
    }

    /// The state that counts. Without the lock, that of a moment ago.
    pub(crate) fn load(&self) -> State {
        let layout = self.layout();
        let mut turn = layout.turn.count.load(Ordering::Acquire);
        let mut looks = 0;
        loop {
            let words = &layout.states[(turn & 1) as usize].0;
            let words = std::array::from_fn(|n| words[n].load(Ordering::Relaxed));
            // It is written to again only after the other one has counted.
            fence(Ordering::Acquire);
            let now = layout.turn.count.load(Ordering::Relaxed);
            looks += 1;
            if now == turn || looks == LOOKS_MAX {
                let closed = layout.closed.load(Ordering::SeqCst) != 0;
                return State::from_words(&words).closed_if(closed);
            }
            turn = now;
            // To see whole what stands there now.
            fence(Ordering::Acquire);
        }
    }

    /// Makes `state` the one that counts. Only whoever has the lock may.
    pub(crate) fn store(&self, state: State) {
        let layout = self.layout();
        let turn = layout.turn.count.load(Ordering::Relaxed).wrapping_add(1);
        // Whoever reads the words as they become sees that the turn has changed.
        fence(Ordering::Release);
        let words = &layout.states[(turn & 1) as usize].0;
        for (word, value) in words.iter().zip(state.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        layout.turn.count.store(turn, Ordering::Release);
    }

    /// Nothing can be put any more. Takes no lock.
    pub(crate) fn close(&self) {
        self.layout().closed.store(1, Ordering::SeqCst);
    }

    /// What is written down about an item that is held.
    ///
    /// # Panics
    ///
    /// If there is no such lease.
    pub(crate) fn lease(&self, lease: usize) -> Lease {
        let record = &self.layout().leases.0[lease];
        let word = record.word.load(Ordering::Acquire);
        Lease {
            is_done: word & DONE != 0,
            is_spoilt: word & SPOILT != 0,
            is_laden: word & LADEN != 0,
            at: record.at.load(Ordering::Relaxed),
            number: record.number.load(Ordering::Relaxed),
            record: record.record.load(Ordering::Relaxed),
        }
    }

    /// Writes it down. Only whoever has the lock may, before the state counts in
    /// which it is held.
    pub(crate) fn set_lease(&self, lease: usize, to: Lease) {
        let record = &self.layout().leases.0[lease];
        let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let word = bit(to.is_done, DONE) | bit(to.is_spoilt, SPOILT) | bit(to.is_laden, LADEN);
        record.at.store(to.at, Ordering::Relaxed);
        record.number.store(to.number, Ordering::Relaxed);
        record.record.store(to.record, Ordering::Relaxed);
        record.word.store(word, Ordering::Release);
    }

    /// Its holder has no more use for it. That takes no lock.
    pub(crate) fn finish_lease(&self, lease: usize, is_spoilt: bool) {
        let bits = if is_spoilt { DONE | SPOILT } else { DONE };
        self.layout().leases.0[lease].word.fetch_or(bits, Ordering::Release);
        // Before a look at who waits: see `settle_stores`.
        fence(Ordering::SeqCst);
    }

    /// After this, what others have finished is seen here, or they see what was
    /// stored here.
    pub(crate) fn settle_stores(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: by the field's invariant this is our mapping, and no borrow
        // of it outlives `self`.
        let unmapped = unsafe { munmap(self.layout.cast(), mem::size_of::<Layout>()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Until they are known.
const NO_TERMS: Terms =
    Terms { ring_bytes: 0, items_max: 0, kind: crate::queue_state::Kind::Plain };

fn map(file: BorrowedFd<'_>) -> io::Result<NonNull<Layout>> {
    let len = NonZeroUsize::new(mem::size_of::<Layout>()).expect("a layout has fields");
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, placed by the kernel. Both callers know that the
    // file is at least that long, and cannot shrink.
    let mapped = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file, 0) }?;
    Ok(mapped.cast())
}

fn file_bytes(terms: &Terms) -> u64 {
    RING_START + terms.ring_bytes
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// Reads `len` bytes of the ring, from a position on, to the end of `buffer`,
/// which has room for them.
pub(crate) fn read_ring(
    file: BorrowedFd<'_>,
    terms: &Terms,
    at: u64,
    len: usize,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    assert!(buffer.capacity() - buffer.len() >= len);
    for piece in pieces(&(at..at + len as u64), terms.ring_bytes) {
        let mut from = piece.start;
        while from < piece.end {
            let room = buffer.spare_capacity_mut();
            let most = room.len().min((piece.end - from) as usize);
            // SAFETY: the kernel writes at most `most` bytes there.
            let read = unsafe {
                let start = (RING_START + from) as libc::off_t;
                libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), most, start)
            };
            let read = match Errno::result(read) {
                Err(Errno::EINTR) => continue,
                // The file is as long as the ring.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => read? as usize,
            };
            // SAFETY: the kernel has initialised that much of the room.
            unsafe { buffer.set_len(buffer.len() + read) };
            from += read as u64;
        }
    }
    Ok(())
}

/// Where in the file a position lies, and how many bytes follow it before the
/// ring begins anew.
pub(crate) fn ring_offset(terms: &Terms, at: u64) -> (libc::off_t, u64) {
    let start = at % terms.ring_bytes;
    ((RING_START + start) as libc::off_t, terms.ring_bytes - start)
}

/// Gives back the memory of a part of the ring.
pub(crate) fn punch_ring(
    file: BorrowedFd<'_>,
    terms: &Terms,
    range: &Range<u64>,
) -> io::Result<()> {
    for piece in pieces(range, terms.ring_bytes) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (start, len) = (RING_START + piece.start, piece.end - piece.start);
        if len > 0 {
            loop {
                match fallocate(file, flags, start as libc::off_t, len as libc::off_t) {
                    Err(Errno::EINTR) => {}
                    done => break done?,
                }
            }
        }
    }
    Ok(())
}

/// Bytes of memory that a queue's file takes.
pub(crate) fn memory_bytes(file: BorrowedFd<'_>) -> io::Result<u64> {
    /// What `stat` counts blocks in.
    const BLOCK_BYTES: u64 = 512;
    Ok(nix::sys::stat::fstat(file)?.st_blocks as u64 * BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::queue_state::Kind;

    fn terms() -> Terms {
        Terms { ring_bytes: 64 << 10, items_max: 10, kind: Kind::Plain }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn both_sides_see_one_state() {
        let (board, file) = Board::create(terms()).unwrap();
        let other = Board::open(file.as_fd()).unwrap();
        assert_eq!(other.terms(), &terms());
        let mut state = board.load();
        assert_eq!(state, State::default());
        for _ in 0..5 {
            state = state.put(&terms(), 100).unwrap().0;
            board.store(state);
            assert_eq!((board.load(), other.load()), (state, state));
        }
        let lease =
            Lease { is_done: false, is_spoilt: false, is_laden: true, at: 3, number: 4, record: 5 };
        board.set_lease(255, lease);
        assert_eq!(other.lease(255), lease);
        other.finish_lease(255, true);
        assert_eq!(board.lease(255), Lease { is_done: true, is_spoilt: true, ..lease });
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn what_is_no_queue_is_refused() {
        let (board, file) = Board::create(terms()).unwrap();
        assert!(file.set_len(100).is_err(), "its length is sealed");
        let refused = |fd: BorrowedFd<'_>| Board::open(fd).unwrap_err();
        let other = memfd::create(c"other").unwrap();
        assert_eq!(refused(other.as_fd()).kind(), io::ErrorKind::InvalidData);
        memfd::seal(&other, seals()).unwrap();
        assert_eq!(refused(other.as_fd()).kind(), io::ErrorKind::InvalidData);
        refused(File::open("/dev/null").unwrap().as_fd());
        let layout = board.layout();
        let [length, _, kind] = &layout.terms;
        for word in [length, kind, &layout.magic, &layout.layout_version] {
            let before = word.swap(u64::MAX - 1, Ordering::Relaxed);
            assert_eq!(refused(file.as_fd()).kind(), io::ErrorKind::InvalidData);
            word.store(before, Ordering::Relaxed);
        }
        Board::open(file.as_fd()).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn readers_without_the_lock_never_see_half_a_change() {
        let (board, file) = Board::create(terms()).unwrap();
        let other = Board::open(file.as_fd()).unwrap();
        let state = |n: u64| {
            State::from_words(&std::array::from_fn(|at| match at {
                // Flags.
                11 => 0,
                _ => n,
            }))
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..200_000).for_each(|n| board.store(state(n))));
            while !writer.is_finished() {
                let seen = other.load().to_words();
                assert!(
                    seen.iter().enumerate().all(|(at, n)| at == 11 || *n == seen[0]),
                    "{seen:?}"
                );
            }
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn the_ring_is_read_around_its_end_and_gives_memory_back() {
        use std::os::unix::fs::FileExt;
        let (_board, file) = Board::create(terms()).unwrap();
        let write = |at: u64, bytes: &[u8]| {
            let (start, left) = ring_offset(&terms(), at);
            let first = bytes.len().min(left as usize);
            file.write_all_at(&bytes[..first], start as u64).unwrap();
            file.write_all_at(&bytes[first..], RING_START).unwrap();
        };
        let bytes: Vec<u8> = (0..60_000_u32).map(|n| n as u8).collect();
        write((1 << 20) - 30_000, &bytes);
        let mut read = BytesMut::with_capacity(bytes.len());
        read_ring(file.as_fd(), &terms(), (1 << 20) - 30_000, bytes.len(), &mut read).unwrap();
        assert!(read[..] == bytes[..]);
        let before = memory_bytes(file.as_fd()).unwrap();
        punch_ring(file.as_fd(), &terms(), &((1 << 20) - 28_672..(1 << 20) + 28_672)).unwrap();
        assert!(memory_bytes(file.as_fd()).unwrap() <= before - 2 * 28_672);
    }
}
