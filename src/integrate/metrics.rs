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
//! | `procession.pool.tasks.pending` | gauge | | calls that no worker has been given: the queue, without those that wait for a place in it |
//! | `procession.pool.tasks.in_flight` | gauge | | calls that a worker has been given and has not answered |
//! | `procession.pool.tasks.submitted` | counter | | calls taken in: the sum of those that have ended, wait, or are in flight |
//! | `procession.pool.tasks` | counter | `outcome`: `completed`, `panicked`, `cancelled`, `timed_out`, `lost`, `failed` | calls that have ended, as [`Stats`](crate::Stats) counts them |
//! | `procession.pool.task.wait_time` | histogram, seconds | | from a place in the queue to the start of the body, of calls that were answered or panicked |
//! | `procession.pool.task.run_time` | histogram, seconds | | from the start of the body to its end, of the same |
//! | `procession.pool.workers.started` | counter | | worker processes started |
//! | `procession.pool.workers.respawned` | counter | | those of them that took the place of another |
//! | `procession.pool.workers.lost` | counter | | workers that died without having been asked to |
//!
//! A chunk of a map is one call. Counters are there, at zero, from the pool's beginning
//! on; gauges are zero once it has ended. They are told
//! when something changes, from whatever thread that is done by, once callers have been
//! woken, and not by a timer. A recorder that takes its time keeps a pool from nothing
//! but its next change.

pub use crate::observe::names::{
    IN_FLIGHT, LOST, PENDING, RESPAWNED, RUN_TIME, STARTED, SUBMITTED, TASKS, WAIT_TIME, WORKERS,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{OUTCOMES, STATES};

    #[test]
    fn the_table_names_all_that_is_told() {
        let table: Vec<&str> =
            include_str!("metrics.rs").lines().filter(|line| line.starts_with("//! |")).collect();
        let row = |name: &str| {
            let start = format!("//! | `{name}` |");
            *table.iter().find(|row| row.starts_with(&start)).unwrap_or_else(|| panic!("{name}"))
        };
        let counters = [SUBMITTED, TASKS, STARTED, RESPAWNED, LOST];
        let told = [(WORKERS, &STATES), (TASKS, &OUTCOMES)];
        for (kind, names) in [
            ("gauge", &[WORKERS, PENDING, IN_FLIGHT][..]),
            ("counter", &counters),
            ("histogram, seconds", &[WAIT_TIME, RUN_TIME]),
        ] {
            for name in names {
                assert!(row(name).contains(&format!("` | {kind} |")), "{name}");
            }
        }
        for (name, values) in told {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            assert!(row(name).contains(&values.join(", ")), "{name}");
        }
        assert_eq!(table.len(), 2 + 10, "and the table's head");
    }
}
