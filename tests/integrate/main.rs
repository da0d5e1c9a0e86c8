//! A pool beside other crates, one feature each.

mod axum;
mod histograms;
mod metrics;
mod opentelemetry;
mod tower;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
