//! Being slow is no offence: a worker whose every frame arrives in pieces is
//! served like any other.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join;
use procession::Pool;

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Heard, Script};
use crate::support::{Scratch, checked, note, notes};
use crate::wire::{self, done, item, ready};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("slow-bytes", |actor, _| {
        actor.hear_setup();
        let greeting = [actor.hello(), ready()].concat();
        for byte in greeting {
            dawdle(actor, &[byte]);
        }
        loop {
            for byte in serve(actor) {
                dawdle(actor, &[byte]);
            }
        }
    }),
    // Each answer is cut one byte later than the one before.
    ("slow-cut", |actor, _| {
        actor.hear_setup();
        let hello = actor.hello();
        for half in [&hello[..], &ready()].concat().chunks(7) {
            dawdle(actor, half);
        }
        for cut in 0.. {
            let answer = serve(actor);
            let (now, later) = answer.split_at(cut % answer.len());
            dawdle(actor, now);
            dawdle(actor, later);
        }
    }),
    // Two answers at a time, cut one byte later each time.
    ("slow-pairs", |actor, _| {
        actor.greet();
        for cut in 0.. {
            let mut answers = serve(actor);
            answers.extend(serve(actor));
            let (now, later) = answers.split_at(cut % answers.len());
            dawdle(actor, now);
            dawdle(actor, later);
        }
    }),
    ("slow-items", |actor, _| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        for n in 0..50 {
            while actor.page.u32_at(wire::Page::slot(task.seq) + wire::CREDIT_AT) <= n {
                std::thread::sleep(Duration::from_micros(100));
            }
            let frame = item(task.seq, &[n as u8]);
            let (now, later) = frame.split_at(n as usize % frame.len());
            dawdle(actor, now);
            dawdle(actor, later);
        }
        actor.finish(task.seq);
        actor.send(&done(task.seq, 1, &[]));
        actor.take();
    }),
    // Takes a second to read what it is sent, and says by its answer that it did.
    ("slow-reader", |actor, starved| {
        actor.greet();
        let mut header = [0; wire::HEADER];
        actor.socket.read_exact(&mut header).unwrap();
        let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        let seq = u64::from_le_bytes(header[8..].try_into().unwrap());
        let mut body = vec![0; length];
        for piece in body.chunks_mut(length / 250) {
            let began = Instant::now();
            actor.socket.read_exact(piece).unwrap();
            std::thread::sleep(Duration::from_millis(4));
            if began.elapsed() > Duration::from_millis(50) {
                note(starved, "it was kept from reading");
            }
        }
        actor.start(seq);
        actor.finish(seq);
        actor.send(&done(seq, 1, &wire::varint(7)));
        actor.take();
    }),
];

fn length(bytes: Bytes) -> u64 {
    bytes.len() as u64
}

/// It is not taken for one that does not move, though another would be free.
#[test]
fn arguments_that_are_read_slowly() {
    checked(async {
        let scratch = Scratch::new();
        let starved = scratch.path("starved");
        let cast = Cast::new(&format!("slow-reader:{starved}"), 1);
        let pool = cast.builder().workers(2).build().unwrap();
        pool.ready().await.unwrap();
        let call = || pool.apply(length, Bytes::from(vec![7; 1000 << 10]));
        let (one, other) = join(call(), call()).await;
        let mut answers = [one.unwrap(), other.unwrap()];
        answers.sort_unstable();
        if !notes(&starved).is_empty() {
            println!("not tested: this machine is too busy for a worker that reads steadily");
        } else {
            assert_eq!(answers, [7, 1000 << 10]);
        }
        assert_eq!(pool.stats().workers_started, 2);
        pool.terminate().await;
    });
}

fn dawdle(actor: &mut Actor, bytes: &[u8]) {
    actor.send(bytes);
    std::thread::sleep(Duration::from_micros(200));
}

/// Echoes a task's argument, or leaves with the pool.
fn serve(actor: &mut Actor) -> Vec<u8> {
    let Heard { seq, body, .. } = actor.take();
    actor.start(seq);
    actor.finish(seq);
    done(seq, 1, &body[20..])
}

async fn serves(script: &str) {
    let cast = Cast::new(script, 1);
    let pool = cast.builder().workers(1).build().unwrap();
    for n in 0..70 {
        assert_eq!(pool.apply(echo, n).await.unwrap(), n, "{script}");
    }
    served_by_one(pool, &cast).await;
}

async fn served_by_one(pool: Pool, cast: &Cast) {
    assert_eq!(pool.stats().workers_started, 1);
    assert_eq!(pool.workers()[0].pid, Some(cast.villain().await));
    pool.terminate().await;
}

#[test]
fn frames_that_arrive_byte_by_byte() {
    checked(serves("slow-bytes"));
}

#[test]
fn frames_cut_at_each_byte() {
    checked(serves("slow-cut"));
}

#[test]
fn pairs_of_frames_cut_at_each_byte() {
    checked(async {
        let cast = Cast::new("slow-pairs", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        for n in (0..140).step_by(2) {
            let pair = (pool.apply_async(echo, n), pool.apply_async(echo, n + 1));
            assert_eq!(pair.0.await.unwrap(), n);
            assert_eq!(pair.1.await.unwrap(), n + 1);
        }
        served_by_one(pool, &cast).await;
    });
}

fn numbers(_: ()) -> std::ops::Range<u8> {
    0..50
}

#[test]
fn items_cut_at_each_byte() {
    checked(async {
        let cast = Cast::new("slow-items", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let items: Vec<u8> =
            pool.stream(numbers, ()).buffer(4).map(|item| item.unwrap()).collect().await;
        assert_eq!(items, Vec::from_iter(0..50));
        served_by_one(pool, &cast).await;
    });
}
