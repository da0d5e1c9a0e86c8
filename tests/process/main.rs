//! One function in one process, as its users see it. Many of the promises are those
//! of CPython's own tests of `multiprocessing.Process`.

mod crashes;
mod daemons;
mod drops;
mod endings;
mod family;
mod hostile;
mod kill_at_random;
mod many;
mod queues;
mod results;
mod scarcity;
mod streams;
mod surroundings;
mod waiting;
mod without_runtime;

mod frame;
#[path = "../support/mod.rs"]
mod support;
mod tasks;

pub(crate) use frame::{alone, checked};

procession::test_worker!();
