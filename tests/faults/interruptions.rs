//! What is no failure at all: interrupted calls, waits that end for no reason,
//! writes that take a part. All of it just works.

use crate::interpose::{Call, Fault, Plan, Who, arm_workers, have_workers_met};
use crate::scenario::{Expect, builder, live};
use crate::support::Scratch;

/// In the parent, in the workers, and in both; each must meet those calls.
fn everywhere(fault: Fault, of_parent: &[Call], of_workers: &[Call]) {
    let plan = Plan::all(fault);
    for (parent, workers) in [(true, false), (false, true), (true, true)] {
        let scratch = Scratch::new();
        let folder = scratch.path("fault");
        let builder = if workers {
            arm_workers(builder(), Who::AllWorkers, plan, &folder)
        } else {
            builder()
        };
        let hits = live(builder, parent.then_some(plan), Expect::Nothing);
        for &call in of_parent.iter().filter(|_| parent) {
            assert!(hits.of(call) > 0, "the parent made no {call:?}");
        }
        for &call in of_workers.iter().filter(|_| workers) {
            assert!(have_workers_met(&folder, call), "no worker made a {call:?}");
        }
    }
}

#[test]
fn every_second_call_that_can_wait_is_interrupted() {
    everywhere(
        Fault::Interrupted,
        &[
            Call::SendMessage,
            Call::SocketRead,
            Call::SocketSend,
            Call::WatchWait,
            Call::RuntimeWait,
            Call::Wake,
            Call::Woken,
            Call::WaitId,
            Call::FutexWait,
        ],
        &[Call::ReceiveMessage, Call::SocketSend, Call::SocketRead, Call::Poll, Call::FutexWait],
    );
}

#[test]
fn every_second_wait_for_a_futex_ends_for_no_reason() {
    everywhere(Fault::Spurious, &[Call::FutexWait], &[Call::FutexWait]);
}

#[test]
fn writes_take_a_byte_at_a_time() {
    let (boot, serve) = (Call::SendMessage, [Call::SocketSend, Call::SocketWrite]);
    everywhere(Fault::ShortWrites, &[boot, serve[0], serve[1]], &serve);
}
