//! Conversations drawn at random from what a worker could say, mostly almost
//! right: whatever is said, each task ends once and with its own answer or an
//! error, and the pool goes on.

use std::time::Duration;

use futures::future::join_all;
use procession::TaskError;

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Heard, Script};
use crate::support::{LIMIT, checked, within};
use crate::trial::Peak;
use crate::wire::{
    self, Page, done, done_after, event, failed, frame, frame_of_length, item, skipped, trace,
};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[("conversation", |actor, seed| {
    let mut random = Random(seed.parse::<u64>().unwrap() << 8 | actor.turn);
    actor.hear_setup();
    let greeting = match random.below(12) {
        0 => wire::ready(),
        1 => [actor.hello(), actor.hello()].concat(),
        _ => [actor.hello(), wire::ready()].concat(),
    };
    actor.send(&greeting);
    // From here on it hears only what the page tells.
    let mut seq = 1;
    loop {
        match random.below(40) {
            0 => actor.send(&random.bytes(40)),
            1 => std::process::exit(random.below(4) as i32),
            2 => std::process::abort(),
            3 => actor.socket.shutdown(std::net::Shutdown::Both).unwrap(),
            4 => {
                let at = random.below(wire::PAGE_BYTES - 8);
                let bytes = random.bytes(8);
                actor.page.write(at, &bytes);
            }
            5 | 6 => {
                let message = message(&mut random, seq);
                actor.send(&message);
            }
            7 => {
                // SAFETY: stops this process until the test's end.
                unsafe { nix::libc::raise(nix::libc::SIGSTOP) };
            }
            8 => actor.page.write(wire::AWAKE_AT, &u32::MAX.to_le_bytes()),
            9 => {
                actor.page.set_word(seq, random.below(8) as u8);
            }
            _ => {
                let task = actor.take();
                seq = task.seq;
                honest(actor, &mut random, &task);
            }
        }
    }
})];

/// A task served as it should be, in pieces and with lies that cost nothing.
fn honest(actor: &mut Actor, random: &mut Random, task: &Heard) {
    let seq = task.seq;
    if actor.page.word(seq) != (seq, wire::QUEUED) {
        return actor.send(&skipped(seq));
    }
    actor.start(seq);
    actor.page.write(Page::slot(seq) + wire::ITEM_AT, &random.bytes(4));
    actor.finish(seq);
    let answer = done_after(seq, random.next(), 1, &task.body[20..]);
    let (now, later) = answer.split_at(random.below(answer.len() as u64) as usize);
    actor.send(now);
    actor.send(later);
}

fn message(random: &mut Random, seq: u64) -> Vec<u8> {
    let seq = seq.wrapping_add(random.below(3)).wrapping_sub(1);
    match random.below(10) {
        // No number, so that it cannot be taken for a right answer.
        0 => done(seq, random.below(3) as u32, &[0x80]),
        1 => skipped(seq),
        2 => item(seq, &random.bytes(3)),
        3 => failed(seq, random.below(7) as u8, &random.bytes(9)),
        4 => frame(16 + random.below(8) as u8, random.below(4) as u8, seq, &random.bytes(20)),
        5 => frame(random.below(256) as u8, 0, seq, &[]),
        6 => frame_of_length(random.next() as u32, wire::DONE, 0, seq, &[]),
        7 => done(random.next(), 1, &[]),
        8 => trace(seq, random.below(2), &[1], Some(&event(0, "target", &random.bytes(2)))),
        _ => wire::ready(),
    }
}

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Splitmix.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// A pool whose first workers all converse like that. Who has no answer after a
/// while gives up, as any of them may have just stopped.
async fn converse(seed: u64) {
    let cast = Cast::new(&format!("conversation:{seed}"), 5);
    let builder = cast.builder().workers(2).restart_limit(20).grace_period(Duration::ZERO);
    let builder = if seed % 2 == 0 { builder } else { builder.untrusted() };
    let pool = builder.build().unwrap();
    cast.villain().await;
    let calls = (0..30).map(|n| {
        let mut call = pool.apply_async(echo, n);
        async move {
            match tokio::time::timeout(Duration::from_millis(300), &mut call).await {
                Ok(Ok(answer)) => assert_eq!(answer, n, "seed {seed}"),
                Ok(Err(
                    TaskError::Protocol(_)
                    | TaskError::WorkerLost { .. }
                    | TaskError::Panicked(_)
                    | TaskError::Encode(_)
                    | TaskError::Decode(_)
                    | TaskError::TooLarge { .. },
                )) => {}
                Ok(Err(other)) => panic!("seed {seed}, task {n}: {other:?}"),
                Err(_) => drop(call.cancel().await),
            }
        }
    });
    within(LIMIT, join_all(calls)).await;
    within(LIMIT, pool.terminate()).await;
}

#[test]
fn hundreds_of_conversations_with_workers_that_make_no_sense() {
    checked(async {
        let peak = Peak::new();
        for batch in 0..8 {
            join_all((0..20).map(|n| converse(batch * 20 + n))).await;
        }
        peak.assert_below(64 << 20);
    });
}
