//! What tests/process promises holds for processes that are copies of their parent, too:
//! the same tests, with another default, each in a process with one thread. And what only
//! a copy has.

#[path = "../process/crashes.rs"]
mod crashes;
#[path = "../process/daemons.rs"]
mod daemons;
#[path = "../process/drops.rs"]
mod drops;
#[path = "../process/endings.rs"]
mod endings;
#[path = "../process/family.rs"]
mod family;
#[path = "../process/hostile.rs"]
mod hostile;
#[path = "../process/kill_at_random.rs"]
mod kill_at_random;
#[path = "../process/many.rs"]
mod many;
#[path = "../process/queues.rs"]
mod queues;
#[path = "../process/results.rs"]
mod results;
#[path = "../process/scarcity.rs"]
mod scarcity;
#[path = "../process/streams.rs"]
mod streams;
#[path = "../process/surroundings.rs"]
mod surroundings;
#[path = "../process/waiting.rs"]
mod waiting;
#[path = "../process/without_runtime.rs"]
mod without_runtime;

mod attacks;
mod copies;
mod steps;

#[allow(dead_code, reason = "shared with the tests of steps")]
#[path = "../steps/blow.rs"]
mod blow;
#[path = "../process/frame.rs"]
mod frame;
#[path = "../support/mod.rs"]
mod support;
#[path = "../process/tasks.rs"]
mod tasks;

pub(crate) use frame::{alone, checked};

procession::test_worker!();
