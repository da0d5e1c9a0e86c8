//! Looks out for the next task for a moment before the worker sleeps: to be
//! woken takes longer than many tasks do. Used by the worker's loop only.
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

    /// Waits for the next task with `read`, which sleeps, but looks out for it
    /// first if that pays.
    pub(super) fn wait<R>(
        &mut self,
        page: &Page,
        socket: BorrowedFd<'_>,
        read: impl FnOnce() -> R,
    ) -> R {
        if !page.lookout() {
            return read();
        }
        let began = monotonic_nanos();
        if self.pays {
            let until = began + LOOK_NANOS;
            self.look(page, until);
            while !is_readable(socket) && monotonic_nanos() < until {}
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
    fn it_pays_after_a_short_wait_only() {
        let (page, fd) = Page::create().unwrap();
        let fd = fd.as_fd();
        let mut lookout = Lookout::new();
        page.set_lookout(true);
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
