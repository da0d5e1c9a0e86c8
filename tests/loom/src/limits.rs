//! The library's limits, made small: loom remembers every store to each word of
//! a page. A ring of eight words has everything that a longer one has.

pub(crate) const SLOTS: usize = 2;

pub(crate) const OUTBOX_BYTES: usize = 64;

pub(crate) const TALLY_BYTES: usize = 16;
