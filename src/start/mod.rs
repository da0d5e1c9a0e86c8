//! Starting and ending worker processes. A worker is this program again: the
//! parent's half of a start is in `spawn`, the worker's in `boot`, what the
//! one tells the other in `message`. The `warden` is the thread that looks after
//! the workers of every pool of the process; the `starter` is another, which
//! waits for new ones to come to their program. What the pools hear is in `owner`,
//! who is who in `identity`, who is there in `roll`, by which method in `method`.
//!
//! ```text
//!  pool              warden           starter                     worker
//!   │ start            ·                 │                           ·
//!   ├──────────────────·────────────────▶│ page, socket pair, leash  ·
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
//! The warden reads of the start when it is next woken: at the latest by the outcome. Where
//! the starter is at another start, the warden hands this one on.
//!
//! With a fork server (`fork_server` in the parent, `fork_host` in the server, what they
//! say to each other in `order`, over a socket in `fork_request`), the starter asks that
//! one instead, which makes a copy of itself. The copy is a child of
//! the parent, and everything but its first steps is as above.
//!
//! A fork (`fork`) is made by whichever thread asks for the start, as it is that one's
//! memory, stack included, that the copy is to have. The warden hears of it after.
//!
//! Nothing here knows the wire protocol, tasks or tokio.

pub(crate) mod boot;
mod child;
pub(crate) mod fork;
pub(crate) mod fork_host;
mod fork_request;
pub(crate) mod fork_server;
pub(crate) mod identity;
pub(crate) mod message;
pub(crate) mod method;
pub(crate) mod order;
pub(crate) mod owner;
pub(crate) mod roll;
pub(crate) mod spawn;
mod starter;
pub(crate) mod warden;

use std::fmt;

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
    /// Environment, folder and streams are this process's at that moment. Its limits,
    /// niceness, processors and umask, where nobody sets them, are those that this process
    /// had when the server was started.
    ///
    /// Needs a program that has one thread where it calls [`init`](crate::init), and
    /// glibc.
    ForkServer,
    /// This process makes a copy of itself, which has everything that is in its memory:
    /// the fastest for small programs, and without a server that has to be told what to
    /// load.
    ///
    /// Only while the process **has one thread**, beside those of this crate: what another
    /// one had locked at that moment, the memory allocator for instance, would stay locked
    /// in the copy for ever. So it goes with tokio's current-thread runtime, as long as that
    /// has not used `spawn_blocking` or `tokio::fs`, and from a `main` without any; not from
    /// a `#[test]`, which has a thread of its own. Otherwise nothing is started, and the
    /// error names the threads that are in the way: use
    /// [`ForkServer`](Self::ForkServer), which has one thread whatever the program does, or
    /// [`Spawn`](Self::Spawn). Needs glibc.
    ///
    /// What the copy has, and what it has not:
    ///
    /// - Statics are as they were. Runtimes are not: their tasks are the original's.
    /// - The function is called on a new thread, with a fresh stack and fresh
    ///   thread-locals. What the calling thread held locked, as a guard of a `Mutex` or of
    ///   [`Stdout`](std::io::Stdout), is locked for good.
    /// - Descriptors are those that a spawned process has: standard input, output and
    ///   error, and what comes as an argument, such as ends of pipes and queues. So a pipe
    ///   ends as soon as the original closes it. The others are closed, and there is
    ///   something under their numbers that talks to nobody: what a `static` holds, such as
    ///   a log's file or a connection, meets nobody else, and has to be opened anew. So as
    ///   many numbers are taken as the original has open, of those that
    ///   [`OpenFiles`](crate::Resource::OpenFiles) allows.
    /// - A `tracing` subscriber is the original's, too, and writes to what that wrote to, if
    ///   it is standard output or error; so
    ///   [`forward_tracing`](crate::worker::forward_tracing) is refused.
    /// - Its memory is its parent's at first, and counts as resident:
    ///   [`memory_limit`](crate::PoolBuilder::memory_limit) and
    ///   [`max_worker_memory`](crate::PoolBuilder::max_worker_memory) have to be above that.
    /// - Handlers of signals are gone, but for faults. `tokio::signal` does not know that,
    ///   and does not install again what the original had installed.
    /// - What was registered by `atexit` is the original's. What it had buffered for
    ///   standard output is written before.
    /// - What it starts itself is a copy, too, unless it is told otherwise, so that a runtime
    ///   with threads is in the way there as well.
    /// - Generators of random numbers go on as the original's do, and what the original had
    ///   read of its standard input and not used is there.
    /// - Its name shows in `ps` as far as there is room in that of the program.
    Fork,
}

impl StartMethod {
    /// The methods that there are on this system, the default first: Python's
    /// `get_all_start_methods`.
    pub const fn available() -> &'static [StartMethod] {
        if cfg!(target_env = "gnu") {
            &[StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork]
        } else {
            &[StartMethod::Spawn]
        }
    }
}

/// As Python names it: `spawn`, `forkserver`, `fork`.
impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StartMethod::Spawn => "spawn",
            StartMethod::ForkServer => "forkserver",
            StartMethod::Fork => "fork",
        })
    }
}
