//! What a recorder is told of a pool agrees with what has happened in it.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use procession::{Pool, TaskError, metrics as names};

use crate::support::{Scratch, checked_current_thread, note, noted, until};

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
            ("timed out", stats.timed_out),
            ("lost", stats.lost),
            ("failed", stats.failed),
        ] {
            let told = heard.of(names::TASKS, &format!("measured {outcome}"));
            assert_eq!(told, count as f64, "{outcome}");
        }
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

fn assert_zero(heard: &Heard) {
    for (name, values) in &heard.values {
        let is_gauge = [names::WORKERS, names::PENDING, names::IN_FLIGHT]
            .iter()
            .any(|gauge| name.starts_with(&format!("{gauge} ")));
        assert!(!is_gauge || values[..] == [0.0], "{name}: {values:?}");
    }
}
