//! The pools, and how they end together.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use procession::{Pool, PoolState, Resource, Shutdown, SpawnError, Stdio};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::Options;

/// What handlers share; a clone is the same service.
#[derive(Clone)]
pub struct Service {
    /// For requests that somebody waits for. What they bring is not to be
    /// believed: a worker that it takes over gets one call at a time.
    pub requests: Pool,
    /// For streams, which hold on to a worker for as long as their client reads.
    /// If they were in the other pool, slow clients would keep the quick ones
    /// waiting.
    pub streams: Pool,
    /// One for each stream that can run at once.
    pub places: Arc<Semaphore>,
    /// What the pools have told.
    pub recorded: PrometheusHandle,
    /// Cancelled once the service stops: what never ends by itself does then.
    stop: CancellationToken,
}

impl Service {
    pub fn start(options: &Options, recorded: PrometheusHandle) -> Result<Service, SpawnError> {
        let workers = options.workers.unwrap_or_else(processors);
        let builder = || {
            Pool::builder()
                .workers(workers)
                .grace_period(Duration::from_millis(500))
                .rlimits([(Resource::Data, options.memory << 20), (Resource::CoreFile, 0)])
                // What it prints goes to the log, without backtraces.
                .stderr(Stdio::piped())
                .env("RUST_BACKTRACE", "0")
        };
        let requests = builder().name("requests").queue_limit(options.queue).untrusted().build()?;
        // Long work gives way to short work.
        let streams = builder().name("streams").nice(10).build()?;
        let places = Arc::new(Semaphore::new(workers));
        Ok(Service { requests, streams, places, recorded, stop: CancellationToken::new() })
    }

    pub async fn ready(&self) -> Result<(), SpawnError> {
        self.requests.ready().await?;
        self.streams.ready().await
    }

    /// The pools by name.
    pub fn pools(&self) -> [(&'static str, &Pool); 2] {
        [("requests", &self.requests), ("streams", &self.streams)]
    }

    pub fn is_healthy(&self) -> bool {
        self.pools().iter().all(|(_, pool)| pool.status().state == PoolState::Open)
    }

    /// Resolves once the service stops.
    pub fn stopped(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    /// Takes no more calls, gives those that are here `grace`, cancels the rest,
    /// and waits until all workers are gone.
    pub async fn shutdown(&self, grace: Duration) -> Shutdown {
        self.stop.cancel();
        let (mut all, streams) =
            tokio::join!(self.requests.shutdown(grace), self.streams.shutdown(grace));
        all.running += streams.running;
        all.queued += streams.queued;
        all
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
