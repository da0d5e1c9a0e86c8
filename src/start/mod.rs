//! Starting and ending worker processes. A worker is this program again: the
//! parent's half of a start is in `spawn`, the worker's in `boot`, what the
//! one tells the other in `message`. The `warden` is the thread that does all
//! of it for every pool of the process.
//!
//! ```text
//!  pool                    warden                       worker
//!   │ start                  │                            ·
//!   ├───────────────────────▶│ page, socket pair, leash   ·
//!   │                        │ boot message into socket   ·
//!   │                        ├── /proc/self/exe ─────────▶│ main → boot
//!   │◀───────────────────────┤ pidfd                      │ takes fd 0 away
//!   │ Started: socket, page  │                            │ page, stdout
//!   │◀────────────────────── frames ─────────────────────▶│
//!   │ signal                 │                            │
//!   ├───────────────────────▶├── SIGTERM, later SIGKILL ─▶│
//!   │                        │◀── pidfd readable ─────────┘
//!   │◀───────────────────────┤ SIGKILL the group, reap
//!   │ Died: exit             │
//! ```
//!
//! Nothing here knows the wire protocol, tasks or tokio.

pub(crate) mod boot;
pub(crate) mod message;
pub(crate) mod spawn;
pub(crate) mod warden;
