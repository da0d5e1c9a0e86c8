//! The atomics of whatever is shared without a lock. `tests/loom` compiles the
//! files that use these with its own in their place.

pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use futures_util::task::AtomicWaker;
