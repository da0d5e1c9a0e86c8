//! Percentiles of how long calls wait and run, and the slowest of them; and what a
//! page is made of.

use std::time::Duration;

use procession::Pool;

use crate::support::{Scratch, checked, until};

fn sleeps(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn waits_for(gate: String) {
    while !std::path::Path::new(&gate).exists() {
        sleeps(1);
    }
}

#[test]
fn stats_tell_how_long_calls_wait_and_run() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        assert_eq!((pool.stats().run.count, pool.stats().run.max), (0, Duration::ZERO));
        let scratch = Scratch::new();
        let first = pool.apply_async(waits_for, scratch.path("gate"));
        until("it runs", || pool.status().running == 1).await;
        let calls: Vec<_> = (0..10).map(|_| pool.apply_async(sleeps, 20)).collect();
        // So long all of them wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::fs::write(scratch.path("gate"), "").unwrap();
        first.await.unwrap();
        for call in calls {
            call.await.unwrap();
        }
        pool.apply(sleeps, 200).label("the long one").await.unwrap();
        pool.apply(|| -> () { panic!("one") }, ()).await.unwrap_err();
        let stats = pool.stats();
        assert_eq!((stats.wait.count, stats.run.count), (13, 13));
        let least = |millis: u64| Duration::from_millis(millis);
        assert!(stats.run.p50 >= least(19) && stats.run.max >= least(198), "{stats:?}");
        assert!(stats.wait.p50 >= least(190), "ten waited for the first: {stats:?}");
        assert!(stats.wait.p50 <= stats.wait.p90 && stats.wait.p999 <= stats.wait.max);
        let slowest = pool.slowest();
        assert_eq!(slowest.len(), 10);
        // To write down a backtrace may have taken longer.
        let long = slowest.iter().find(|slow| slow.info.label() == Some("the long one")).unwrap();
        assert!(long.ran >= least(198) && long.info.name().ends_with("sleeps"));
        assert!(slowest.is_sorted_by(|a, b| a.ran >= b.ran));
    });
}

#[test]
fn everything_a_pool_says_can_be_serialised() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.apply(sleeps, 1).label("short").await.unwrap();
        let call = pool.apply(sleeps, 1_000_000).label("long").start();
        until("it runs", || pool.workers()[0].task.is_some()).await;
        let json = |value: &dyn erased::Json| value.json();
        let status = json(&pool.status());
        assert_eq!((&status["state"], &status["busy"]), (&"open".into(), &1.into()));
        let stats = json(&pool.stats());
        assert_eq!(stats["completed"], 1);
        // In seconds, as all that is told of times.
        assert!(stats["run"]["p99"].as_f64().is_some_and(|p99| p99 >= 0.001), "{stats}");
        assert_eq!(stats["wait"]["count"], 1);
        let worker = &pool.workers()[0];
        assert!(worker.memory.is_some_and(|bytes| bytes > 1 << 20), "{worker:?}");
        let worker = json(worker);
        assert_eq!((&worker["state"], &worker["index"]), (&"busy".into(), &0.into()));
        assert_eq!(worker["task"]["info"]["label"], "long");
        assert!(worker["task"]["seconds"].as_f64().unwrap() >= 0.0);
        let slow = json(&pool.slowest());
        assert_eq!(slow[0]["info"]["label"], "short");
        assert_eq!(pool.workers()[0].state.to_string(), "busy");
        assert_eq!(pool.status().state.to_string(), "open");
        drop(call);
    });
}

mod erased {
    pub(super) trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}
