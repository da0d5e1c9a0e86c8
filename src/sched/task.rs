//! A task as the scheduler sees it, and what can become of it.
//!
//! ```text
//!           assign               word: Running            answer
//!  Queued ──────────▶ Sent ───────────────────▶ (Sent) ───────────▶ gone: answered
//!    │  ▲              │ │                         │
//!    │  └──────────────┘ │ cancel, word: Revoked   │ cancel: intent is set, then
//!    │   taken back,     ▼                         ▼ polite request, fence, signal
//!    │   or its worker   gone: cancelled,       (Sent, intent)
//!    │   died first      not started               │ answer, or the worker's death
//!    ▼ cancel                                      ▼
//!  gone: cancelled, not started                 gone: as the intent says
//! ```
//!
//! Whether a sent task has started is never stored here: the slot word knows.

use std::time::Duration;

use super::key::WorkerKey;
use crate::exit::Exit;
use crate::id::TaskId;
use crate::proto::peer::ProtocolError;

/// What the caller asked for beside the call itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Terms {
    /// Longest run time, counted from the start of the task's body.
    pub(crate) timeout: Option<Duration>,
    /// How often the task may be run again after its worker died under it.
    pub(crate) retries: u32,
}

#[derive(Clone, Hash, Debug)]
pub(crate) struct Task<T> {
    pub(crate) id: TaskId,
    pub(crate) data: T,
    pub(crate) terms: Terms,
    pub(crate) place: Place,
    /// Why it is being ended, once it is. The first reason stays.
    pub(crate) intent: Option<Intent>,
    /// Workers that died when they had been given it and had not started it.
    pub(crate) fatal_deliveries: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Queued,
    Sent { worker: WorkerKey, seq: u64 },
}

/// Why a task is being ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Intent {
    Cancel,
    TimeOut { after: Duration },
    Terminate,
}

/// How a task ended without an answer.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Ending {
    Cancelled {
        started: bool,
        exit: Option<Exit>,
    },
    TimedOut {
        after: Duration,
        exit: Option<Exit>,
    },
    Terminated {
        started: bool,
    },
    /// Its worker died under it.
    Lost {
        worker: WorkerKey,
        seq: u64,
        exit: Exit,
    },
    /// Its worker broke the protocol and was killed.
    Violated {
        error: ProtocolError,
    },
    /// No worker can be started any more.
    Broken,
}

impl Intent {
    /// What the caller is told.
    pub(super) fn ending(self, started: bool, exit: Option<Exit>) -> Ending {
        match self {
            Intent::Cancel => Ending::Cancelled { started, exit },
            Intent::TimeOut { after } => Ending::TimedOut { after, exit },
            Intent::Terminate => Ending::Terminated { started },
        }
    }
}
