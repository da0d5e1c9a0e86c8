//! In place of `meter`, where nobody asks for metrics.

use super::{Levels, Times};

#[derive(Debug)]
pub(crate) struct Meter;

impl Meter {
    pub(crate) const LISTENS: bool = false;

    pub(crate) fn new(_pool: &str) -> Self {
        Meter
    }

    pub(crate) fn note_times(&self, _times: Times) {}

    pub(crate) fn tell(&self, _read: impl Fn() -> Levels) -> bool {
        true
    }

    pub(crate) fn tell_rest(&self, _read: impl Fn() -> Levels) -> bool {
        true
    }
}
