//! The warden: the one thread of this process that starts, signals and reaps
//! workers, for every pool. Called by pools, which hear back as [`Owner`]s.
//! Decides nothing about tasks, and never waits for anybody but the kernel.
//!
//! It is a plain thread and not a task of some runtime, because workers must
//! be killed when their time is up even if the runtime is blocked or gone,
//! must be reaped even then, and take the end of the thread that started them
//! for the end of their parent. So it never ends. With nothing to do it
//! sleeps without a timeout.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{mem, process, thread};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

use crate::exit::Exit;
use crate::id::WorkerId;
use crate::limits::{DEATH_WAIT, KILL_AGAIN_WAIT};
use crate::start::spawn::{Ends, SpawnSpec, Spawned, spawn};
use crate::sys::{signal, wait};

/// Whoever a worker is started for: a pool.
pub(crate) trait Owner: Send + Sync + 'static {
    /// Names the pool. Never used twice in a process.
    fn pool_id(&self) -> u64;

    /// Called on the warden's thread, so it must not block. The warden lets go
    /// of the owner after the last event of each worker.
    fn handle_event(&self, event: Event);
}

/// What became of a worker. Every start has either one `StartFailed`, or one
/// `Started` and later one `Died`, with at most one `Overdue` between them.
#[derive(Debug)]
pub(crate) enum Event {
    Started {
        worker: WorkerId,
        ends: Ends,
    },
    /// No process is left of it. The kind is `Interrupted` if it was killed
    /// before its turn to be started came.
    StartFailed {
        worker: WorkerId,
        error: io::Error,
    },
    /// It has been reaped, and its group has been killed. `overdue`: that was
    /// said before.
    Died {
        worker: WorkerId,
        exit: Exit,
        overdue: bool,
    },
    /// It was killed a while ago and is not dead: it is somewhere in the kernel
    /// from where there is no way back yet. It will not run on. Its death is
    /// waited for, and told.
    Overdue {
        worker: WorkerId,
    },
}

/// How to end a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// SIGTERM to its group, and SIGKILL when the grace is over. No grace is
    /// SIGKILL at once.
    Term {
        grace: Duration,
    },
    Kill,
}

/// The way to reach the warden's thread.
#[derive(Debug)]
pub(crate) struct Warden {
    /// The process that has the thread. A fork of it has only our memory.
    process: u32,
    /// Unbounded, but each entry stands for a worker that exists or is about
    /// to, and pools bound those.
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

enum Command {
    Start(Start),
    Signal { pool: u64, worker: WorkerId, how: Stop },
    KillAll { pool: u64 },
}

struct Start {
    worker: WorkerId,
    owner: Arc<dyn Owner>,
    spec: Arc<SpawnSpec>,
    arg0: String,
}

impl Warden {
    /// The warden of this process, started by the first call.
    ///
    /// # Errors
    ///
    /// Fails if the thread cannot be made, and in a fork of the process that
    /// made it.
    pub(crate) fn global() -> io::Result<&'static Warden> {
        static GLOBAL: OnceLock<Warden> = OnceLock::new();
        static FIRST: Mutex<()> = Mutex::new(());
        if GLOBAL.get().is_none() {
            let _first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
            if GLOBAL.get().is_none() {
                let warden = Warden::new()?;
                GLOBAL.get_or_init(|| warden);
            }
        }
        let warden = GLOBAL.get().expect("set just now, or before");
        if warden.process == process::id() {
            Ok(warden)
        } else {
            Err(io::Error::other("a forked process cannot use its parent's pools"))
        }
    }

    fn new() -> io::Result<Warden> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (commands, received) = mpsc::channel();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let on_thread = {
            let wake = Arc::clone(&wake);
            move || match Watch::new(received, wake) {
                Ok(watch) => {
                    // Somebody waits for this.
                    let _ = ready.send(Ok(()));
                    watch.run()
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("procession-warden".into());
        // Workers start with this mask too, and empty it when they boot.
        signal::with_signals_blocked(|| thread.spawn(on_thread))??;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Warden { process: process::id(), commands, wake })
    }

    /// Starts a worker. The outcome is an [`Event`].
    pub(crate) fn start(
        &self,
        worker: WorkerId,
        owner: Arc<dyn Owner>,
        spec: Arc<SpawnSpec>,
        arg0: String,
    ) {
        self.send(Command::Start(Start { worker, owner, spec, arg0 }));
    }

    /// Ends a worker, or takes back its start. Ignored if it is dead.
    pub(crate) fn signal(&self, pool: u64, worker: WorkerId, how: Stop) {
        self.send(Command::Signal { pool, worker, how });
    }

    /// Kills all workers of a pool, and takes back the starts still to come.
    pub(crate) fn kill_all(&self, pool: u64) {
        self.send(Command::KillAll { pool });
    }

    fn send(&self, command: Command) {
        // The thread never ends, so somebody receives.
        let _ = self.commands.send(command);
        // Any other failure is that 2^64 wake-ups are pending: it will wake.
        while self.wake.write(1) == Err(Errno::EINTR) {}
    }
}

/// The thread's own state.
struct Watch {
    commands: mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    /// By what workers know that this thread is there.
    pidfd: OwnedFd,
    /// Starts whose turn has not come. Between two of them the warden looks
    /// after deaths, timers and commands.
    waiting: VecDeque<Start>,
    /// Children not reaped yet, by the token they have in `epoll`.
    children: HashMap<u64, Child>,
    /// Of whose death the owners have been told, and whom a tracer keeps.
    kept: HashMap<u64, OwnedFd>,
    last_token: u64,
}

/// Invariant: not reaped by us, so that `pid` names this process or nobody.
struct Child {
    worker: WorkerId,
    owner: Arc<dyn Owner>,
    pid: i32,
    pidfd: OwnedFd,
    /// Held, and let go of only when it is dead: that would kill it.
    _leash: UnixStream,
    stopping: Stopping,
    /// Dead, and kept by a tracer: when to report it all the same.
    report_at: Option<Instant>,
}

enum Stopping {
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

/// How long a tracer may keep a dead worker before that is reported without its
/// ending. Tools that trace collect the dead at once.
const TRACER_WAIT: Duration = Duration::from_secs(1);

/// The token of the eventfd; children count up from one.
const WAKE: u64 = 0;

/// Between two looks while there is no way to be told.
const BLIND_LOOK_EVERY: Duration = Duration::from_millis(10);

impl Watch {
    /// To be called on the thread that runs it.
    fn new(commands: mpsc::Receiver<Command>, wake: Arc<EventFd>) -> io::Result<Watch> {
        let pidfd = wait::pidfd_of_this_thread()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Watch {
            commands,
            wake,
            epoll,
            pidfd,
            waiting: VecDeque::new(),
            children: HashMap::new(),
            kept: HashMap::new(),
            last_token: WAKE,
        })
    }

    fn run(mut self) -> ! {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                // A sandbox, or somebody has closed our descriptor. Pools hang
                // without this thread; so it looks after everything unasked.
                Err(_) => {
                    thread::sleep(BLIND_LOOK_EVERY);
                    self.look_for_deaths();
                    0
                }
            };
            for event in &events[..ready] {
                match event.data() {
                    // Before the commands are taken: one that comes later
                    // wakes us again. An empty counter is no news.
                    WAKE => drop(self.wake.read()),
                    token => self.handle_death(token),
                }
            }
            // Before the next start, which they may take back.
            while let Ok(command) = self.commands.try_recv() {
                self.handle_command(command);
            }
            let now = Instant::now();
            self.check_times(now);
            self.report_kept(now);
            if let Some(start) = self.waiting.pop_front() {
                self.start(start);
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.waiting.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(next) = self.children.values().filter_map(Child::next_time).min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up, or the last millisecond would be spent spinning.
        let left = next.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        EpollTimeout::try_from(left.min(i32::MAX as u128) as i32).unwrap_or(EpollTimeout::MAX)
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.waiting.push_back(start),
            Command::Signal { pool, worker, how } => {
                self.take_back(|start| start.owner.pool_id() == pool && start.worker == worker);
                let child = self
                    .children
                    .values_mut()
                    .find(|child| child.worker == worker && child.owner.pool_id() == pool);
                match (child, how) {
                    (Some(child), Stop::Term { grace }) if !grace.is_zero() => {
                        child.terminate(grace);
                    }
                    (Some(child), _) => child.kill(),
                    (None, _) => {}
                }
            }
            Command::KillAll { pool } => {
                self.take_back(|start| start.owner.pool_id() == pool);
                for child in self.children.values_mut() {
                    if child.owner.pool_id() == pool {
                        child.kill();
                    }
                }
            }
        }
    }

    fn take_back(&mut self, taken: impl Fn(&Start) -> bool) {
        let (taken, waiting) = mem::take(&mut self.waiting).into_iter().partition(taken);
        self.waiting = waiting;
        let taken: VecDeque<Start> = taken;
        for Start { worker, owner, .. } in taken {
            let error = io::Error::new(io::ErrorKind::Interrupted, "killed before it was started");
            tell(owner, Event::StartFailed { worker, error });
        }
    }

    fn start(&mut self, start: Start) {
        let Start { worker, owner, spec, arg0 } = start;
        match self.spawn_watched(&spec, &arg0) {
            Ok((token, Spawned { pidfd, leash, ends })) => {
                let (pid, stopping) = (ends.pid, Stopping::No);
                let told = Arc::clone(&owner);
                let child =
                    Child { worker, owner, pid, pidfd, _leash: leash, stopping, report_at: None };
                self.children.insert(token, child);
                tell(told, Event::Started { worker, ends });
            }
            Err(error) => tell(owner, Event::StartFailed { worker, error }),
        }
    }

    fn spawn_watched(&mut self, spec: &SpawnSpec, arg0: &str) -> io::Result<(u64, Spawned)> {
        let spawned = spawn(spec, arg0, self.pidfd.as_fd())?;
        let pidfd = spawned.pidfd.as_fd();
        self.last_token += 1;
        // An edge for the death, and another when a tracer lets go of the dead.
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, self.last_token);
        match self.epoll.add(pidfd, event) {
            Ok(()) => Ok((self.last_token, spawned)),
            Err(errno) => {
                let _ = signal::kill_group(pidfd, spawned.ends.pid, Signal::SIGKILL);
                wait::reap(pidfd);
                Err(errno.into())
            }
        }
    }

    fn handle_death(&mut self, token: u64) {
        if let Some(child) = self.children.get_mut(&token) {
            match child.end() {
                Some(exit) => self.bury(token, exit),
                // Whoever traces it, a debugger or an attacker, is told first.
                None => child.report_at = child.report_at.or(Some(Instant::now() + TRACER_WAIT)),
            }
        } else if let Some(pidfd) = self.kept.remove(&token) {
            match wait::try_reap(pidfd.as_fd()) {
                Ok(None) => drop(self.kept.insert(token, pidfd)),
                Ok(Some(_)) | Err(_) => self.forget(&pidfd),
            }
        }
    }

    /// Reports a child that has been collected.
    fn bury(&mut self, token: u64, exit: Exit) {
        let Some(child) = self.children.remove(&token) else { return };
        let overdue = matches!(child.stopping, Stopping::Overdue);
        let Child { worker, owner, pidfd, _leash, .. } = child;
        self.forget(&pidfd);
        // Whoever hears of a death may count descriptors.
        drop((pidfd, _leash));
        tell(owner, Event::Died { worker, exit, overdue });
    }

    fn forget(&self, pidfd: &OwnedFd) {
        // Closing the pidfd would not do: in a program that forks, the other
        // process has a copy, and we would be woken for ever.
        let _ = self.epoll.delete(pidfd);
    }

    /// Reports those dead without their ending that a tracer keeps for too long.
    fn report_kept(&mut self, now: Instant) {
        let due = |child: &Child| child.report_at.is_some_and(|at| at <= now);
        let due: Vec<u64> =
            self.children.iter().filter(|(_, child)| due(child)).map(|(token, _)| *token).collect();
        for token in due {
            let Some(child) = self.children.remove(&token) else { continue };
            let overdue = matches!(child.stopping, Stopping::Overdue);
            self.kept.insert(token, child.pidfd);
            let (worker, exit) = (child.worker, Exit::UNKNOWN);
            tell(child.owner, Event::Died { worker, exit, overdue });
        }
    }

    /// Finds the dead without being told.
    fn look_for_deaths(&mut self) {
        let dead = |child: &Child| !matches!(wait::peek_exit(child.pidfd.as_fd()), Ok(None));
        let dead: Vec<u64> = self
            .children
            .iter()
            .filter(|(_, child)| dead(child))
            .map(|(&token, _)| token)
            .collect();
        dead.into_iter().for_each(|token| self.handle_death(token));
    }

    fn check_times(&mut self, now: Instant) {
        for child in self.children.values_mut() {
            let due = child.report_at.is_none() && child.next_time().is_some_and(|at| at <= now);
            if due {
                child.handle_time(now);
            }
        }
    }
}

impl Child {
    /// When its patience, or ours, is over.
    fn next_time(&self) -> Option<Instant> {
        match self.stopping {
            _ if self.report_at.is_some() => self.report_at,
            Stopping::KillAt(at) => at,
            Stopping::Killed { again_at, until } => Some(again_at.min(until)),
            Stopping::No | Stopping::Overdue => None,
        }
    }

    fn handle_time(&mut self, now: Instant) {
        let Stopping::Killed { until, .. } = &mut self.stopping else { return self.kill() };
        if now < *until {
            self.kill();
        } else if matches!(wait::peek_exit(self.pidfd.as_fd()), Ok(None)) {
            self.stopping = Stopping::Overdue;
            tell(Arc::clone(&self.owner), Event::Overdue { worker: self.worker });
        } else {
            // We have been slow, not it: the news of its death is on its way.
            *until = now + DEATH_WAIT;
        }
    }

    fn terminate(&mut self, grace: Duration) {
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

    fn kill(&mut self) {
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

    fn signal(&self, signal: Signal) {
        // It may fail if a process of the group has become another user's. A kill
        // is repeated, as a worker that lives on would keep its task for ever.
        let _ = signal::kill_group(self.pidfd.as_fd(), self.pid, signal);
    }

    /// Ends what a dead child has left behind, and collects it. `None` if it
    /// cannot be collected yet.
    fn end(&mut self) -> Option<Exit> {
        match wait::peek_exit(self.pidfd.as_fd()) {
            // Before the reaping, which frees the number of the group.
            Ok(_) => self.kill(),
            // Something else has reaped it, and the number may be anybody's.
            Err(_) => drop(signal::kill_group_by_pidfd(self.pidfd.as_fd(), Signal::SIGKILL)),
        }
        match wait::try_reap(self.pidfd.as_fd()) {
            Ok(exit) => exit,
            Err(_) => Some(Exit::UNKNOWN),
        }
    }
}

/// An owner that panics, now or when it is dropped here, has had its message
/// from the panic hook. Other pools need this thread.
fn tell(owner: Arc<dyn Owner>, event: Event) {
    let told = catch_unwind(AssertUnwindSafe(move || owner.handle_event(event)));
    if let Err(payload) = told {
        // Dropping it could panic again.
        mem::forget(payload);
    }
}

#[cfg(test)]
mod tests;
