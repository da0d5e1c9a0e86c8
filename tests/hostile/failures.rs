//! Workers that report failures with absurd contents: well-formed, so that
//! the call ends with what they say and the worker lives on, but never more
//! of it than a report may hold.

use futures::StreamExt;
use procession::{Pool, TaskError};

use crate::attack::echo;
use crate::scripted::{Cast, Script};
use crate::support::checked;
use crate::trial::Peak;
use crate::wire::{self, done, failed, text};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("failure", |actor, how| {
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            let answer = failure(task.seq, how);
            actor.send(&answer);
        }
    }),
    // In a chunk, where the limit is that of a frame.
    ("failure-in-chunk", |actor, variant| {
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            let variant: u8 = variant.parse().unwrap();
            let long = text(&vec![b'x'; 900 << 10]);
            let fields = match variant {
                wire::PANICKED => [&long[..], &[0], &text(b"")].concat(),
                _ => long,
            };
            let count = u32::from_le_bytes(task.body[8..12].try_into().unwrap());
            // No values, and then this.
            let payload = [&0_u32.to_le_bytes()[..], &[variant], &fields].concat();
            actor.send(&done(task.seq, 1.min(count), &payload));
        }
    }),
];

/// Texts are cut here, and end with an ellipsis.
const CUT: usize = 16 << 10;
const LONG: usize = 60_000;

fn failure(seq: u64, how: &str) -> Vec<u8> {
    let long = text(&[b'x'; LONG]);
    let three = text(&[b'x'; 20_000]);
    match how {
        "panic" => failed(seq, wire::PANICKED, &[&long[..], &[0], &text(b"")].concat()),
        "panic in three texts" => {
            failed(seq, wire::PANICKED, &[&three[..], &[1], &three, &three].concat())
        }
        "panic of nothing" => failed(seq, wire::PANICKED, &[0, 0, 0]),
        "panic in control" => {
            let message = text(b"\x1b[2J\0\r\n\x07\x08\xe2\x80\xae");
            failed(seq, wire::PANICKED, &[&message[..], &[1], &message, &message].concat())
        }
        "arguments" => failed(seq, wire::ARGUMENTS, &long),
        "result" => failed(seq, wire::RESULT, &long),
        "setting" => failed(seq, wire::SETTING, &long),
        "too large" => {
            let sizes = [wire::varint(u64::MAX), wire::varint(0)].concat();
            failed(seq, wire::RESULT_TOO_LARGE, &sizes)
        }
        "unknown function" => failed(seq, wire::UNKNOWN_FUNCTION, &[]),
        _ => unreachable!("no failure {how}"),
    }
}

async fn told(how: &str) -> TaskError {
    let peak = Peak::new();
    let cast = Cast::new(&format!("failure:{how}"), 1);
    let pool = cast.builder().workers(1).build().unwrap();
    let error = pool.apply(echo, 1).await.unwrap_err();
    // It was an answer: the same worker takes the next task.
    pool.apply(echo, 1).await.unwrap_err();
    assert_eq!(pool.stats().workers_started, 1, "{how}");
    pool.terminate().await;
    peak.assert_below(16 << 20);
    error
}

#[test]
fn panics_with_absurd_texts() {
    checked(async {
        let TaskError::Panicked(panic) = told("panic").await else { panic!("no panic") };
        assert_eq!(panic.message(), format!("{}…", "x".repeat(CUT)));
        assert_eq!((panic.location(), panic.backtrace()), (None, ""));

        let error = told("panic in three texts").await;
        let TaskError::Panicked(panic) = error else { panic!("{error:?}") };
        for text in [panic.message(), panic.location().unwrap(), panic.backtrace()] {
            assert_eq!(text, format!("{}…", "x".repeat(CUT)));
        }

        let error = told("panic of nothing").await;
        assert!(error.to_string().ends_with("echo panicked: "), "{error}");

        let error = told("panic in control").await;
        let TaskError::Panicked(panic) = error else { panic!("{error:?}") };
        assert_eq!(panic.message(), "\x1b[2J\0\r\n\x07\x08\u{202e}", "as it is");
    });
}

#[test]
fn other_failures_with_absurd_contents() {
    checked(async {
        for how in ["arguments", "result", "setting"] {
            let error = told(how).await;
            assert!(matches!(error, TaskError::Encode(_) | TaskError::Decode(_)), "{error:?}");
            let length = error.to_string().len();
            assert!((CUT..CUT + 200).contains(&length), "{how}: {length}");
        }
        let error = told("too large").await;
        assert!(matches!(error, TaskError::TooLarge { size: usize::MAX, limit: 0 }), "{error:?}");
        let error = told("unknown function").await;
        assert!(error.to_string().contains("does not know the function"), "{error}");
    });
}

#[test]
fn failures_in_chunks_are_cut_too() {
    checked(async {
        for variant in [wire::PANICKED, wire::ARGUMENTS, wire::RESULT, wire::SETTING] {
            let cut = |error: &TaskError| {
                let length = error.to_string().len();
                assert!((CUT..CUT + 200).contains(&length), "{variant}: {length}");
            };
            let (_cast, pool) = in_chunk(variant);
            let error = pool.map(echo, 0..4).chunk_size(2).await.unwrap_err();
            assert_eq!(error.index(), Some(0), "{error:?}");
            cut(&error);
            pool.terminate().await;

            let (_cast, pool) = in_chunk(variant);
            let answers: Vec<_> = pool.imap(echo, 0..4).chunk_size(2).collect().await;
            assert_eq!(answers.len(), 4);
            answers.into_iter().for_each(|answer| cut(&answer.unwrap_err()));
            assert_eq!(pool.stats().workers_started, 1);
            pool.terminate().await;
        }
    });
}

fn in_chunk(variant: u8) -> (Cast, Pool) {
    let cast = Cast::new(&format!("failure-in-chunk:{variant}"), 1);
    let pool = cast.builder().workers(1).build().unwrap();
    (cast, pool)
}
