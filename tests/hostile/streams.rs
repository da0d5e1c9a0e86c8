//! Streams whose worker sends what it should not.

use futures::StreamExt;
use procession::TaskError;

use crate::attack::echo;
use crate::scripted::{Cast, Script};
use crate::support::{checked, is_alive, until};
use crate::trial::{Peak, assert_protocol};
use crate::wire::{self, done, frame, item, skipped};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[("stream", |actor, how| {
    let task = actor.greet_and_take();
    let seq = task.seq;
    actor.start(seq);
    let bytes = match how {
        "flood" => item(seq, &[7]).repeat(10_000),
        "one too many" => item(seq, &[7]).repeat(5),
        "another's" => item(seq + 1, &[7]),
        "nobody's" => item(0, &[7]),
        "after the end" => {
            actor.finish(seq);
            [item(seq, &[7]), done(seq, 1, &[]), item(seq, &[8])].concat()
        }
        "a value at the end" => {
            actor.finish(seq);
            [item(seq, &[7]), done(seq, 1, &[9])].concat()
        }
        "two at the end" => {
            actor.finish(seq);
            [item(seq, &[7]), done(seq, 1, &[]), done(seq, 1, &[])].concat()
        }
        "skipped" => [item(seq, &[7]), skipped(seq)].concat(),
        "malformed" => [item(seq, &[7]), item(seq, &[])].concat(),
        "left over" => [item(seq, &[7]), item(seq, &[7, 7])].concat(),
        "too long" => {
            [item(seq, &[7]), wire::frame_of_length(1 << 30, wire::ITEM, 0, seq, &[])].concat()
        }
        "flags" => [item(seq, &[7]), frame(wire::ITEM, 2, seq, &[7])].concat(),
        _ => unreachable!("no stream {how}"),
    };
    actor.send(&bytes);
})];

fn sevens(_: ()) -> std::iter::Repeat<u8> {
    std::iter::repeat(7)
}

/// Reads such a stream to its end: the items before it, and the error.
async fn read(how: &str) -> (Vec<u8>, Option<TaskError>) {
    let peak = Peak::new();
    let cast = Cast::new(&format!("stream:{how}"), 1);
    let pool = cast.builder().workers(1).build().unwrap();
    let mut items = Vec::new();
    let mut error = None;
    let mut stream = pool.stream(sevens, ()).buffer(4);
    while let Some(next) = stream.next().await {
        assert!(error.is_none(), "{how}: an error is the last");
        match next {
            Ok(item) => items.push(item),
            Err(why) => error = Some(why),
        }
    }
    drop(stream);
    // Whatever it was, the worker does not get away with it.
    let villain = cast.villain().await as i32;
    until(how, || !is_alive(villain)).await;
    assert_eq!(pool.apply(echo, 300).await.unwrap(), 300, "{how}");
    assert_eq!(pool.stats().workers_started, 2, "{how}");
    pool.terminate().await;
    peak.assert_below(64 << 20);
    (items, error)
}

#[test]
fn more_than_was_asked_for() {
    checked(async {
        for how in ["flood", "one too many"] {
            let (items, error) = read(how).await;
            assert_eq!(items, [7; 4], "{how}");
            let sentence = "the worker sent more stream items than it was asked for";
            assert_protocol(&error.unwrap(), sentence);
        }
    });
}

#[test]
fn items_of_tasks_that_were_not_given() {
    checked(async {
        for (how, seq) in [("another's", 2), ("nobody's", 0)] {
            let (items, error) = read(how).await;
            assert_eq!(items, [0; 0]);
            let sentence = format!("the worker answered task {seq} where 1 was due");
            assert_protocol(&error.unwrap(), &sentence);
        }
    });
}

/// The stream has ended well by then.
#[test]
fn items_and_ends_after_the_end() {
    checked(async {
        for how in ["after the end", "two at the end"] {
            let (items, error) = read(how).await;
            assert_eq!(items, [7], "{how}");
            assert!(error.is_none(), "{how}: {error:?}");
        }
    });
}

#[test]
fn ends_that_do_not_fit_a_stream() {
    checked(async {
        for how in ["a value at the end", "skipped"] {
            let (items, error) = read(how).await;
            assert_eq!(items, [7], "{how}");
            assert_protocol(&error.unwrap(), "the worker's answer does not fit the call");
        }
    });
}

#[test]
fn items_that_are_none() {
    checked(async {
        let cases = [
            ("malformed", "it ends in the middle of a value"),
            ("left over", "1 byte is left over after the value"),
        ];
        for (how, sentence) in cases {
            let (items, error) = read(how).await;
            assert_eq!(items, [7], "{how}");
            let error = error.unwrap();
            assert!(matches!(error, TaskError::Decode(_)), "{how}: {error:?}");
            assert!(error.to_string().contains(sentence), "{error}");
        }
        for (how, sentence) in [("too long", "is over the limit of"), ("flags", "malformed")] {
            let (items, error) = read(how).await;
            assert_eq!(items, [7], "{how}");
            assert_protocol(&error.unwrap(), sentence);
        }
    });
}
