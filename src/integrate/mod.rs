//! What a pool is to other crates: one feature each. Nothing below knows of
//! them.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "tower")]
pub(crate) mod tower;
