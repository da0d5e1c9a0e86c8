//! procspawn's `Pool`.

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use procspawn::{JoinHandle, Pool};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contestant::{Contestant, shares, time_each};
use crate::tasks::{Gate, hang, hold, seed, squares, wait_for, work};

/// Each queued call has channels of its own, so a process can have only so many.
const IN_FLIGHT: usize = 256;

pub struct Procspawn(Pool);

fn work_pair((seed, steps): (u64, u64)) -> u64 {
    work(seed, steps)
}

fn echo(bytes: Bytes) -> Bytes {
    bytes
}

/// Answers in order, with a limited number of calls in flight.
fn in_flight<R: Serialize + DeserializeOwned>(
    calls: impl Iterator<Item = JoinHandle<R>>,
    mut take: impl FnMut(R),
) {
    let mut flying = VecDeque::new();
    for call in calls {
        flying.push_back(call);
        if flying.len() == IN_FLIGHT {
            take(flying.pop_front().expect("some").join().expect("an answer"));
        }
    }
    flying.into_iter().for_each(|call| take(call.join().expect("an answer")));
}

impl Contestant for Procspawn {
    fn start(workers: usize) -> Self {
        Procspawn(Pool::new(workers).expect("a pool"))
    }

    fn round_trips(&mut self, calls: usize) -> Vec<Duration> {
        time_each(calls, || assert_eq!(self.0.spawn((7, 0), work_pair).join().unwrap(), 7))
    }

    fn each(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        let mut sum = 0_u64;
        let calls = (0..tasks).map(|i| self.0.spawn((seed(i), steps), work_pair));
        in_flight(calls, |answer| sum = sum.wrapping_add(answer));
        Some(sum)
    }

    /// As threads, since its answers are waited for by one.
    fn by_callers(&mut self, callers: u64, tasks: u64) -> Option<u64> {
        let pool = &self.0;
        Some(thread::scope(|scope| {
            let callers = shares(callers, tasks).map(|share| {
                scope.spawn(move || {
                    let answer = |i| pool.spawn((seed(i), 0), work_pair).join().expect("an answer");
                    share.map(answer).fold(0, u64::wrapping_add)
                })
            });
            let callers = callers.collect::<Vec<_>>().into_iter();
            callers.fold(0, |sum: u64, caller| sum.wrapping_add(caller.join().expect("no panic")))
        }))
    }

    const SQUARES_CHUNKS: &[usize] = &[1_000, 10_000, 100_000, 500_000];

    fn squares(&mut self, n: u64, chunk: usize) -> Option<Vec<u64>> {
        let mut answers = Vec::with_capacity(n as usize);
        let calls = (0..n)
            .step_by(chunk)
            .map(|first| self.0.spawn((first..n.min(first + chunk as u64)).collect(), squares));
        in_flight(calls, |chunk| answers.extend(chunk));
        Some(answers)
    }

    /// Its shared memory does not get through a pool, as an argument.
    fn echo(&mut self, again: Vec<u8>) -> Option<(Duration, Box<dyn Any>)> {
        let bytes = Bytes::from(again);
        let start = Instant::now();
        let back = self.0.spawn(bytes, echo).join().expect("an echo");
        Some((start.elapsed(), Box::new(back)))
    }

    fn cancel(&mut self, running: &Path) -> Option<Duration> {
        let mut task = self.0.spawn(running.to_path_buf(), hang::<()>);
        wait_for(running);
        let start = Instant::now();
        task.kill().expect("killed");
        // Its pool hands the error over before it starts another process.
        task.join().expect_err("killed");
        assert_eq!(self.0.spawn((7, 0), work_pair).join().unwrap(), 7);
        Some(start.elapsed())
    }

    const QUEUED_MAX: usize = 1_000;

    fn queued(&mut self, gate: &Gate, calls: usize, look: &mut dyn FnMut()) -> Option<()> {
        let held = self.0.spawn(gate.path().to_path_buf(), hold);
        gate.wait_held();
        let mut queued = Vec::with_capacity(calls);
        queued.extend((0..calls as u64).map(|i| self.0.spawn((i, 0), work_pair)));
        look();
        gate.open();
        held.join().expect("held");
        for (i, call) in (0..).zip(queued) {
            assert_eq!(call.join().expect("an answer"), i);
        }
        Some(())
    }
}
