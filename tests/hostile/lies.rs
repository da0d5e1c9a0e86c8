//! Workers that lie in the status page about their own tasks: the lie costs
//! nobody else anything, and nobody waits for ever because of it.

use std::time::Duration;

use futures::StreamExt;
use nix::time::{ClockId, clock_gettime};
use procession::TaskError;

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Script};
use crate::support::{Scratch, checked, is_alive, note, noted, until};
use crate::trial::{assert_protocol, held};
use crate::wire::{self, Page};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    // It has always begun just before one looks.
    ("lie-younger", |actor, _| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        loop {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
            let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
            let began = now - 20_000_000;
            actor.page.write(Page::started_at(task.seq), &began.to_le_bytes());
            std::thread::sleep(Duration::from_millis(1));
        }
    }),
    // Done with the first task, which it does not answer, and in the second.
    ("lie-went-on", |actor, told| {
        let first = actor.greet_and_take();
        actor.start(first.seq);
        let second = actor.take();
        actor.finish(first.seq);
        actor.start(second.seq);
        note(told, "went on");
    }),
    ("lie-index", |actor, index| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        let index: u32 = index.parse().unwrap();
        actor.page.write(Page::slot(task.seq) + wire::ITEM_AT, &index.to_le_bytes());
        std::process::exit(4);
    }),
    ("lie-unstarted", |actor, told| {
        actor.greet_and_take();
        note(told, "runs, and says that it waits");
    }),
    ("lie-unstarted-dies", |actor, _| {
        actor.greet_and_take();
        std::process::exit(5);
    }),
    ("lie-unstarted-garbage", |actor: &mut Actor, _| {
        actor.greet_and_take();
        actor.send(&[0xff; 100]);
    }),
];

#[test]
fn a_task_that_has_always_just_begun_is_over_its_timeout_all_the_same() {
    checked(async {
        let cast = Cast::new("lie-younger", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let timeout = Duration::from_millis(100);
        let error = pool.apply(echo, 1).timeout(timeout).await.unwrap_err();
        assert!(matches!(error, TaskError::TimedOut { exit: Some(_), .. }), "{error:?}");
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
    });
}

/// Somebody waits for the first one's end, and the page says that the second
/// one runs. An honest worker has answered the first by then.
#[test]
fn an_answer_that_the_worker_went_on_without_is_not_waited_for() {
    checked(async {
        let scratch = Scratch::new();
        let told = scratch.path("told");
        let cast = Cast::new(&format!("lie-went-on:{told}"), 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let first = pool.apply_async(echo, 1);
        let second = pool.apply_async(echo, 2);
        noted(&told).await;
        assert!(first.cancel().await.started);
        let sentence = "the worker finished the task and did not send its answer";
        assert_protocol(&second.await.unwrap_err(), sentence);
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
    });
}

fn slow_echo(n: u32) -> u32 {
    std::thread::sleep(Duration::from_millis(1));
    n
}

/// The item that a dead worker names as the one that it ran is one of its own.
#[test]
fn an_item_of_somebody_else_is_not_blamed() {
    checked(async {
        for index in [3, 7, u32::MAX] {
            let cast = Cast::new(&format!("lie-index:{index}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let error = pool.map(slow_echo, 0..12).chunk_size(4).await.unwrap_err();
            assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
            assert_eq!(error.index(), Some(3), "{index}");
            pool.terminate().await;

            let cast = Cast::new(&format!("lie-index:{index}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let answers: Vec<_> = pool.imap(slow_echo, 0..12).chunk_size(4).collect().await;
            let lost = answers.iter().take_while(|answer| answer.is_err()).count();
            // It has put none down, and so it was at the first.
            assert_eq!(lost, 1, "{answers:?}");
            assert_eq!(answers[0].as_ref().unwrap_err().index(), Some(0));
            let others: Vec<u32> =
                answers.into_iter().skip(1).map(|answer| answer.unwrap()).collect();
            assert_eq!(others, Vec::from_iter(1..12));
            pool.terminate().await;
        }
    });
}

/// In a pool that believes its workers, what the page calls unstarted ended
/// unstarted, and goes elsewhere when the worker dies.
#[test]
fn a_trusted_worker_is_believed_about_what_it_has_not_started() {
    checked(async {
        for script in ["lie-unstarted-dies", "lie-unstarted-garbage"] {
            let cast = Cast::new(script, 1);
            let pool = cast.builder().workers(1).build().unwrap();
            assert_eq!(pool.apply(echo, 1).await.unwrap(), 1, "{script}");
            assert_eq!(pool.stats().workers_started, 2);
            pool.terminate().await;
        }
    });
}

/// In one that does not, the task was sent, and that is all that is known.
#[test]
fn an_untrusted_worker_is_not_believed_about_what_it_has_not_started() {
    checked(async {
        let cast = Cast::new("lie-unstarted-dies", 1);
        let pool = cast.builder().workers(1).untrusted().build().unwrap();
        let error = pool.apply(echo, 1).await.unwrap_err();
        assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
        assert_eq!(error.started(), Some(true));
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;

        let cast = Cast::new("lie-unstarted-garbage", 1);
        let pool = cast.builder().workers(1).untrusted().build().unwrap();
        let error = pool.apply(echo, 1).await.unwrap_err();
        assert_protocol(&error, "unknown kind 255");
        assert_eq!(error.started(), Some(true));
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
    });
}

#[test]
fn a_cancelled_task_of_an_untrusted_worker_takes_it_along() {
    checked(async {
        let scratch = Scratch::new();
        for round in 0..2 {
            let told = scratch.path(&format!("told-{round}"));
            let cast = Cast::new(&format!("lie-unstarted:{told}"), 1);
            let pool = cast.builder().workers(1).untrusted().build().unwrap();
            let running = pool.apply_async(echo, 1);
            noted(&told).await;
            if round == 0 {
                let cancelled = running.cancel().await;
                assert!(cancelled.started);
                // Whatever it did, it does so no more.
                assert_eq!(cancelled.exit.and_then(|exit| exit.signal()), Some(9));
                assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
                pool.terminate().await;
            } else {
                pool.terminate().await;
                assert!(running.await.is_err());
            }
            let villain = cast.villain().await as i32;
            until("it is killed", || !is_alive(villain)).await;
        }
    });
}

/// It gets one task at a time, so nobody waits behind the one it lies about.
#[test]
fn an_untrusted_worker_holds_one_task() {
    checked(async {
        let scratch = Scratch::new();
        let (told, gate) = (scratch.path("told"), scratch.path("gate"));
        let cast = Cast::new(&format!("lie-unstarted:{told}"), 1);
        let pool = cast.builder().workers(2).untrusted().build().unwrap();
        pool.ready().await.unwrap();
        let calls: Vec<_> = (0..50).map(|_| pool.apply_async(held, gate.clone())).collect();
        noted(&told).await;
        std::fs::write(&gate, "").unwrap();
        until("all but one are answered", || {
            calls.iter().filter(|call| call.is_finished()).count() == 49
        })
        .await;
        pool.terminate().await;
    });
}
