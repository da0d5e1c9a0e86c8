//! What is known of a process: whether it runs, how it ended, what came of its
//! function. The warden tells of the one, the post of the other; handles ask, wait
//! and give orders. Needs no runtime.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::post::Post;
use crate::error::{TaskError, TaskInfo};
use crate::exit::Exit;
use crate::id::{TaskId, WorkerId};
use crate::proto::draft::Reply;
use crate::start::identity::Birth;
use crate::start::owner::{Event, Owner, new_pool_id};
use crate::start::spawn::{Ends, SpawnSpec};
use crate::start::warden::{Stop, Warden};
use crate::sys::fork::Incarnation;
use crate::sys::{fd, wait};

/// Each has a warden's pool of its own.
const WORKER: WorkerId = WorkerId(0);

/// What the builder decided.
#[derive(Debug)]
pub(super) struct Terms {
    /// The function's path.
    pub(super) function: &'static str,
    pub(super) grace_period: Duration,
}

pub(super) struct Life {
    id: u64,
    name: Arc<str>,
    terms: Terms,
    warden: &'static Warden,
    post: &'static Post,
    /// Who started it. In a copy of that process, made by `fork`, it is no child.
    incarnation: Incarnation,
    /// Set before `start` returns.
    process: OnceLock<Child>,
    state: Mutex<State>,
    /// For those who block.
    changed: Condvar,
}

struct Child {
    pid: i32,
    /// The warden's, too.
    pidfd: Arc<OwnedFd>,
}

struct State {
    start: Start,
    /// As the warden says.
    exit: Option<Exit>,
    /// It was killed, and does not die.
    overdue: bool,
    /// Its handle asked for its end.
    is_unwanted: bool,
    /// The post is not told of it.
    is_unserved: bool,
    outcome: Outcome,
    /// For the handle's future and others.
    wakers: Vec<(u64, Waker)>,
    last_interest: u64,
}

enum Start {
    UnderWay,
    Failed(io::Error),
    There(Box<Ends>),
    /// Whoever asked for it knows.
    Told,
}

enum Outcome {
    Open,
    Ended(Result<Reply, TaskError>),
    Taken,
}

/// Whose waker is whose.
#[derive(Debug, Default)]
pub(super) struct Interest(Option<u64>);

impl Life {
    pub(super) fn new(name: String, terms: Terms, post: &'static Post) -> io::Result<Arc<Life>> {
        Ok(Arc::new(Life {
            id: new_pool_id(),
            name: name.into(),
            terms,
            warden: Warden::global()?,
            post,
            incarnation: Incarnation::current()?,
            process: OnceLock::new(),
            state: Mutex::new(State {
                start: Start::UnderWay,
                exit: None,
                overdue: false,
                is_unwanted: false,
                is_unserved: false,
                outcome: Outcome::Open,
                wakers: Vec::new(),
                last_interest: 0,
            }),
            changed: Condvar::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Poisoned only by a bug of ours, and handles must resolve even then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process, and waits until it is there.
    pub(super) fn start(self: &Arc<Self>, spec: Arc<SpawnSpec>, birth: Birth) -> io::Result<Ends> {
        let owner: Arc<dyn Owner> = Arc::clone(self) as _;
        self.warden.start(WORKER, owner, spec, birth);
        let mut state = self.state();
        loop {
            match mem::replace(&mut state.start, Start::Told) {
                Start::There(ends) => return Ok(*ends),
                Start::Failed(error) => return Err(error),
                under_way => state.start = under_way,
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // What it is --------------------------------------------------------------

    /// Names it to the post.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn child(&self) -> &Child {
        self.process.get().expect("nobody has it before it has been started")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child().pid as u32
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child().pidfd.as_fd()
    }

    /// What errors say about the call.
    pub(super) fn task(&self) -> TaskInfo {
        TaskInfo {
            id: TaskId(self.id),
            name: self.terms.function,
            label: Some(Arc::clone(&self.name)),
            index: None,
        }
    }

    pub(super) fn is_current(&self) -> bool {
        self.incarnation.is_current()
    }

    // How it is ---------------------------------------------------------------

    // In a forked copy of this process nobody tells the state anything, and whoever
    // had locked it is not there: it is not looked at.

    pub(super) fn is_alive(&self) -> bool {
        if !self.is_current() {
            return !fd::is_readable(self.pidfd());
        }
        // The warden may not have noticed.
        self.state().exit.is_none() && !fd::is_readable(self.pidfd())
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        if !self.is_current() {
            return None;
        }
        let known = self.state().exit;
        if known.is_some() {
            return known;
        }
        match wait::peek_exit(self.pidfd()) {
            Ok(exit) => exit,
            // The warden has just collected it, and is about to say so.
            Err(_) => {
                let state = self.state();
                let missing = |state: &mut State| state.exit.is_none();
                let told = self.changed.wait_timeout_while(state, TELLING_WAIT, missing);
                told.unwrap_or_else(PoisonError::into_inner).0.exit
            }
        }
    }

    /// How it ended, once nothing more is to come of it.
    fn end(state: &State) -> Option<Exit> {
        match state.outcome {
            Outcome::Open => None,
            Outcome::Ended(_) | Outcome::Taken => Some(state.exit.unwrap_or(Exit::UNKNOWN)),
        }
    }

    /// Blocks until it is over with it, but not for longer than `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Option<Exit> {
        if !self.is_current() {
            return Some(Exit::UNKNOWN);
        }
        // A limit too long for the clock is none.
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.state();
        loop {
            if let Some(exit) = Life::end(&state) {
                return Some(exit);
            }
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What came of it, once.
    pub(super) fn poll_outcome(
        &self,
        interest: &mut Interest,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Reply, TaskError>> {
        if !self.is_current() {
            return Poll::Ready(Err(TaskError::Terminated));
        }
        self.poll_for(interest, cx, |state| match state.outcome {
            Outcome::Open => None,
            Outcome::Ended(_) | Outcome::Taken => {
                match mem::replace(&mut state.outcome, Outcome::Taken) {
                    Outcome::Ended(outcome) => Some(outcome),
                    _ => panic!("polled after the process has given its answer"),
                }
            }
        })
    }

    fn poll_for<T>(
        &self,
        interest: &mut Interest,
        cx: &mut Context<'_>,
        look: impl Fn(&mut State) -> Option<T>,
    ) -> Poll<T> {
        // Cloned and dropped without the lock: wakers are the user's.
        let mut waker = cx.waker().clone();
        let mut state = self.state();
        if let Some(found) = look(&mut state) {
            drop(state);
            return Poll::Ready(found);
        }
        let number = *interest.0.get_or_insert_with(|| {
            state.last_interest += 1;
            state.last_interest
        });
        match state.wakers.iter_mut().find(|(whose, _)| *whose == number) {
            Some((_, known)) => mem::swap(known, &mut waker),
            None => {
                state.wakers.push((number, waker));
                return Poll::Pending;
            }
        }
        drop(state);
        drop(waker);
        Poll::Pending
    }

    pub(super) fn lose_interest(&self, interest: Interest) {
        let Some(number) = interest.0.filter(|_| self.is_current()) else { return };
        let mut state = self.state();
        let at = state.wakers.iter().position(|(whose, _)| *whose == number);
        let lost = at.map(|at| state.wakers.swap_remove(at));
        drop(state);
        drop(lost);
    }

    // What is to be done with it ----------------------------------------------

    /// SIGTERM, and SIGKILL when the grace is over.
    pub(super) fn terminate(&self, grace: Duration) {
        self.stop(Stop::Term { grace });
    }

    pub(super) fn kill(&self) {
        self.stop(Stop::Kill);
    }

    /// It does not behave, so that its end is not its handle's wish.
    pub(super) fn kill_unasked(&self) {
        self.warden.signal(self.id, WORKER, Stop::Kill);
    }

    /// Nobody has its handle any more.
    pub(super) fn give_up(&self) {
        self.stop(Stop::Term { grace: self.terms.grace_period });
    }

    /// Its start came to nothing though it is there: nothing will be asked of it.
    pub(super) fn leave_unserved(&self) {
        let mut state = self.state();
        state.is_unserved = true;
        let is_over = state.exit.is_some() || state.overdue;
        drop(state);
        if is_over {
            self.finish(Err(TaskError::Terminated));
        }
    }

    fn stop(&self, how: Stop) {
        if !self.is_current() {
            return;
        }
        let mut state = self.state();
        if state.exit.is_none() {
            // What has ended by itself has not been cancelled.
            state.is_unwanted |= !fd::is_readable(self.pidfd());
            drop(state);
            self.warden.signal(self.id, WORKER, how);
        }
    }

    /// It is over. Who says what came of it?
    fn bury(&self, state: MutexGuard<'_, State>) {
        let is_unserved = state.is_unserved;
        drop(state);
        self.changed.notify_all();
        if is_unserved {
            self.finish(Err(TaskError::Terminated));
        } else {
            self.post.bury(self.id);
        }
    }

    // What the post has to say ------------------------------------------------

    /// How it ended, whether that was asked for, and whether it is to be waited for
    /// any longer.
    pub(super) fn verdict(&self) -> Verdict {
        let State { exit, is_unwanted, overdue, .. } = *self.state();
        Verdict { exit, is_unwanted, is_over: exit.is_some() || overdue }
    }

    /// It is over with it. Tells everybody.
    pub(super) fn finish(&self, outcome: Result<Reply, TaskError>) {
        let mut state = self.state();
        if !matches!(state.outcome, Outcome::Open) {
            return;
        }
        state.outcome = Outcome::Ended(outcome);
        let wakers = mem::take(&mut state.wakers);
        drop(state);
        self.changed.notify_all();
        for (_, waker) in wakers {
            // The hook has told of a panic, which is none of ours.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                // Dropping it could panic again.
                mem::forget(payload);
            }
        }
    }
}

/// How long a warden that has collected a process may take to say so: it does
/// nothing in between, unless it is kept from running.
const TELLING_WAIT: Duration = Duration::from_secs(1);

/// How it stands with a process.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) exit: Option<Exit>,
    pub(super) is_unwanted: bool,
    pub(super) is_over: bool,
}

impl Owner for Life {
    fn pool_id(&self) -> u64 {
        self.id
    }

    fn handle_event(&self, event: Event) {
        let mut state = self.state();
        match event {
            Event::Started { pidfd, ends, .. } => {
                let child = Child { pid: ends.pid, pidfd };
                assert!(self.process.set(child).is_ok(), "a process is started once");
                state.start = Start::There(Box::new(ends));
                drop(state);
                self.changed.notify_all();
            }
            Event::StartFailed { error, .. } => {
                state.start = Start::Failed(error);
                state.exit = Some(Exit::UNKNOWN);
                state.outcome = Outcome::Taken;
                drop(state);
                self.changed.notify_all();
            }
            Event::Died { exit, .. } => {
                state.exit = Some(exit);
                self.bury(state);
            }
            Event::Overdue { .. } => {
                state.overdue = true;
                self.bury(state);
            }
        }
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The future of a process's end, made by
/// [`Process::exited`](super::Process::exited). It does not borrow the process, and
/// does not keep it from being ended by being dropped.
///
/// # Cancel safety
///
/// Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct Exited {
    life: Arc<Life>,
    interest: Interest,
}

impl Exited {
    pub(super) fn new(life: &Arc<Life>) -> Self {
        Exited { life: Arc::clone(life), interest: Interest::default() }
    }
}

impl Future for Exited {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        let this = &mut *self;
        if !this.life.is_current() {
            return Poll::Ready(Exit::UNKNOWN);
        }
        this.life.poll_for(&mut this.interest, cx, |state| Life::end(state))
    }
}

impl Drop for Exited {
    fn drop(&mut self) {
        self.life.lose_interest(mem::take(&mut self.interest));
    }
}
