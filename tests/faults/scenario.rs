//! A pool's whole life in one go: what the sweeps run while something fails, and
//! what may come of it.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Debug;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use procession::{Pool, PoolBuilder, TaskError};

use crate::interpose::{self, Call, Hits, Plan, Who, arm_workers, hits_in_workers};
use crate::support::{LIMIT, Scratch, alone, note, notes, within};

/// Long enough for a payload of its own, and for a frame that does not go
/// through the outbox.
const LARGE: usize = 50_000;

/// Notes its number, and answers with the next.
fn next(journal: String, number: u32) -> u32 {
    note(journal, &number.to_string());
    number + 1
}

fn reversed(journal: String, number: u32, mut bytes: Vec<u8>) -> Vec<u8> {
    note(journal, &number.to_string());
    bytes.reverse();
    bytes
}

fn counted(journal: String, number: u32) -> impl Iterator<Item = u32> {
    note(journal, &number.to_string());
    0..20
}

async fn later(journal: String, number: u32) -> u32 {
    note(journal, &number.to_string());
    tokio::time::sleep(Duration::from_millis(1)).await;
    number + 1
}

fn forever(journal: String, number: u32) {
    note(journal, &number.to_string());
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn crash(journal: String, number: u32) {
    note(journal, &number.to_string());
    std::process::exit(3);
}

/// What may come of a life with a failure in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect {
    /// Everything is as if nothing had failed.
    Nothing,
    /// Callers notice nothing, but more workers are started than need be.
    Restart,
    /// Calls of one worker may have lost it.
    LostWorker,
}

pub(crate) fn builder() -> PoolBuilder {
    Pool::builder()
        .workers(2)
        .restart_limit(3)
        .grace_period(Duration::from_secs(20))
        .max_worker_memory(u64::MAX)
}

/// Lives a pool's whole life, with a plan for this process or without, and
/// checks what comes of it and what is left.
#[track_caller]
pub(crate) fn live(builder: PoolBuilder, plan: Option<Plan>, expect: Expect) -> Hits {
    // Shown if it fails.
    println!("{plan:?}, {expect:?}");
    let scratch = Scratch::new();
    let journal = scratch.path("journal");
    checked_with(plan, async {
        let pool = builder.build().unwrap();
        let mut tally = Tally { expect, started: BTreeMap::new() };
        live_through(&pool, &journal, &mut tally).await;
        tally.check(&notes(&journal));
        if expect == Expect::Nothing {
            // Two, and those for the one that was cancelled and the one that
            // crashed.
            assert_eq!(pool.stats().workers_started, 4);
        }
        pool.close();
        pool.join().await;
    })
}

/// Lives a life for each time that the parent makes this call, which then
/// fails; at most so many. Returns how many there were.
#[track_caller]
pub(crate) fn live_for_each(
    builder: impl Fn() -> PoolBuilder,
    (call, error): (Call, i32),
    most: u32,
    expect: Expect,
) -> u32 {
    for nth in 1..=most {
        if live(builder(), Some(Plan::nth(call, nth, error)), expect).total() == 0 {
            return nth - 1;
        }
    }
    most
}

/// The same for the calls of the first worker.
#[track_caller]
pub(crate) fn live_for_each_in_worker(
    builder: impl Fn() -> PoolBuilder,
    (call, error): (Call, i32),
    most: u32,
    expect: Expect,
) -> u32 {
    for nth in 1..=most {
        let plan = Plan::nth(call, nth, error);
        println!("in a worker: {plan:?}");
        let scratch = Scratch::new();
        let folder = scratch.path("fault");
        live(arm_workers(builder(), Who::FirstWorker, plan, &folder), None, expect);
        if hits_in_workers(&folder) == 0 {
            return nth - 1;
        }
    }
    most
}

/// Runs `life` on a runtime of its own with the plan in force, and checks that
/// nothing is left of it.
#[track_caller]
pub(crate) fn checked_with(plan: Option<Plan>, life: impl Future<Output = ()>) -> Hits {
    let mut hits = None;
    alone(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // The runtime's own descriptors are its own affair.
        interpose::clear();
        let armed = Armed;
        if let Some(plan) = plan {
            interpose::arm(plan);
        }
        runtime.block_on(within(LIMIT, life));
        drop(armed);
        drop(runtime);
        let deadline = Instant::now() + LIMIT;
        while mapped_pages() > 0 {
            assert!(Instant::now() < deadline, "a status page is still mapped");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(pool_threads(), 2, "not just the warden and its starter");
        hits = Some(Hits::now());
    });
    hits.expect("set by the test")
}

/// Set where a test is a process of its own.
const PART: &str = "PROCESSION_TEST_PART";

/// Whether this is such a process.
pub(crate) fn is_part() -> bool {
    env::var_os(PART).is_some()
}

/// Runs a test of this program as a process of its own, which must succeed.
#[track_caller]
pub(crate) fn run_part(test: &str) {
    alone(|| {
        let output = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, "")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
    });
}

fn mapped_pages() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.matches("memfd:procession-page").count()
}

/// Threads that the pool has made in this process.
pub(crate) fn pool_threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("procession-")).count()
}

/// Ends the plan also where a test fails.
struct Armed;

impl Drop for Armed {
    fn drop(&mut self) {
        interpose::disarm();
    }
}

/// What was asked, and what came of it.
struct Tally {
    expect: Expect,
    /// Whether the task of this number must have started.
    started: BTreeMap<u32, Option<bool>>,
}

impl Tally {
    #[track_caller]
    fn take<T: PartialEq + Debug>(&mut self, number: u32, got: Result<T, TaskError>, want: T) {
        let started = match got {
            Ok(got) => {
                assert_eq!(got, want, "the answer of call {number}");
                Some(true)
            }
            Err(error) => self.lose(number, &error),
        };
        self.started.insert(number, started);
    }

    #[track_caller]
    fn lose(&mut self, number: u32, error: &TaskError) -> Option<bool> {
        assert!(
            self.expect == Expect::LostWorker && error.is_worker_lost(),
            "call {number}: {error}: {error:?}"
        );
        // That it may have started does not mean that it has.
        error.started().filter(|started| !started)
    }

    fn check(&self, notes: &[String]) {
        for (number, started) in &self.started {
            let times = notes.iter().filter(|note| **note == number.to_string()).count();
            assert!(times <= 1, "task {number} ran {times} times");
            if let Some(started) = *started {
                assert_eq!(times, usize::from(started), "how often task {number} ran");
            }
        }
    }
}

async fn live_through(pool: &Pool, journal: &str, tally: &mut Tally) {
    let journal = || journal.to_owned();
    if tally.expect != Expect::LostWorker {
        pool.ready().await.unwrap();
    }
    // Many short ones, sent ahead of each other.
    let calls: Vec<_> = (0..40).map(|n| pool.apply_async(next, (journal(), n))).collect();
    for (n, call) in (0..).zip(calls) {
        tally.take(n, call.await, n + 1);
    }
    let inputs: Vec<_> = (100..120).map(|n| (journal(), n)).collect();
    match pool.map(next, inputs).await {
        Ok(answers) => {
            for (n, answer) in (100..).zip(answers) {
                tally.take(n, Ok(answer), n + 1);
            }
        }
        Err(error) => drop(tally.lose(100, &error)),
    }
    let large = |byte| {
        let mut bytes = vec![7; LARGE];
        bytes[0] = byte;
        bytes
    };
    let mut backwards = large(1);
    backwards.reverse();
    tally.take(200, pool.apply(reversed, (journal(), 200, large(1))).await, backwards);
    let items: Vec<_> = pool.stream(counted, (journal(), 201)).buffer(4).collect().await;
    let items: Result<Vec<_>, _> = items.into_iter().collect();
    tally.take(201, items, (0..20).collect());
    tally.take(202, pool.apply(later, (journal(), 202)).await, 203);

    let call = pool.apply_async(forever, (journal(), 203));
    while !notes(journal()).contains(&"203".into()) && !call.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if call.is_finished() {
        let error = call.await.unwrap_err();
        tally.lose(203, &error);
    } else {
        let cancelled = call.cancel().await;
        assert!(cancelled.started);
        let signal = cancelled.exit.and_then(|exit| exit.signal());
        assert!(signal == Some(15) || tally.expect == Expect::LostWorker, "{cancelled:?}");
    }
    tally.started.insert(203, Some(true));

    let error = pool.apply(crash, (journal(), 204)).await.unwrap_err();
    assert!(error.is_worker_lost(), "{error}");
    if error.exit().and_then(|exit| exit.code()) != Some(3) {
        tally.lose(204, &error);
    }
    // Whatever it was, it is over.
    for n in 300..310 {
        let answer = pool.apply(next, (journal(), n)).await;
        tally.take(n, answer, n + 1);
    }
    pool.ready().await.unwrap();
}

/// Whether there is time for everything.
pub(crate) fn is_full() -> bool {
    std::env::var("PROCESSION_SWEEP").is_ok_and(|sweep| sweep == "full")
}
