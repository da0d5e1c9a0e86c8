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
use crate::id::{TaskId, WorkerId};
use crate::proto::peer::ProtocolError;

/// What the caller asked for beside the call itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Terms {
    /// Longest run time, counted from the start of the task's body.
    pub(crate) timeout: Option<Duration>,
    /// How often the task may be run again after its worker died under it.
    pub(crate) retries: u32,
    /// Goes only to a worker that has nothing else to do: a descriptor is sent
    /// with it. Of those that were sent and not received, the kernel allows as many
    /// as one process may have open, in all processes of a user; where workers
    /// waited for that to send their answers, with arguments unread, none would
    /// ever go on.
    pub(crate) alone: bool,
}

/// There may be millions of them: what most do not have takes no room here.
#[derive(Clone, Hash, Debug)]
pub(super) struct Task<T> {
    pub(super) id: TaskId,
    pub(super) data: T,
    /// `u64::MAX` if there is none.
    timeout_nanos: u64,
    pub(super) retries: u32,
    /// Its worker's, or [`QUEUED`].
    seat: u32,
    worker: WorkerId,
    seq: u64,
    /// Why it is being ended, once it is. The first reason stays.
    pub(super) intent: Option<Intent>,
    /// Workers that died when they had been given it and had not started it.
    pub(super) fatal_deliveries: u8,
    pub(super) alone: bool,
}

/// No worker's seat.
const QUEUED: u32 = u32::MAX;

impl<T> Task<T> {
    pub(super) fn new(id: TaskId, data: T, terms: Terms) -> Self {
        let Terms { timeout, retries, alone } = terms;
        let timeout_nanos =
            timeout.map_or(u64::MAX, |after| after.as_nanos().try_into().unwrap_or(u64::MAX));
        let (seat, worker, seq) = (QUEUED, WorkerId(0), 0);
        let (intent, fatal_deliveries) = (None, 0);
        Task {
            id,
            data,
            timeout_nanos,
            retries,
            seat,
            worker,
            seq,
            intent,
            fatal_deliveries,
            alone,
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        (self.timeout_nanos != u64::MAX).then(|| Duration::from_nanos(self.timeout_nanos))
    }

    pub(super) fn place(&self) -> Place {
        match self.seat {
            QUEUED => Place::Queued,
            seat => Place::Sent { worker: WorkerKey { seat, id: self.worker }, seq: self.seq },
        }
    }

    pub(super) fn set_place(&mut self, place: Place) {
        match place {
            Place::Queued => self.seat = QUEUED,
            Place::Sent { worker, seq } => {
                (self.seat, self.worker, self.seq) = (worker.seat, worker.id, seq);
            }
        }
    }

    /// What the caller is told when it ends for this reason.
    pub(super) fn ending(&self, intent: Intent, started: bool, exit: Option<Exit>) -> Ending {
        match intent {
            Intent::Cancel => Ending::Cancelled { started, exit },
            Intent::TimeOut => Ending::TimedOut { after: self.timeout().unwrap_or_default(), exit },
            Intent::Terminate => Ending::Terminated { started },
        }
    }
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
    TimeOut,
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
