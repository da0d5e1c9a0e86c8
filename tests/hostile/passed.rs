//! Workers that send descriptors where none are due, more than anybody takes, or
//! others than they say, and that lie about having begun.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use futures::StreamExt;
use procession::{Fd, TaskError};

use crate::attack::echo;
use crate::scripted::{Cast, Script};
use crate::support::{Scratch, checked, note, noted, until};
use crate::trial::assert_protocol;
use crate::wire::{self, done, frame, item, varint};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("passed", |actor, what| {
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            let (payload, count) = match what {
                "named twice" => ([2, 0, 0].to_vec(), 1),
                "the second of one" => (varint(1), 1),
                "the last there can be" => (varint(u64::MAX), 1),
                "not at all" => (varint(0), 0),
                "as memory" => ([varint(1), varint(0)].concat(), 1),
                "something else" => (varint(0), 1),
                _ => unreachable!("no descriptor {what}"),
            };
            let mut answer = done(task.seq, 1, &payload);
            answer[7] = count;
            let fds = (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect();
            actor.send_with(&answer, fds);
        }
    }),
    // As many with each item as may be, and never an end.
    ("passed-without-end", |actor, _| {
        actor.greet();
        let task = actor.take();
        actor.start(task.seq);
        for n in 0.. {
            while actor.page.u32_at(wire::Page::slot(task.seq) + wire::CREDIT_AT) <= n {
                std::thread::yield_now();
            }
            let mut one = item(task.seq, &varint(0));
            one[7] = 128;
            let (file, _other) = UnixStream::pair().unwrap();
            let fds: Vec<OwnedFd> = (0..128).map(|_| file.try_clone().unwrap().into()).collect();
            actor.send_with(&one, fds);
        }
    }),
    // As many as may wait, and then only the page says that the next task is over.
    ("passed-and-silent", |actor, told| {
        actor.greet();
        for _ in 0..WAITING_MAX / 128 {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            let mut answer = done(task.seq, 1, &varint(0));
            answer[7] = 128;
            let file = File::open("/dev/null").unwrap();
            let fds: Vec<OwnedFd> = (0..128).map(|_| file.try_clone().unwrap().into()).collect();
            actor.send_with(&answer, fds);
        }
        let task = actor.take();
        actor.start(task.seq);
        actor.finish(task.seq);
        note(told, "silent");
        loop {
            std::thread::park();
        }
    }),
    ("begun", |actor, how| {
        actor.greet();
        let task = actor.take();
        if how != "and died unstarted" {
            actor.start(task.seq);
        }
        let seq = match how {
            "for no reason" => task.seq,
            "another" => task.seq + 1,
            "none" => 0,
            "and on and on" => {
                for _ in 0..100_000 {
                    actor.send(&frame(wire::BEGAN, 0, task.seq, &[]));
                }
                task.seq
            }
            "and died unstarted" => {
                actor.send(&frame(wire::BEGAN, 0, task.seq, &[]));
                std::process::abort();
            }
            _ => unreachable!("not begun {how}"),
        };
        actor.send(&frame(wire::BEGAN, 0, seq, &[]));
        loop {
            std::thread::park();
        }
    }),
];

/// How many of one worker may wait to be taken, where a process may have twice as many.
const WAITING_MAX: usize = 2 * (1024 + 64);

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn names_of_descriptors_that_are_not_there() {
    fn one() -> Fd<File> {
        unreachable!("the worker has a script")
    }
    fn two() -> Vec<Fd<File>> {
        unreachable!("the worker has a script")
    }
    fn stream() -> Fd<UnixStream> {
        unreachable!("the worker has a script")
    }
    fn memory() -> procession::SharedBytes {
        unreachable!("the worker has a script")
    }
    let cases = [
        ("named twice", "named twice"),
        ("the second of one", "a descriptor that is not attached"),
        ("the last there can be", "a descriptor that is not attached"),
        ("not at all", "a descriptor that is not attached"),
        ("as memory", "memory that is not attached"),
        ("something else", "not that of a Unix stream"),
    ];
    for (what, sentence) in cases {
        checked(async {
            let cast = Cast::new(&format!("passed:{what}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            pool.ready().await.unwrap();
            let before = descriptors();
            for _ in 0..3 {
                let error = match what {
                    "named twice" => pool.apply(two, ()).await.unwrap_err(),
                    "as memory" => pool.apply(memory, ()).await.unwrap_err(),
                    "something else" => pool.apply(stream, ()).await.unwrap_err(),
                    _ => pool.apply(one, ()).await.unwrap_err(),
                };
                assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
                assert!(error.to_string().contains(sentence), "{what}: {error}");
            }
            until("they are closed", || descriptors() <= before).await;
            assert_eq!(pool.stats().workers_started, 1);
            pool.terminate().await;
        });
    }
}

/// Nobody takes the descriptors, and the call behind them is waited for.
#[test]
fn silence_behind_descriptors_is_not_waited_for_without_end() {
    fn one() -> Fd<File> {
        unreachable!("the worker has a script")
    }
    checked(async {
        let scratch = Scratch::new();
        let told = scratch.path("told");
        let cast = Cast::new(&format!("passed-and-silent:{told}"), 1);
        let pool = cast.builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        let before = descriptors();
        let mut calls = Vec::new();
        for n in 1..=WAITING_MAX / 128 {
            calls.push(pool.apply_async(one, ()));
            until("it is answered", || descriptors() >= before + n * 128).await;
        }
        let last = pool.apply_async(one, ());
        noted(&told).await;
        assert!(last.cancel().await.exit.is_some());
        assert!(calls.iter().all(procession::TaskHandle::is_finished));
        drop(calls);
        pool.terminate().await;
    });
}

#[test]
fn descriptors_without_end_do_not_exhaust_the_parent() {
    fn items() -> std::vec::IntoIter<Fd<UnixStream>> {
        unreachable!("the worker has a script")
    }
    checked(async {
        let cast = Cast::new("passed-without-end", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        let before = descriptors();
        let mut stream = pool.stream(items, ()).buffer(64);
        let mut most = 0;
        // The first brings as many as it may; each is taken, and the rest of its
        // frame is closed.
        for _ in 0..50 {
            if let Err(error) = stream.next().await.unwrap().map(drop) {
                assert!(error.to_string().contains("wait to be taken"), "{error}");
            }
            most = most.max(descriptors());
        }
        // Nobody takes any: what has come stays within its bound.
        for _ in 0..200 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            most = most.max(descriptors());
        }
        // Those that are about to be closed come on top, and what is being received.
        assert!(most <= before + 2 * WAITING_MAX + 253, "{most} of {before}");
        drop(stream);
        until("all are closed", || descriptors() <= before).await;
        pool.terminate().await;
    });
}

#[test]
fn tasks_that_are_said_to_have_begun() {
    fn takes(_: Fd<UnixStream>) -> u32 {
        unreachable!("the worker has a script")
    }
    let cases = [
        ("another", "the worker answered task 2 where 1 was due"),
        ("none", "the worker answered task 0"),
    ];
    for (how, sentence) in cases {
        checked(async {
            let cast = Cast::new(&format!("begun:{how}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let (ours, theirs) = UnixStream::pair().unwrap();
            let error = pool.apply(takes, Fd::new(theirs)).await.unwrap_err();
            assert_protocol(&error, sentence);
            assert_eq!(std::io::Read::read(&mut &ours, &mut [0]).unwrap(), 0);
            pool.terminate().await;
        });
    }
    // Of a call that has no descriptors it need not be said.
    checked(async {
        let cast = Cast::new("begun:for no reason", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let error = pool.apply(echo, 1).await.unwrap_err();
        assert_protocol(&error, "does not fit the call");
        assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
        pool.terminate().await;
    });
    // What was let go of cannot be sent again: it counts as started.
    for how in ["and died unstarted", "and on and on"] {
        checked(async {
            let cast = Cast::new(&format!("begun:{how}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let (ours, theirs) = UnixStream::pair().unwrap();
            let call = pool.apply(takes, Fd::new(theirs));
            let timeout = std::time::Duration::from_millis(300);
            let error = call.timeout(timeout).await.unwrap_err();
            assert_ne!(error.started(), Some(false), "{error:?}");
            assert_eq!(std::io::Read::read(&mut &ours, &mut [0]).unwrap(), 0);
            assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
            pool.terminate().await;
        });
    }
}
