//! Workers that say hello as they should, take a task, and answer wrongly.

use std::net::Shutdown;

use futures::future::join_all;
use nix::libc;
use procession::{Exit, TaskError};

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Script};
use crate::support::{Scratch, checked, is_alive, noted, until};
use crate::trial::{assert_protocol, held, trial};
use crate::wire::{self, Page, done, failed, frame, frame_of_length, item, ready, skipped};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("answer", |actor, how| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        let bytes = answer(actor, how);
        actor.send(&bytes);
    }),
    ("answer-page", |actor, phase| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        actor.page.write(Page::word_at(1), &[phase.parse().unwrap()]);
        actor.send(&done(1, 1, &[7]));
    }),
    ("answer-closes", |actor, which| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        let which = if which == "write" { Shutdown::Write } else { Shutdown::Both };
        actor.socket.shutdown(which).unwrap();
    }),
    ("answer-dies", |actor, after| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        actor.finish(task.seq);
        let answer = done(1, 1, &[7]);
        actor.send(&answer[..after.parse().unwrap()]);
        std::process::exit(3);
    }),
    ("answer-stops", |actor, after| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        let answer = done(1, 1, &[7]);
        actor.send(&answer[..after.parse().unwrap()]);
        // SAFETY: stops this process, and does nothing else.
        unsafe { libc::raise(libc::SIGSTOP) };
    }),
    ("answer-unstarted", |actor, _| {
        actor.greet_and_take();
        actor.send(&done(1, 1, &[7]));
    }),
    ("answer-twice", |actor, _| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        actor.finish(task.seq);
        // The argument is the answer.
        let answer = done(1, 1, &task.body[20..]);
        actor.send(&[&answer[..], &answer].concat());
    }),
    ("answer-second-first", |actor, _| {
        let first = actor.greet_and_take();
        actor.start(first.seq);
        let second = actor.take();
        actor.page.set_word(second.seq, wire::FINISHED);
        actor.send(&done(second.seq, 1, &[7]));
    }),
    ("answer-revoked", |actor, note| {
        let first = actor.greet_and_take();
        actor.start(first.seq);
        let second = actor.take();
        crate::support::note(note, "both are here");
        while actor.page.word(second.seq).1 != wire::REVOKED {
            std::thread::yield_now();
        }
        actor.finish(first.seq);
        actor.finish(second.seq);
        actor.send(&[done(first.seq, 1, &first.body[20..]), done(second.seq, 1, &[7])].concat());
    }),
];

fn answer(actor: &Actor, how: &str) -> Vec<u8> {
    if let Some(seq) = how.strip_prefix("task ") {
        return done(seq.parse().unwrap(), 1, &[7]);
    }
    if let Some(kind) = how.strip_prefix("kind ") {
        return frame(kind.parse().unwrap(), 0, 0, &[0; 20]);
    }
    actor.finish(1);
    match how {
        "garbage" => vec![0xff; 100_000],
        "zeroes" => vec![0; 100_000],
        "giant" => frame_of_length(u32::MAX, wire::DONE, 0, 1, &[0; 1 << 16]),
        "hello" => actor.hello(),
        "ready" => ready(),
        "init failed" => frame(wire::INIT_FAILED, 0, 0, &[wire::UNKNOWN_FUNCTION]),
        "skipped" => skipped(1),
        "skipped with a body" => frame(wire::SKIPPED, 0, 1, &[0]),
        "item" => item(1, &[7]),
        "for none" => done(1, 0, &[7]),
        "for two" => done(1, 2, &[7]),
        "for all" => done(1, u32::MAX, &[7]),
        "cut short" => frame(wire::DONE, 0, 1, &[0; 11]),
        "flags" => frame(wire::DONE, 6, 1, &[0; 13]),
        "failed without why" => frame(wire::FAILED, 0, 1, &[]),
        "failed beyond reason" => failed(1, 99, &[]),
        "failed and more" => failed(1, wire::UNKNOWN_FUNCTION, &[0]),
        "failed with no text" => failed(1, wire::RESULT, &wire::text(b"\xff\xfe no text")),
        "failed with a lie" => failed(1, wire::ARGUMENTS, &wire::varint(u64::MAX)),
        "failed at length" => frame_of_length(65_537, wire::FAILED, 0, 1, &[]),
        "over the limit" => frame_of_length((2 << 20) + (4 << 10) + 1, wire::DONE, 0, 1, &[]),
        _ => unreachable!("no answer {how}"),
    }
}

#[test]
fn answers_that_are_none() {
    let over = "is over the limit of";
    let cases = [
        ("garbage", "the worker sent a frame of unknown kind 255"),
        ("zeroes", "the worker sent a frame of unknown kind 0"),
        ("giant", over),
        ("over the limit", over),
        ("hello", "the worker sent hello after it was ready"),
        ("ready", "the worker sent ready after it was ready"),
        ("init failed", "the worker sent init failed after it was ready"),
        ("kind 1", "the worker sent Setup, which only a parent may"),
        ("kind 2", "the worker sent Run, which only a parent may"),
        ("kind 3", "the worker sent Bye, which only a parent may"),
        ("kind 4", "the worker sent a frame of unknown kind 4"),
        ("kind 25", "the worker sent a frame of unknown kind 25"),
        ("skipped", "the worker's answer does not fit the call"),
        ("skipped with a body", "the worker sent a malformed message (body length)"),
        ("item", "the worker's answer does not fit the call"),
        ("for none", "the worker's answer does not fit the call"),
        ("for two", "the worker's answer does not fit the call"),
        ("for all", "the worker's answer does not fit the call"),
        ("cut short", "the worker sent a malformed message (body length)"),
        ("flags", "the worker sent a malformed message (flags)"),
        ("failed without why", "the worker sent a malformed message (report)"),
        ("failed beyond reason", "the worker sent a malformed message (report)"),
        ("failed and more", "the worker sent a malformed message (report)"),
        ("failed with no text", "the worker sent a malformed message (report)"),
        ("failed with a lie", "the worker sent a malformed message (report)"),
        ("failed at length", over),
    ];
    for (how, sentence) in cases {
        checked(async {
            assert_protocol(&trial(&format!("answer:{how}")).await, sentence);
        });
    }
}

#[test]
fn answers_for_other_tasks() {
    for seq in [0, 2, 65, 1 << 56 | 1, u64::MAX] {
        checked(async {
            let error = trial(&format!("answer:task {seq}")).await;
            let sentence = format!("the worker answered task {seq} where 1 was due");
            assert_protocol(&error, &sentence);
        });
    }
}

#[test]
fn an_answer_that_the_status_page_belies() {
    // Any phase but that of a task that is over.
    for phase in [0, 2, 3, 6, 7, 255] {
        checked(async {
            let error = trial(&format!("answer-page:{phase}")).await;
            assert_protocol(&error, "the worker's status page is damaged");
        });
    }
}

#[test]
fn a_socket_closed_in_the_middle_of_a_task() {
    checked(async {
        join_all(["write", "both"].map(|which| async move {
            let error = trial(&format!("answer-closes:{which}")).await;
            assert_protocol(&error, "the connection to the worker broke, and it did not end");
        }))
        .await;
    });
}

#[test]
fn a_death_after_each_byte_of_the_answer() {
    checked(async {
        for after in 0..done(1, 1, &[7]).len() {
            let error = trial(&format!("answer-dies:{after}")).await;
            let TaskError::WorkerLost { exit, .. } = error else { panic!("{after}: {error:?}") };
            assert_eq!(exit, Exit::from_code(3), "{after}");
        }
    });
}

/// It takes the grace period, as the signal to end does not reach it.
#[test]
fn a_stop_in_the_middle_of_an_answer_ends_with_the_timeout() {
    checked(async {
        let timeout = std::time::Duration::from_millis(200);
        for after in [0, 1, 16, 28] {
            let script = format!("answer-stops:{after}");
            let cast = Cast::new(&script, 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let error = pool.apply(echo, 7).timeout(timeout).await.unwrap_err();
            let TaskError::TimedOut { after, exit } = error else { panic!("{error:?}") };
            assert_eq!((after, exit.and_then(|exit| exit.signal())), (timeout, Some(9)));
            assert_eq!(pool.apply(echo, 7).await.unwrap(), 7);
            pool.terminate().await;
        }
    });
}

/// What the page says was not started is run by another.
#[test]
fn an_answer_for_a_task_that_was_not_started() {
    checked(async {
        let cast = Cast::new("answer-unstarted", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(echo, 300).await.unwrap(), 300);
        assert_eq!(pool.stats().workers_started, 2);
        assert!(!is_alive(cast.villain().await as i32));
        pool.terminate().await;
    });
}

#[test]
fn a_second_answer_costs_the_worker_and_not_the_task() {
    checked(async {
        let cast = Cast::new("answer-twice", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(echo, 300).await.unwrap(), 300);
        until("it is replaced", || pool.stats().workers_started == 2).await;
        assert_eq!(pool.apply(echo, 301).await.unwrap(), 301);
        assert!(!is_alive(cast.villain().await as i32));
        pool.terminate().await;
    });
}

#[test]
fn answers_out_of_order() {
    checked(async {
        let cast = Cast::new("answer-second-first", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let first = pool.apply_async(echo, 1);
        let second = pool.apply_async(echo, 2);
        let sentence = "the worker answered task 2 where 1 was due";
        assert_protocol(&first.await.unwrap_err(), sentence);
        assert_protocol(&second.await.unwrap_err(), sentence);
        assert_eq!(pool.apply(echo, 3).await.unwrap(), 3);
        pool.terminate().await;
    });
}

#[test]
fn an_answer_for_a_task_that_was_taken_back() {
    checked(async {
        let scratch = Scratch::new();
        let note = scratch.path("note");
        let cast = Cast::new(&format!("answer-revoked:{note}"), 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let first = pool.apply_async(echo, 300);
        let second = pool.apply_async(held, scratch.path("gate"));
        noted(&note).await;
        let cancelled = second.cancel().await;
        assert_eq!((cancelled.started, cancelled.exit), (false, None));
        assert_eq!(first.await.unwrap(), 300);
        until("it is replaced", || pool.stats().workers_started == 2).await;
        assert_eq!(pool.apply(echo, 3).await.unwrap(), 3);
        assert!(!is_alive(cast.villain().await as i32));
        pool.terminate().await;
    });
}
