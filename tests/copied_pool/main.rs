//! What tests/pool promises holds for workers that are copies of their parent, too: some
//! of the same tests, with another default, each in a process with one thread.

#![allow(dead_code, reason = "not all of the tests that use it are here")]

#[path = "../pool/calling.rs"]
mod calling;
#[path = "../pool/crashes.rs"]
mod crashes;
#[path = "../pool/environment_of_workers.rs"]
mod environment_of_workers;
#[path = "../pool/initializer.rs"]
mod initializer;
#[path = "../pool/large_bytes.rs"]
mod large_bytes;
#[path = "../pool/life_of_workers.rs"]
mod life_of_workers;
#[path = "../pool/nested_pools.rs"]
mod nested_pools;
#[path = "../pool/output_of_workers.rs"]
mod output_of_workers;
#[path = "../pool/panics.rs"]
mod panics;
#[path = "../pool/passed_descriptors.rs"]
mod passed_descriptors;
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

mod support;

procession::test_worker!();
