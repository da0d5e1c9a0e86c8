//! Threads that start workers, one start after the other, each thread for
//! itself. Called by the warden, which hears of each outcome. A start waits
//! until the new process has come to its program: on a machine with too much to
//! do that takes seconds, from a disk that does not answer it takes for ever.
//! The warden has no such time.
//!
//! Such a thread never ends: workers take the end of the thread that started
//! them for the end of their parent. With nothing to do it sleeps.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

use nix::sys::epoll::Epoll;

use crate::start::fork_server::{Adopted, fork};
use crate::start::identity::Birth;
use crate::start::spawn::{SpawnSpec, Spawned, Way, spawn};
use crate::start::warden::death_of;
use crate::sys::crew;

/// A start that is to be made.
pub(super) struct Order {
    /// By which `epoll` is to tell of the worker's death.
    pub(super) token: u64,
    pub(super) spec: Arc<SpawnSpec>,
    pub(super) birth: Birth,
}

/// The way to reach one such thread.
pub(super) struct Starter {
    pub(super) door: Door,
    pub(super) duty: Duty,
}

/// What such a thread has to do, as far as the warden knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duty {
    Nothing,
    /// Whatever comes by the short way, which is open to it.
    Lent,
    /// What somebody has for it who has just taken that way.
    Taken,
    /// The start with this token.
    Start(u64),
}

/// Where orders for one such thread are handed in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Holds at most one, see [`Duty`].
    pub(super) orders: mpsc::Sender<Order>,
    thread: Thread,
}

/// From whoever wants something started to the first starter, past the warden: to wake
/// that one takes as long as to wake a starter.
#[derive(Debug, Default)]
pub(super) struct ShortWay {
    /// There while that starter has nothing to do, and nobody waits for it. Whoever takes
    /// it tells the warden, and then hands in an order.
    door: Mutex<Option<Door>>,
    last_token: AtomicU64,
}

impl ShortWay {
    /// Whoever gets it has the starter for one order.
    pub(super) fn take(&self) -> Option<Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn open(&self, door: Door) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(door);
    }

    /// One that no other child of this warden has had.
    pub(super) fn new_token(&self) -> u64 {
        self.last_token.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Starter {
    /// Begins a thread, with the signal mask of the calling one. `tell` is
    /// called there, with the token of each start and what came of it, `adopt` with
    /// each fork server that this has taken.
    pub(super) fn new(
        epoll: Arc<Epoll>,
        tell: impl Fn(u64, io::Result<Spawned>) + Send + 'static,
        adopt: impl Fn(Adopted) + Send + 'static,
    ) -> io::Result<Starter> {
        let (orders, received) = mpsc::channel();
        let (told, thread) = mpsc::channel();
        crew::spawn("procession-starter", move || {
            let _ = told.send(thread::current());
            loop {
                match received.try_recv() {
                    Ok(Order { token, spec, birth }) => {
                        let watch = |pidfd: &_| Ok(epoll.add(pidfd, death_of(token))?);
                        let outcome = match spec.way {
                            Way::ForkServer => fork(&spec, &birth, watch, &adopt),
                            // Never a fork, which is the calling thread's to make.
                            Way::Spawn | Way::Fork(_) => spawn(&spec, &birth, watch),
                        };
                        tell(token, outcome);
                    }
                    Err(TryRecvError::Empty) => crew::rest(thread::park),
                    // The warden could not be made. No worker knows us.
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        })?;
        let thread = thread.recv().map_err(io::Error::other)?;
        Ok(Starter { door: Door { orders, thread }, duty: Duty::Nothing })
    }
}

impl Door {
    pub(super) fn hand_in(&self, order: Order) {
        // The thread is there as long as we are.
        let _ = self.orders.send(order);
        self.thread.unpark();
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // It is to see that nobody has orders for it.
        let (nobody, _) = mpsc::channel();
        self.door.orders = nobody;
        self.door.thread.unpark();
    }
}
