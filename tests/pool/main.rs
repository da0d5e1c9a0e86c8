//! The pool as its users see it.

mod calling;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
