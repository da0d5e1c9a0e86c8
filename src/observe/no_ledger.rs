//! In place of `ledger`, where nobody asks for percentiles.

use std::marker::PhantomData;

use super::Times;
use crate::time::Time;

#[derive(Debug)]
pub(crate) struct Ledger<T>(PhantomData<fn() -> T>);

impl<T> Ledger<T> {
    pub(crate) fn new() -> Self {
        Ledger(PhantomData)
    }

    pub(crate) fn note(&mut self, _now: Time, _times: Times, _task: impl FnOnce() -> T) {}
}
