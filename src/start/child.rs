//! A worker as the warden sees it: what there is of its process, how far it is
//! with being stopped, and what its owner knows. Called by the warden only,
//! which says when.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::exit::Exit;
use crate::id::WorkerId;
use crate::limits::{DEATH_WAIT, KILL_AGAIN_WAIT};
use crate::start::owner::{Event, Owner, tell};
use crate::sys::{signal, wait};

/// One worker, from the moment on when a starter is at it.
pub(super) struct Child {
    pub(super) worker: WorkerId,
    pub(super) owner: Arc<dyn Owner>,
    /// Until it is on the roll.
    pub(super) name: String,
    /// `None` while a starter is at it.
    pub(super) process: Option<Process>,
    /// Its death was seen, and its starter has yet to tell us that it lived.
    pub(super) death_is_news: bool,
    /// Its owner knows of the process.
    pub(super) is_told: bool,
    pub(super) stopping: Stopping,
    /// Dead, and kept by a tracer: when to report it all the same.
    pub(super) report_at: Option<Instant>,
}

/// Invariant: not reaped by us, so that `pid` names this process or nobody.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: Arc<OwnedFd>,
    /// Held, and let go of only when it is dead: that would kill it.
    pub(super) _leash: UnixStream,
}

pub(super) enum Stopping {
    No,
    /// Terminated; to be killed at this time, if ever.
    KillAt(Option<Instant>),
    /// Killed; to be killed again at one time if it is still there, and to be
    /// dead by the other.
    Killed {
        again_at: Instant,
        until: Instant,
    },
    /// Killed, and not dead in time.
    Overdue,
}

impl Child {
    /// One that is being started.
    pub(super) fn new(worker: WorkerId, owner: Arc<dyn Owner>, name: String) -> Self {
        Child {
            worker,
            owner,
            name,
            process: None,
            death_is_news: false,
            is_told: false,
            stopping: Stopping::No,
            report_at: None,
        }
    }

    /// When its patience, or ours, is over.
    pub(super) fn next_time(&self) -> Option<Instant> {
        match self.stopping {
            _ if self.report_at.is_some() => self.report_at,
            Stopping::KillAt(at) => at,
            Stopping::Killed { again_at, until } => Some(again_at.min(until)),
            Stopping::No | Stopping::Overdue => None,
        }
    }

    pub(super) fn handle_time(&mut self, now: Instant) {
        let Stopping::Killed { until, .. } = &mut self.stopping else { return self.kill() };
        if now < *until {
            self.kill();
        } else if !self.is_dead() {
            self.stopping = Stopping::Overdue;
            tell(Arc::clone(&self.owner), Event::Overdue { worker: self.worker });
        } else if let Stopping::Killed { until, .. } = &mut self.stopping {
            // We have been slow, not it: the news of its death is on its way.
            *until = now + DEATH_WAIT;
        }
    }

    pub(super) fn terminate(&mut self, grace: Duration) {
        // There is nothing yet that could make use of a grace.
        if self.process.is_none() {
            return self.kill();
        }
        // A grace too long for the clock never ends.
        let at = Instant::now().checked_add(grace);
        let at = match self.stopping {
            Stopping::Killed { .. } | Stopping::Overdue => return,
            Stopping::No => at,
            // Asking again gives no more time than was given before.
            Stopping::KillAt(before) => at.into_iter().chain(before).min(),
        };
        self.stopping = Stopping::KillAt(at);
        self.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&mut self) {
        let again_at = Instant::now() + KILL_AGAIN_WAIT;
        self.stopping = match self.stopping {
            Stopping::No | Stopping::KillAt(_) => {
                Stopping::Killed { again_at, until: Instant::now() + DEATH_WAIT }
            }
            Stopping::Killed { until, .. } => Stopping::Killed { again_at, until },
            Stopping::Overdue => Stopping::Overdue,
        };
        self.signal(Signal::SIGKILL);
    }

    /// Does nothing to one that is being started, which is killed once it is
    /// there.
    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Whether there is a process, and it has ended.
    pub(super) fn is_dead(&self) -> bool {
        let ended = |process: &Process| !matches!(wait::peek_exit(process.pidfd.as_fd()), Ok(None));
        self.process.as_ref().is_some_and(ended)
    }

    /// The last event. `error`: why it did not start, if its owner takes it for
    /// one that is being started.
    pub(super) fn tell_end(self, exit: Exit, error: io::Error) {
        let Child { worker, owner, is_told, stopping, .. } = self;
        let overdue = matches!(stopping, Stopping::Overdue);
        let event = if is_told || overdue {
            Event::Died { worker, exit, overdue }
        } else {
            Event::StartFailed { worker, error }
        };
        tell(owner, event);
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        // It may fail if a process of the group has become another user's. A kill
        // is repeated, as a worker that lives on would keep its task for ever.
        let _ = signal::kill_group(self.pidfd.as_fd(), self.pid, signal);
    }

    /// Ends what a dead child has left behind, and collects it. `None` if it
    /// cannot be collected yet.
    pub(super) fn end(&self) -> Option<Exit> {
        match wait::peek_exit(self.pidfd.as_fd()) {
            // Before the reaping, which frees the number of the group.
            Ok(_) => self.signal(Signal::SIGKILL),
            // Something else has reaped it, and the number may be anybody's.
            Err(_) => drop(signal::kill_group_by_pidfd(self.pidfd.as_fd(), Signal::SIGKILL)),
        }
        match wait::try_reap(self.pidfd.as_fd()) {
            Ok(exit) => exit,
            Err(_) => Some(Exit::UNKNOWN),
        }
    }
}
