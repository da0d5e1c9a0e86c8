//! What parent and worker say to each other, as plain values: bytes in,
//! messages out. No socket, no clock, no scheduling; the driver and the worker
//! loop do the reading and writing.
//!
//! Every frame is a 16-byte header and a body. Numbers are little-endian.
//!
//! ```text
//!  0        4      5       6        8                16
//! ┌────────┬──────┬───────┬────────┬────────────────┬─────────────┐
//! │ length │ kind │ flags │ memory,│ seq            │ body …      │
//! │ of body│      │       │ other  │ (0: no task)   │             │
//! │        │      │       │ descr. │                │             │
//! └────────┴──────┴───────┴────────┴────────────────┴─────────────┘
//! ```
//!
//! With the first byte of a `Setup`, `Run`, `Done` or `Item` come as many descriptors
//! as it says: first those of memory that nobody can change, then any others.
//! Values in the payload name them by their place among their kind. Whatever comes
//! unannounced is a violation.
//!
//! Of more than 128 the first come with frames before it, 128 with each: these have
//! the header of the frame that they belong to, but no body, and a flag that says so.
//! The kernel sends only so many at once.
//!
//! ```text
//! parent                                worker
//!   │  (boot message: status page, by descriptor)
//!   │── Hello: version, settings ─────────▶│
//!   │◀── Hello: version, fingerprint, pid ─│
//!   │                                      │ initializer
//!   │◀────────────── Ready (or InitFailed) ┤
//!   │── Run seq 1 ────────────────────────▶│
//!   │── Run seq 2 ────────────────────────▶│
//!   │◀──────────────────────── Began seq 1 ┤   where descriptors came with it
//!   │◀───────────────────────── Done seq 1 ┤   one answer for each Run,
//!   │◀────────────────────── Skipped seq 2 ┤   in the order they were sent
//!   │── Bye ──────────────────────────────▶│ exits with 0
//! ```
//!
//! A worker that forwards what its `tracing` is told sends `Trace` at any time
//! after its hello, within the task that it is about or with number 0.
//!
//! Cancelling is not a message: it is a swap of the task's slot word (see
//! `slot_word`), so that it reaches a worker that is busy and does not read.

pub(crate) mod answers;
pub(crate) mod budget;
pub(crate) mod codec;
pub(crate) mod draft;
pub(crate) mod encode;
pub(crate) mod frame;
pub(crate) mod guard;
pub(crate) mod message;
pub(crate) mod peer;
pub(crate) mod trace;
mod varint;

/// Changes with every change of a frame's layout or meaning. Parent and worker
/// are one executable, so this only ever differs when something is very wrong.
pub(crate) const VERSION: u32 = 6;
