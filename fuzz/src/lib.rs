//! What is fuzzed: one function for each target, assertions included. Called by
//! `fuzz_targets`, and by `tests/replay.rs` with the stored inputs. The README
//! says what each asserts.
//!
//! The library's pure middle is compiled into this crate, source by source: it
//! is private, and stays so.

mod heap;
#[allow(dead_code, reason = "the targets use part of it")]
mod start;
mod target;

pub use target::{boot, decode, encode, frame, message, order, peer, queue, sched};

#[path = "../../src/attached.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod attached;
#[path = "../../src/sys/cast.rs"]
mod by_type;
#[path = "../../src/cast.rs"]
mod cast;
#[path = "../../src/exit.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod exit;
#[path = "../../src/id.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod id;
#[path = "../../src/limits.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod limits;
#[path = "../../src/proto/mod.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod proto;
#[path = "../../src/queue_state/mod.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod queue_state;
#[path = "../../src/resource.rs"]
mod resource;
#[path = "../../src/sandbox.rs"]
#[allow(dead_code, unreachable_pub, reason = "settings are only sent")]
mod sandbox;
#[path = "../../src/sched/mod.rs"]
#[allow(dead_code, reason = "the targets use part of it")]
mod sched;
#[path = "../../src/slot_word.rs"]
mod slot_word;
#[path = "../../src/time.rs"]
mod time;

/// A target takes any bytes, and panics if a promise does not hold.
pub type Target = fn(&[u8]);

/// All targets, by the name of their binary and of their folders of inputs.
pub const TARGETS: [(&str, Target); 9] = [
    ("boot", boot),
    ("decode", decode),
    ("encode", encode),
    ("frame", frame),
    ("message", message),
    ("order", order),
    ("peer", peer),
    ("queue", queue),
    ("sched", sched),
];
