//! Feature `metrics`: what every pool tells the [`metrics`](https://docs.rs/metrics)
//! facade. Install any recorder, such as that of `metrics-exporter-prometheus`, before
//! the first pool is made; without one nothing is told.
//!
//! The names follow OpenTelemetry's for connection pools. All have the label `pool`,
//! the [name](crate::PoolBuilder::name) of the pool: give each its own.
//!
//! | Name | Kind | Labels | What |
//! |---|---|---|---|
//! | `procession.pool.workers` | gauge | `state`: `starting`, `idle`, `busy`, `leaving`, `stopping`, `abandoned` | workers, as [`WorkerState`](crate::WorkerState) says |
//! | `procession.pool.tasks.pending` | gauge | | calls that no worker has been given: the queue |
//! | `procession.pool.tasks.in_flight` | gauge | | calls that a worker has been given and has not answered |
//! | `procession.pool.tasks` | counter | `outcome`: `completed`, `panicked`, `cancelled`, `timed out`, `lost`, `failed` | calls that have ended, as [`Stats`](crate::Stats) counts them |
//! | `procession.pool.task.wait_time` | histogram, seconds | | from the call to the start of its body, of calls that were answered |
//! | `procession.pool.task.run_time` | histogram, seconds | | from the start of the body to its end, of the same |
//! | `procession.pool.workers.started` | counter | | worker processes started |
//! | `procession.pool.workers.respawned` | counter | | those of them that took the place of another |
//! | `procession.pool.workers.lost` | counter | | workers that died without having been asked to |
//!
//! A chunk of a map is one call. Gauges are zero once the pool has ended. They are told
//! when something changes, from whatever thread that is done by, once callers have been
//! woken, and not by a timer. A recorder that takes its time keeps a pool from nothing
//! but its next change.

pub use crate::observe::names::{
    IN_FLIGHT, LOST, PENDING, RESPAWNED, RUN_TIME, STARTED, TASKS, WAIT_TIME, WORKERS,
};
