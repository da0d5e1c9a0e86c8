//! Queues as their users see them, and as whoever would break them does.

mod bounds;
mod closing;
mod copies;
mod cost;
mod hostile;
mod killed;
mod many_descriptors;
mod order;
mod processes;
mod runtimes;
mod steps;
mod streams;
mod unfinished;

mod tasks;

#[allow(dead_code, reason = "shared with the tests of steps")]
#[path = "../steps/blow.rs"]
mod blow;
#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
