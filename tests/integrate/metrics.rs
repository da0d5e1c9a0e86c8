//! What a recorder is told of a pool agrees with what has happened in it.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use procession::{Pool, TaskError, metrics as names};

use crate::support::{LIMIT, Scratch, alone, checked_current_thread, note, noted, until, within};

/// Everything that a recorder has been told. It is taken out by each look: counters and
/// histograms are added up here, and gauges are looked at after something has changed.
struct Heard {
    snapshotter: Snapshotter,
    values: BTreeMap<String, Vec<f64>>,
}

impl Heard {
    fn look(&mut self) {
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let labels = key.key().labels().map(|label| format!(" {}", label.value()));
            let name = format!("{}{}", key.key().name(), labels.collect::<String>());
            let values = self.values.entry(name).or_default();
            match value {
                DebugValue::Gauge(value) => *values = vec![value.into_inner()],
                DebugValue::Counter(count) => match values.first_mut() {
                    Some(sum) => *sum += count as f64,
                    None => values.push(count as f64),
                },
                DebugValue::Histogram(times) => values.extend(times.iter().map(|t| t.into_inner())),
            }
        }
    }

    /// The value of a gauge or a counter; 0 if it was never told.
    fn of(&self, name: &str, label: &str) -> f64 {
        let name = format!("{name} {label}");
        self.values.get(name.trim()).map_or(0.0, |values| values[0])
    }

    fn times(&self, name: &str) -> Vec<f64> {
        self.values.get(&format!("{name} measured")).cloned().unwrap_or_default()
    }
}

fn stuck(journal: String) {
    note(journal, "here");
    loop {
        std::thread::park();
    }
}

fn sleeps(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[test]
fn a_recorder_is_told_what_happens() {
    let recorder = DebuggingRecorder::new();
    let mut heard = Heard { snapshotter: recorder.snapshotter(), values: BTreeMap::new() };
    // For this thread, which does everything here.
    let _guard = metrics::set_default_local_recorder(&recorder);
    checked_current_thread(async {
        let pool =
            Pool::builder().name("measured").workers(2).frame_limit(64 << 10).build().unwrap();
        pool.ready().await.unwrap();
        heard.look();
        let workers =
            |heard: &Heard, state: &str| heard.of(names::WORKERS, &format!("measured {state}"));
        let all = ["idle", "busy", "starting"].map(|state| workers(&heard, state));
        assert_eq!(all, [2.0, 0.0, 0.0]);
        // Whoever asks for their rate would not see the first otherwise.
        let outcomes = ["completed", "panicked", "cancelled", "timed_out", "lost", "failed"];
        let counters = outcomes.map(|outcome| format!("{} measured {outcome}", names::TASKS));
        let others = [names::SUBMITTED, names::RESPAWNED, names::LOST]
            .map(|name| format!("{name} measured"));
        for counter in counters.iter().chain(&others) {
            assert_eq!(heard.values.get(counter), Some(&vec![0.0]), "{counter}");
        }

        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let mut held: Vec<_> = (0..2).map(|_| pool.apply_async(stuck, journal.clone())).collect();
        held.extend((0..6).map(|_| pool.apply_async(stuck, journal.clone())));
        until("two run", || crate::support::notes(&journal).len() == 2).await;
        heard.look();
        assert_eq!(["idle", "busy"].map(|state| workers(&heard, state)), [0.0, 2.0]);
        let waiting = heard.of(names::PENDING, "measured");
        let in_flight = heard.of(names::IN_FLIGHT, "measured");
        assert_eq!(waiting + in_flight, 8.0);
        assert_eq!(heard.of(names::SUBMITTED, "measured"), 8.0);
        assert!(in_flight >= 2.0);
        for handle in held.into_iter().rev() {
            handle.cancel().await;
        }
        heard.look();
        assert_eq!(heard.of(names::TASKS, "measured cancelled"), 8.0);
        assert_eq!(heard.of(names::PENDING, "measured"), 0.0);
        assert_eq!(heard.of(names::IN_FLIGHT, "measured"), 0.0);
        pool.ready().await.unwrap();
        heard.look();
        assert_eq!(heard.of(names::RESPAWNED, "measured"), 2.0, "those that were stopped");
        assert_eq!(heard.of(names::LOST, "measured"), 0.0);

        pool.apply(sleeps, 100).await.unwrap();
        pool.map(sleeps, [1; 5]).chunk_size(1).await.unwrap();
        pool.apply(|| -> () { panic!("one") }, ()).await.unwrap_err();
        pool.apply(|| -> () { std::process::abort() }, ()).await.unwrap_err();
        let late = pool.apply(sleeps, 1_000_000).timeout(Duration::from_millis(10)).await;
        assert!(late.unwrap_err().is_timeout());
        let many = pool.apply(|_: Vec<u8>| (), vec![0; 100 << 10]).await.unwrap_err();
        assert!(matches!(many, TaskError::TooLarge { .. }), "which never came in");
        let stats = pool.stats();
        heard.look();
        for (outcome, count) in [
            ("completed", stats.completed),
            ("panicked", stats.panicked),
            ("cancelled", stats.cancelled),
            ("timed_out", stats.timed_out),
            ("lost", stats.lost),
            ("failed", stats.failed),
        ] {
            let told = heard.of(names::TASKS, &format!("measured {outcome}"));
            assert_eq!(told, count as f64, "{outcome}");
        }
        assert_eq!(heard.of(names::SUBMITTED, "measured"), stats.submitted as f64);
        assert_eq!((stats.completed, stats.lost), (6, 1));
        assert_eq!(heard.of(names::LOST, "measured"), 1.0);
        // Six were answered, and one by its panic.
        let (wait, run) = (heard.times(names::WAIT_TIME), heard.times(names::RUN_TIME));
        assert_eq!((wait.len(), run.len()), (7, 7));
        assert!(run.iter().any(|&seconds| (0.1..60.0).contains(&seconds)), "{run:?}");
        assert!(wait.iter().all(|seconds| (0.0..60.0).contains(seconds)), "{wait:?}");

        pool.close();
        pool.join().await;
        heard.look();
        let started = pool.stats().workers_started as f64;
        assert_eq!(heard.of(names::STARTED, "measured"), started);
        assert_zero(&heard);

        // And where a pool just ends.
        let pool = Pool::builder().name("dropped").workers(2).build().unwrap();
        pool.ready().await.unwrap();
        heard.look();
        assert_eq!(heard.of(names::WORKERS, "dropped idle"), 2.0);
        let started = scratch.path("started");
        let handle = pool.apply_async(stuck, started.clone());
        noted(&started).await;
        drop(pool);
        handle.await.unwrap_err();
        heard.look();
        assert_zero(&heard);
    });
}

/// Those that only wait are brought in by whoever comes next, which may take long.
#[test]
fn a_recorder_hears_at_once_of_calls_that_only_wait() {
    let recorder = DebuggingRecorder::new();
    let mut heard = Heard { snapshotter: recorder.snapshotter(), values: BTreeMap::new() };
    let _guard = metrics::set_default_local_recorder(&recorder);
    checked_current_thread(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().name("deep").workers(1).build().unwrap();
        let first = pool.apply_async(stuck, journal.clone());
        noted(&journal).await;
        let rest: Vec<_> = (0..200).map(|_| pool.apply_async(sleeps, 0)).collect();
        heard.look();
        assert_eq!(heard.of(names::SUBMITTED, "deep"), 201.0);
        let waiting = heard.of(names::PENDING, "deep");
        assert_eq!(waiting + heard.of(names::IN_FLIGHT, "deep"), 201.0);
        drop((first, rest));
        pool.terminate().await;
    });
}

/// Is not done with how long a call took before its caller has gone on.
struct Slow(Arc<Goes>);

struct Goes {
    on: Mutex<Receiver<()>>,
    has_gone_on: Mutex<Vec<bool>>,
}

impl HistogramFn for Goes {
    fn record(&self, _: f64) {
        let has_gone_on = self.on.lock().unwrap().recv_timeout(LIMIT / 2).is_ok();
        self.has_gone_on.lock().unwrap().push(has_gone_on);
    }
}

impl Recorder for Slow {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match key.name() {
            names::RUN_TIME => Histogram::from_arc(Arc::clone(&self.0)),
            _ => Histogram::noop(),
        }
    }
}

#[test]
fn no_caller_waits_for_the_recorder() {
    let (go_on, on) = mpsc::channel();
    let goes = Arc::new(Goes { on: Mutex::new(on), has_gone_on: Mutex::default() });
    let recorder: &'static Slow = Box::leak(Box::new(Slow(Arc::clone(&goes))));
    alone(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            // Where the pool's driver is.
            .on_thread_start(|| std::mem::forget(metrics::set_default_local_recorder(recorder)))
            .build()
            .unwrap();
        let pool = runtime.block_on(within(LIMIT, async {
            let pool = Pool::builder().workers(1).build().unwrap();
            for _ in 0..3 {
                pool.apply(sleeps, 0).await.unwrap();
                go_on.send(()).unwrap();
            }
            pool
        }));
        drop(runtime);
        drop(pool);
        assert_eq!(goes.has_gone_on.lock().unwrap()[..], [true; 3]);
    });
}

fn assert_zero(heard: &Heard) {
    for (name, values) in &heard.values {
        let is_gauge = [names::WORKERS, names::PENDING, names::IN_FLIGHT]
            .iter()
            .any(|gauge| name.starts_with(&format!("{gauge} ")));
        assert!(!is_gauge || values[..] == [0.0], "{name}: {values:?}");
    }
}
