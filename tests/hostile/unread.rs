//! Workers that do not read what they are sent.

use std::time::Duration;

use bytes::Bytes;

use crate::attack::echo;
use crate::scripted::{Cast, Script};
use crate::support::{checked, is_alive, until};
use crate::trial::{Peak, assert_protocol};
use crate::wire::{self, done, skipped};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    // Sees in the page what it is given, and answers without having read it.
    ("unread-answers", |actor, _| {
        actor.greet();
        for seq in 1.. {
            while actor.page.word(seq) != (seq, wire::QUEUED) {
                std::thread::yield_now();
            }
            actor.start(seq);
            actor.finish(seq);
            actor.send(&done(seq, 1, &wire::varint(LENGTH as u64)));
        }
    }),
    ("unread-skips", |actor, _| {
        actor.greet();
        for seq in 1.. {
            while actor.page.word(seq) != (seq, wire::REVOKED) {
                std::thread::yield_now();
            }
            actor.send(&skipped(seq));
        }
    }),
    ("unread", |actor, _| actor.greet()),
];

const LENGTH: usize = 512 << 10;

fn length(bytes: Bytes) -> u64 {
    bytes.len() as u64
}

/// What the parent has for it would gather without end: each answer made room
/// for another task, and its arguments.
#[test]
fn answers_of_a_worker_that_does_not_read() {
    checked(async {
        let cast = Cast::new("unread-answers", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let peak = Peak::new();
        let mut error = None;
        for _ in 0..400 {
            // Each with arguments of its own.
            if let Err(why) = pool.apply(length, Bytes::from(vec![7; LENGTH])).await {
                error = Some(why);
                break;
            }
        }
        peak.assert_below(32 << 20);
        let error = error.expect("an answer to what was not sent");
        assert_protocol(&error, "before it was sent");
        assert!(!is_alive(cast.villain().await as i32));
        assert_eq!(pool.apply(length, Bytes::from_static(b"ab")).await.unwrap(), 2);
        pool.terminate().await;
    });
}

#[test]
fn tasks_skipped_by_a_worker_that_does_not_read() {
    checked(async {
        let cast = Cast::new("unread-skips", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        let peak = Peak::new();
        // As long as nobody minds, which the test's own limit ends.
        while pool.stats().workers_started == 1 {
            let call = pool.apply_async(length, Bytes::from(vec![7; LENGTH]));
            assert!(!call.cancel().await.started);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        peak.assert_below(32 << 20);
        assert_eq!(pool.apply(length, Bytes::from_static(b"ab")).await.unwrap(), 2);
        pool.terminate().await;
    });
}

/// Neither a task nor its end needs the worker to read.
#[test]
fn a_worker_that_never_reads_holds_nothing_up() {
    checked(async {
        let cast = Cast::new("unread", 1);
        let pool = cast.builder().workers(2).build().unwrap();
        pool.ready().await.unwrap();
        let large = || Bytes::from(vec![7; 1000 << 10]);
        // One is sent to each.
        let calls = [pool.apply_async(length, large()), pool.apply_async(length, large())];
        until("the honest one answers", || calls.iter().any(|call| call.is_finished())).await;
        for n in 0..100 {
            assert_eq!(pool.apply(echo, n).await.unwrap(), n);
        }
        // What the other has not begun after a while, the honest one is given too.
        for call in calls {
            assert_eq!(call.await.unwrap(), 1000 << 10);
        }
        pool.terminate().await;
    });
}
