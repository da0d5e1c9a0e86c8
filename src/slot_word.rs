//! The slot word: who owns a task in flight, in one 64-bit number that parent
//! and worker swap atomically. Here is its pure form; `sys::layout` has the
//! atomics, `sched` and `worker` decide the transitions.
//!
//! ```text
//!              parent            worker             worker
//!  Empty ─────────────▶ Queued ─────────▶ Running ─────────▶ Done
//!                          │               │  ▲ │             ▲
//!                   parent │        parent │    │ parent      │ worker
//!                          ▼               ▼    ▼             │
//!                       Revoked      CancelReq ─┼─────────────┘
//!                                          └────▶ Killing
//! ```
//!
//! A word that reads `Queued` or `Revoked` after its worker's death belongs to
//! a task that never ran. Any other phase means that it may have.

use std::fmt;

/// Where a task in flight is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    Empty = 0,
    Queued = 1,
    Running = 2,
    CancelReq = 3,
    Done = 4,
    Revoked = 5,
    Killing = 6,
}

/// A task's sequence number on its worker, and its phase.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotWord(pub(crate) u64);

impl SlotWord {
    pub(crate) fn new(seq: u64, phase: Phase) -> Self {
        SlotWord(seq << 8 | phase as u64)
    }

    pub(crate) fn seq(self) -> u64 {
        self.0 >> 8
    }

    /// The phase, or `None` where a hostile worker wrote another number.
    pub(crate) fn phase(self) -> Option<Phase> {
        Some(match self.0 as u8 {
            0 => Phase::Empty,
            1 => Phase::Queued,
            2 => Phase::Running,
            3 => Phase::CancelReq,
            4 => Phase::Done,
            5 => Phase::Revoked,
            6 => Phase::Killing,
            _ => return None,
        })
    }
}

impl fmt::Debug for SlotWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.seq())?;
        match self.phase() {
            Some(phase) => write!(f, "{phase:?}"),
            None => write!(f, "?{}", self.0 as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_it_was_made_of() {
        let phases = [
            Phase::Empty,
            Phase::Queued,
            Phase::Running,
            Phase::CancelReq,
            Phase::Done,
            Phase::Revoked,
            Phase::Killing,
        ];
        for seq in [0, 1, 63, 64, 255, 256, (1 << 56) - 1] {
            for (number, phase) in (0..).zip(phases) {
                let word = SlotWord::new(seq, phase);
                assert_eq!((word.seq(), word.phase()), (seq, Some(phase)));
                // The layout is the worker's as well.
                assert_eq!(word.0, seq * 256 + number);
            }
        }
        assert_eq!(format!("{:?}", SlotWord::new(7, Phase::Done)), "7:Done");
    }

    #[test]
    fn a_number_that_is_no_phase_is_none() {
        for number in 7..=255 {
            assert_eq!(SlotWord(300 << 8 | number).phase(), None);
        }
        assert_eq!(format!("{:?}", SlotWord(7 << 8 | 200)), "7:?200");
    }
}
