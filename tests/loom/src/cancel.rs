//! A task that watches for its cancellation hears of it, however the request
//! falls between its looks and its sleep.

use crate::check;
use crate::slot_word::Phase;
use crate::sys::layout::Layout;

const SEQ: u64 = 1;

fn asked(page: &Layout) -> bool {
    page.load(SEQ).phase() == Some(Phase::CancelReq)
}

/// As the thread of `worker::watch`. A request that is missed is a deadlock,
/// which loom reports.
#[test]
fn a_request_wakes_the_watcher() {
    check(
        |page| {
            page.enqueue(SEQ, 0);
            page.swap(SEQ, Phase::Queued, Phase::Running).unwrap();
        },
        |page| {
            page.swap(SEQ, Phase::Running, Phase::CancelReq).unwrap();
            page.ring_bell();
        },
        |page| {
            loop {
                let bell = page.bell();
                if asked(page) {
                    break;
                }
                page.await_bell(bell);
            }
        },
        |_, (), ()| {},
    );
}

/// The bell is all tasks' bell: it rings for another one first.
#[test]
fn a_request_after_another_wakes_the_watcher() {
    const OTHER: u64 = 2;
    check(
        |page| {
            for seq in [SEQ, OTHER] {
                page.enqueue(seq, 0);
                page.swap(seq, Phase::Queued, Phase::Running).unwrap();
            }
        },
        |page| {
            for seq in [OTHER, SEQ] {
                page.swap(seq, Phase::Running, Phase::CancelReq).unwrap();
                page.ring_bell();
            }
        },
        |page| {
            loop {
                let bell = page.bell();
                if asked(page) {
                    break;
                }
                page.await_bell(bell);
            }
        },
        |_, (), ()| {},
    );
}

/// A task that says that it is polite, and then looks, is either asked or
/// killed: whoever kills it has read that it was not polite yet.
#[test]
fn a_task_that_has_been_asked_sees_it() {
    check(
        |page| {
            page.enqueue(SEQ, 0);
            page.swap(SEQ, Phase::Queued, Phase::Running).unwrap();
        },
        |page| {
            let to = if page.polite(SEQ) { Phase::CancelReq } else { Phase::Killing };
            page.swap(SEQ, Phase::Running, to).unwrap();
            page.ring_bell();
            to
        },
        |page| {
            page.set_polite(SEQ, true);
            loop {
                let bell = page.bell();
                match page.load(SEQ).phase() {
                    Some(Phase::Running) => page.await_bell(bell),
                    there => return there,
                }
            }
        },
        |_, to, seen| assert_eq!(seen, Some(to)),
    );
}
