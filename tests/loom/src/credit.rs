//! A stream that waits for credit wakes up for it, and for its cancellation.

use crate::slot_word::Phase;
use crate::sys::layout::Layout;
use crate::{SWITCHES_MAX, check, check_within};

const SEQ: u64 = 1;

fn runs(page: &Layout) {
    page.enqueue(SEQ, 0);
    page.swap(SEQ, Phase::Queued, Phase::Running).unwrap();
}

/// As `worker::desk` does it: how many of `items` were sent before the stream
/// was asked to end.
fn send(page: &Layout, items: u32) -> u32 {
    for sent in 0..items {
        loop {
            let credit = page.credit(SEQ);
            if page.load(SEQ).phase() == Some(Phase::CancelReq) {
                return sent;
            }
            if credit != sent {
                break;
            }
            page.await_credit(SEQ, credit);
        }
    }
    items
}

#[test]
fn credit_wakes_a_waiting_stream() {
    check(runs, |page| page.grant(SEQ, 1), |page| send(page, 1), |_, (), sent| assert_eq!(sent, 1));
}

#[test]
fn credit_wakes_a_stream_each_time() {
    check_within(
        Some(SWITCHES_MAX),
        runs,
        |page| (0..2).for_each(|_| page.grant(SEQ, 1)),
        |page| send(page, 2),
        |_, (), sent| assert_eq!(sent, 2),
    );
}

#[test]
fn a_cancel_wakes_a_stream_that_waits_for_credit() {
    check_within(
        Some(SWITCHES_MAX),
        runs,
        |page| {
            page.grant(SEQ, 1);
            page.swap(SEQ, Phase::Running, Phase::CancelReq).unwrap();
            page.wake_credit(SEQ);
        },
        |page| send(page, 2),
        |_, (), sent| assert!(sent <= 1),
    );
}
