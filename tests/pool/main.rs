//! The pool as its users see it.

mod calling;
mod calling_from_several_runtimes;
mod calls_as_handles;
mod calls_that_only_queue;
mod crashes;
mod deep_values;
mod environment_of_workers;
mod events_of_workers;
mod imap_in_chunks;
mod imap_keeps_order;
mod imap_pulls_as_it_is_read;
mod initializer;
mod large_bytes;
mod life_of_workers;
mod limits_of_workers;
mod map_fails_on_the_first_failure;
mod map_returns_all_in_order;
mod nested_pools;
mod nonsense_settings;
mod one_after_another;
mod output_of_workers;
mod panics;
mod passed_descriptors;
mod queue_limit;
mod records;
mod retry;
mod shared_bytes;
mod spare_workers;
mod streams;
mod tasks;
mod values_that_cannot_travel;
mod what_a_pool_says;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();
