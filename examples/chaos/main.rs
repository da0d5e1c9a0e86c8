//! Everything at once, at random, and the books balance at the end.
//!
//! Pools of all kinds run tasks that are quick, slow, polite, stubborn, that
//! panic, exit, crash, hoard memory, stop or leave processes behind. Callers
//! wait, time out, cancel and hang up; pools are closed, terminated and
//! dropped under them; and a hand from outside kills and stops workers. Each
//! task notes its start, so that afterwards it can be told what really happened.
//!
//! ```text
//! $ cargo run --release --example chaos -- --seed 1 --seconds 10
//! seed 1: … rounds of 3 pools
//! submitted: …
//! answered: …
//! answered, to nobody: …
//! failed: panicked: …
//! failed: worker lost: …
//! failed: worker condemned: …
//! cancelled: through a handle: …
//! cancelled: timed out: …
//! cancelled: dropped: …
//! cancelled: with its map: …
//! cancelled: with its pool: …
//! cancelled: never taken: …
//! wrong: 0
//! started: …, of these again on request: …
//! signals from outside: {"SIGKILL": …, "SIGSTOP": …, "SIGTERM": …}
//! descriptors: …, before: …
//! threads: 5, before: 5
//! children: 0, and theirs: 0
//! heap bytes: …, before: …
//! resident KiB: …, trimmed: …, before: …
//! the books balance
//! ```
//!
//! The seed fixes the plan, not the interleaving, which is the kernel's. If
//! something does not add up, it is printed and the exit code is 1.
//!
//! - `plan`: what the seed decides;
//! - `tasks`: what workers do;
//! - `callers` and `hand`: who does what to whom;
//! - `ledger`: what was asked for, what was told, what happened;
//! - `vitals`: what this process holds.

mod callers;
mod hand;
mod ledger;
mod plan;
mod tasks;
mod vitals;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use procession::{Pool, Stats};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::callers::{Caller, Pending};
use crate::hand::Hand;
use crate::ledger::{ENDINGS, Ledger, Totals};
use crate::plan::{Ending, Rng, Settings};
use crate::vitals::Vitals;

const ROUND: Duration = Duration::from_secs(5);
const POOLS: usize = 3;
const CALLERS_PER_POOL: usize = 4;

/// Where for this long nobody was told anything and no task has started, nothing
/// ever will. A pool that needs a process for each task may have minutes to go on
/// a machine that has no time for it.
const HANG: Duration = Duration::from_secs(30);

/// But not for ever.
const HANGS_MOST: usize = 20;

#[derive(Clone, Copy)]
struct Options {
    seed: u64,
    time: Duration,
    workers: usize,
}

fn main() -> ExitCode {
    procession::init();
    let Some(options) = options() else {
        eprintln!("usage: chaos [--seed N] [--seconds N] [--workers N]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(chaos(options))
}

fn options() -> Option<Options> {
    let mut options = Options { seed: 1, time: Duration::from_secs(10), workers: 4 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number: u64 = args.next()?.parse().ok()?;
        match arg.as_str() {
            "--seed" => options.seed = number,
            "--seconds" => options.time = Duration::from_secs(number),
            "--workers" if number > 0 => options.workers = number as usize,
            _ => return None,
        }
    }
    Some(options)
}

/// Rounds, until the time is up or something is wrong.
async fn chaos(options: Options) -> ExitCode {
    let Options { seed, time, .. } = options;
    let scratch = std::env::temp_dir().join(format!("procession-chaos-{}", std::process::id()));
    std::fs::create_dir(&scratch).expect("there is room for a journal");
    let start = Instant::now();
    let end = start + time;
    let mut rng = Rng::new(seed);
    let mut totals = Totals::default();
    let mut before: Option<Vitals> = None;
    let mut violations = Vec::new();
    let mut number = 0;
    while violations.is_empty() && (Instant::now() < end || number < 2) {
        // Short rounds first: what a process keeps for good, it keeps from
        // then on.
        let left = end.saturating_duration_since(Instant::now());
        let time = if number < 2 { time.mul_f32(0.2) } else { left };
        let round = Round {
            rng: Rng::new(rng.next()),
            time: time.min(ROUND),
            workers_max: options.workers,
            journal: scratch.join("journal"),
            books: scratch.join("books"),
        };
        violations = round.run(&mut totals).await;
        let vitals = settled(before.as_ref()).await;
        violations.extend(compare(before.as_ref(), &vitals));
        if number == 1 {
            before = Some(Vitals::trimmed());
        }
        progress(start, number, &totals);
        number += 1;
    }
    let after = Vitals::now();
    let trimmed = Vitals::trimmed();
    if before.as_ref().is_some_and(|before| !trimmed.is_as_small(before)) {
        violations.push(format!("resident memory has grown: {trimmed:?}, before: {before:?}"));
    }
    report(options, number, &totals, before.as_ref().map(|before| [before, &after, &trimmed]));
    if violations.is_empty() {
        std::fs::remove_dir_all(&scratch).expect("the journals can be removed");
        println!("the books balance");
        return ExitCode::SUCCESS;
    }
    for violation in &violations {
        println!("VIOLATED (seed {seed}, round {}): {violation}", number - 1);
    }
    println!("journal and books are in {}", scratch.display());
    ExitCode::FAILURE
}

/// Some pools, all that happens to them, and their end.
struct Round {
    rng: Rng,
    time: Duration,
    workers_max: usize,
    /// Where tasks note their starts.
    journal: PathBuf,
    /// Where the books are kept if they do not balance.
    books: PathBuf,
}

impl Round {
    /// Returns what was not right about it.
    async fn run(mut self, totals: &mut Totals) -> Vec<String> {
        let journal = self.journal.to_str().expect("the path is plain").to_owned();
        let ledger = Arc::new(Ledger::new(journal.clone()));
        let settings = [(); POOLS].map(|()| Settings::new(&mut self.rng, self.workers_max));
        let pools: Vec<_> = match settings.iter().map(|pool| pool.build(&journal)).collect() {
            Ok(pools) => pools,
            Err(error) => return vec![format!("no pool: {error}")],
        };
        let until = Instant::now() + self.time;
        let hand = Hand {
            pools: pools.iter().cloned().zip(settings).collect(),
            workers_max: self.workers_max,
            ledger: Arc::clone(&ledger),
            rng: Rng::new(self.rng.next()),
        };
        let hand = tokio::spawn(hand.run(until));
        let mut lives = JoinSet::new();
        for (index, (pool, settings)) in pools.into_iter().zip(settings).enumerate() {
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS_PER_POOL {
                let caller = Caller {
                    pool: pool.clone(),
                    index,
                    ledger: Arc::clone(&ledger),
                    rng: Rng::new(self.rng.next()),
                    pending: Vec::new(),
                };
                callers.spawn(caller.run(until));
            }
            lives.spawn(live(pool, settings.ending, callers, until, Arc::clone(&ledger)));
        }
        let over = async {
            let problems: Vec<String> = lives.join_all().await.into_iter().flatten().collect();
            hand.await.expect("the hand does not panic");
            problems
        };
        let Some(mut violations) = unless_it_hangs(over, &ledger).await else {
            let mut violations = ledger.unresolved();
            violations.push(format!("the round did not end; its pools: {settings:?}"));
            ledger.write_down(&self.books).expect("there is room for the books");
            return violations;
        };
        violations.extend(ledger.audit(&settings, totals));
        if violations.is_empty() {
            std::fs::remove_file(&self.journal).expect("the tasks made it");
        } else {
            ledger.write_down(&self.books).expect("there is room for the books");
        }
        violations
    }
}

/// Waits for the end of a round, as long as anything happens in it.
async fn unless_it_hangs<T>(over: impl Future<Output = T>, ledger: &Ledger) -> Option<T> {
    let mut over = pin!(over);
    let mut before = None;
    for _ in 0..HANGS_MOST {
        if let Ok(result) = timeout(HANG, &mut over).await {
            return Some(result);
        }
        let now = Some(ledger.progress());
        if now == before {
            return None;
        }
        before = now;
    }
    None
}

/// A pool's life with its callers. Returns what was not right about its end.
async fn live(
    pool: Pool,
    ending: Ending,
    callers: JoinSet<Vec<Pending>>,
    until: Instant,
    ledger: Arc<Ledger>,
) -> Option<String> {
    sleep_until(until).await;
    // For the rest, the callers know nothing of what comes now.
    let settle = async {
        for call in callers.join_all().await.into_iter().flatten() {
            call.settle(&ledger).await;
        }
    };
    match ending {
        Ending::Join => {
            pool.close();
            tokio::join!(pool.join(), settle);
        }
        Ending::Shutdown => {
            tokio::join!(pool.shutdown(Duration::from_millis(20)), settle);
        }
        Ending::Terminate => {
            tokio::join!(pool.terminate(), settle);
        }
        Ending::Drop => {
            drop(pool);
            settle.await;
            return None;
        }
    }
    let stats = pool.stats();
    (stats.submitted != ended(&stats)).then(|| format!("a pool has lost count: {stats:?}"))
}

fn ended(stats: &Stats) -> u64 {
    let Stats { completed, panicked, cancelled, timed_out, lost, failed, .. } = *stats;
    completed + panicked + cancelled + timed_out + lost + failed
}

/// What is left of everything, once the last workers have been collected.
async fn settled(before: Option<&Vitals>) -> Vitals {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let vitals = Vitals::now();
        let back = vitals.is_within(before.unwrap_or(&vitals));
        if back || Instant::now() > deadline {
            return vitals;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Says what has not come back to what it was.
fn compare(before: Option<&Vitals>, after: &Vitals) -> Vec<String> {
    let mut violations = Vec::new();
    if !after.is_within(before.unwrap_or(after)) {
        violations.push(format!("something is left: {after:?}, before: {before:?}"));
    }
    violations
}

/// A line that is always the last, where somebody looks.
fn progress(start: Instant, round: u64, totals: &Totals) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let seconds = start.elapsed().as_secs();
        let Totals { submitted, .. } = totals;
        let _ = write!(stderr, "\r{seconds} s, round {round}, {submitted} calls");
    }
}

fn report(options: Options, rounds: u64, totals: &Totals, vitals: Option<[&Vitals; 3]>) {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let Totals { submitted, endings, starts, run_again, signals, remarkable } = totals;
    for call in remarkable {
        eprintln!("remarkable: {call}");
    }
    println!("seed {}: {rounds} rounds of {POOLS} pools", options.seed);
    println!("submitted: {submitted}");
    for ending in ENDINGS {
        println!("{ending}: {}", endings.get(ending).unwrap_or(&0));
    }
    println!("started: {starts}, of these again on request: {run_again}");
    println!("signals from outside: {signals:?}");
    let Some([before, after, trimmed]) = vitals else { return };
    println!("descriptors: {}, before: {}", after.descriptors, before.descriptors);
    println!("threads: {}, before: {}", after.threads, before.threads);
    println!("children: {}, and theirs: {}", after.children, after.marked.len());
    println!("heap bytes: {}, before: {}", after.heap_bytes, before.heap_bytes);
    let resident = [after, trimmed, before].map(|vitals| vitals.resident_kib);
    println!("resident KiB: {}, trimmed: {}, before: {}", resident[0], resident[1], resident[2]);
}
