//! What a contestant can be asked for, and the jobs that ask for it.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::jobs::Sizes;
use crate::tasks::{Gate, expected, serial, steps_of_100_us, timed};

/// A measurement: figures by name, in seconds, bytes, per second.
pub type Values = BTreeMap<&'static str, f64>;

/// Some workers, and ways to have them work. `None`: it has no such way.
pub trait Contestant: Sized {
    /// Need not wait for the workers.
    fn start(workers: usize) -> Self;

    /// With one worker, and another that is kept ready to take its place.
    fn start_with_spare() -> Option<Self> {
        None
    }

    /// Awaits one no-op after the other; how long each took.
    fn round_trips(&mut self, calls: usize) -> Vec<Duration>;

    /// Tasks that are submitted one by one, all before the first answer is
    /// awaited if it can be. The sum of the answers.
    fn each(&mut self, _tasks: u64, _steps: u64) -> Option<u64> {
        None
    }

    /// The same in all, by so many callers at once, each of which awaits one before it
    /// submits the next.
    fn by_callers(&mut self, _callers: u64, _tasks: u64) -> Option<u64> {
        None
    }

    /// The same, as a stream of answers in any order, with `chunk` at a time.
    fn stream(&mut self, _tasks: u64, _steps: u64, _chunk: usize) -> Option<u64> {
        None
    }

    /// The same, as one map.
    fn map(&mut self, _tasks: u64, _steps: u64) -> Option<u64> {
        None
    }

    /// The squares of all below `n`, in order, with `chunk` at a time.
    fn squares(&mut self, _n: u64, _chunk: usize) -> Option<Vec<u64>> {
        None
    }

    /// The chunk sizes to try, of which the best counts.
    const SQUARES_CHUNKS: &[usize] = &[0];

    /// Sends these there and back: what came back, and how long it took.
    /// `again` is a copy that may be consumed.
    fn echo(&mut self, _again: Vec<u8>) -> Option<(Duration, Box<dyn Any>)> {
        None
    }

    /// Stops a `hang`: the time from there to the answer of a no-op. Called
    /// with one worker, and perhaps a spare.
    fn cancel(&mut self, _running: &Path) -> Option<Duration> {
        None
    }

    /// Has a worker `hold`, queues that many no-ops behind it, looks, and
    /// awaits them all. Called with one worker.
    fn queued(&mut self, _gate: &Gate, _calls: usize, _look: &mut dyn FnMut()) -> Option<()> {
        None
    }

    /// How many calls can be queued at all.
    const QUEUED_MAX: usize = usize::MAX;
}

pub fn measure<C: Contestant>(job: &str, sizes: &Sizes) -> Values {
    match job {
        "round_trip" => round_trip::<C>(sizes),
        "in_flight" => in_flight::<C>(sizes),
        "map" => map::<C>(sizes),
        "efficiency" => efficiency::<C>(sizes),
        "echo" => echo::<C>(sizes),
        "first_result" => first_result::<C>(sizes),
        "cancel" => cancel::<C>(sizes),
        "memory" => memory::<C>(sizes),
        // `growth` is for procession alone.
        _ => Values::new(),
    }
}

/// A contestant whose workers have all had something to do.
fn warm<C: Contestant>(workers: usize) -> C {
    let mut contestant = C::start(workers);
    contestant.round_trips(200);
    contestant
}

fn round_trip<C: Contestant>(sizes: &Sizes) -> Values {
    let mut values = Values::new();
    for (workers, p50, p99) in [(1, "one_p50", "one_p99"), (2, "two_p50", "two_p99")] {
        let mut took = warm::<C>(workers).round_trips(sizes.round_trips);
        values.insert(p50, percentile(&mut took, 50));
        values.insert(p99, percentile(&mut took, 99));
    }
    values
}

fn in_flight<C: Contestant>(sizes: &Sizes) -> Values {
    let mut contestant = warm::<C>(2);
    let tasks = sizes.no_ops;
    let expected = expected(tasks, 0);
    let rate = |took: Duration| tasks as f64 / took.as_secs_f64();
    let mut values = Values::new();
    best(&mut values, "each", || checked(expected, || contestant.each(tasks, 0)).map(rate));
    best(&mut values, "callers", || {
        checked(expected, || contestant.by_callers(CALLERS, tasks)).map(rate)
    });
    for (name, chunk) in [("stream", 1), ("chunked", 16), ("chunked", 256)] {
        best(&mut values, name, || {
            checked(expected, || contestant.stream(tasks, 0, chunk)).map(rate)
        });
    }
    values
}

/// As a busy service has them.
const CALLERS: u64 = 64;

/// What each of so many callers calls for, of so many tasks.
pub fn shares(callers: u64, tasks: u64) -> impl Iterator<Item = Range<u64>> {
    (0..callers).map(move |n| n * tasks / callers..(n + 1) * tasks / callers)
}

fn map<C: Contestant>(sizes: &Sizes) -> Values {
    let mut contestant = warm::<C>(2);
    let mut values = Values::new();
    for &chunk in C::SQUARES_CHUNKS {
        best(&mut values, "map", || {
            let start = Instant::now();
            let answers = contestant.squares(sizes.squares, chunk)?;
            let took = start.elapsed();
            assert_eq!(answers.len() as u64, sizes.squares);
            assert!((0..).zip(answers).all(|(n, answer)| answer == n * n));
            Some(sizes.squares as f64 / took.as_secs_f64())
        });
    }
    values
}

fn efficiency<C: Contestant>(sizes: &Sizes) -> Values {
    let mut contestant = warm::<C>(2);
    let steps = steps_of_100_us();
    let tasks = sizes.busy_tasks;
    let expected = expected(tasks, steps);
    let mut values = Values::new();
    let mut share = |name, run: &mut dyn FnMut(u64, u64) -> Option<u64>| {
        // The machine's speed may change meanwhile.
        let before = serial(steps);
        if let Some(took) = checked(expected, || run(tasks, steps)) {
            let each = (before + serial(steps)).as_secs_f64() / 2.0;
            values.insert(name, each * tasks as f64 / (2.0 * took.as_secs_f64()));
        }
    };
    share("map", &mut |tasks, steps| contestant.map(tasks, steps));
    share("stream", &mut |tasks, steps| contestant.stream(tasks, steps, 1));
    share("chunked", &mut |tasks, steps| contestant.stream(tasks, steps, 16));
    share("each", &mut |tasks, steps| contestant.each(tasks, steps));
    values
}

fn echo<C: Contestant>(sizes: &Sizes) -> Values {
    let mut values = Values::new();
    let mut contestant = warm::<C>(1);
    for (name, length, times) in ECHOES {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut took = Vec::new();
        // The first round trip of this size is for the buffers to grow.
        for _ in 0..=times * sizes.echoes {
            let Some((each, back)) = contestant.echo(bytes.clone()) else { return values };
            assert!(as_bytes(&*back) == &bytes[..], "what came back is something else");
            took.push(each);
        }
        values.insert(name, percentile(&mut took[1..], 50));
    }
    values
}

/// Figure, length, and how many for one of `Sizes::echoes`.
pub const ECHOES: [(&str, usize, usize); 2] = [("large", 64 << 20, 1), ("small", 1 << 20, 20)];

fn as_bytes(back: &dyn Any) -> &[u8] {
    if let Some(bytes) = back.downcast_ref::<Bytes>() {
        bytes
    } else {
        back.downcast_ref::<Vec<u8>>().expect("Bytes or Vec<u8>")
    }
}

fn first_result<C: Contestant>(sizes: &Sizes) -> Values {
    let mut took: Vec<_> = (0..sizes.pools)
        .map(|_| {
            let start = Instant::now();
            let mut contestant = C::start(2);
            contestant.round_trips(1);
            let took = start.elapsed();
            drop(contestant);
            took
        })
        .collect();
    Values::from([("first_result", percentile(&mut took, 50))])
}

fn cancel<C: Contestant>(sizes: &Sizes) -> Values {
    let mut values = Values::new();
    for (name, contestant) in [("cancel", Some(C::start(1))), ("spare", C::start_with_spare())] {
        let Some(mut contestant) = contestant else { continue };
        contestant.round_trips(200);
        let running = Gate::new("running");
        let took: Option<Vec<_>> =
            (0..sizes.cancels).map(|_| contestant.cancel(running.path())).collect();
        values.extend(took.map(|mut took| (name, percentile(&mut took, 50))));
    }
    values
}

fn memory<C: Contestant>(sizes: &Sizes) -> Values {
    let mut values = Values::new();
    let contestant = warm::<C>(2);
    // Whatever a worker does before it sleeps is over by then.
    std::thread::sleep(Duration::from_millis(300));
    let mut workers: Vec<u64> = children().map(private_bytes).collect();
    workers.sort();
    if let Some(&least) = workers.first() {
        values.insert("worker", least as f64);
    }
    drop(contestant);

    let mut contestant = warm::<C>(1);
    let calls = sizes.queued.min(C::QUEUED_MAX);
    let (bytes, descriptors) = (private_bytes(std::process::id()), descriptors());
    contestant.queued(&Gate::new("gate"), calls, &mut || {
        let grown = private_bytes(std::process::id()).saturating_sub(bytes);
        values.insert("queued", grown as f64 / calls as f64);
        let opened = self::descriptors().saturating_sub(descriptors);
        values.insert("descriptors", opened as f64 / calls as f64);
    });
    values
}

/// How long it took, if there is a way; panics if it is the wrong answer.
fn checked(expected: u64, run: impl FnOnce() -> Option<u64>) -> Option<Duration> {
    let start = Instant::now();
    let sum = run()?;
    let took = start.elapsed();
    assert_eq!(sum, expected, "the answers' sum");
    Some(took)
}

/// Keeps the best of three tries: who has to warm up may.
fn best(values: &mut Values, name: &'static str, mut rate: impl FnMut() -> Option<f64>) {
    for _ in 0..3 {
        if let Some(rate) = rate() {
            let best = values.entry(name).or_insert(rate);
            *best = best.max(rate);
        }
    }
}

pub fn percentile(took: &mut [Duration], percent: usize) -> f64 {
    took.sort();
    took[(took.len() - 1) * percent / 100].as_secs_f64()
}

/// Round trips of whatever blocks until it is done.
pub fn time_each(calls: usize, mut call: impl FnMut()) -> Vec<Duration> {
    (0..calls).map(|_| timed(&mut call)).collect()
}

/// Processes that threads of this one have started.
fn children() -> impl Iterator<Item = u32> {
    let threads = fs::read_dir("/proc/self/task").expect("/proc/self/task");
    threads.flat_map(|thread| {
        let path = thread.expect("an entry").path().join("children");
        // A thread may be gone by now.
        let children = fs::read_to_string(path).unwrap_or_default();
        let pids: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        pids
    })
}

/// What would be free again if the process ended.
pub fn private_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.sum::<u64>() * 1024
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc/self/fd").count()
}
