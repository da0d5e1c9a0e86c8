//! Nothing grows: not with tasks, not with deaths, not with pools; not here and
//! not in workers. And who has nothing to do does not wake up.

mod bulk;
mod holdings;
mod idle;
mod many;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
