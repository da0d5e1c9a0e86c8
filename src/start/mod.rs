//! Starting and ending worker processes. A worker is this program again: the
//! parent's half of a start is in `spawn`, the worker's in `boot`, what the
//! one tells the other in `message`. The `warden` is the thread that looks after
//! the workers of every pool of the process; the `starter` is another, which
//! waits for new ones to come to their program. What the pools hear is in `owner`,
//! who is who in `identity`, who is there in `roll`.
//!
//! ```text
//!  pool              warden           starter                     worker
//!   │ start            │                 │                           ·
//!   ├─────────────────▶├────────────────▶│ page, socket pair, leash  ·
//!   │                  │                 │ boot message into socket  ·
//!   │                  │                 ├── /proc/self/exe ────────▶│ main → boot
//!   │ Started:         │◀── outcome ─────┤ pidfd                     │ takes fd 0 away
//!   │◀─ socket, page ──┤                 ·                           │ page, stdout
//!   │                  │                 ·                           │
//!   │◀────────────────────────────── frames ────────────────────────▶│
//!   │ signal           │                                             │
//!   ├─────────────────▶├────────── SIGTERM, later SIGKILL ──────────▶│
//!   │                  │◀────────────── pidfd readable ──────────────┘
//!   │                  │ SIGKILL the group, reap
//!   │◀── Died: exit ───┤
//! ```
//!
//! With a fork server (`fork_server` in the parent, `fork_host` in the server), the
//! starter asks that one instead, which makes a copy of itself. The copy is a child of
//! the parent, and everything but its first steps is as above.
//!
//! Nothing here knows the wire protocol, tasks or tokio.

pub(crate) mod boot;
mod child;
pub(crate) mod fork_host;
mod fork_request;
pub(crate) mod fork_server;
pub(crate) mod identity;
pub(crate) mod message;
pub(crate) mod owner;
pub(crate) mod roll;
pub(crate) mod spawn;
mod starter;
pub(crate) mod warden;

/// How processes come to be.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum StartMethod {
    /// This program is executed again: slow to start (about a millisecond),
    /// and free of any inherited state.
    #[default]
    Spawn,
    /// A [fork server](crate::process::fork_server), which this program has started,
    /// makes a copy of itself: faster, and what it has
    /// [preloaded](crate::process::ForkServer::preload) is there already, in memory
    /// that all copies share until one of them writes to it.
    ///
    /// Needs a program that has one thread where it calls [`init`](crate::init), and
    /// glibc.
    ForkServer,
}
