//! `GET /metrics`, in Prometheus' text format.

use std::fmt::Write;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use procession::{Stats, Status};

use crate::service::Service;

pub async fn metrics(State(service): State<Service>) -> ([(HeaderName, &'static str); 1], String) {
    let pools: Vec<_> = service
        .pools()
        .into_iter()
        .map(|(name, pool)| (name, pool.status(), pool.stats()))
        .collect();
    let mut text = String::new();
    for metric in METRICS {
        metric.write(&mut text, &pools);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// Several values of one name are told apart by a label.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    label: Option<&'static str>,
    values: fn(&Status, &Stats) -> Vec<(&'static str, u64)>,
}

const METRICS: [Metric; 7] = [
    Metric {
        name: "procession_workers",
        kind: "gauge",
        help: "Workers by what they do.",
        label: Some("state"),
        values: |now, _| {
            vec![
                ("starting", now.starting as u64),
                ("idle", now.idle as u64),
                ("busy", now.busy as u64),
                ("abandoned", now.abandoned as u64),
            ]
        },
    },
    Metric {
        name: "procession_calls_queued",
        kind: "gauge",
        help: "Calls that wait for a worker.",
        label: None,
        values: |now, _| vec![("", now.queued as u64)],
    },
    Metric {
        name: "procession_calls_running",
        kind: "gauge",
        help: "Calls that run.",
        label: None,
        values: |now, _| vec![("", now.running as u64)],
    },
    Metric {
        name: "procession_calls_submitted_total",
        kind: "counter",
        help: "Calls taken in.",
        label: None,
        values: |_, total| vec![("", total.submitted)],
    },
    Metric {
        name: "procession_calls_ended_total",
        kind: "counter",
        help: "Calls by how they ended.",
        label: Some("outcome"),
        values: |_, total| {
            vec![
                ("completed", total.completed),
                ("panicked", total.panicked),
                ("cancelled", total.cancelled),
                ("timed_out", total.timed_out),
                ("lost", total.lost),
                ("failed", total.failed),
            ]
        },
    },
    Metric {
        name: "procession_workers_started_total",
        kind: "counter",
        help: "Worker processes started.",
        label: None,
        values: |_, total| vec![("", total.workers_started)],
    },
    Metric {
        name: "procession_workers_lost_total",
        kind: "counter",
        help: "Workers that died without having been asked to.",
        label: None,
        values: |_, total| vec![("", total.workers_lost)],
    },
];

impl Metric {
    fn write(&self, text: &mut String, pools: &[(&'static str, Status, Stats)]) {
        let Metric { name, kind, help, label, values } = self;
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (pool, status, stats) in pools {
            for (of, value) in values(status, stats) {
                let more = label.map_or(String::new(), |label| format!(",{label}=\"{of}\""));
                let _ = writeln!(text, "{name}{{pool=\"{pool}\"{more}}} {value}");
            }
        }
    }
}
