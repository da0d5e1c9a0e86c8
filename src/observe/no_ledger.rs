//! In place of `ledger`, where nobody asks for percentiles.

use std::marker::PhantomData;

use super::Times;

#[derive(Debug)]
pub(crate) struct Ledger<T>(PhantomData<fn() -> T>);

impl<T> Ledger<T> {
    pub(crate) fn new() -> Self {
        Ledger(PhantomData)
    }

    pub(crate) fn note(&mut self, _times: Times, _task: impl FnOnce() -> T) {}
}
