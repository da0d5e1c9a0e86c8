//! Looks out for the next task for a moment before the worker sleeps: to be
//! woken takes longer than many tasks do. Used by the worker's loop only. Where
//! the parent does the same, the answer before that is taken without a call.
//!
//! It watches the status page, where the parent writes a task's slot word just
//! before it sends the task: no system call is made until that is on its way, and
//! whoever sends needs to do nothing for it. It takes a processor from nobody, and
//! from no idle machine: the parent says whether one is left, and it is done only
//! after a task that came soon.

use std::hint::spin_loop;
use std::os::fd::BorrowedFd;

use crate::slot_word::{Phase, SlotWord};
use crate::sys::clock::monotonic_nanos;
use crate::sys::fd::is_readable;
use crate::sys::page::Page;
use crate::sys::threads::current_processor;

/// Longest look. A round trip takes half of that, with a parent that has to be
/// woken.
const LOOK_NANOS: u64 = 50_000;

/// Whoever waited longer than this for a task will sleep until the next one.
const SOON_NANOS: u64 = 2 * LOOK_NANOS;

/// Turns between two looks at the clock, which take as long as twenty.
const TURNS: usize = 20;

pub(super) struct Lookout {
    /// Number that the next task will have.
    next_seq: u64,
    /// The last task came soon.
    pays: bool,
}

impl Lookout {
    pub(super) fn new() -> Self {
        Lookout { next_seq: 1, pays: false }
    }

    /// Notes a task that has come.
    pub(super) fn handle_run(&mut self, seq: u64) {
        self.next_seq = seq + 1;
    }

    /// Lets a parent that looks out for the answer of the last task take it, which
    /// `is_taken` tells. Not for long: it may have been kept from running.
    pub(super) fn offer(&self, page: &Page, is_taken: impl Fn() -> bool) {
        let last = self.next_seq - 1;
        if last == 0 || !page.is_watched(last) {
            return;
        }
        let until = monotonic_nanos() + LOOK_NANOS;
        while monotonic_nanos() < until {
            for _ in 0..TURNS {
                if is_taken() || !page.is_watched(last) {
                    return;
                }
                spin_loop();
            }
        }
    }

    /// Waits for the next task with `read`, which sleeps, but looks out for it
    /// first if that pays.
    pub(super) fn wait<R>(
        &mut self,
        page: &Page,
        socket: BorrowedFd<'_>,
        read: impl FnOnce() -> R,
    ) -> R {
        let processor = current_processor();
        if !page.lookout(processor) {
            page.set_awake(None);
            return read();
        }
        let began = monotonic_nanos();
        let mut is_there = false;
        if self.pays {
            // Before the parent could send anything.
            page.set_awake(Some(processor));
            let until = began + LOOK_NANOS;
            self.look(page, until);
            while !is_there && monotonic_nanos() < until {
                is_there = is_readable(socket);
            }
        }
        if !is_there {
            page.set_awake(None);
        }
        let result = read();
        self.pays = monotonic_nanos() - began <= SOON_NANOS;
        result
    }

    fn look(&self, page: &Page, until: u64) {
        let sent = SlotWord::new(self.next_seq, Phase::Queued);
        while monotonic_nanos() < until {
            for _ in 0..TURNS {
                if page.load(self.next_seq) == sent {
                    return;
                }
                spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn one_that_was_sent_is_seen_and_one_that_was_not_is_not_waited_for_long() {
        let (page, _fd) = Page::create().unwrap();
        let mut lookout = Lookout::new();
        lookout.handle_run(7);
        lookout.look(&page, monotonic_nanos() + LOOK_NANOS);
        page.enqueue(8, 0);
        // Without an end it would never return.
        lookout.look(&page, u64::MAX);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn an_answer_is_offered_to_who_looks_out_for_it_and_not_for_long() {
        let (page, _fd) = Page::create().unwrap();
        let mut lookout = Lookout::new();
        let never = || -> bool { panic!("nobody looks out") };
        lookout.offer(&page, never);
        lookout.handle_run(7);
        page.set_watched(Some(8));
        lookout.offer(&page, never);
        page.set_watched(Some(7));
        lookout.offer(&page, || true);
        // Without an end it would never return.
        lookout.offer(&page, || false);
    }

    #[test]
    fn it_pays_after_a_short_wait_only() {
        let (page, fd) = Page::create().unwrap();
        let fd = fd.as_fd();
        let mut lookout = Lookout::new();
        page.set_lookout(Some(u32::MAX - 1));
        let began = monotonic_nanos();
        lookout.wait(&page, fd, || ());
        // Unless this thread was kept from running.
        assert!(lookout.pays || monotonic_nanos() - began > SOON_NANOS);
        lookout.wait(&page, fd, || {
            let began = monotonic_nanos();
            while monotonic_nanos() - began <= SOON_NANOS {}
        });
        assert!(!lookout.pays);
    }
}
