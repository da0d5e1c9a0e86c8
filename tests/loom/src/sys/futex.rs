//! The kernel's futex, in loom's terms. The kernel compares the word and lists
//! the sleeper under one lock, and wakes under the same lock, so a lock here
//! orders no more than it does there; the word itself is read with `Relaxed`.

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};

#[derive(Default)]
struct Sleepers {
    /// Address of the word each one sleeps on, and a number to know it by.
    listed: Vec<(usize, u64)>,
    next: u64,
}

loom::lazy_static! {
    static ref SLEEPERS: Mutex<Sleepers> = Mutex::default();
    static ref WOKEN: Condvar = Condvar::new();
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}

pub(crate) fn wait(word: &AtomicU32, expected: u32) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    if word.load(Ordering::Relaxed) != expected {
        return;
    }
    let own = (address(word), sleepers.next);
    sleepers.next += 1;
    sleepers.listed.push(own);
    while sleepers.listed.contains(&own) {
        sleepers = WOKEN.wait(sleepers).unwrap();
    }
}

pub(crate) fn wake_all(word: &AtomicU32) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    sleepers.listed.retain(|&(at, _)| at != address(word));
    drop(sleepers);
    WOKEN.notify_all();
}
