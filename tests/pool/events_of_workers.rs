//! What a worker's `tracing` is told, heard here within the caller's span.

use std::sync::Once;
use std::time::Duration;

use procession::{Pool, PoolBuilder, worker};
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, Level, debug, info, info_span, trace, warn};

use crate::records::{Keep, Record, heard, listen};
use crate::support::{
    Scratch, checked, checked_current_thread, for_good, note, noted, notes, until,
};
use crate::tasks::{await_file, in_a_copy, kill, open, pid, pool_of, square};

/// A pool of one worker that forwards.
fn forwarding() -> PoolBuilder {
    Pool::builder()
        .name("talks")
        .workers(1)
        .initializer(|| worker::forward_tracing(Level::DEBUG), ())
}

/// What tasks said.
fn said() -> Vec<Record> {
    heard(module_path!())
}

fn messages() -> Vec<String> {
    said().iter().map(|record| record.message().to_owned()).collect()
}

/// Names of the spans around a record, from the inside out.
fn around(record: &Record) -> Vec<&str> {
    record.spans.iter().map(|(name, _)| *name).collect()
}

fn talk(n: u64) -> u64 {
    trace!("nobody wants this");
    debug!(n, neg = -1, yes = true, half = 0.5, text = "é \"", list = ?[1, 2], "got {n}");
    let span = info_span!("work", size = n, later = tracing::field::Empty);
    span.in_scope(|| {
        warn!(target: "elsewhere", "inside");
        info!("inside");
    });
    span.record("later", "known");
    span.in_scope(|| info!("inside again"));
    n + 1
}

#[test]
fn events_and_spans_are_heard_within_the_callers_span() {
    checked(async {
        listen();
        let pool = forwarding().build().unwrap();
        let request = info_span!("request", user = "eve");
        let worker = pool.apply(pid, ()).await.unwrap();
        assert_eq!(pool.apply(talk, 3).label("x").instrument(request).await.unwrap(), 4);
        assert_eq!(messages(), ["got 3", "inside", "inside again"]);
        let [first, inside, again] = &said()[..] else { panic!() };
        assert_eq!(first.level, Level::DEBUG);
        for (name, value) in [
            ("n", "3"),
            ("neg", "-1"),
            ("yes", "true"),
            ("half", "0.5"),
            ("text", "é \""),
            ("list", "[1, 2]"),
            ("worker.name", "talks/0"),
            ("worker.pid", &worker.to_string()),
        ] {
            assert_eq!(first.fields.get(name), Some(value), "{name}");
        }
        assert_eq!(around(first), ["task", "request"]);
        assert_eq!(first.spans[0].1.get("label"), Some("x"));
        assert_eq!(first.spans[1].1.get("user"), Some("eve"));
        assert_eq!(around(inside), ["work", "task", "request"]);
        let work = &inside.spans[0].1;
        assert_eq!((work.get("size"), work.get("later")), (Some("3"), None));
        assert_eq!(work.get("worker.name"), Some("talks/0"));
        assert_eq!(again.spans[0].1.get("later"), Some("known"));
        let elsewhere = heard("elsewhere");
        assert_eq!((elsewhere.len(), elsewhere[0].level), (1, Level::WARN));
        // Before the answer, and so before the call's own end.
        let ended = heard("procession::task").pop().unwrap();
        assert_eq!(ended.message(), "ended");
    });
}

/// As in a program that has `RUST_LOG=info`: the pool's own spans are not there.
#[test]
fn without_the_pools_own_spans_they_are_in_those_of_the_caller() {
    use tracing_subscriber::layer::SubscriberExt;
    checked_current_thread(async {
        listen();
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(Keep);
        let _guard = tracing::subscriber::set_default(subscriber);
        let pool = forwarding().build().unwrap();
        // Before any worker could tell that it forwards, and after.
        for n in 0..3 {
            let request = info_span!("request", n);
            pool.apply(talk, 3).instrument(request.clone()).await.unwrap();
            let map = request.in_scope(|| pool.map_async(talk, [1]));
            assert_eq!(map.await.unwrap(), [2]);
        }
        assert_eq!(messages(), ["inside", "inside again"].repeat(6));
        for (n, record) in said().iter().enumerate() {
            assert_eq!(around(record), ["work", "request"]);
            assert_eq!(record.spans[1].1.get("n"), Some(&*(n / 4).to_string()));
        }
        assert!(heard("procession::task").is_empty());
        // One that is heard of by nobody is in nothing.
        pool.apply(talk, 3).await.unwrap();
        assert_eq!(around(said().last().unwrap()), ["work", "worker"]);
    });
}

#[test]
fn of_every_kind_of_call() {
    fn items(n: u64) -> impl Iterator<Item = u64> {
        (0..n).inspect(|n| info!(n, "item"))
    }
    async fn waits(n: u64) -> u64 {
        tokio::task::yield_now().await;
        info!(n, "waited");
        n
    }
    checked(async {
        use futures::StreamExt;
        listen();
        let pool = forwarding().workers(2).build().unwrap();
        let request = |kind| info_span!("request", kind);
        pool.apply(waits, 1).instrument(request("async")).await.unwrap();
        pool.map(talk, 0..20).instrument(request("map")).await.unwrap();
        let streamed = pool.stream(items, 3).collect::<Vec<_>>();
        assert_eq!(streamed.instrument(request("stream")).await.len(), 3);
        pool.imap(talk, 0..20).collect::<Vec<_>>().instrument(request("imap")).await;
        let of = |kind: &str| {
            let said = said();
            let is_its = |r: &&Record| r.spans.last().unwrap().1.get("kind") == Some(kind);
            said.iter().filter(is_its).count()
        };
        let counts = ["async", "map", "stream", "imap"].map(of);
        assert_eq!(counts, [1, 60, 3, 60]);
        assert_eq!(said().len(), 124);
    });
}

#[test]
fn the_last_words_of_those_that_die_arrive() {
    fn last_words() {
        info!("about to abort");
        std::process::abort();
    }
    fn spin(journal: String) {
        note(journal, "spins");
        for n in 0.. {
            info!(n, "spins");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    checked(async {
        listen();
        let pool = forwarding().grace_period(Duration::ZERO).build().unwrap();
        let request = info_span!("request");
        for n in 1..20 {
            pool.apply(last_words, ()).instrument(request.clone()).await.unwrap_err();
            assert_eq!(messages(), vec!["about to abort"; n]);
            assert_eq!(around(said().last().unwrap()), ["task", "request"]);
        }
        listen();
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let call = request.in_scope(|| pool.apply_async(spin, journal.clone()));
        noted(&journal).await;
        // While it runs.
        until("it is heard", || said().len() > 3).await;
        assert!(call.cancel().await.started);
        let numbers: Vec<_> = said().iter().map(|r| r.fields.get("n").unwrap().parse()).collect();
        assert_eq!(numbers, (0..numbers.len()).map(Ok).collect::<Vec<_>>(), "in order, each once");
        assert!(said().iter().all(|record| around(record) == ["task", "request"]));
    });
}

#[test]
fn what_belongs_to_no_call_is_in_the_workers_span() {
    fn init() -> Result<(), worker::ForwardError> {
        worker::forward_tracing(Level::INFO)?;
        info!("warms up");
        // A second time it changes nothing.
        worker::forward_tracing(Level::TRACE)
    }
    fn leaves_a_thread(gate: String) {
        let inside = tracing::Span::current();
        std::thread::spawn(move || {
            await_file(&gate);
            info!("left behind");
            inside.in_scope(|| info!("says whose it is"));
        });
    }
    checked(async {
        listen();
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let pool = Pool::builder().workers(1).initializer(init, ()).build().unwrap();
        pool.apply(leaves_a_thread, gate.clone()).await.unwrap();
        open(&gate);
        until("they are heard", || said().len() == 3).await;
        assert_eq!(messages(), ["warms up", "left behind", "says whose it is"]);
        for record in said() {
            assert_eq!(around(&record), ["worker"], "{record:?}");
        }
    });
}

/// Nothing waits for a listener, and nothing is told twice.
#[test]
fn a_flood_is_cut_and_counted() {
    const EVENTS: u64 = 50_000;
    fn flood() -> u64 {
        let long = "x".repeat(100);
        for n in 0..EVENTS {
            info!(n, long, "flood");
        }
        EVENTS
    }
    fn floods_from_threads() {
        let span = tracing::Span::current();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| span.in_scope(flood));
            }
        });
    }
    checked(async {
        listen();
        let pool = forwarding().build().unwrap();
        assert_eq!(pool.apply(flood, ()).await.unwrap(), EVENTS);
        let dropped = || -> u64 {
            let told = heard("procession::worker");
            let told = told.iter().filter(|record| record.message() == "said too much at once");
            told.map(|record| record.fields.get("dropped").unwrap().parse::<u64>().unwrap()).sum()
        };
        let numbers: Vec<u64> =
            said().iter().map(|r| r.fields.get("n").unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b));
        assert!((1000..EVENTS).contains(&(numbers.len() as u64)), "{}", numbers.len());
        until("the rest is counted", || numbers.len() as u64 + dropped() == EVENTS).await;
        listen();
        pool.apply(floods_from_threads, ()).await.unwrap();
        until("the rest is counted", || said().len() as u64 + dropped() == 4 * EVENTS).await;
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn what_is_too_long_is_cut() {
    fn long() {
        let text = "é".repeat(100_000);
        info!(text, other = "left", "{text}");
        info!("after");
        // More spans than are told of: what is in them is told all the same.
        let spans: Vec<_> = (0..300).map(|n| info_span!("one of many", n)).collect();
        for span in &spans {
            span.in_scope(|| info!("in one"));
        }
    }
    checked(async {
        listen();
        let pool = forwarding().build().unwrap();
        pool.apply(long, ()).await.unwrap();
        let records = said();
        assert_eq!(records.len(), 302);
        let total: usize = ["message", "text", "other"]
            .map(|f| records[0].fields.get(f).unwrap().len())
            .iter()
            .sum();
        assert!((8000..9000).contains(&total), "{total}");
        let spans = records.iter().filter(|record| around(record) == ["one of many", "task"]);
        assert_eq!(spans.count(), 255, "and one for the call");
        assert_eq!(records.iter().filter(|record| around(record) == ["task"]).count(), 2 + 45);
        // They have ended there, and so here.
        pool.apply(long, ()).await.unwrap();
        assert_eq!(said().len(), 604);
        assert_eq!(around(&said()[500]), ["one of many", "task"]);
    });
}

#[test]
fn a_worker_with_a_subscriber_of_its_own_has_a_span_for_each_call() {
    fn writes_to(path: String) -> Result<(), String> {
        let file = std::fs::File::create(path).map_err(|error| error.to_string())?;
        let subscriber = tracing_subscriber::fmt().with_writer(file).with_ansi(false).finish();
        tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())?;
        match worker::forward_tracing(Level::INFO) {
            Ok(()) => return Err("two subscribers".into()),
            Err(error) => info!(%error, "refused"),
        }
        Ok(())
    }
    checked(async {
        listen();
        let scratch = Scratch::new();
        let path = scratch.path("log");
        let pool = Pool::builder().workers(1).initializer(writes_to, path.clone()).build().unwrap();
        pool.ready().await.unwrap();
        let call = pool.apply(talk, 3).label("nine").start();
        let id = call.id();
        call.await.unwrap();
        pool.apply(|| -> () { panic!("one") }, ()).await.unwrap_err();
        pool.apply(talk, 3).await.unwrap();
        let log = notes(&path);
        assert!(log[0].ends_with("refused error=the worker has a `tracing` subscriber already"));
        let span = concat!("INFO task{name=\"", module_path!(), "::talk\" label=\"nine\" task=");
        assert!(log[2].contains(&format!("{span}{id}}}:work{{size=3}}")), "{log:?}");
        assert_eq!(log.len(), 1 + 3 + 3, "{log:?}");
        assert!(said().is_empty(), "nothing is forwarded");
    });
}

#[test]
fn a_process_of_its_own_forwards_from_its_task() {
    use procession::Process;
    fn task(journal: String, gate: String) -> u64 {
        worker::forward_tracing(Level::INFO).unwrap();
        info!("begins");
        note(journal, "begun");
        await_file(&gate);
        talk(3)
    }
    // What the first process leaves for good.
    for_good(|| assert!(Process::spawn(|| (), ()).unwrap().blocking_join().success()));
    checked(async {
        listen();
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let request = info_span!("request");
        let process = request.in_scope(|| Process::spawn(task, (journal.clone(), gate.clone())));
        noted(&journal).await;
        until("it is heard while it runs", || messages() == ["begins"]).await;
        open(&gate);
        assert_eq!(process.unwrap().await.unwrap(), 4);
        assert_eq!(messages(), ["begins", "inside", "inside again"]);
        assert_eq!(around(said().last().unwrap()), ["work", "request"]);
    });
}

#[test]
fn what_panics_does_not_stay_in_its_span() {
    checked(async {
        listen();
        let pool = forwarding().build().unwrap();
        let panics = || -> () { info_span!("fatal").in_scope(|| panic!("one")) };
        pool.apply(panics, ()).await.unwrap_err();
        pool.apply(talk, 3).instrument(info_span!("second")).await.unwrap();
        assert_eq!(around(&said()[0]), ["task", "second"]);
        // The next worker forwards too.
        kill(pool.workers()[0].pid.unwrap());
        until("there is another", || pool.workers().iter().any(|w| w.restarts == 1)).await;
        pool.apply(talk, 3).instrument(info_span!("third")).await.unwrap();
        assert_eq!(around(said().last().unwrap()), ["work", "task", "third"]);
    });
}

/// It has the worker's socket: what it told once came between the worker's answers,
/// and they were lost.
#[test]
fn a_copy_that_a_task_forks_tells_nothing() {
    fn forks() -> i32 {
        let span = info_span!("of the original");
        in_a_copy(|| {
            for n in 0..100 {
                span.in_scope(|| info_span!("of the copy", n).in_scope(|| warn!("from the copy")));
            }
            drop(span.clone());
            0
        })
    }
    checked(async {
        listen();
        let pool = forwarding().build().unwrap();
        for n in 0..20 {
            assert_eq!(pool.apply(forks, ()).await.unwrap(), 0);
            assert_eq!(pool.apply(square, n).await.unwrap(), n * n);
            assert_eq!(pool.apply(talk, n).await.unwrap(), n + 1);
        }
        assert_eq!(messages(), (0..20).flat_map(talked).collect::<Vec<_>>());
        assert_eq!(pool.stats().workers_started, 1);
    });
}

fn talked(n: u64) -> [String; 3] {
    [format!("got {n}"), "inside".to_owned(), "inside again".to_owned()]
}

#[test]
fn outside_of_workers_it_does_nothing() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| worker::forward_tracing(Level::TRACE).unwrap());
    checked(async {
        // There is room for another subscriber, or was.
        listen();
        let pool = pool_of(1);
        pool.apply(talk, 3).await.unwrap();
        assert!(said().is_empty());
    });
}
