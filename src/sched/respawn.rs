//! When a worker may be started again after one could not start, and when to
//! give up. Deaths of workers that were ready do not count: either they cost a
//! caller a task, so that callers set their pace, or there is a pause.

use std::time::Duration;

use crate::time::Time;

/// First wait; doubles with each failed round.
const WAIT_FIRST: Duration = Duration::from_millis(50);
const WAIT_MOST: Duration = Duration::from_secs(5);

/// Counts rounds of failed starts in a row. Workers that were started together
/// and failed together are one round, so that one bad moment does not break a
/// wide pool.
#[derive(Clone, Debug)]
pub(super) struct Respawn {
    limit: u32,
    failed: u32,
    not_before: Time,
}

impl Respawn {
    pub(super) fn new(limit: u32) -> Self {
        Respawn { limit, failed: 0, not_before: Time::default() }
    }

    /// When the next worker may be started.
    pub(super) fn not_before(&self) -> Time {
        self.not_before
    }

    /// The current round, to be remembered with each start.
    pub(super) fn round(&self) -> u32 {
        self.failed
    }

    /// Workers have failed to start too often in a row.
    pub(super) fn is_at_limit(&self) -> bool {
        self.failed >= self.limit
    }

    /// Twice the limit: not even a worker that is still starting is waited for.
    pub(super) fn is_hopeless(&self) -> bool {
        self.failed >= self.limit.saturating_mul(2)
    }

    /// A worker that was started in `round` proved itself: the next failure is
    /// the first again. One from before the last failure proves nothing about
    /// it: it may answer for hours while nothing can be started beside it.
    pub(super) fn handle_success(&mut self, round: u32) {
        if round >= self.failed {
            self.failed = 0;
            self.not_before = Time::default();
        }
    }

    /// A worker was ready, and died without having done anything. That costs no
    /// caller a task, so somebody has to see that it does not go on at full speed.
    pub(super) fn handle_early_death(&mut self, now: Time) {
        self.not_before = self.not_before.max(now + WAIT_FIRST);
    }

    /// A worker that was started in `round` did not come up. Returns whether
    /// the limit is reached.
    pub(super) fn handle_failure(&mut self, now: Time, round: u32) -> bool {
        if round == self.failed {
            self.failed += 1;
            let wait = WAIT_FIRST.saturating_mul(1 << (self.failed - 1).min(16)).min(WAIT_MOST);
            self.not_before = now + wait;
        }
        self.is_at_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let mut respawn = Respawn::new(100);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert!(!respawn.handle_failure(Time(0), respawn.round()));
            waits.push(respawn.not_before() - Time(0));
        }
        let millis: Vec<_> = waits.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn workers_that_fail_together_count_once() {
        let mut respawn = Respawn::new(2);
        let round = respawn.round();
        assert!(!respawn.handle_failure(Time(0), round));
        assert!(!respawn.handle_failure(Time(0), round));
        assert!(respawn.handle_failure(Time(0), respawn.round()));
    }

    #[test]
    fn a_success_starts_the_count_again() {
        let mut respawn = Respawn::new(2);
        respawn.handle_failure(Time(0), 0);
        respawn.handle_success(respawn.round());
        assert_eq!(respawn.not_before(), Time(0));
        assert!(!respawn.handle_failure(Time(0), respawn.round()));
    }

    #[test]
    fn an_old_workers_success_does_not_hurry_new_ones() {
        let mut respawn = Respawn::new(100);
        let old = respawn.round();
        respawn.handle_failure(Time(0), respawn.round());
        respawn.handle_failure(Time(0), respawn.round());
        respawn.handle_success(old);
        assert_eq!(respawn.not_before() - Time(0), Duration::from_millis(100));
    }
}
