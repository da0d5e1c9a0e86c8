//! Threads: `spawn_blocking` and rayon. They share memory with their caller, so
//! an echo is nothing, and a task that runs cannot be stopped.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::runtime::Runtime;
use tokio::task::spawn_blocking;

use crate::contestant::{Contestant, shares, time_each};
use crate::tasks::{Gate, hold, seed, square, squares, work};

pub struct SpawnBlocking(Runtime);

impl SpawnBlocking {
    fn within<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.0.block_on(self.0.spawn(future)).expect("no panic")
    }
}

impl Contestant for SpawnBlocking {
    fn start(workers: usize) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).max_blocking_threads(workers);
        SpawnBlocking(builder.build().expect("a runtime"))
    }

    fn round_trips(&mut self, calls: usize) -> Vec<Duration> {
        self.within(async move {
            let mut took = Vec::with_capacity(calls);
            for i in 0..calls as u64 {
                let start = Instant::now();
                assert_eq!(spawn_blocking(move || work(i, 0)).await.unwrap(), i);
                took.push(start.elapsed());
            }
            took
        })
    }

    fn each(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        Some(self.within(async move {
            let calls: Vec<_> =
                (0..tasks).map(|i| spawn_blocking(move || work(seed(i), steps))).collect();
            let mut sum = 0_u64;
            for call in calls {
                sum = sum.wrapping_add(call.await.expect("an answer"));
            }
            sum
        }))
    }

    fn by_callers(&mut self, callers: u64, tasks: u64) -> Option<u64> {
        Some(self.within(async move {
            let callers = shares(callers, tasks).map(|share| {
                tokio::spawn(async move {
                    let mut sum = 0_u64;
                    for i in share {
                        let answer = spawn_blocking(move || work(seed(i), 0)).await;
                        sum = sum.wrapping_add(answer.expect("an answer"));
                    }
                    sum
                })
            });
            let mut sum = 0_u64;
            for caller in callers.collect::<Vec<_>>() {
                sum = sum.wrapping_add(caller.await.expect("no panic"));
            }
            sum
        }))
    }

    const SQUARES_CHUNKS: &[usize] = &[1_000, 10_000, 100_000];

    fn squares(&mut self, n: u64, chunk: usize) -> Option<Vec<u64>> {
        Some(self.within(async move {
            let chunks = (0..n).step_by(chunk).map(|first| {
                let numbers: Vec<u64> = (first..n.min(first + chunk as u64)).collect();
                spawn_blocking(move || squares(numbers))
            });
            let mut answers = Vec::with_capacity(n as usize);
            for chunk in chunks.collect::<Vec<_>>() {
                answers.extend(chunk.await.expect("answers"));
            }
            answers
        }))
    }

    fn queued(&mut self, gate: &Gate, calls: usize, look: &mut dyn FnMut()) -> Option<()> {
        let path = gate.path().to_path_buf();
        let held = self.0.spawn_blocking(|| hold(path));
        gate.wait_held();
        let mut queued = Vec::with_capacity(calls);
        queued.extend((0..calls as u64).map(|i| self.0.spawn_blocking(move || work(i, 0))));
        look();
        gate.open();
        self.0.block_on(async {
            held.await.expect("held");
            for (i, call) in (0..).zip(queued) {
                assert_eq!(call.await.expect("an answer"), i);
            }
        });
        Some(())
    }
}

pub struct Rayon(ThreadPool);

impl Contestant for Rayon {
    fn start(workers: usize) -> Self {
        Rayon(ThreadPoolBuilder::new().num_threads(workers).build().expect("threads"))
    }

    fn round_trips(&mut self, calls: usize) -> Vec<Duration> {
        time_each(calls, || assert_eq!(self.0.install(|| work(7, 0)), 7))
    }

    fn each(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        let (answer, answers) = mpsc::channel();
        for i in 0..tasks {
            let answer = answer.clone();
            self.0.spawn(move || answer.send(work(seed(i), steps)).expect("a reader"));
        }
        drop(answer);
        Some(answers.into_iter().fold(0, u64::wrapping_add))
    }

    fn map(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        Some(self.0.install(|| {
            let answers = (0..tasks).into_par_iter().map(|i| work(seed(i), steps));
            answers.reduce(|| 0, u64::wrapping_add)
        }))
    }

    fn squares(&mut self, n: u64, _chunk: usize) -> Option<Vec<u64>> {
        Some(self.0.install(|| (0..n).into_par_iter().map(square).collect()))
    }

    fn queued(&mut self, gate: &Gate, calls: usize, look: &mut dyn FnMut()) -> Option<()> {
        let path = gate.path().to_path_buf();
        self.0.spawn(|| hold(path));
        gate.wait_held();
        let (answer, answers) = mpsc::channel();
        for i in 0..calls as u64 {
            let answer = answer.clone();
            self.0.spawn(move || answer.send(work(i, 0)).expect("a reader"));
        }
        look();
        gate.open();
        drop(answer);
        assert_eq!(answers.into_iter().count(), calls);
        Some(())
    }
}
