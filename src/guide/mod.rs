//! Four short guides. No code of the library's.
//!
//! - [`from_spawn_blocking`]: what changes when blocking work moves to a pool
//! - [`from_multiprocessing`]: Python's names, and what they are here
//! - [`limits`]: which limit is for what, and which number to begin with
//! - [`deploying`]: containers, process 1, memory groups, systemd, signals to the
//!   group, upgrades in place

/// Moving from `spawn_blocking`.
pub mod from_spawn_blocking {
    #![doc = include_str!("from_spawn_blocking.md")]
}

/// Moving from Python's `multiprocessing` and `concurrent.futures`.
pub mod from_multiprocessing {
    #![doc = include_str!("from_multiprocessing.md")]
}

/// Choosing limits.
pub mod limits {
    #![doc = include_str!("limits.md")]
}

/// Running it where services run.
pub mod deploying {
    #![doc = include_str!("deploying.md")]
}
