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
