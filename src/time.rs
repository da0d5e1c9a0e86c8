//! A point in time as the pure modules see it: nanoseconds of the machine's
//! monotonic clock. Read by the shell, passed in as an argument; parent and
//! worker read the same clock.

use std::ops::{Add, Sub};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    /// Further away than any timer.
    pub(crate) const FAR: Time = Time(u64::MAX);
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// Zero if `other` is later.
    fn sub(self, other: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_never_wrap() {
        let nano = Duration::from_nanos(1);
        assert_eq!(Time(5) + nano, Time(6));
        assert_eq!(Time(6) - Time(5), nano);
        assert_eq!(Time(5) - Time(6), Duration::ZERO);
        assert_eq!(Time(5) + Duration::MAX, Time::FAR);
        assert_eq!(Time::FAR + nano, Time::FAR);
    }
}
