//! What a call costs, in things that can be counted: system calls, allocations,
//! bytes. They are the same on every machine, loaded or not, where times are
//! not; who changes one for the worse finds it here. The figures are discussed
//! in `benches/PROFILE.md`.

#![cfg(target_env = "gnu")]

mod calls;
mod counting;
mod memory;

#[allow(dead_code, reason = "here calls are only counted")]
#[path = "../faults/interpose.rs"]
mod interpose;
#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
