//! What happens in a pool, told to `tracing`. The supervisor calls these, and the
//! worker opens its span of a call here; no decision is made. Targets are
//! `procession::task`, `procession::worker` and `procession::output`.
//!
//! - `echo`: what a worker's `tracing` was told;
//! - `places`: where in its program that was;
//! - `held`: spans of what goes on.
//!
//! The program's subscriber may panic wherever it is called. The panic hook has told
//! of that, and it costs what was being told: [`guarded`] is around each such call, so
//! that none who tells here has to expect it.
//!
//! Features have their places here, and only here: `remote` for traces, `meter` for
//! metrics, `ledger` for percentiles. Where one is off, its calls do nothing.

mod echo;
mod held;
#[cfg(feature = "histograms")]
mod ledger;
#[cfg(not(feature = "histograms"))]
#[path = "no_ledger.rs"]
mod ledger;
#[cfg(feature = "metrics")]
mod meter;
#[cfg(not(feature = "metrics"))]
#[path = "no_meter.rs"]
mod meter;
mod places;
#[cfg(feature = "opentelemetry")]
mod remote;

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub(crate) use self::echo::Echo;
pub(crate) use self::held::HeldSpan;
pub(crate) use self::ledger::Ledger;
#[cfg(feature = "histograms")]
pub use self::ledger::Percentiles;
pub(crate) use self::meter::Meter;
#[cfg(feature = "metrics")]
pub(crate) use self::meter::names;

use tracing::{Level, Metadata, Span};

use crate::exit::Exit;
use crate::id::{TaskId, WorkerId};
use crate::proto::message::CallContext;

/// The span of a task's life, a child of the caller's. Nothing, unless
/// somebody listens.
pub(crate) fn task_span(pool: &str, name: &'static str, label: Option<&str>) -> HeldSpan {
    HeldSpan::open(
        || tracing::span!(target: "procession::task", Level::DEBUG, "task", pool, name, label),
    )
}

pub(crate) fn task_queued(span: &Span, task: TaskId) {
    guarded(|| {
        tracing::trace!(target: "procession::task", parent: span, task = task.as_u64(), "queued");
    });
}

pub(crate) fn task_sent(span: &Span, task: TaskId, worker: WorkerId) {
    guarded(|| {
        tracing::trace!(
            target: "procession::task", parent: span,
            task = task.as_u64(), worker = worker.as_u64(), "sent"
        );
    });
}

pub(crate) fn task_ended(span: &Span, task: TaskId, outcome: &'static str) {
    guarded(|| {
        tracing::debug!(
            target: "procession::task", parent: span,
            task = task.as_u64(), outcome, "ended"
        );
    });
}

/// Target and name of the spans of calls.
const CALL: (&str, &str) = ("procession::task", "task");

/// In a worker: the span of a call, which is the caller's going on here.
pub(crate) fn call_span(name: &'static str, context: &CallContext) -> HeldSpan {
    let span = HeldSpan::open(|| {
        tracing::span!(
            target: "procession::task", parent: None, Level::INFO, "task",
            name, label = context.label.as_deref(), task = context.task.as_u64()
        )
    });
    #[cfg(feature = "opentelemetry")]
    if let Some(trace) = &context.trace {
        guarded(|| remote::go_on(&span, trace));
    }
    span
}

/// The trace that a call belongs to, as W3C Trace Context writes it, if there is one
/// and a feature that asks.
pub(crate) fn trace_of(span: &Span) -> Option<(String, String)> {
    #[cfg(feature = "opentelemetry")]
    return guarded(|| remote::trace_of(span)).flatten();
    #[cfg(not(feature = "opentelemetry"))]
    {
        let _ = span;
        None
    }
}

/// Whether somebody asks how long calls wait and run.
pub(crate) const MEASURES: bool = cfg!(any(feature = "histograms", feature = "metrics"));

/// How long a call that was answered has waited for its body to begin, and how long
/// that took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    pub(crate) waited: Duration,
    pub(crate) ran: Duration,
}

/// How much there is in a pool at one moment, and has been since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Levels {
    /// By state, in the order of [`STATES`].
    pub(crate) workers: [usize; STATES.len()],
    /// Calls that no worker has been given, and that one has.
    pub(crate) queued: usize,
    pub(crate) in_flight: usize,
    /// Calls taken in.
    pub(crate) submitted: u64,
    /// Calls that have ended, in the order of [`OUTCOMES`].
    pub(crate) ended: [u64; OUTCOMES.len()],
    pub(crate) workers_started: u64,
    pub(crate) workers_respawned: u64,
    pub(crate) workers_lost: u64,
}

pub(crate) const STATES: [&str; 6] =
    ["starting", "idle", "busy", "leaving", "stopping", "abandoned"];

pub(crate) const OUTCOMES: [&str; 6] =
    ["completed", "panicked", "cancelled", "timed_out", "lost", "failed"];

/// In a worker: whether somebody hears of such a span.
pub(crate) fn hears_of_calls() -> bool {
    guarded(|| tracing::span_enabled!(target: "procession::task", Level::INFO)).unwrap_or(false)
}

/// Whether this is such a span.
pub(crate) fn is_call_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && (metadata.target(), metadata.name()) == CALL
}

/// The span of a worker's life.
pub(crate) fn worker_span(pool: &str, worker: WorkerId, pid: i32) -> HeldSpan {
    HeldSpan::open(|| {
        tracing::span!(
            target: "procession::worker", parent: None, Level::INFO, "worker",
            pool, worker = worker.as_u64(), pid
        )
    })
}

pub(crate) fn worker_started(span: &Span) {
    guarded(|| tracing::debug!(target: "procession::worker", parent: span, "started"));
}

pub(crate) fn worker_ready(span: &Span) {
    guarded(|| tracing::debug!(target: "procession::worker", parent: span, "ready"));
}

/// `expected`: somebody asked for it.
pub(crate) fn worker_ended(span: &Span, exit: Exit, expected: bool) {
    guarded(|| {
        if expected {
            tracing::debug!(target: "procession::worker", parent: span, %exit, "ended");
        } else {
            tracing::warn!(target: "procession::worker", parent: span, %exit, "lost");
        }
    });
}

pub(crate) fn worker_abandoned(span: &Span) {
    guarded(|| {
        tracing::error!(
            target: "procession::worker", parent: span,
            "was killed and does not die"
        );
    });
}

pub(crate) fn start_abandoned(pool: &str, worker: WorkerId) {
    guarded(|| {
        tracing::error!(
            target: "procession::worker", pool, worker = worker.as_u64(),
            "was killed while it was being started, and is not back"
        );
    });
}

pub(crate) fn worker_misbehaved(span: &Span, error: &dyn std::fmt::Display) {
    guarded(|| {
        tracing::error!(target: "procession::worker", parent: span, %error, "broke the protocol");
    });
}

pub(crate) fn worker_not_started(pool: &str, error: &(dyn std::error::Error + 'static)) {
    guarded(|| {
        tracing::warn!(target: "procession::worker", pool, error, "could not start");
    });
}

/// A process that has started cannot be talked to.
pub(crate) fn worker_not_served(pool: &str, pid: i32, error: &(dyn std::error::Error + 'static)) {
    guarded(|| {
        tracing::debug!(target: "procession::worker", pool, pid, error, "cannot be served");
    });
}

pub(crate) fn pool_broken(pool: &str, error: &(dyn std::error::Error + 'static)) {
    guarded(|| {
        tracing::error!(target: "procession::worker", pool, error, "pool is broken");
    });
}

/// A line that a worker printed.
pub(crate) fn worker_printed(span: &Span, stream: &'static str, line: &str) {
    guarded(|| tracing::info!(target: "procession::output", parent: span, stream, "{line}"));
}

/// What `tell` returns, unless it panics.
pub(crate) fn guarded<R>(tell: impl FnOnce() -> R) -> Option<R> {
    // Dropping the payload could panic again.
    catch_unwind(AssertUnwindSafe(tell)).map_err(mem::forget).ok()
}
