//! System calls that fail: each that the pool makes, at each time it makes it,
//! in the parent and in its workers. Whatever fails, either nobody notices, or
//! the calls it concerns get an error that says so; nothing hangs, panics, runs
//! twice or stays behind, and the next call works.
//!
//! `PROCESSION_SWEEP=full` goes through more places and more errors than a test
//! run has time for.

#![cfg(target_env = "gnu")]

mod broken_connections;
mod exhaustion;
mod interpose;
mod interruptions;
mod pipes;
mod processes_that_cannot_be_had;
mod scenario;
mod shared_memory;
mod starts_that_fail;
mod starts_that_hang;
mod warden_that_is_hindered;
mod watch_that_cannot_start;
mod workers_that_cannot_boot;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
