//! A `tracing` subscriber of the program's that panics. It costs what was being told,
//! wherever that happens: others' calls were once not resolved, or the whole pool
//! ended with the event.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use procession::{Pool, Process, Stdio, TaskError, worker};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber, info, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::support::within;

const SOON: Duration = Duration::from_secs(30);

/// Which it is, in a process of its own: a subscriber is for good.
const KIND: &str = "PROCESSION_PANICKING_AT";

/// Panics at each thing of one kind that it is told.
struct Panicking(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Everything,
    Events,
    NewSpans,
    EndsOfSpans,
}

/// At what it has panicked.
static PANICKED_AT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Panicking {
    fn meet(&self, kind: Kind, what: impl FnOnce() -> String) {
        if [kind, Kind::Everything].contains(&self.0) {
            let what = what();
            PANICKED_AT.lock().unwrap_or_else(PoisonError::into_inner).insert(what.clone());
            panic!("a subscriber's bug, on purpose: {what}");
        }
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("procession::") || metadata.target() == module_path!()
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panicking {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        if is_ours(attributes.metadata()) {
            self.meet(Kind::NewSpans, || attributes.metadata().name().to_owned());
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if is_ours(event.metadata()) {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.meet(Kind::Events, || message.0);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let metadata = context.span(&id).unwrap().metadata();
        if is_ours(metadata) {
            self.meet(Kind::EndsOfSpans, || metadata.name().to_owned());
        }
    }
}

/// Runs `life_with` with such a subscriber.
fn lives_with(kind: Kind, test: &str, met: &[&str]) {
    if std::env::var_os(KIND).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&format!("panicking_subscribers::{test}"), "--exact", "--nocapture"])
            .env(KIND, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let subscriber = tracing_subscriber::registry().with(Panicking(kind));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(within(SOON, life()));
    let panicked_at = PANICKED_AT.lock().unwrap();
    for met in met {
        assert!(panicked_at.contains(*met), "not at {met:?}, but at {panicked_at:?}");
    }
}

fn talk(n: u64) -> u64 {
    info_span!("work").in_scope(|| info!("says something"));
    println!("line {n}");
    n
}

/// All that a pool and a process tell.
async fn life() {
    let pool = Pool::builder()
        .workers(1)
        .queue_limit(0)
        .grace_period(Duration::from_millis(50))
        .stdout(Stdio::piped())
        .initializer(|| worker::forward_tracing(Level::DEBUG), ())
        .build()
        .unwrap();
    pool.ready().await.unwrap();
    // The one place that there is is free each time.
    for n in 0..50 {
        assert_eq!(pool.apply(talk, n).await.unwrap(), n);
    }
    let squares = pool.map(|n: u32| n * n, 0..100).chunk_size(3).await.unwrap();
    assert_eq!(squares.len(), 100);
    let talked: Vec<_> = pool.imap(talk, 0..100).try_collect().await.unwrap();
    assert_eq!(talked.len(), 100);
    for _ in 0..3 {
        let lost = pool.apply(|| -> () { std::process::abort() }, ()).await;
        assert!(lost.unwrap_err().is_worker_lost());
        assert_eq!(pool.apply(talk, 1).await.unwrap(), 1);
    }
    // One that says that it will end and does not, and those that wait behind it.
    let stubborn = |_: u32| -> () {
        loop {
            worker::is_cancelled();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let map = pool.map_async(stubborn, 0..3);
    while pool.status().running == 0 {
        tokio::task::yield_now().await;
    }
    drop(map);
    assert_eq!(pool.apply(talk, 2).await.unwrap(), 2);
    pool.close();
    pool.join().await;

    let broken = Pool::builder()
        .workers(1)
        .restart_limit(1)
        .initializer(|| -> () { std::process::exit(3) }, ())
        .build()
        .unwrap();
    let error = broken.apply(talk, 1).await.unwrap_err();
    assert!(matches!(error, TaskError::Broken(_)), "{error:?}");

    for n in 0..3 {
        let process = Process::spawn(
            |n| {
                worker::forward_tracing(Level::INFO).unwrap();
                talk(n)
            },
            n,
        );
        assert_eq!(process.unwrap().await.unwrap(), n);
    }
}

#[test]
fn a_panic_at_an_event_costs_that_event() {
    const MET: [&str; 9] = [
        "queued",
        "sent",
        "ended",
        "started",
        "ready",
        "lost",
        "line 1",
        "says something",
        "pool is broken",
    ];
    lives_with(Kind::Events, "a_panic_at_an_event_costs_that_event", &MET);
}

#[test]
fn a_panic_at_the_start_of_a_span_costs_that_span() {
    const MET: [&str; 3] = ["task", "worker", "work"];
    lives_with(Kind::NewSpans, "a_panic_at_the_start_of_a_span_costs_that_span", &MET);
}

#[test]
fn a_panic_at_the_end_of_a_span_costs_nothing() {
    const MET: [&str; 3] = ["task", "worker", "work"];
    lives_with(Kind::EndsOfSpans, "a_panic_at_the_end_of_a_span_costs_nothing", &MET);
}

/// An event's panic drops spans, whose ends panic.
#[test]
fn panics_in_panics_end_nothing() {
    lives_with(Kind::Everything, "panics_in_panics_end_nothing", &["worker", "pool is broken"]);
}
