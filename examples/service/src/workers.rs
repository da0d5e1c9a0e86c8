//! `GET /workers`: what every worker does, as an event several times a second.

use std::fs;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use futures::{Stream, StreamExt, stream};
use procession::WorkerInfo;
use serde::Serialize;

use crate::service::Service;

const PERIOD: Duration = Duration::from_millis(200);

/// Ends when the service does; otherwise an open page would keep it.
pub async fn workers(
    State(service): State<Service>,
) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    let stopped = service.stopped();
    let ticks = stream::unfold(tokio::time::interval(PERIOD), |mut interval| async {
        interval.tick().await;
        Some(((), interval))
    });
    let tables = ticks.map(move |()| Event::default().json_data(table(&service)));
    Sse::new(tables.take_until(stopped))
}

fn table(service: &Service) -> Vec<Row> {
    let pools = service.pools().into_iter();
    pools.flat_map(|(name, pool)| pool.workers().into_iter().map(|w| Row::new(name, w))).collect()
}

#[derive(Serialize)]
struct Row {
    pool: &'static str,
    /// The worker's place in its pool: whoever replaces it has the same.
    place: usize,
    pid: Option<u32>,
    state: String,
    task: Option<String>,
    running_ms: Option<u128>,
    tasks_done: u64,
    restarts: u64,
    memory_kib: Option<u64>,
}

impl Row {
    fn new(pool: &'static str, worker: WorkerInfo) -> Row {
        let task = worker.task.as_ref();
        Row {
            pool,
            place: worker.index,
            pid: worker.pid,
            state: format!("{:?}", worker.state).to_lowercase(),
            task: task.map(|task| match task.info.label() {
                Some(label) => label.to_owned(),
                None => task.info.name().rsplit("::").next().unwrap_or_default().to_owned(),
            }),
            running_ms: task.map(|task| task.since.elapsed().as_millis()),
            tasks_done: worker.tasks_done,
            restarts: worker.restarts,
            memory_kib: worker.pid.and_then(resident_kib),
        }
    }
}

/// Resident memory of a process, if it is there.
fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
