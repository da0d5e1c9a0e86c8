//! Feature `histograms`: how long calls have waited and run, in few numbers, and which
//! of late took longest. Under the pool's lock: calls nobody's code, reads no clock.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Times;
use crate::time::Time;

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
    pub(crate) ended: Time,
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

    /// Notes a call that was answered at `now`.
    pub(crate) fn note(&mut self, now: Time, times: Times, task: impl FnOnce() -> T) {
        let micros = |time: Duration| time.as_micros().try_into().unwrap_or(u64::MAX >> 1);
        // Never grows beyond what a day takes.
        let most = micros(Duration::from_secs(24 * 3600));
        let _ = self.waited.record(micros(times.waited).min(most));
        let _ = self.ran.record(micros(times.ran).min(most));
        // First, so that no call is kept out by what nobody is told of any more.
        self.forget_old(now);
        let is_longer = |slow: &Slow<T>| slow.times.ran > times.ran;
        let place = self.slowest.iter().take_while(|slow| is_longer(slow)).count();
        if place == SLOW_TASKS {
            return;
        }
        self.slowest.insert(place, Slow { task: task(), times, ended: now });
        self.slowest.truncate(SLOW_TASKS);
    }

    /// How long calls have waited, and run.
    pub(crate) fn percentiles(&self) -> (Percentiles, Percentiles) {
        (percentiles(&self.waited), percentiles(&self.ran))
    }

    /// Those of late that took longest, longest first.
    pub(crate) fn slowest(&mut self, now: Time) -> &[Slow<T>] {
        self.forget_old(now);
        &self.slowest
    }

    fn forget_old(&mut self, now: Time) {
        self.slowest.retain(|slow| now - slow.ended < SLOW_WAIT);
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

    const NOW: Time = Time(1 << 40);

    fn slowest(ledger: &mut Ledger<u64>, now: Time) -> Vec<u64> {
        ledger.slowest(now).iter().map(|slow| slow.task).collect()
    }

    fn times(millis: u64) -> Times {
        let ran = Duration::from_millis(millis);
        Times { waited: ran / 2, ran }
    }

    #[test]
    fn numbers_are_right_to_one_part_in_a_hundred() {
        let mut ledger = Ledger::new();
        for millis in 1..=1000 {
            ledger.note(NOW, times(millis), || millis);
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
            ledger.note(NOW, times(millis), || millis);
        }
        assert_eq!(slowest(&mut ledger, NOW), [50, 40, 9, 8, 7, 6, 5, 4, 3, 2]);
    }

    #[test]
    fn what_is_too_old_keeps_nothing_out() {
        let mut ledger = Ledger::new();
        for millis in 100..120 {
            ledger.note(NOW, times(millis), || millis);
        }
        let later = NOW + SLOW_WAIT;
        let before = Time(later.0 - 1);
        ledger.note(before, times(5), || 5);
        assert_eq!(slowest(&mut ledger, before).len(), SLOW_TASKS);
        for millis in [7, 6] {
            ledger.note(later, times(millis), || millis);
        }
        assert_eq!(slowest(&mut ledger, later), [7, 6]);
        assert!(slowest(&mut ledger, later + SLOW_WAIT).is_empty());
    }

    #[test]
    fn nothing_is_too_long() {
        let mut ledger = Ledger::new();
        ledger.note(NOW, Times { waited: Duration::MAX, ran: Duration::MAX }, || ());
        assert!(ledger.percentiles().1.max >= Duration::from_secs(24 * 3600));
    }
}
