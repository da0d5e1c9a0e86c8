//! A pool beside other crates, one feature each.

mod axum;
mod histograms;
#[expect(dead_code, reason = "a program to be read; it is compiled")]
mod in_a_service;
mod metrics;
mod opentelemetry;
mod tower;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
