//! What the library's lock-free files take from the system, as loom sees it.

pub(crate) mod atomic;
pub(crate) mod futex;
#[path = "../../../src/sys/layout.rs"]
#[allow(dead_code, reason = "part of it is for the library's other files")]
pub(crate) mod layout;
