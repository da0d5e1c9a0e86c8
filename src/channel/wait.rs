//! Waiting: for a lock that others have for microseconds, and for a bell. In
//! async code and in plain code, with the same decisions.

use std::hint;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::Interest;

use super::fault::QueueFault;
use crate::limits::{
    QUEUE_FALSE_WAKES_MAX, QUEUE_LOCK_WAIT_LEAST, QUEUE_LOCK_WAIT_MOST, QUEUE_SPINS,
    QUEUE_TRY_WAIT, QUEUE_YIELDS,
};
use crate::seat::{Seat, Seats};
use crate::sys::bell::Bell;

/// What came of trying.
#[derive(Debug)]
pub(super) enum Attempt<R> {
    Done(R),
    /// Somebody else has the lock.
    Busy,
    /// Not now. The bell rings when it may be otherwise.
    Wait(Wait),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Differs once anything has happened that matters.
    pub(super) sign: u64,
    /// It may also be otherwise after that time, without anybody ringing.
    pub(super) again: Option<Duration>,
}

/// An end of a queue that wakes this process, and whoever waits at it here.
#[derive(Debug)]
pub(super) struct Ear {
    bell: Bell,
    seats: Seats,
}

impl Ear {
    pub(super) fn new(bell: Bell) -> Self {
        Ear { bell, seats: Seats::default() }
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// The place of this runtime, at which it waits.
    fn seat(&self) -> io::Result<Arc<Seat>> {
        self.seats.take(|| Ok(Arc::new(self.bell.to_fd()?)))
    }
}

/// How long the next try waits, for a lock that others have.
#[derive(Debug, Default)]
struct Patience {
    tries: u32,
}

enum Pause {
    None,
    Yield,
    Sleep(Duration),
}

impl Patience {
    fn next(&mut self) -> Pause {
        self.tries = self.tries.saturating_add(1);
        match self.tries.checked_sub(QUEUE_SPINS + QUEUE_YIELDS) {
            None if self.tries < QUEUE_SPINS => Pause::None,
            None => Pause::Yield,
            Some(sleeps) => Pause::Sleep(growing(sleeps)),
        }
    }
}

fn growing(step: u32) -> Duration {
    QUEUE_LOCK_WAIT_LEAST.saturating_mul(1 << step.min(16)).min(QUEUE_LOCK_WAIT_MOST)
}

/// Wake-ups for nothing. Those that others cause by taking what woke all are not.
#[derive(Debug, Default)]
struct Nerves {
    seen: Option<u64>,
    in_vain: u32,
}

impl Nerves {
    /// How long to sleep before waiting again.
    fn calm(&mut self, sign: u64) -> Option<Duration> {
        let is_new = self.seen.replace(sign) != Some(sign);
        self.in_vain = if is_new { 0 } else { self.in_vain.saturating_add(1) };
        self.in_vain.checked_sub(QUEUE_FALSE_WAKES_MAX).map(growing)
    }
}

/// Tries until it is done, and sleeps meanwhile until `ear` hears something.
///
/// # Panics
///
/// Outside of a runtime, or in one without I/O and time, if it has to wait.
pub(super) async fn wait<R>(
    ear: &Ear,
    mut attempt: impl FnMut() -> Result<Attempt<R>, QueueFault>,
) -> Result<R, QueueFault> {
    // Who always finds what it wants lets others run all the same.
    tokio::task::coop::consume_budget().await;
    let mut wait = match patiently(&mut attempt).await? {
        Ok(done) => return Ok(done),
        Err(wait) => wait,
    };
    let mut nerves = Nerves::default();
    // The number of a runtime that has ended may be another's now, whose place
    // this then is not.
    for _ in 0..2 {
        let seat = ear.seat()?;
        loop {
            if let Some(pause) = nerves.calm(wait.sign) {
                tokio::time::sleep(pause).await;
            }
            let waited = match wait.again {
                None => heard(&seat).await,
                Some(again) => tokio::time::timeout(again, heard(&seat)).await.unwrap_or(Ok(())),
            };
            if waited.is_err() {
                break;
            }
            // Within the runtime's own look at what was heard: that is forgotten if
            // it was of no use, and what comes meanwhile is not.
            let mut tried = None;
            let mut attempt = || {
                let _ = seat.try_io(Interest::READABLE, |_| {
                    let came = tried.insert(attempt());
                    let is_over = !matches!(came, Ok(Attempt::Wait(_)));
                    is_over.then_some(()).ok_or(io::ErrorKind::WouldBlock.into())
                });
                // Another task has heard it first, or it was time to look again.
                tried.take().unwrap_or_else(&mut attempt)
            };
            wait = match patiently(&mut attempt).await? {
                Ok(done) => return Ok(done),
                Err(wait) => wait,
            };
        }
        ear.seats.leave(&seat);
    }
    Err(io::Error::other("the runtime has ended").into())
}

/// Waits until something was heard.
async fn heard(seat: &Seat) -> io::Result<()> {
    seat.readable().await.map(drop)
}

/// Tries until nobody else has the lock.
async fn patiently<R>(
    attempt: &mut impl FnMut() -> Result<Attempt<R>, QueueFault>,
) -> Result<Result<R, Wait>, QueueFault> {
    let mut patience = Patience::default();
    loop {
        match attempt()? {
            Attempt::Done(done) => return Ok(Ok(done)),
            Attempt::Wait(wait) => return Ok(Err(wait)),
            Attempt::Busy => {}
        }
        match patience.next() {
            Pause::None => hint::spin_loop(),
            Pause::Yield => {
                // To others of this processor, and to others of this thread.
                thread::yield_now();
                tokio::task::yield_now().await;
            }
            Pause::Sleep(pause) => tokio::time::sleep(pause).await,
        }
    }
}

/// As [`wait`], in plain code, until `deadline`: `None` when that has come.
pub(super) fn wait_blocking<R>(
    ear: &Ear,
    deadline: Option<Instant>,
    mut attempt: impl FnMut() -> Result<Attempt<R>, QueueFault>,
) -> Result<Option<R>, QueueFault> {
    let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let mut nerves = Nerves::default();
    loop {
        let gives_up = || left() == Some(Duration::ZERO);
        let wait = match blocking_patience(&mut attempt, gives_up)? {
            Attempt::Done(done) => return Ok(Some(done)),
            Attempt::Busy => return Ok(None),
            Attempt::Wait(wait) => wait,
        };
        if gives_up() {
            return Ok(None);
        }
        if let Some(pause) = nerves.calm(wait.sign) {
            thread::sleep(left().map_or(pause, |left| left.min(pause)));
        }
        let most = [left(), wait.again].into_iter().flatten().min();
        ear.bell.listen(most)?;
    }
}

/// Tries until nobody else has the lock, or that takes too long: `Busy`.
fn blocking_patience<R>(
    attempt: &mut impl FnMut() -> Result<Attempt<R>, QueueFault>,
    gives_up: impl Fn() -> bool,
) -> Result<Attempt<R>, QueueFault> {
    let mut patience = Patience::default();
    loop {
        match attempt()? {
            Attempt::Busy => {}
            done => return Ok(done),
        }
        match patience.next() {
            Pause::None => hint::spin_loop(),
            Pause::Yield => thread::yield_now(),
            Pause::Sleep(_) if gives_up() => return Ok(Attempt::Busy),
            Pause::Sleep(pause) => thread::sleep(pause),
        }
    }
}

/// Tries once, for as long as a lock is held by anybody who is not stopped.
/// `None` if that was too short, or one has to wait.
pub(super) fn try_now<R>(
    mut attempt: impl FnMut() -> Result<Attempt<R>, QueueFault>,
) -> Result<Option<R>, QueueFault> {
    let started = Instant::now();
    match blocking_patience(&mut attempt, || started.elapsed() >= QUEUE_TRY_WAIT)? {
        Attempt::Done(done) => Ok(Some(done)),
        Attempt::Busy | Attempt::Wait(_) => Ok(None),
    }
}
