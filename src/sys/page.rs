//! The status page: one memfd per worker, mapped by parent and worker, that
//! holds the slot words and an outbox ring of the answers under way. The
//! parent makes it in `start::spawn`, the worker opens it in `start::boot`;
//! `sys::layout` has what both do with it.
//!
//! ```text
//!      0  magic │ layout version │ cancel bell │ lookout │ watched │ over memory │
//!         sandbox
//!     64  outbox filled │ held from │ settled │ awake
//!   4096  1024 slot words
//!  12288  1024 times: started at
//!  20480  1024 slots of 64 bytes: item, credit, nudge, polite, claimed, tally
//!  86016  outbox: a ring of 64 KiB
//! 151552  tally: 16 KiB
//! ```
//!
//! The file is sealed against shrinking: a worker that truncated it would
//! make the parent's next look a SIGBUS.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::{self, offset_of};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::limits::{OUTBOX_BYTES, TALLY_BYTES};
use crate::sys::atomic::Ordering;
use crate::sys::layout::{Header, Layout, Slot, range_len};
use crate::sys::memfd;

const MAGIC: u64 = u64::from_be_bytes(*b"procpage");
const NAME: &CStr = c"procession-page";
const LAYOUT_VERSION: u32 = 11;

const _: () = {
    assert!(offset_of!(Header, outbox) == 64);
    assert!(mem::size_of::<Slot>() == 64);
    assert!(offset_of!(Layout, words) == 4096);
    assert!(offset_of!(Layout, started_at) == 12288);
    assert!(offset_of!(Layout, slots) == 20480);
    assert!(offset_of!(Layout, outbox) == 86016);
    assert!(mem::size_of::<Layout>() == 86016 + OUTBOX_BYTES + TALLY_BYTES);
};

/// One process's mapping of a status page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Invariant: the start of a mapping of `size_of::<Layout>()` bytes, of a
    /// file that cannot shrink, unmapped by `drop` only.
    layout: NonNull<Layout>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and everything
// in it is atomic.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Makes the page of a new worker, and the descriptor to send to it.
    pub(crate) fn create() -> io::Result<(Page, OwnedFd)> {
        let file = memfd::create(NAME)?;
        file.set_len(mem::size_of::<Layout>() as u64)?;
        memfd::seal(&file, seals())?;
        let page = Page::map(file.as_fd())?;
        page.header.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
        page.header.magic.store(MAGIC, Ordering::Release);
        Ok((page, file.into()))
    }

    /// Opens the page that the parent has made.
    ///
    /// # Errors
    ///
    /// `InvalidData` if this is no status page, or that of another version.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Page> {
        let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let file = File::from(fd);
        if file.metadata()?.len() != mem::size_of::<Layout>() as u64 {
            return invalid("the status page has another size");
        }
        if !memfd::seals(file.as_fd())?.contains(seals()) {
            return invalid("the status page is not sealed");
        }
        let page = Page::map(file.as_fd())?;
        if page.header.magic.load(Ordering::Acquire) != MAGIC
            || page.header.layout_version.load(Ordering::Relaxed) != LAYOUT_VERSION
        {
            return invalid("the status page has another layout");
        }
        Ok(page)
    }

    fn map(fd: BorrowedFd<'_>) -> io::Result<Page> {
        let len = NonZeroUsize::new(mem::size_of::<Layout>()).expect("a page has fields");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, placed by the kernel. Both callers know that
        // the file has this length and cannot shrink.
        let mapped = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Page { layout: mapped.cast() })
    }

    /// Worker: says that it ends itself, with so many resident bytes.
    pub(crate) fn set_over_memory(&self, resident: u64) {
        self.header.over_memory.store(resident, Ordering::Release);
    }

    /// What the worker said of that.
    pub(crate) fn over_memory(&self) -> Option<u64> {
        Some(self.header.over_memory.load(Ordering::Acquire)).filter(|bytes| *bytes != 0)
    }

    /// Worker: says what is in force of its sandbox, before it is ready.
    #[cfg(feature = "sandbox")]
    pub(crate) fn set_sandbox(&self, bits: u64) {
        self.header.sandbox.store(bits, Ordering::Release);
    }

    /// Parent: what it said of that, to be asked once: when it is ready.
    #[cfg(feature = "sandbox")]
    pub(crate) fn sandbox(&self) -> u64 {
        self.header.sandbox.load(Ordering::Acquire)
    }

    /// Worker: writes `[from, to)` of the stream to the socket, straight from
    /// the ring, and returns how many bytes it took. Waits for room for the first,
    /// if `waits`.
    ///
    /// There is no `&[u8]` of the ring to be had: it would promise that nobody
    /// writes there, and two processes can.
    ///
    /// # Panics
    ///
    /// Unless `from <= to` and the range fits into the ring.
    pub(crate) fn outbox_send(
        &self,
        socket: BorrowedFd<'_>,
        from: u64,
        to: u64,
        waits: bool,
    ) -> io::Result<usize> {
        let len = range_len(from, to);
        let start = from as usize % OUTBOX_BYTES;
        let first = len.min(OUTBOX_BYTES - start);
        let ring = self.outbox.as_ptr().cast::<u8>().cast_mut();
        let mut parts = [
            libc::iovec { iov_base: ring.wrapping_add(start).cast(), iov_len: first },
            libc::iovec { iov_base: ring.cast(), iov_len: len - first },
        ];
        // SAFETY: zeroes are a valid msghdr: no name, no buffers.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = if len == first { 1 } else { 2 };
        let flags = libc::MSG_NOSIGNAL | if waits { 0 } else { libc::MSG_DONTWAIT };
        loop {
            // SAFETY: both parts lie within the ring, as `range_len` has
            // checked, and the kernel only reads them.
            let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
            match Errno::result(sent) {
                Err(Errno::EINTR) => continue,
                sent => return Ok(sent? as usize),
            }
        }
    }
}

impl Deref for Page {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        // SAFETY: by the field's invariant the mapping is live and long
        // enough; it is aligned to a page; any bytes are a valid `Layout`.
        unsafe { self.layout.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: by the field's invariant this is our mapping, and no borrow
        // of it outlives `self`.
        let unmapped = unsafe { munmap(self.layout.cast(), mem::size_of::<Layout>()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

#[cfg(test)]
mod tests {
    use std::hint;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;
    use crate::limits::SLOTS;
    use crate::slot_word::{Phase, SlotWord};

    fn both_sides() -> (Page, Page) {
        let (parent, fd) = Page::create().unwrap();
        (parent, Page::open(fd).unwrap())
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn both_sides_see_one_page() {
        let (parent, worker) = both_sides();
        parent.enqueue(5, 0);
        worker.swap(5, Phase::Queued, Phase::Running).unwrap();
        assert_eq!(parent.load(5), SlotWord::new(5, Phase::Running));
        worker.outbox_write(3, b"bytes");
        assert_eq!(parent.outbox_read(3, 8), b"bytes");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn the_file_keeps_its_size() {
        let (_page, fd) = Page::create().unwrap();
        let file = File::from(fd);
        assert_eq!(file.set_len(0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(file.set_len(1 << 20).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let unseal = fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
        assert_eq!(unseal, Err(Errno::EPERM));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn other_files_are_refused() {
        let plain = |len| {
            let file = memfd::create(NAME).unwrap();
            file.set_len(len).unwrap();
            file
        };
        let kind = |file: File| Page::open(file.into()).unwrap_err().kind();
        assert_eq!(kind(plain(0)), io::ErrorKind::InvalidData);
        let unsealed = plain(mem::size_of::<Layout>() as u64);
        assert_eq!(kind(unsealed.try_clone().unwrap()), io::ErrorKind::InvalidData);
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(seals())).unwrap();
        assert_eq!(kind(unsealed), io::ErrorKind::InvalidData, "no magic");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn the_ring_is_sent_as_it_is() {
        let (_parent, worker) = both_sides();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let bytes: Vec<u8> = (0..OUTBOX_BYTES).map(|n| (n % 251) as u8).collect();
        for at in [0, 5, OUTBOX_BYTES as u64 - 3] {
            worker.outbox_write(at, &bytes);
            let end = at + OUTBOX_BYTES as u64;
            assert_eq!(worker.outbox_send(ours.as_fd(), at, end, true).unwrap(), OUTBOX_BYTES);
            let mut got = vec![0; OUTBOX_BYTES];
            theirs.read_exact(&mut got).unwrap();
            assert!(got == bytes);
        }
        drop(theirs);
        let error = worker.outbox_send(ours.as_fd(), 0, 1, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    // What follows needs no mapping.

    const ROUNDS: u32 = if cfg!(miri) { 50 } else { 1000 };

    #[test]
    fn a_phase_is_left_once() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        let seq = 5 + SLOTS as u64;
        parent.enqueue(seq, 0);
        assert_eq!(worker.load(seq), SlotWord::new(seq, Phase::Queued));
        worker.swap(seq, Phase::Queued, Phase::Running).unwrap();
        let there = parent.swap(seq, Phase::Queued, Phase::Revoked).unwrap_err();
        assert_eq!(there, SlotWord::new(seq, Phase::Running));
        parent.swap(seq, Phase::Running, Phase::Killing).unwrap();
        let there = worker.swap(seq, Phase::Running, Phase::Done).unwrap_err();
        assert_eq!(there.phase(), Some(Phase::Killing));
    }

    #[test]
    fn another_task_in_the_slot_is_not_mistaken() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        parent.enqueue(5 + SLOTS as u64, 0);
        assert!(worker.swap(5, Phase::Queued, Phase::Running).is_err());
        assert_eq!(worker.load(5).seq(), 5 + SLOTS as u64);
    }

    #[test]
    fn enqueue_resets_the_line() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        parent.enqueue(3, 7);
        worker.set_started_at(3, 99);
        worker.item_cell(3).store(8, Ordering::Relaxed);
        worker.set_polite(3, true);
        parent.grant(3, 5);
        assert_eq!((parent.started_at(3), parent.item(3), parent.polite(3)), (99, 8, true));
        assert_eq!(worker.credit(3), 12);
        parent.enqueue(3 + SLOTS as u64, 1);
        assert_eq!((parent.started_at(3), parent.item(3), parent.polite(3)), (0, 0, false));
        assert_eq!(worker.credit(3), 1);
    }

    /// A thread that a task has left behind may be about to ask for it.
    #[test]
    fn what_one_task_asks_for_is_not_another_ones() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        let next = 3 + SLOTS as u64;
        parent.enqueue(3, 0);
        worker.set_polite(3, true);
        parent.enqueue(next, 0);
        worker.set_polite(3, true);
        assert!(!parent.polite(next));
        worker.set_polite(next, true);
        worker.set_polite(3, true);
        worker.set_polite(3, false);
        assert!(parent.polite(next) && !parent.polite(3));
        worker.set_polite(next, false);
        assert!(!parent.polite(next));
    }

    #[test]
    fn the_ring_gives_back_what_was_put_in_at_every_offset() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        let bytes: Vec<u8> = (0..100).collect();
        let end_of_ring = OUTBOX_BYTES as u64 * 3;
        // Seven comes to every byte of a word as well.
        let step = if cfg!(miri) { 7 } else { 1 };
        for at in (end_of_ring - 110..end_of_ring + 10).step_by(step) {
            for len in [0, 1, 7, 8, 9, 40, 100] {
                worker.outbox_write(at - 8, &[0xee; 116]);
                worker.outbox_write(at, &bytes[..len]);
                worker.outbox_publish(at + len as u64);
                let filled = parent.outbox_filled();
                assert_eq!(parent.outbox_read(at, filled), bytes[..len]);
                assert_eq!(parent.outbox_read(at - 8, at), [0xee; 8], "nothing before");
                assert_eq!(parent.outbox_read(filled, filled + 8), [0xee; 8], "nothing after");
            }
        }
    }

    #[test]
    fn credit_wakes_a_waiting_stream() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        parent.enqueue(1, 0);
        worker.swap(1, Phase::Queued, Phase::Running).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for sent in 0..ROUNDS {
                    while worker.credit(1) == sent {
                        worker.await_credit(1, sent);
                    }
                }
            });
            for _ in 0..ROUNDS {
                parent.grant(1, 1);
            }
        });
    }

    /// Cancels as soon as the body runs, so that some cancels come between the
    /// stream's last look and its sleep.
    #[test]
    fn a_cancel_wakes_a_stream_that_waits_for_credit() {
        const TASKS: u64 = if cfg!(miri) { 50 } else { 5_000 };
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        thread::scope(|scope| {
            scope.spawn(|| {
                for seq in 1..TASKS {
                    while worker.swap(seq, Phase::Queued, Phase::Running).is_err() {
                        thread::yield_now();
                    }
                    while worker.load(seq).phase() == Some(Phase::Running) {
                        worker.await_credit(seq, 0);
                    }
                }
            });
            for seq in 1..TASKS {
                parent.enqueue(seq, 0);
                while parent.swap(seq, Phase::Running, Phase::CancelReq).is_err() {
                    thread::yield_now();
                }
                // More or less late, to meet every step of the other side.
                (0..seq % 200).for_each(|_| hint::spin_loop());
                parent.wake_credit(seq);
            }
        });
    }

    #[test]
    fn the_bell_wakes() {
        let page = Layout::new();
        let (parent, worker) = (&page, &page);
        thread::scope(|scope| {
            scope.spawn(|| {
                for seen in 0..ROUNDS {
                    while worker.bell() == seen {
                        worker.await_bell(seen);
                    }
                }
            });
            for _ in 0..ROUNDS {
                parent.ring_bell();
            }
        });
    }
}
