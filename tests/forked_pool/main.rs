//! What tests/pool promises holds for workers that a fork server makes, too: some of
//! the same tests, with another default.

#![allow(dead_code, reason = "not all of the tests that use it are here")]

#[path = "../pool/calling.rs"]
mod calling;
#[path = "../pool/calling_from_several_runtimes.rs"]
mod calling_from_several_runtimes;
#[path = "../pool/calls_as_handles.rs"]
mod calls_as_handles;
#[path = "../pool/crashes.rs"]
mod crashes;
#[path = "../pool/deep_values.rs"]
mod deep_values;
#[path = "../pool/environment_of_workers.rs"]
mod environment_of_workers;
#[path = "../pool/events_of_workers.rs"]
mod events_of_workers;
#[path = "../pool/imap_in_chunks.rs"]
mod imap_in_chunks;
#[path = "../pool/imap_keeps_order.rs"]
mod imap_keeps_order;
#[path = "../pool/imap_pulls_as_it_is_read.rs"]
mod imap_pulls_as_it_is_read;
#[path = "../pool/initializer.rs"]
mod initializer;
#[path = "../pool/large_bytes.rs"]
mod large_bytes;
#[path = "../pool/life_of_workers.rs"]
mod life_of_workers;
#[path = "../pool/limits_of_workers.rs"]
mod limits_of_workers;
#[path = "../pool/map_fails_on_the_first_failure.rs"]
mod map_fails_on_the_first_failure;
#[path = "../pool/map_returns_all_in_order.rs"]
mod map_returns_all_in_order;
#[path = "../pool/nested_pools.rs"]
mod nested_pools;
#[path = "../pool/nonsense_settings.rs"]
mod nonsense_settings;
#[path = "../pool/one_after_another.rs"]
mod one_after_another;
#[path = "../pool/output_of_workers.rs"]
mod output_of_workers;
#[path = "../pool/panics.rs"]
mod panics;
#[path = "../pool/passed_descriptors.rs"]
mod passed_descriptors;
#[path = "../pool/queue_limit.rs"]
mod queue_limit;
#[path = "../pool/records.rs"]
mod records;
#[path = "../pool/retry.rs"]
mod retry;
#[path = "../pool/shared_bytes.rs"]
mod shared_bytes;
#[path = "../pool/spare_workers.rs"]
mod spare_workers;
#[path = "../pool/streams.rs"]
mod streams;
#[path = "../pool/tasks.rs"]
mod tasks;
#[path = "../pool/values_that_cannot_travel.rs"]
mod values_that_cannot_travel;
#[path = "../pool/what_a_pool_says.rs"]
mod what_a_pool_says;

mod support;

procession::test_worker!();
