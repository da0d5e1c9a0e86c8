//! procession, with default options wherever the job leaves a choice.

use std::any::Any;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use procession::{Pool, PoolBuilder, StartMethod};
use tokio::runtime::Runtime;

use crate::contestant::{Contestant, shares};
use crate::tasks::{Gate, hang, hold, seed, square, wait_for, work};

pub struct Procession {
    pub runtime: Runtime,
    pub pool: Pool,
}

impl Procession {
    fn with(builder: PoolBuilder) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let pool = runtime.block_on(async { builder.build() }).expect("a pool");
        Procession { runtime, pool }
    }

    /// Runs it as a task of the runtime, where a service's code would be.
    fn within<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(future)).expect("no panic")
    }
}

/// The same with workers that are copies of a fork server, which runs already but for the
/// first pool.
pub struct ByForkServer(Procession);

impl Contestant for ByForkServer {
    fn start(workers: usize) -> Self {
        let builder = Pool::builder().workers(workers).start_method(StartMethod::ForkServer);
        ByForkServer(Procession::with(builder))
    }

    fn round_trips(&mut self, calls: usize) -> Vec<Duration> {
        self.0.round_trips(calls)
    }

    fn cancel(&mut self, running: &Path) -> Option<Duration> {
        self.0.cancel(running)
    }
}

fn inputs(tasks: u64, steps: u64) -> impl Iterator<Item = (u64, u64)> + Send + 'static {
    (0..tasks).map(move |i| (seed(i), steps))
}

fn echo(bytes: Bytes) -> Bytes {
    bytes
}

impl Contestant for Procession {
    fn start(workers: usize) -> Self {
        Self::with(Pool::builder().workers(workers))
    }

    fn start_with_spare() -> Option<Self> {
        Some(Self::with(Pool::builder().workers(1).spare_workers(1)))
    }

    fn round_trips(&mut self, calls: usize) -> Vec<Duration> {
        let pool = self.pool.clone();
        self.within(async move {
            let mut took = Vec::with_capacity(calls);
            for i in 0..calls as u64 {
                let start = Instant::now();
                assert_eq!(pool.apply(work, (i, 0)).await.expect("an answer"), i);
                took.push(start.elapsed());
            }
            took
        })
    }

    fn each(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        let pool = self.pool.clone();
        Some(self.within(async move {
            let calls: Vec<_> =
                inputs(tasks, steps).map(|input| pool.apply_async(work, input)).collect();
            let mut sum = 0_u64;
            for call in calls {
                sum = sum.wrapping_add(call.await.expect("an answer"));
            }
            sum
        }))
    }

    fn by_callers(&mut self, callers: u64, tasks: u64) -> Option<u64> {
        let pool = self.pool.clone();
        Some(self.within(async move {
            let callers = shares(callers, tasks).map(|share| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut sum = 0_u64;
                    for i in share {
                        let answer = pool.apply(work, (seed(i), 0)).await.expect("an answer");
                        sum = sum.wrapping_add(answer);
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

    fn stream(&mut self, tasks: u64, steps: u64, chunk: usize) -> Option<u64> {
        let mut answers = self.pool.imap_unordered(work, inputs(tasks, steps));
        // What is not sent one at a time it cuts itself.
        if chunk == 1 {
            answers = answers.chunk_size(1);
        }
        Some(self.within(answers.fold(0, |sum: u64, answer| async move {
            sum.wrapping_add(answer.expect("an answer"))
        })))
    }

    fn map(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        let answers = self.within(self.pool.map(work, inputs(tasks, steps)));
        Some(answers.expect("answers").into_iter().fold(0, u64::wrapping_add))
    }

    fn squares(&mut self, n: u64, _chunk: usize) -> Option<Vec<u64>> {
        Some(self.within(self.pool.map(square, 0..n)).expect("answers"))
    }

    fn echo(&mut self, again: Vec<u8>) -> Option<(Duration, Box<dyn Any>)> {
        let pool = self.pool.clone();
        let bytes = Bytes::from(again);
        let (took, back) = self.within(async move {
            let start = Instant::now();
            let back = pool.apply(echo, bytes).await.expect("an echo");
            (start.elapsed(), back)
        });
        Some((took, Box::new(back)))
    }

    fn cancel(&mut self, running: &Path) -> Option<Duration> {
        self.runtime.block_on(self.pool.ready()).expect("workers");
        let task = self.pool.apply_async(hang::<()>, running.to_path_buf());
        wait_for(running);
        let pool = self.pool.clone();
        Some(self.within(async move {
            let start = Instant::now();
            drop(task);
            assert_eq!(pool.apply(work, (7, 0)).await.expect("an answer"), 7);
            start.elapsed()
        }))
    }

    fn queued(&mut self, gate: &Gate, calls: usize, look: &mut dyn FnMut()) -> Option<()> {
        let held = self.pool.apply_async(hold, gate.path().to_path_buf());
        gate.wait_held();
        let mut queued = Vec::with_capacity(calls);
        queued.extend((0..calls as u64).map(|i| self.pool.apply_async(work, (i, 0))));
        look();
        gate.open();
        self.runtime.block_on(async {
            held.await.expect("held");
            for (i, call) in (0..).zip(queued) {
                assert_eq!(call.await.expect("an answer"), i);
            }
        });
        Some(())
    }
}
