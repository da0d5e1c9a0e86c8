//! Workers that tell their parent's `tracing` what they like: it is told within
//! bounds, or ends them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tracing::Instrument;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Script};
use crate::support::{checked_current_thread, until};
use crate::trial::{assert_protocol, trial};
use crate::wire::{self, done, event, frame, frame_of_length, ready, span, trace};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("trace", |actor, how| {
        if how == "before hello" {
            return actor.send(&trace(0, 0, &[], None));
        }
        actor.hear_setup();
        let greeting = [actor.hello(), trace(0, 0, &[7], None), ready()].concat();
        actor.send(&greeting);
        let seq = actor.take().seq;
        actor.start(seq);
        let news = |record: &[u8]| trace(seq, 0, &[], Some(record));
        let bytes = match how {
            "empty" => frame(wire::TRACE, 0, seq, &[]),
            "garbage" => frame(wire::TRACE, 0, seq, &[0xff; 40]),
            "left over" => frame(wire::TRACE, 0, seq, &[0, 0, 0, 7]),
            "no record" => news(&[9]),
            "no text" => news(&event(0, "target", b"\xff\xfe no text")),
            "flags" => frame(wire::TRACE, 1, seq, &[0, 0, 0]),
            "giant" => frame_of_length(1 << 30, wire::TRACE, 0, seq, &[]),
            // As many as there are, of no bytes each.
            "a lie" => news(&[&[2][..], &[7], &wire::varint(u64::MAX)].concat()),
            _ => unreachable!("no trace {how}"),
        };
        actor.send(&bytes);
    }),
    ("trace-flood", |actor, how| {
        let seq = actor.greet_and_take().seq;
        actor.start(seq);
        let long = vec![b'x'; 60_000];
        for n in 0.. {
            let target = format!("hostile::{n}");
            let bytes = match how {
                "events" => trace(seq, 0, &[], Some(&event(0, "hostile", b"again"))),
                "places" => trace(seq, 0, &[], Some(&event(n, &target, b"again"))),
                "spans" => trace(seq, 0, &[], Some(&span(n, n - n.min(1), "hostile"))),
                "long" => trace(seq, 0, &[], Some(&event(0, "hostile", &long))),
                "dropped" => trace(seq, u64::MAX, &[n, n, n], None),
                "headers" => frame(wire::TRACE, 0, seq, &[0, 0, 0]),
                _ => unreachable!("no flood of {how}"),
            };
            actor.send(&bytes);
        }
    }),
    ("trace-of-others", |actor: &mut Actor, _| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        for seq in [0, task.seq, task.seq + 1, task.seq.wrapping_sub(1), u64::MAX] {
            let target = format!("of::{seq}");
            actor.send(&trace(seq, 0, &[99], Some(&event(99, &target, b"mine"))));
        }
        actor.finish(task.seq);
        actor.send(&done(task.seq, 1, &task.body[20..]));
        actor.send(&trace(task.seq, 0, &[], Some(&event(0, "after", b"mine"))));
    }),
];

/// Counts events by target, and keeps the names of the spans around the last.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<BTreeMap<String, Heard>>>);

/// How many there were, and what is around the last.
type Heard = (usize, Vec<&'static str>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Count {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let around = context.event_scope(event).into_iter().flatten().map(|span| span.name());
        let mut counts = self.0.lock().unwrap();
        let (count, last) = counts.entry(event.metadata().target().to_owned()).or_default();
        *count += 1;
        *last = around.collect();
    }
}

impl Count {
    fn of(&self, target: &str) -> usize {
        self.0.lock().unwrap().get(target).map_or(0, |(count, _)| *count)
    }

    fn around(&self, target: &str) -> Vec<&'static str> {
        self.0.lock().unwrap().get(target).expect("it was heard").1.clone()
    }
}

#[test]
fn news_that_are_none() {
    let cases = [
        ("empty", "a malformed message (trace)"),
        ("garbage", "a malformed message (trace)"),
        ("left over", "a malformed message (trace)"),
        ("no record", "a malformed message (trace)"),
        ("no text", "a malformed message (trace)"),
        ("a lie", "a malformed message (trace)"),
        ("flags", "a malformed message (flags)"),
        ("giant", "over the limit of 65536"),
    ];
    checked_current_thread(async {
        for (how, sentence) in cases {
            assert_protocol(&trial(&format!("trace:{how}")).await, sentence);
        }
        let cast = Cast::new("trace:before hello", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(echo, 3).await.unwrap(), 3);
        assert_eq!(pool.stats().workers_started, 2);
        pool.terminate().await;
    });
}

/// What is told of it is bounded, and so is what is kept; then it is stopped.
#[test]
fn floods() {
    for how in ["events", "places", "spans", "long", "dropped", "headers"] {
        let count = Count::default();
        let subscriber = tracing_subscriber::registry().with(count.clone());
        let heard = tracing::subscriber::set_default(subscriber);
        checked_current_thread(async {
            let error = trial(&format!("trace-flood:{how}")).await;
            assert_protocol(&error, "the worker said more to `tracing` than it may");
        });
        drop(heard);
        let all: usize = count.0.lock().unwrap().values().map(|(count, _)| count).sum();
        println!("{how}: {all} events heard of");
        match how {
            "events" => assert!((1000..100_000).contains(&count.of("hostile"))),
            "places" => assert!(count.of("procession::forwarded") > 1000),
            "long" => assert!((5..1000).contains(&count.of("hostile"))),
            _ => {}
        }
    }
}

#[test]
fn of_what_it_was_not_given() {
    let count = Count::default();
    let subscriber = tracing_subscriber::registry().with(count.clone());
    let heard = tracing::subscriber::set_default(subscriber);
    checked_current_thread(async {
        let cast = Cast::new("trace-of-others", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let call = pool.apply(echo, 3).instrument(tracing::info_span!("request"));
        assert_eq!(call.await.unwrap(), 3);
        // Perhaps before its answer was taken in.
        until("the last is heard", || count.of("after") == 1).await;
        pool.terminate().await;
    });
    drop(heard);
    assert_eq!(count.around("of::1"), ["task", "request"]);
    for target in ["of::0", "of::2", "of::18446744073709551615"] {
        assert_eq!(count.around(target), ["worker"], "{target}");
    }
}
