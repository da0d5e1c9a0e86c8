//! The callers: each makes calls in every way there is, waits for them, and as
//! often does not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{Stream, StreamExt};
use procession::{Apply, Pool, TaskError, TaskHandle, TaskStatus, TryApplyError};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::ledger::{Ledger, Told};
use crate::plan::{self, Rng};
use crate::tasks::{Job, Manner, Reply, count, items, perform, perform_async, value};

pub(crate) struct Caller {
    pub(crate) pool: Pool,
    /// The pool's number in the round.
    pub(crate) index: usize,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) rng: Rng,
    pub(crate) pending: Vec<Pending>,
}

/// A call whose caller has not looked yet what became of it.
pub(crate) struct Pending {
    job: Job,
    handle: TaskHandle<Reply>,
}

impl Pending {
    pub(crate) async fn settle(self, ledger: &Ledger) {
        let told = judge(&self.job, self.handle.await);
        ledger.tell(self.job.number, told);
    }
}

impl Caller {
    /// Calls until the time is up. Returns the calls that it has not waited for.
    pub(crate) async fn run(mut self, until: Instant) -> Vec<Pending> {
        while Instant::now() < until {
            match self.rng.below(100) {
                0..10 => self.wait().await,
                10..15 => self.call(),
                15..20 => self.wait_for_many().await,
                20..25 => self.cancel_at_the_last_moment().await,
                25..35 => self.try_to_call(),
                35..45 => self.limit_the_run().await,
                45..52 => self.hang_up().await,
                52..60 => self.cancel_from_elsewhere().await,
                60..68 => self.cancel_and_wait().await,
                68..70 => self.let_run_on(),
                70..76 => self.insist().await,
                76..82 => self.map().await,
                82..94 => self.imap().await,
                _ => self.stream().await,
            }
            while self.pending.len() > 20 {
                self.pending.swap_remove(0).settle(&self.ledger).await;
            }
            sleep(self.rng.millis(12)).await;
        }
        self.pending
    }

    fn job(&mut self, manner: Manner, by: &'static str) -> Job {
        let number = self.ledger.open(self.index, manner, by);
        let ballast = Bytes::from(vec![number as u8; plan::ballast(&mut self.rng)]);
        Job { number, manner, ballast }
    }

    fn any_job(&mut self, by: &'static str) -> Job {
        let manner = plan::manner(&mut self.rng);
        self.job(manner, by)
    }

    /// A job that its caller is going to stop.
    fn doomed_job(&mut self, by: &'static str) -> Job {
        let manner = plan::doomed_manner(&mut self.rng);
        let job = self.job(manner, by);
        self.ledger.threaten(job.number);
        job
    }

    fn apply(&self, job: &Job) -> Apply<Reply> {
        match job.manner {
            Manner::Async { .. } => self.pool.apply(perform_async, job.clone()),
            _ => self.pool.apply(perform, job.clone()),
        }
    }

    fn settle(&self, job: &Job, result: Result<Reply, TaskError>) {
        self.ledger.tell(job.number, judge(job, result));
    }

    async fn wait(&mut self) {
        let job = self.any_job("apply");
        let result = self.apply(&job).await;
        self.settle(&job, result);
    }

    fn call(&mut self) {
        let job = self.any_job("apply_async");
        let handle = self.apply(&job).start();
        self.pending.push(Pending { job, handle });
    }

    /// Short ones, so that workers get many at a time.
    async fn wait_for_many(&mut self) {
        let calls = 1 + self.rng.below(150);
        let jobs = (0..calls).map(|_| {
            let manner = match self.rng.below(100) {
                0 => plan::manner(&mut self.rng),
                1..50 => Manner::Quick,
                _ => Manner::Busy { micros: self.rng.below(200) },
            };
            self.job(manner, "apply_async of many")
        });
        let jobs: Vec<_> = jobs.collect();
        let calls: Vec<_> = jobs.iter().map(|job| self.apply(job).start()).collect();
        for (job, result) in jobs.iter().zip(join_all(calls).await) {
            self.settle(job, result);
        }
    }

    /// Cancels a call when its task is about to end and others wait behind it.
    async fn cancel_at_the_last_moment(&mut self) {
        let micros = 500 + self.rng.below(2000);
        let busy = Manner::Busy { micros };
        let jobs: Vec<_> = (0..8).map(|_| self.job(busy, "apply_async of a few")).collect();
        let calls: Vec<_> = jobs.iter().map(|job| self.apply(job).start()).collect();
        let running = |(index, call): (usize, &TaskHandle<Reply>)| match call.status() {
            TaskStatus::Running { since, .. } => Some((index, since)),
            _ => None,
        };
        while !calls.iter().all(TaskHandle::is_finished) {
            let Some((index, since)) = calls.iter().enumerate().find_map(running) else {
                sleep(Duration::from_millis(1)).await;
                continue;
            };
            self.ledger.threaten(jobs[index].number);
            let moment = Duration::from_micros(micros - self.rng.below(100));
            while since.elapsed() < moment {
                yield_now().await;
            }
            calls[index].cancel_handle().cancel();
            break;
        }
        for (job, result) in jobs.iter().zip(join_all(calls).await) {
            self.settle(job, result);
        }
    }

    fn try_to_call(&mut self) {
        let job = self.any_job("try_apply");
        match self.pool.try_apply(perform, job.clone()) {
            Ok(handle) => self.pending.push(Pending { job, handle }),
            Err(TryApplyError::Full(job) | TryApplyError::Closed(job)) => {
                self.ledger.tell(job.number, Told::Refused);
            }
        }
    }

    async fn limit_the_run(&mut self) {
        let job = self.doomed_job("apply with a timeout");
        let result = self.apply(&job).timeout(self.rng.millis(20)).await;
        self.settle(&job, result);
    }

    /// Drops the call when it takes too long.
    async fn hang_up(&mut self) {
        let job = self.doomed_job("apply, dropped");
        let call = self.apply(&job);
        match timeout(self.rng.millis(20), call).await {
            Ok(result) => self.settle(&job, result),
            Err(_) => self.ledger.tell(job.number, Told::Dropped),
        }
    }

    /// Waits for some moment in the life of a call.
    async fn some_time(&mut self) {
        if self.rng.one_in(2) {
            for _ in 0..self.rng.below(8) {
                yield_now().await;
            }
        } else {
            sleep(self.rng.millis(10)).await;
        }
    }

    async fn cancel_from_elsewhere(&mut self) {
        let job = self.doomed_job("apply_async, cancelled by a handle");
        let handle = self.apply(&job).start();
        let cancel = handle.cancel_handle();
        self.some_time().await;
        cancel.cancel();
        self.pending.push(Pending { job, handle });
    }

    async fn cancel_and_wait(&mut self) {
        let job = self.doomed_job("apply_async, cancelled and awaited");
        let handle = self.apply(&job).start();
        self.some_time().await;
        if self.rng.one_in(4) {
            drop(handle);
            self.ledger.tell(job.number, Told::Dropped);
        } else {
            let started = Some(handle.cancel().await.started);
            self.ledger.tell(job.number, Told::Cancelled { started });
        }
    }

    fn let_run_on(&mut self) {
        let job = self.any_job("apply_async, detached");
        let handle = self.apply(&job).start();
        // One that is over at once may not have been taken.
        let told = if handle.is_finished() { Told::Dropped } else { Told::Detached };
        handle.detach();
        self.ledger.tell(job.number, told);
    }

    /// Has it tried again if the worker dies, but not with a task that would
    /// kill the next one too.
    async fn insist(&mut self) {
        let manner = Manner::Slow { millis: self.rng.below(60) };
        let job = self.job(manner, "apply with retries");
        self.ledger.allow_retries(job.number, 3);
        let result = self.apply(&job).retry(3).await;
        self.settle(&job, result);
    }

    fn jobs(&mut self, by: &'static str) -> Vec<Job> {
        let count = self.rng.below(60);
        (0..count).map(|_| self.any_job(by)).collect()
    }

    /// One failure is all that a map tells.
    async fn map(&mut self) {
        let count = self.rng.below(200);
        let jobs = (0..count).map(|_| match self.rng.below(200) {
            0 => self.any_job("map"),
            n => self.job(Manner::Busy { micros: n }, "map"),
        });
        let jobs: Vec<_> = jobs.collect();
        let map = self.pool.map(perform, jobs.clone());
        let result = match self.rng.below(3) {
            0 => map.await,
            1 => map.start().await,
            _ => map.chunk_size(1 + self.rng.below(20) as usize).await,
        };
        match result {
            Ok(replies) if replies.len() == jobs.len() => {
                for (job, reply) in jobs.iter().zip(replies) {
                    self.settle(job, Ok(reply));
                }
            }
            Ok(replies) => {
                let wrong = Told::Wrong(format!("a map has {} answers", replies.len()));
                jobs.iter().for_each(|job| self.ledger.tell(job.number, wrong.clone()));
            }
            Err(error) => {
                let culprit = error.index();
                for (index, job) in jobs.iter().enumerate() {
                    let told = match culprit {
                        Some(culprit) if culprit == index => in_chunk(error.clone()),
                        _ => Told::MapFailed,
                    };
                    self.ledger.tell(job.number, told);
                }
            }
        }
    }

    async fn imap(&mut self) {
        let chunk = if self.rng.one_in(3) { 1 + self.rng.below(10) as usize } else { 1 };
        let buffer = 1 + self.rng.below(100) as usize;
        let jobs = self.jobs("imap");
        if self.rng.one_in(2) {
            let answers = self.pool.imap(perform, jobs.clone());
            let answers = answers.chunk_size(chunk).buffer(buffer).enumerate();
            self.read(jobs, answers).await;
        } else {
            let answers = self.pool.imap_unordered(perform, jobs.clone());
            let answers = answers.chunk_size(chunk).buffer(buffer).indexed();
            self.read(jobs, answers).await;
        }
    }

    /// Reads all answers, or drops the rest.
    async fn read(
        &mut self,
        jobs: Vec<Job>,
        answers: impl Stream<Item = (usize, Result<Reply, TaskError>)>,
    ) {
        let mut answers = std::pin::pin!(answers);
        let mut open: Vec<_> = jobs.into_iter().map(Some).collect();
        let mut patience = if self.rng.one_in(4) { self.rng.below(20) } else { u64::MAX };
        let mut refused = false;
        while patience > 0 {
            let Some((index, result)) = answers.next().await else { break };
            if matches!(result, Err(TaskError::Closed | TaskError::Terminated)) {
                refused = true;
                break;
            }
            let Some(job) = open[index].take() else {
                panic!("item {index} was answered twice");
            };
            let told = match result {
                Ok(reply) => judge(&job, Ok(reply)),
                Err(error) => in_chunk(error),
            };
            self.ledger.tell(job.number, told);
            patience -= 1;
        }
        let rest = if refused || patience == 0 {
            Told::Dropped
        } else {
            Told::Wrong("its imap ended without it".into())
        };
        for job in open.into_iter().flatten() {
            self.ledger.tell(job.number, rest.clone());
        }
    }

    async fn stream(&mut self) {
        let job = self.any_job("stream");
        let mut expected = items(job.number);
        let mut patience = if self.rng.one_in(4) { self.rng.below(50) } else { u64::MAX };
        let buffer = 1 + self.rng.below(40) as usize;
        let mut stream = self.pool.stream(count, job.clone()).buffer(buffer);
        let told = loop {
            if patience == 0 {
                break Told::Dropped;
            }
            patience -= 1;
            match (stream.next().await, expected.next()) {
                (Some(Ok(item)), Some(right)) if item == right => {}
                (Some(Err(error)), _) => break Told::from_error(error),
                (None, None) => break Told::Answered,
                (got, right) => break Told::Wrong(format!("{got:?} instead of {right:?}")),
            }
            if self.rng.one_in(50) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        drop(stream);
        self.ledger.tell(job.number, told);
    }
}

/// What a result means for its call.
fn judge(job: &Job, result: Result<Reply, TaskError>) -> Told {
    let right = Reply { value: value(job.number), ballast: job.ballast.clone() };
    match result {
        Ok(reply) if reply == right => Told::Answered,
        Ok(reply) => Told::Wrong(format!("it was answered with {}", reply.value)),
        Err(error) => Told::from_error(error),
    }
}

/// What the error of a chunk means for one of its items.
fn in_chunk(error: TaskError) -> Told {
    match Told::from_error(error) {
        Told::Lost { pid, exit, .. } => Told::Lost { pid, exit, in_chunk: true },
        told => told,
    }
}
