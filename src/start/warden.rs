//! The warden: the one thread of this process that signals and reaps workers,
//! and has them started, for every pool. Called by pools, which hear back as
//! [`Owner`]s. Decides nothing about tasks, and never waits for anything but
//! news: a start may take for ever, so that [starters](super::starter) make it.
//!
//! It is a plain thread and not a task of some runtime, because workers must
//! be killed when their time is up even if the runtime is blocked or gone, and
//! must be reaped even then. It never ends. With nothing to do it sleeps without
//! a timeout.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{mem, process, thread};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::gettid;

use crate::exit::Exit;
use crate::id::WorkerId;
use crate::limits::{STARTER_WAIT, STARTERS_MAX};
use crate::start::child::{Child, Process, Stopping};
use crate::start::fork::fork;
use crate::start::fork_server::Adopted;
use crate::start::identity::Birth;
use crate::start::owner::{Event, Owner, tell};
use crate::start::roll;
use crate::start::spawn::{SpawnSpec, Spawned, Way};
use crate::start::starter::{Duty, Order, ShortWay, Starter};
use crate::sys::latest::Latest;
use crate::sys::{crew, signal, wait};

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

static GLOBAL: Latest<Warden> = Latest::new();

/// The way to reach the warden's thread.
#[derive(Debug)]
pub(crate) struct Warden {
    /// The process that has the thread. A fork of it has only our memory.
    process: u32,
    thread: i32,
    /// Unbounded, but each entry stands for a worker that exists or is about
    /// to, and pools bound those.
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    short_way: Arc<ShortWay>,
}

enum Command {
    Start(Start),
    /// A starter is at it already, by the short way.
    Begun {
        token: u64,
        worker: WorkerId,
        owner: Arc<dyn Owner>,
        name: String,
        at: Instant,
    },
    /// From whoever has made it.
    Forked {
        start: Start,
        outcome: io::Result<Spawned>,
    },
    Signal {
        pool: u64,
        worker: WorkerId,
        how: Stop,
    },
    KillAll {
        pool: u64,
    },
    /// From a starter, which is free again.
    Outcome {
        token: u64,
        outcome: io::Result<Spawned>,
    },
    /// From a starter, which needs it.
    Adopt(Box<Adopted>),
}

struct Start {
    worker: WorkerId,
    owner: Arc<dyn Owner>,
    spec: Arc<SpawnSpec>,
    birth: Birth,
}

impl Warden {
    /// The warden of this process, started by the first call.
    ///
    /// # Errors
    ///
    /// Fails if the thread cannot be made, and in a fork of the process that
    /// made it.
    pub(crate) fn global() -> io::Result<&'static Warden> {
        static FIRST: Mutex<()> = Mutex::new(());
        if GLOBAL.get().is_none() {
            let _first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
            if GLOBAL.get().is_none() {
                GLOBAL.set(Warden::new()?);
            }
        }
        let warden = GLOBAL.get().expect("set just now, or before");
        if warden.process == process::id() {
            Ok(warden)
        } else {
            Err(io::Error::other("a forked process cannot use its parent's pools"))
        }
    }

    /// This is a copy of the process that has the thread, and may have one of its own.
    pub(super) fn forget() {
        GLOBAL.forget();
    }

    fn new() -> io::Result<Warden> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (commands, received) = mpsc::channel();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let short_way = Arc::<ShortWay>::default();
        let on_thread = {
            let (commands, wake) = (commands.clone(), Arc::clone(&wake));
            let short_way = Arc::clone(&short_way);
            move || match Watch::new(received, commands, wake, short_way) {
                Ok(mut watch) => {
                    watch.hand_out(Instant::now());
                    // Somebody waits for this.
                    let _ = ready.send(Ok(gettid().as_raw()));
                    watch.run()
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        // Workers start with this mask too, and empty it when they boot.
        signal::with_signals_blocked(|| crew::spawn("procession-warden", on_thread))??;
        let thread = is_ready.recv().map_err(io::Error::other)??;
        Ok(Warden { process: process::id(), thread, commands, wake, short_way })
    }

    /// Starts a worker. The outcome is an [`Event`]. If it is to be a fork, the calling
    /// thread is copied, here and now, and in the copy this does not return.
    pub(crate) fn start(
        &self,
        worker: WorkerId,
        owner: Arc<dyn Owner>,
        spec: Arc<SpawnSpec>,
        birth: Birth,
    ) {
        let start = Start { worker, owner, spec, birth };
        self.send(match start.spec.way {
            Way::Spawn | Way::ForkServer => match self.short_way.take() {
                Some(door) => {
                    let token = self.short_way.new_token();
                    let (name, at) = (start.birth.name.clone(), Instant::now());
                    let Start { worker, owner, spec, birth } = start;
                    // Not woken for that: it is so when the outcome comes, or whatever
                    // else concerns this start.
                    let _ = self.commands.send(Command::Begun { token, worker, owner, name, at });
                    return door.hand_in(Order { token, spec, birth });
                }
                None => Command::Start(start),
            },
            Way::Fork(enter) => {
                let outcome = wait::pidfd_of_thread(self.thread)
                    .and_then(|thread| fork(&start.spec, &start.birth, thread, enter));
                Command::Forked { start, outcome }
            }
        });
    }

    /// Ends a worker, or takes back its start: one that is not there yet gets no
    /// grace. Ignored if it is dead.
    pub(crate) fn signal(&self, pool: u64, worker: WorkerId, how: Stop) {
        self.send(Command::Signal { pool, worker, how });
    }

    /// Kills all workers of a pool, and takes back the starts still to come.
    pub(crate) fn kill_all(&self, pool: u64) {
        self.send(Command::KillAll { pool });
    }

    fn send(&self, command: Command) {
        send(&self.commands, &self.wake, command);
    }
}

fn send(commands: &mpsc::Sender<Command>, wake: &EventFd, command: Command) {
    // The thread never ends, so somebody receives.
    let _ = commands.send(command);
    // Any other failure is that 2^64 wake-ups are pending: it will wake.
    while wake.write(1) == Err(Errno::EINTR) {}
}

/// The thread's own state.
struct Watch {
    commands: mpsc::Receiver<Command>,
    /// For starters.
    to_us: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    short_way: Arc<ShortWay>,
    epoll: Arc<Epoll>,
    /// Starts whose turn has not come.
    waiting: VecDeque<Start>,
    /// One, as long as starts come back.
    starters: Vec<Starter>,
    /// When to have another, if starts wait and none has come back.
    next_starter_at: Instant,
    /// Children not reaped yet, and those that are being started, by the token
    /// they have in `epoll`.
    children: HashMap<u64, Child>,
    /// Of whose death the owners have been told, and whom a tracer keeps.
    kept: HashMap<u64, Arc<OwnedFd>>,
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
    fn new(
        commands: mpsc::Receiver<Command>,
        to_us: mpsc::Sender<Command>,
        wake: Arc<EventFd>,
        short_way: Arc<ShortWay>,
    ) -> io::Result<Watch> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let mut watch = Watch {
            commands,
            to_us,
            wake,
            short_way,
            epoll,
            waiting: VecDeque::new(),
            starters: Vec::new(),
            next_starter_at: Instant::now(),
            children: HashMap::new(),
            kept: HashMap::new(),
        };
        watch.add_starter()?;
        Ok(watch)
    }

    fn run(mut self) -> ! {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = self.timeout();
            let ready = match crew::rest(|| self.epoll.wait(&mut events, timeout)) {
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
            let tokens = events[..ready].iter().map(EpollEvent::data);
            if tokens.clone().any(|token| token == WAKE) {
                // Before the commands are taken: one that comes later wakes us
                // again. An empty counter is no news.
                let _ = self.wake.read();
            }
            // Before the deaths, which may be of children that they are about. And before
            // the next start, which they may take back, or make room for.
            while let Ok(command) = self.commands.try_recv() {
                self.handle_command(command);
            }
            tokens.filter(|token| *token != WAKE).for_each(|token| self.handle_death(token));
            let now = Instant::now();
            self.check_times(now);
            self.report_kept(now);
            self.hand_out(now);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let times = self.children.values().filter_map(Child::next_time);
        let starter = (!self.waiting.is_empty()).then_some(self.next_starter_at);
        let Some(next) = times.chain(starter).min() else { return EpollTimeout::NONE };
        // Rounded up, or the last millisecond would be spent spinning.
        let left = next.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        EpollTimeout::try_from(left.min(i32::MAX as u128) as i32).unwrap_or(EpollTimeout::MAX)
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.waiting.push_back(start),
            Command::Begun { token, worker, owner, name, at } => {
                self.starters[0].duty = Duty::Start(token);
                self.children.insert(token, Child::new(worker, owner, name));
                self.next_starter_at = at + STARTER_WAIT;
            }
            Command::Forked { start, outcome } => self.handle_forked(start, outcome),
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
            Command::Outcome { token, outcome } => self.handle_outcome(token, outcome),
            Command::Adopt(adopted) => self.adopt(*adopted),
        }
    }

    fn take_back(&mut self, taken: impl Fn(&Start) -> bool) {
        let (taken, waiting) = mem::take(&mut self.waiting).into_iter().partition(taken);
        self.waiting = waiting;
        let taken: VecDeque<Start> = taken;
        for Start { worker, owner, .. } in taken {
            tell(owner, Event::StartFailed { worker, error: taken_back() });
        }
    }

    /// Gives starts to those who have none.
    fn hand_out(&mut self, now: Instant) {
        let first = &mut self.starters[0];
        if self.waiting.is_empty() {
            if first.duty == Duty::Nothing {
                first.duty = Duty::Lent;
                self.short_way.open(first.door.clone());
            }
            return;
        }
        if first.duty == Duty::Lent {
            match self.short_way.take() {
                Some(_) => first.duty = Duty::Nothing,
                // Somebody else has, and may be kept from going on: then there is to be another
                // starter, as where a start does not come back.
                None => {
                    first.duty = Duty::Taken;
                    self.next_starter_at = now + STARTER_WAIT;
                }
            }
        }
        let busy = self.starters.iter().all(|starter| starter.duty != Duty::Nothing);
        if busy && self.next_starter_at <= now {
            self.next_starter_at = now + STARTER_WAIT;
            // One pool's dead disk is not the others'. Without a thread they wait.
            if self.starters.len() < STARTERS_MAX {
                let _ = self.add_starter();
            }
        }
        let free = self.starters.iter_mut().filter(|starter| starter.duty == Duty::Nothing);
        for starter in free {
            let Some(Start { worker, owner, spec, birth }) = self.waiting.pop_front() else {
                return;
            };
            let token = self.short_way.new_token();
            self.children.insert(token, Child::new(worker, owner, birth.name.clone()));
            self.next_starter_at = now + STARTER_WAIT;
            starter.duty = Duty::Start(token);
            starter.door.hand_in(Order { token, spec, birth });
        }
    }

    fn add_starter(&mut self) -> io::Result<()> {
        let (to_us, wake) = (self.to_us.clone(), Arc::clone(&self.wake));
        let tell = move |token, outcome| send(&to_us, &wake, Command::Outcome { token, outcome });
        let (to_us, wake) = (self.to_us.clone(), Arc::clone(&self.wake));
        let adopt = move |adopted| send(&to_us, &wake, Command::Adopt(Box::new(adopted)));
        self.starters.push(Starter::new(Arc::clone(&self.epoll), tell, adopt)?);
        Ok(())
    }

    fn handle_forked(&mut self, start: Start, outcome: io::Result<Spawned>) {
        let token = self.short_way.new_token();
        let outcome =
            outcome.and_then(|spawned| match self.epoll.add(&spawned.pidfd, death_of(token)) {
                Ok(()) => Ok(spawned),
                Err(errno) => {
                    wait::kill_and_reap(spawned.ends.pid);
                    Err(errno.into())
                }
            });
        let Start { worker, owner, birth, .. } = start;
        self.children.insert(token, Child::new(worker, owner, birth.name));
        self.handle_outcome(token, outcome);
    }

    fn handle_outcome(&mut self, token: u64, outcome: io::Result<Spawned>) {
        let mut starters = self.starters.iter_mut();
        if let Some(starter) = starters.find(|starter| starter.duty == Duty::Start(token)) {
            starter.duty = Duty::Nothing;
        }
        let Some(child) = self.children.get_mut(&token) else { return };
        match outcome {
            Ok(Spawned { pidfd, leash, ends }) => {
                let pidfd = Arc::new(pidfd);
                let theirs = Arc::clone(&pidfd);
                child.process = Some(Process { pid: ends.pid, pidfd, _leash: leash });
                roll::enter(ends.pid, mem::take(&mut child.name));
                if matches!(child.stopping, Stopping::No) {
                    child.is_told = true;
                    let event = Event::Started { worker: child.worker, pidfd: theirs, ends };
                    tell(Arc::clone(&child.owner), event);
                } else {
                    drop(ends);
                    child.kill();
                }
                if child.death_is_news {
                    self.handle_death(token);
                }
            }
            Err(error) => {
                if let Some(child) = self.children.remove(&token) {
                    child.tell_end(Exit::UNKNOWN, error);
                }
            }
        }
    }

    /// Looks after a process that a starter has started for itself.
    fn adopt(&mut self, Adopted { owner, worker, pid, pidfd, leash }: Adopted) {
        let token = self.short_way.new_token();
        let is_watched = self.epoll.add(&pidfd, death_of(token)).is_ok();
        let mut child = Child::new(worker, owner, String::new());
        child.process = Some(Process { pid, pidfd: Arc::new(pidfd), _leash: leash });
        child.is_told = true;
        if !is_watched {
            // Its end would not be seen, but for the looks at one that was killed.
            child.kill();
        }
        self.children.insert(token, child);
    }

    fn handle_death(&mut self, token: u64) {
        if let Some(child) = self.children.get_mut(&token) {
            let Some(process) = &child.process else {
                child.death_is_news = true;
                return;
            };
            match process.end() {
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
        let Some(mut child) = self.children.remove(&token) else { return };
        // Whoever hears of a death may count descriptors.
        if let Some(process) = child.process.take() {
            self.forget(&process.pidfd);
            roll::strike_off(process.pid);
        }
        child.tell_end(exit, taken_back());
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
            let Some(mut child) = self.children.remove(&token) else { continue };
            if let Some(process) = child.process.take() {
                self.kept.insert(token, process.pidfd);
                roll::strike_off(process.pid);
            }
            child.tell_end(Exit::UNKNOWN, taken_back());
        }
    }

    /// Finds the dead without being told.
    fn look_for_deaths(&mut self) {
        let dead = self.children.iter().filter(|(_, child)| child.is_dead());
        let dead: Vec<u64> = dead.map(|(&token, _)| token).collect();
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

/// An edge for the death, and another when a tracer lets go of the dead.
pub(super) fn death_of(token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token)
}

/// What a start has come to that its owner did not want any more.
fn taken_back() -> io::Error {
    io::Error::new(io::ErrorKind::Interrupted, "killed before it was started")
}

#[cfg(test)]
mod tests;
