//! `GET /metrics`: what the pools tell the `metrics` facade, in Prometheus' text
//! format. Whatever else the service tells it would be there as well.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::service::Service;

/// Upper bounds, in seconds, of how long calls wait and run.
const SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0];

/// What was measured is kept one by one until it is rendered, or this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// Before the first pool, which looks for somebody who listens.
pub fn listen() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new().with_recommended_naming(true);
    let recorded = builder.set_buckets(&SECONDS)?.install_recorder()?;
    let kept = recorded.clone();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(UPKEEP);
        loop {
            interval.tick().await;
            kept.run_upkeep();
        }
    });
    Ok(recorded)
}

pub async fn metrics(State(service): State<Service>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], service.recorded.render())
}
