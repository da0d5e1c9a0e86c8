//! The fence before a signal: a task is over or is killed, never both, and a
//! worker whose task is to be killed starts nothing else.

use crate::check;
use crate::slot_word::Phase;
use crate::sys::layout::Layout;

const TARGET: u64 = 1;
const NEXT: u64 = 2;

/// As `worker::run` does it: the target ends, the next one begins. Returns
/// which of them had a body that ran to its end.
fn work(page: &Layout) -> (bool, bool) {
    let done = |seq| {
        page.swap(seq, Phase::Running, Phase::Done).is_ok()
            || page.swap(seq, Phase::CancelReq, Phase::Done).is_ok()
    };
    if !done(TARGET) {
        return (false, false);
    }
    let started = page.swap(NEXT, Phase::Queued, Phase::Running).is_ok();
    (true, started)
}

fn both_sent(page: &Layout) {
    page.enqueue(TARGET, 0);
    page.swap(TARGET, Phase::Queued, Phase::Running).unwrap();
    page.enqueue(NEXT, 0);
}

#[test]
fn a_task_is_over_or_killed_and_the_next_is_spared() {
    check(
        both_sent,
        |page| match page.swap(TARGET, Phase::Running, Phase::Killing) {
            Ok(()) => {
                // Cannot fail: the worker is at the fence, or will be.
                page.swap(NEXT, Phase::Queued, Phase::Revoked).unwrap();
                true
            }
            Err(there) => {
                assert_eq!(there.phase(), Some(Phase::Done));
                false
            }
        },
        work,
        |page, killed, (done, next_started)| {
            assert_ne!(killed, done);
            assert_ne!(killed, next_started);
            let left = if killed { Phase::Killing } else { Phase::Done };
            assert_eq!(page.load(TARGET).phase(), Some(left));
        },
    );
}

/// First it is asked to end, then its grace period is over.
#[test]
fn a_polite_task_is_over_or_killed() {
    check(
        both_sent,
        |page| {
            page.swap(TARGET, Phase::Running, Phase::CancelReq).is_ok()
                && page.swap(TARGET, Phase::CancelReq, Phase::Killing).is_ok()
        },
        work,
        |page, killed, (done, next_started)| {
            assert_ne!(killed, done);
            assert_ne!(killed, next_started);
            let left = if killed { Phase::Killing } else { Phase::Done };
            assert_eq!(page.load(TARGET).phase(), Some(left));
        },
    );
}

/// Nobody in particular is to be killed: newest first, as `sched::cancel`.
#[test]
fn a_worker_that_is_stopped_has_not_started_what_was_taken_back() {
    check(
        both_sent,
        |page| {
            let back = page.swap(NEXT, Phase::Queued, Phase::Revoked).is_ok();
            let fenced = |seq| page.swap(seq, Phase::Running, Phase::Killing).is_ok();
            let fenced = [NEXT, TARGET].map(fenced);
            (back, fenced)
        },
        work,
        |page, (back, [next_fenced, target_fenced]), (done, next_started)| {
            assert_ne!(target_fenced, done);
            // Whatever it ran is fenced or over; the rest was taken back.
            assert_ne!(back, next_started);
            assert_eq!(next_fenced, next_started);
            assert_eq!(page.load(NEXT).phase() == Some(Phase::Revoked), back);
        },
    );
}
