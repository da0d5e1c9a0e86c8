//! The thread by which a task hears of its cancellation cannot be started.

use std::sync::mpsc;

use nix::libc::EAGAIN;
use procession::{Pool, worker};

use crate::interpose::{Call, Hits, Plan, arm, disarm};
use crate::scenario::checked_with;
use crate::support::{Scratch, note, noted};

/// Asks to be told, in vain. Returns how many threads could not be started.
fn ask_in_vain() -> u32 {
    arm(Plan::nth(Call::Thread, 1, EAGAIN));
    worker::on_terminate(|| ());
    disarm();
    Hits::now().total()
}

fn wait_to_be_told(started: String) {
    let (tell, told) = mpsc::channel();
    worker::on_terminate(move || tell.send(()).unwrap());
    note(started, "waits");
    told.recv().unwrap();
}

/// The first failure was once the last try: no later task of that worker ever
/// heard of its cancellation.
#[test]
fn a_later_task_hears_of_its_cancellation_all_the_same() {
    let scratch = Scratch::new();
    checked_with(None, async {
        let pool = Pool::builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(ask_in_vain, ()).await.unwrap(), 1);
        let started = scratch.path("started");
        let waiting = pool.apply_async(wait_to_be_told, started.clone());
        noted(&started).await;
        let cancelled = waiting.cancel().await;
        assert!(cancelled.started);
        assert_eq!(cancelled.exit, None, "it was not told, and killed");
        pool.terminate().await;
    });
}
