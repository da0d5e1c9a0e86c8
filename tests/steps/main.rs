//! Faults at every step. A worker is stopped, terminated or killed at each of
//! its system calls and after each byte that it reads or writes; a handle is
//! dropped after each of its polls; a runtime and a pool go at each moment of
//! what they do. Each sweep goes on, one step further each time, until its
//! scene is over before the fault.
//!
//! Where a program starts or ends, only the first of several equal system calls
//! counts, and only their entries; with `PROCESSION_SWEEP=full` in the
//! environment, all do. Steps that are no system call (between two swaps of a
//! slot word) are gone through by the model in `src/sched/model.rs`.

#[allow(dead_code, reason = "shared with the tests of copies")]
mod blow;
mod bytes;
mod drops;
mod hold;
mod judge;
mod leaving;
mod life;
mod polls;
mod runtimes;
mod starting;
mod stopping;
mod wire;
mod working;

#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "shared with the tests of endings")]
#[path = "../ending/tasks.rs"]
mod tasks;

procession::test_worker!();
