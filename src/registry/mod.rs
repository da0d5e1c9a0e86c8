//! Which functions are tasks, and how parent and worker name them.
//!
//! ```text
//!  parent                                     worker (the same program)
//!  pool.apply(f, args)
//!    F: TaskFn<Args, _>       task_fn.rs
//!    value_id(f) ─▶ FnId ─── on the wire ───▶ Table::lookup ─▶ Task
//!         │                                         ▲            │
//!         └─ leaves an entry ─▶ section ────────────┘            ▼
//!            of the binary      read once       table.rs    decode, call f,
//!                                                           encode the result:
//!                                                           as often as calls.rs
//!                                                           says
//! ```
//!
//! Used by `pool` (names), `worker` (looks up and calls) and `start` (compares
//! fingerprints). An id that is not in the table is an error; no number off
//! the wire ever becomes a pointer.

mod calls;
mod table;
mod task_fn;

pub(crate) use calls::{CallFailure, Calls, ResultLimits, Tally};
pub use table::TestMain;
pub(crate) use table::test_main;
pub(crate) use table::{FnId, Kind, Run, Table, name, stream_id, value_id};
pub(crate) use task_fn::Host;
pub use task_fn::{StreamFn, TaskFn};
