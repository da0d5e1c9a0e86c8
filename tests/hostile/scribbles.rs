//! Workers that write into the status page what its protocol cannot lead to:
//! each field, at each stage of a task, and everywhere at random.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use procession::{Exit, PoolBuilder, TaskError};

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Script};
use crate::support::{LIMIT, Scratch, checked, note, noted, within};
use crate::trial::{Peak, assert_protocol};
use crate::wire::{self, Page, done};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    // Writes into fields before, during and after each task, and else is honest.
    ("scribble-fields", |actor, _| {
        actor.greet();
        for n in 0.. {
            scribble(actor, n);
            let task = actor.take();
            scribble(actor, n + 1);
            actor.start(task.seq);
            scribble(actor, n + 2);
            actor.finish(task.seq);
            actor.send(&done(task.seq, 1, &task.body[20..]));
        }
    }),
    // Its last word about its task: a phase, and whether of the right task.
    ("scribble-word", |actor, word| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        let (phase, right) = word.split_once(' ').unwrap();
        let seq = if right == "right" { task.seq } else { task.seq + 64 };
        let word = seq << 8 | phase.parse::<u64>().unwrap();
        actor.page.write(Page::word_at(task.seq), &word.to_le_bytes());
        std::process::exit(3);
    }),
    // Its last word about its outbox: what it holds, and since when.
    ("scribble-outbox", |actor, state| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        outbox(actor, state);
        std::process::exit(3);
    }),
    // The same while it is in its second task, with the first one answered.
    ("scribble-outbox-alive", |actor, state| {
        let first = actor.greet_and_take();
        let second = actor.take();
        actor.start(first.seq);
        actor.finish(first.seq);
        actor.start(second.seq);
        outbox(actor, state);
        // Long enough to be looked at.
        std::thread::sleep(Duration::from_millis(100));
        actor.send(&done(first.seq, 1, &first.body[20..]));
        actor.finish(second.seq);
        actor.send(&done(second.seq, 1, &second.body[20..]));
        actor.take();
    }),
    // What it says of a chunk: how many items it has begun and answered, and how
    // long the answers are. Then it dies, or answers, or neither.
    ("scribble-tally", |actor, arg| {
        let mut words = arg.split(' ');
        let then = words.next().unwrap().to_owned();
        let [claimed, answered, len] =
            [(); 3].map(|()| words.next().unwrap().parse::<u32>().unwrap());
        let task = actor.greet_and_take();
        actor.start(task.seq);
        let slot = Page::slot(task.seq);
        // Values of one byte with their lengths, or none.
        let value = if then.contains("noise") { [0xff; 5] } else { [1, 0, 0, 0, 5] };
        let values = value.repeat(8);
        actor.page.write(wire::PUT_DOWN_AT, &values);
        let halves = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le_bytes();
        actor.page.write(slot + wire::CLAIMED_AT, &halves(claimed, u32::MAX));
        actor.page.write(slot + wire::TALLY_AT, &halves(answered, len));
        if then.starts_with("dies") {
            std::process::exit(3);
        }
        // Long enough to be looked into.
        std::thread::sleep(Duration::from_millis(50));
        actor.page.write(slot + wire::CLAIMED_AT, &halves(0, 0));
        actor.finish(task.seq);
        let payload = [&1_u32.to_le_bytes()[..], &[1, 0, 0, 0, 5]].concat();
        actor.send(&done(task.seq, 1, &payload));
        std::process::exit(3);
    }),
    ("scribble-cancelled", |actor, arg| {
        let task = actor.greet_and_take();
        let (phase, told) = arg.split_once(' ').unwrap();
        actor.page.write(Page::slot(task.seq) + wire::POLITE_AT, &[1]);
        actor.start(task.seq);
        note(told, "runs");
        while actor.page.word(task.seq).1 != wire::CANCEL_REQ {
            std::thread::yield_now();
        }
        actor.page.set_word(task.seq, phase.parse().unwrap());
    }),
    ("scribble-at-random", |actor, seed| {
        let page = Page(actor.page.0.try_clone().unwrap());
        let mut random: u64 = seed.parse().unwrap();
        random = random << 8 | actor.turn;
        std::thread::spawn(move || {
            loop {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = random >> 33;
                // Mostly where something is.
                let at = match at % 4 {
                    0 => wire::FILLED_AT + at % 16,
                    1 => wire::WORDS_AT + at / 4 % 64,
                    2 => [wire::STARTED_AT, wire::SLOTS_AT][at as usize / 4 % 2] + at / 8 % 256,
                    _ => at / 4 % wire::PAGE_BYTES,
                };
                page.write(at, &[(random >> 24) as u8 % 8]);
                if at % 16 == 0 {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        });
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            actor.send(&done(task.seq, 1, &task.body[20..]));
        }
    }),
];

/// Writes nonsense into all that is none of the parent's business.
fn scribble(actor: &Actor, n: usize) {
    let value = [0, 1, 0x7fff_ffff_ffff_ffff, u64::MAX, 0x0101_0101_0101_0101][n % 5];
    let bytes = value.to_le_bytes();
    actor.page.write(wire::MAGIC_AT, &bytes);
    actor.page.write(wire::VERSION_AT, &bytes[..4]);
    actor.page.write(wire::BELL_AT, &bytes[..4]);
    for seq in 0..wire::SLOTS {
        actor.page.write(Page::started_at(seq), &bytes);
        let at = Page::slot(seq);
        for field in [wire::ITEM_AT, wire::CREDIT_AT, wire::NUDGE_AT] {
            actor.page.write(at + field, &bytes[..4]);
        }
        for field in [wire::POLITE_AT, wire::CLAIMED_AT, wire::TALLY_AT] {
            actor.page.write(at + field, &bytes);
        }
        // What is behind the fields of a slot.
        actor.page.write(at + 40, &[bytes[0]; 24]);
    }
}

/// Bytes that a worker has said when its first task comes: its greeting.
fn said(actor: &Actor) -> u64 {
    (actor.hello().len() + wire::ready().len()) as u64
}

fn outbox(actor: &Actor, state: &str) {
    let said = said(actor);
    let answer = done(1, 1, &[7]);
    let (filled, held_from) = match state {
        "nothing" => (said, 0),
        "everything" => (u64::MAX, 0),
        "a ring" => (said + wire::RING_BYTES, 0),
        "half a ring and one" => (said + wire::RING_BYTES / 2 + 1, 0),
        "half a ring" => (said + wire::RING_BYTES / 2, 0),
        "less" => (said - 1, 0),
        "from later on" => (said + 10, said + 1),
        "from the end of time" => (said + 10, u64::MAX),
        "noise" => {
            actor.page.write(wire::RING_AT, &vec![0xee; wire::RING_BYTES as usize]);
            (said + 100, 0)
        }
        "half an answer" => {
            actor.page.write(wire::RING_AT + said, &answer[..20]);
            (said + 20, 0)
        }
        "an answer" => {
            actor.finish(1);
            actor.page.write(wire::RING_AT + said, &answer);
            (said + answer.len() as u64, 0)
        }
        "another answer" => {
            let answer = done(9, 1, &[7]);
            actor.page.write(wire::RING_AT + said, &answer);
            (said + answer.len() as u64, 0)
        }
        _ => unreachable!("no outbox {state}"),
    };
    actor.page.write(wire::HELD_FROM_AT, &held_from.to_le_bytes());
    actor.page.write(wire::FILLED_AT, &filled.to_le_bytes());
}

#[test]
fn fields_that_the_parent_does_not_believe() {
    checked(async {
        let cast = Cast::new("scribble-fields", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        for n in 0..200 {
            let call = pool.apply_async(echo, n);
            // Reports read the page too.
            let _ = (call.status(), pool.workers(), pool.status());
            assert_eq!(call.await.unwrap(), n);
        }
        assert_eq!(pool.stats().workers_started, 1);
        pool.terminate().await;
    });
}

/// What becomes of a task whose worker dies with this in the page.
async fn last_words(
    script: String,
    options: fn(PoolBuilder) -> PoolBuilder,
) -> Result<u32, TaskError> {
    let cast = Cast::new(&script, 1);
    let pool = options(cast.builder().workers(1)).build().unwrap();
    let ended = pool.apply(echo, 7).await;
    assert_eq!(pool.apply(echo, 8).await.unwrap(), 8, "{script}");
    assert_eq!(pool.stats().workers_started, 2, "{script}");
    pool.terminate().await;
    ended
}

#[test]
fn slot_words_that_a_dead_worker_leaves() {
    checked(async {
        for phase in [0, 1, 2, 3, 4, 5, 6, 7, 255] {
            for whose in ["right", "wrong"] {
                let script = format!("scribble-word:{phase} {whose}");
                let ended = last_words(script.clone(), |pool| pool).await;
                let unstarted = matches!(phase, 1 | 5) && whose == "right";
                match ended {
                    Ok(answer) if unstarted => assert_eq!(answer, 7),
                    Err(TaskError::WorkerLost { exit, .. }) if !unstarted => {
                        assert_eq!(exit, Exit::from_code(3), "{script}");
                    }
                    other => panic!("{script}: {other:?}"),
                }
                // And where it is not believed.
                let ended = last_words(script.clone(), |pool| pool.untrusted()).await;
                let lost = matches!(ended, Err(TaskError::WorkerLost { .. }));
                assert!(lost, "{script}, untrusted: {ended:?}");
            }
        }
    });
}

#[test]
fn outboxes_that_a_dead_worker_leaves() {
    let damaged = Some("the worker's status page is damaged");
    let cases = [
        ("nothing", None),
        ("less", None),
        ("half an answer", None),
        ("everything", damaged),
        ("a ring", damaged),
        ("half a ring and one", damaged),
        ("from later on", damaged),
        ("from the end of time", damaged),
        ("half a ring", Some("the worker sent a frame of unknown kind 0")),
        ("noise", Some("the worker sent a frame of unknown kind 238")),
        ("another answer", Some("the worker answered task 9 where 1 was due")),
    ];
    checked(async {
        for (state, sentence) in cases {
            let script = format!("scribble-outbox:{state}");
            let error = last_words(script, |pool| pool).await.unwrap_err();
            match sentence {
                Some(sentence) => assert_protocol(&error, sentence),
                None => assert_eq!(error.exit(), Some(Exit::from_code(3)), "{state}: {error:?}"),
            }
        }
        // That one is an answer.
        assert_eq!(last_words("scribble-outbox:an answer".into(), |pool| pool).await.unwrap(), 7);
    });
}

/// While the worker lives, what cannot be in the ring is taken to be in the
/// socket, or on its way there.
#[test]
fn outboxes_of_a_worker_that_lives() {
    let harmless = [
        "nothing",
        "less",
        "everything",
        "a ring",
        "half a ring and one",
        "from later on",
        "from the end of time",
    ];
    let lies = [
        ("half a ring", "the worker sent a frame of unknown kind 0"),
        ("noise", "the worker sent a frame of unknown kind 238"),
        ("another answer", "the worker answered task 9 where 1 was due"),
    ];
    checked(async {
        for state in harmless {
            let cast = Cast::new(&format!("scribble-outbox-alive:{state}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let calls = [pool.apply_async(echo, 7), pool.apply_async(echo, 8)];
            let [first, second] = join_all(calls).await.try_into().unwrap();
            assert_eq!((first.unwrap(), second.unwrap()), (7, 8), "{state}");
            assert_eq!(pool.stats().workers_started, 1, "{state}");
            pool.terminate().await;
        }
        for (state, sentence) in lies {
            let cast = Cast::new(&format!("scribble-outbox-alive:{state}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let calls = [pool.apply_async(echo, 7), pool.apply_async(echo, 8)];
            for ended in join_all(calls).await {
                assert_protocol(&ended.unwrap_err(), sentence);
            }
            assert_eq!(pool.apply(echo, 9).await.unwrap(), 9);
            pool.terminate().await;
        }
    });
}

/// However much of a chunk a worker claims to have done, each item has one answer.
#[test]
fn tallies_of_chunks() {
    const NUMBERS: [u32; 4] = [0, 1, 3, u32::MAX];
    async fn play(script: String) {
        let cast = Cast::new(&script, 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let imap = pool.imap_unordered(echo, vec![5; 8]).chunk_size(4).indexed();
        let answers: Vec<_> = within(LIMIT, imap.collect()).await;
        let mut indices: Vec<_> = answers.iter().map(|(index, _)| *index).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..8), "{script}: {answers:?}");
        for (index, answer) in answers {
            match answer {
                Ok(n) => assert_eq!(n, 5, "{script}"),
                Err(error) => assert!(index < 4, "{script}, {index}: {error}"),
            }
        }
        pool.terminate().await;
    }
    checked(async {
        for then in ["dies", "dies-noise", "answers", "answers-noise"] {
            for begun in NUMBERS {
                let cases = NUMBERS.map(|answered| {
                    [0, answered.saturating_mul(5), 40, u32::MAX]
                        .map(|len| format!("scribble-tally:{then} {begun} {answered} {len}"))
                });
                join_all(cases.into_iter().flatten().map(play)).await;
            }
        }
    });
}

/// Whatever the word says after it was asked to end, the task ends.
#[test]
fn slot_words_under_a_cancel() {
    checked(async {
        let scratch = Scratch::new();
        let scratch = &scratch;
        join_all([0, 1, 2, 4, 5, 6, 7, 255].map(|phase| async move {
            let told = scratch.path(&format!("{phase}"));
            let cast = Cast::new(&format!("scribble-cancelled:{phase} {told}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            let running = pool.apply_async(echo, 1);
            noted(&told).await;
            let cancelled = running.cancel().await;
            assert!(cancelled.started, "{phase}");
            assert_eq!(cancelled.exit.and_then(|exit| exit.signal()), Some(9), "{phase}");
            assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
            pool.terminate().await;
        }))
        .await;
    });
}

/// No answer is wrong, no call hangs, and the pool outlives all of them.
#[test]
fn anything_anywhere_at_any_time() {
    checked(async {
        let peak = Peak::new();
        for seed in 0..8 {
            let cast = Cast::new(&format!("scribble-at-random:{seed}"), 6);
            let pool = cast.builder().workers(2).build().unwrap();
            let calls = (0..200).map(|n| {
                let call = pool.apply(echo, n).timeout(Duration::from_millis(50 + u64::from(n)));
                async move { (n, within(LIMIT, call).await) }
            });
            for (n, ended) in join_all(calls).await {
                match ended {
                    Ok(answer) => assert_eq!(answer, n),
                    Err(
                        TaskError::Protocol(_)
                        | TaskError::TimedOut { .. }
                        | TaskError::WorkerLost { .. },
                    ) => {}
                    Err(other) => panic!("seed {seed}, task {n}: {other:?}"),
                }
            }
            pool.terminate().await;
        }
        peak.assert_below(64 << 20);
    });
}
