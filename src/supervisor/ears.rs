//! What a pool knows of who listens to `tracing` in its workers: what nobody hears is
//! not prepared. All its workers run the same initializer, so the first that is ready
//! tells for all.

use crate::proto::message::Ears;
use crate::sys::atomic::{AtomicU8, Ordering};

#[derive(Debug, Default)]
pub(super) struct PoolEars(AtomicU8);

const KNOWN: u8 = 1;
const FORWARDS: u8 = 2;
const LISTENS: u8 = 4;

impl PoolEars {
    pub(super) fn note(&self, ears: Ears) {
        let forwards = if ears.forwards { FORWARDS } else { 0 };
        let listens = if ears.listens { LISTENS } else { 0 };
        self.0.fetch_or(KNOWN | forwards | listens, Ordering::Relaxed);
    }

    /// Whether a call's span, or its caller's, will be asked for.
    pub(super) fn may_forward(&self) -> bool {
        self.may(FORWARDS)
    }

    /// Whether a worker will open spans of its own for calls.
    pub(super) fn may_listen(&self) -> bool {
        self.may(LISTENS)
    }

    fn may(&self, flag: u8) -> bool {
        let known = self.0.load(Ordering::Relaxed);
        known & KNOWN == 0 || known & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_a_worker_has_told_it_may() {
        let ears = PoolEars::default();
        assert!(ears.may_forward());
        ears.note(Ears::default());
        assert!(!ears.may_forward());
        ears.note(Ears { listens: true, forwards: true });
        assert!(ears.may_forward());
    }
}
