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
//! Nothing here knows the wire protocol, tasks or tokio.

pub(crate) mod boot;
mod child;
pub(crate) mod identity;
pub(crate) mod message;
pub(crate) mod owner;
pub(crate) mod roll;
pub(crate) mod spawn;
mod starter;
pub(crate) mod warden;
