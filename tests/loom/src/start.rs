//! A task is started or taken back, never both, and whoever sees it started
//! sees since when.

use crate::check;
use crate::limits::SLOTS;
use crate::slot_word::Phase;
use crate::sys::atomic::Ordering;

const SEQ: u64 = SLOTS as u64 + 1;
const NOW: u64 = 77;

#[test]
fn a_task_is_started_or_taken_back() {
    check(
        |page| page.enqueue(SEQ, 0),
        |page| {
            let revoked = page.swap(SEQ, Phase::Queued, Phase::Revoked);
            if let Err(there) = revoked {
                assert_eq!(there.phase(), Some(Phase::Running));
                assert_eq!(page.started_at(SEQ), NOW);
            }
            revoked.is_ok()
        },
        |page| {
            page.set_started_at(SEQ, NOW);
            page.swap(SEQ, Phase::Queued, Phase::Running).is_ok()
        },
        |page, revoked, started| {
            assert_ne!(revoked, started);
            let left = if started { Phase::Running } else { Phase::Revoked };
            assert_eq!(page.load(SEQ).phase(), Some(left));
        },
    );
}

#[test]
fn who_sees_a_task_run_sees_since_when() {
    check(
        |page| page.enqueue(SEQ, 0),
        |page| {
            if page.load(SEQ).phase() == Some(Phase::Running) {
                assert_eq!(page.started_at(SEQ), NOW);
            }
        },
        |page| {
            page.set_started_at(SEQ, NOW);
            page.swap(SEQ, Phase::Queued, Phase::Running).unwrap();
        },
        |_, (), ()| {},
    );
}

/// A thread that the slot's last task has left behind asks for politeness.
#[test]
fn what_the_last_task_asks_for_is_not_the_next_ones() {
    check(
        |page| page.enqueue(SEQ, 1),
        |page| page.set_polite(SEQ - SLOTS as u64, true),
        |page| {
            let before = page.polite(SEQ);
            page.set_polite(SEQ, true);
            (before, page.polite(SEQ))
        },
        |page, (), (before, after)| {
            assert_eq!((before, after, page.polite(SEQ)), (false, true, true));
        },
    );
}

/// The slot's last task was a polite stream in the middle of a chunk.
#[test]
fn a_task_finds_nothing_of_the_last_one_in_its_slot() {
    check(
        |page| {
            let last = SEQ - SLOTS as u64;
            page.enqueue(last, 5);
            page.item_cell(last).store(9, Ordering::Relaxed);
            page.set_polite(last, true);
        },
        |page| page.enqueue(SEQ, 1),
        |page| {
            if page.swap(SEQ, Phase::Queued, Phase::Running).is_ok() {
                assert_eq!((page.polite(SEQ), page.item(SEQ), page.credit(SEQ)), (false, 0, 1));
            }
        },
        |_, (), ()| {},
    );
}
