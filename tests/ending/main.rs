//! How tasks, workers and pools end: on purpose, by accident, and with their
//! parent. Whatever ends, nobody else is harmed, nothing runs twice, every
//! handle resolves and no process stays.

mod asleep;
mod awkward;
mod bystanders;
mod cancel;
mod cancel_storm;
mod fuzz;
mod given_up;
mod inheritance;
mod life;
mod orphans;
mod panicking_subscribers;
mod parents;
mod polite;
mod resize;
mod runtimes;
mod starting;
mod stuck;
mod tasks;
mod tokens;
mod traced;
mod undying;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
