//! Feature `histograms`: how long calls have waited and run, in few numbers, and which
//! of late took longest. Under the pool's lock: calls nobody's code.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Times;

/// How many of the calls that took longest are kept in mind, and for how long.
const SLOW_TASKS: usize = 10;
const SLOW_WAIT: Duration = Duration::from_secs(600);

/// What a pool has noted of its calls.
#[derive(Clone, Debug)]
pub(crate) struct Ledger<T> {
    waited: Histogram<u64>,
    ran: Histogram<u64>,
    /// Longest first.
    slowest: Vec<Slow<T>>,
}

/// One of the calls that took longest.
#[derive(Clone, Debug)]
pub(crate) struct Slow<T> {
    pub(crate) task: T,
    pub(crate) times: Times,
    pub(crate) ended: Instant,
}

/// Numbers that so many hundredths of all times are not above, each off by at most
/// one part in a hundred. Feature `histograms`.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Percentiles {
    /// How many times there were.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// Nine of ten are not above it.
    pub p90: Duration,
    /// All but one of a hundred.
    pub p99: Duration,
    /// All but one of a thousand.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

/// Times are counted in microseconds, to two digits: some 30 KiB for up to an hour.
fn histogram() -> Histogram<u64> {
    Histogram::new(2).expect("two digits are few enough")
}

impl<T> Ledger<T> {
    pub(crate) fn new() -> Self {
        Ledger { waited: histogram(), ran: histogram(), slowest: Vec::new() }
    }

    /// Notes a call that was answered.
    pub(crate) fn note(&mut self, times: Times, task: impl FnOnce() -> T) {
        let micros = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX >> 1);
        // Never grows beyond what a day takes.
        let most = micros(Duration::from_secs(24 * 3600));
        let _ = self.waited.record(micros(times.waited).min(most));
        let _ = self.ran.record(micros(times.ran).min(most));
        let is_longer = |slow: &Slow<T>| slow.times.ran > times.ran;
        let place = self.slowest.iter().take_while(|slow| is_longer(slow)).count();
        if place == SLOW_TASKS {
            return;
        }
        let ended = Instant::now();
        self.slowest.insert(place, Slow { task: task(), times, ended });
        self.forget_old(ended);
        self.slowest.truncate(SLOW_TASKS);
    }

    /// How long calls have waited, and run.
    pub(crate) fn percentiles(&self) -> (Percentiles, Percentiles) {
        (percentiles(&self.waited), percentiles(&self.ran))
    }

    /// Those of late that took longest, longest first.
    pub(crate) fn slowest(&mut self) -> &[Slow<T>] {
        self.forget_old(Instant::now());
        &self.slowest
    }

    fn forget_old(&mut self, now: Instant) {
        self.slowest.retain(|slow| now.duration_since(slow.ended) < SLOW_WAIT);
    }
}

fn percentiles(times: &Histogram<u64>) -> Percentiles {
    let at = |quantile| Duration::from_micros(times.value_at_quantile(quantile));
    Percentiles {
        count: times.len(),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(millis: u64) -> Times {
        let ran = Duration::from_millis(millis);
        Times { waited: ran / 2, ran }
    }

    #[test]
    fn numbers_are_right_to_one_part_in_a_hundred() {
        let mut ledger = Ledger::new();
        for millis in 1..=1000 {
            ledger.note(times(millis), || millis);
        }
        let (waited, ran) = ledger.percentiles();
        assert_eq!((waited.count, ran.count), (1000, 1000));
        for (found, millis) in [(ran.p50, 500), (ran.p90, 900), (ran.p99, 990), (ran.max, 1000)] {
            let off = found.as_secs_f64() / Duration::from_millis(millis).as_secs_f64() - 1.0;
            assert!(off.abs() <= 0.01, "{found:?}, not {millis} ms");
        }
        assert!(waited.p50 < ran.p50);
    }

    #[test]
    fn the_slowest_are_kept_longest_first() {
        let mut ledger = Ledger::new();
        for millis in [3, 1, 50, 2, 7, 9, 8, 1, 1, 1, 40, 6, 5, 4, 1] {
            ledger.note(times(millis), || millis);
        }
        let slowest: Vec<_> = ledger.slowest().iter().map(|slow| slow.task).collect();
        assert_eq!(slowest, [50, 40, 9, 8, 7, 6, 5, 4, 3, 2]);
    }

    #[test]
    fn nothing_is_too_long() {
        let mut ledger = Ledger::new();
        ledger.note(Times { waited: Duration::MAX, ran: Duration::MAX }, || ());
        assert!(ledger.percentiles().1.max >= Duration::from_secs(24 * 3600));
    }
}
