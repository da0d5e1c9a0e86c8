//! The library's lock-free files with loom's atomics in place of std's. Each
//! module checks one promise; `sys` and `limits` stand where those files look
//! for them.
//!
//! What loom does not do: it takes `SeqCst` for `AcqRel` (nothing here needs
//! more), and no load sees a store that its own thread has yet to make. The
//! futex is modelled, see `sys::futex`.
#![cfg(test)]

mod limits;
#[path = "../../../src/slot_word.rs"]
#[allow(dead_code, reason = "part of it is for the library's other files")]
mod slot_word;
mod sys;

mod cancel;
mod credit;
mod kill;
mod outbox;
mod start;
mod supervisor;
mod tally;

use std::sync::Arc;

use crate::sys::layout::Layout;

const STACK_WORDS: usize = 64 << 10;

/// Where every order is too many: those with at most so many switches away
/// from a thread that could have gone on.
const SWITCHES_MAX: usize = 3;

/// Lets both sides use a page at once, in every order, and then has `after`
/// look at it and at what they returned.
fn check<P, W>(
    setup: fn(&Layout),
    parent: fn(&Layout) -> P,
    worker: fn(&Layout) -> W,
    after: fn(&Layout, P, W),
) where
    P: 'static,
    W: 'static,
{
    check_within(None, setup, parent, worker, after);
}

/// The same with a limit on switches.
fn check_within<P, W>(
    switches_max: Option<usize>,
    setup: fn(&Layout),
    parent: fn(&Layout) -> P,
    worker: fn(&Layout) -> W,
    after: fn(&Layout, P, W),
) where
    P: 'static,
    W: 'static,
{
    let mut model = loom::model::Builder::new();
    model.preemption_bound = switches_max;
    model.check(move || {
        // A page is too large for the stack that models start on.
        let parent = loom::thread::Builder::new().stack_size(STACK_WORDS).spawn(move || {
            let page = Arc::new(Layout::new());
            setup(&page);
            let theirs = Arc::clone(&page);
            let worker = loom::thread::spawn(move || worker(&theirs));
            let parent = parent(&page);
            after(&page, parent, worker.join().unwrap());
        });
        parent.unwrap().join().unwrap();
    });
}
