//! Settings that make no sense are errors of `build`, which say which.

use std::time::Duration;

use procession::{Pool, PoolBuilder, Stdio};

use crate::support::checked;

fn refused(builder: PoolBuilder, option: &str) {
    let error = builder.build().map(drop).unwrap_err();
    assert!(error.is_setting(), "{option}: {error:?}");
    assert!(error.to_string().starts_with(&format!("{option}: ")), "{option}: {error}");
}

#[test]
fn build_says_which_setting_makes_no_sense() {
    checked(async {
        let builder = Pool::builder;
        let zero = Duration::ZERO;
        refused(builder().workers(0), "workers");
        refused(builder().workers(usize::MAX), "workers");
        refused(builder().spare_workers(usize::MAX), "spare_workers");
        refused(builder().workers(1 << 16).spare_workers(1), "spare_workers");
        refused(builder().task_timeout(zero), "task_timeout");
        refused(builder().start_timeout(zero), "start_timeout");
        refused(builder().idle_timeout(zero), "idle_timeout");
        refused(builder().max_tasks_per_worker(0), "max_tasks_per_worker");
        refused(builder().max_worker_memory(0), "max_worker_memory");
        refused(builder().memory_limit(0), "memory_limit");
        refused(builder().max_worker_age(zero), "max_worker_age");
        refused(builder().restart_limit(0), "restart_limit");
        refused(builder().pipeline(0), "pipeline");
        refused(builder().pipeline(1025), "pipeline");
        refused(builder().frame_limit(0), "frame_limit");
        refused(builder().frame_limit((64 << 10) - 1), "frame_limit");
        refused(builder().frame_limit((2 << 30) + 1), "frame_limit");
        refused(builder().nice(-21), "nice");
        refused(builder().nice(20), "nice");
        refused(builder().cpu_affinity([]), "cpu_affinity");
        refused(builder().name("a\0b"), "name");
        refused(builder().env("", "x"), "env");
        refused(builder().env("A=B", "x"), "env");
        refused(builder().env("A\0", "x"), "env");
        refused(builder().env("A", "x\0"), "env");
        let unwilling = |_: Result<(), Unwilling>| ();
        refused(builder().initializer(unwilling, Err(Unwilling)), "initializer");
    });
}

#[derive(Debug, serde::Deserialize)]
struct Unwilling;

impl serde::Serialize for Unwilling {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

#[test]
fn the_last_sensible_value_is_taken() {
    checked(async {
        let pool = Pool::builder()
            .workers(1)
            .queue_limit(0)
            .grace_period(Duration::ZERO)
            .task_timeout(Duration::MAX)
            .start_timeout(Duration::MAX)
            .idle_timeout(Duration::MAX)
            .max_tasks_per_worker(u64::MAX)
            .max_worker_memory(u64::MAX)
            .memory_limit(u64::MAX)
            .max_worker_age(Duration::MAX)
            .no_new_privs()
            .restart_limit(u32::MAX)
            .pipeline(1024)
            .frame_limit(64 << 10)
            .nice(19)
            .rlimits([])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .build()
            .unwrap();
        assert_eq!(pool.apply(|n: u32| n, 7).await.unwrap(), 7);
        assert_eq!(pool.map(|n: u32| n, 0..100).await.unwrap().len(), 100);
        let pool = Pool::builder().workers(1).pipeline(1).frame_limit(2 << 30).build().unwrap();
        assert_eq!(pool.apply(|n: u32| n, 7).timeout(Duration::MAX).await.unwrap(), 7);
        assert_eq!(pool.map(|n: u32| n, 0..3).timeout(Duration::MAX).await.unwrap(), [0, 1, 2]);
    });
}

#[test]
fn defaults_are_one_worker_for_each_processor() {
    checked(async {
        let pool = Pool::new().unwrap();
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(pool.status().workers, processors);
        pool.ready().await.unwrap();
        assert_eq!(pool.workers().len(), processors);
    });
}
