//! Pipes, channels and listeners, as their users see them.

mod bytes;
mod ending;
mod hostile;
mod killed;
mod listening;
mod many_descriptors;
mod moving;
mod talking;
mod waiting;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
