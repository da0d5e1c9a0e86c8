//! The thread that starts, signals and collects workers meets errors of its
//! own, which the kernel's manual does not foresee but a sandbox may bring.

use std::time::Duration;

use nix::libc::{EAGAIN, EINTR, ENOMEM, ENOSYS, EPERM, ESRCH};
use procession::Pool;

use crate::interpose::{Call, Plan, arm};
use crate::scenario::{Expect, builder, checked_with, is_full, live, live_for_each};
use crate::support::{Scratch, note, noted};

/// The calls of a life, each failing once.
fn nobody_notices(call: Call, errors: &[i32]) {
    for &error in errors {
        let most = if is_full() { u32::MAX } else { 12 };
        let times = live_for_each(builder, (call, error), most, Expect::Nothing);
        assert!(times >= 4, "{call:?} was reached {times} times");
    }
}

#[test]
fn nobody_notices_a_wake_up_that_is_interrupted() {
    nobody_notices(Call::Wake, &[EINTR]);
    nobody_notices(Call::Woken, &[EINTR, EAGAIN]);
}

#[test]
fn nobody_notices_a_wait_that_fails() {
    nobody_notices(Call::WatchWait, &[EINTR, ENOMEM]);
    nobody_notices(Call::WaitId, &[EINTR]);
}

#[test]
fn nobody_notices_where_signals_cannot_be_sent_by_pidfd() {
    let plan = Plan::from_nth(Call::Signal, 1, u32::MAX, ENOSYS);
    assert!(live(builder(), Some(plan), Expect::Nothing).total() > 4);
    nobody_notices(Call::Signal, &[EPERM]);
}

fn forever(started: String) {
    note(started, "runs");
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn echo(n: u32) -> u32 {
    n
}

/// A worker that was not met by its SIGKILL once kept its task for ever.
#[test]
fn a_kill_that_is_lost_is_repeated() {
    // The first is for the process, the second for its group.
    for lost in [1, 2] {
        let hits = checked_with(None, async {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
            let call = pool.apply_async(forever, started.clone());
            noted(&started).await;
            arm(Plan::from_nth(Call::Signal, 1, lost, ESRCH));
            let cancelled = call.cancel().await;
            assert_eq!(cancelled.exit.unwrap().signal(), Some(9));
            assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
            pool.terminate().await;
        });
        assert_eq!(hits.total(), lost);
    }
}
