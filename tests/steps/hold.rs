//! Holds one worker of a pool before its `main`, to be taken hold of there.

use std::env;
use std::fs;
use std::process;

use nix::sys::signal::{Signal, raise};
use procession::PoolBuilder;

use crate::support::{Scratch, note, until};
use crate::tasks::has_stopped;

/// Names the folder with the ticket; who gets that is held.
const HOLD: &str = "PROCESSION_TEST_HOLD";

extern "C" fn before_main() {
    let Ok(folder) = env::var(HOLD) else { return };
    let held = format!("{folder}-held-{}", process::id());
    if fs::rename(folder, held).is_ok() {
        raise(Signal::SIGSTOP).unwrap();
    }
}

// SAFETY: the loader calls what is in this section, with arguments that a C
// function may ignore.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE: extern "C" fn() = before_main;

/// Lets the pool's first worker be held.
pub(crate) fn hold_first(builder: PoolBuilder, scratch: &Scratch) -> PoolBuilder {
    note(scratch.path("ticket"), "for one");
    builder.env(HOLD, scratch.path("ticket"))
}

/// The worker that is held, once it is.
pub(crate) async fn held(scratch: &Scratch) -> i32 {
    let held = || {
        let names = fs::read_dir(scratch.path("")).unwrap().flatten();
        names.filter_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            name.strip_prefix("ticket-held-")?.parse::<i32>().ok()
        })
    };
    until("a worker is held", || held().next().is_some()).await;
    let pid = held().next().unwrap();
    has_stopped(pid).await;
    pid
}
