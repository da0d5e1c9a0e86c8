//! The clock whose readings mean the same in parent and worker. Called where
//! a time crosses the status page; everything that stays in one process uses
//! `Instant`. Never the wall clock, which jumps.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`. Stands still while the machine is
/// suspended.
pub(crate) fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let first = monotonic_nanos();
        assert!(first > 0);
        assert!(monotonic_nanos() >= first);
    }
}
