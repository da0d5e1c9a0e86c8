//! A pool with nothing to do makes no wake-ups, in any of its processes.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use futures::StreamExt;
use procession::{Pool, Stdio};

use crate::support::{LIMIT, alone};

/// How often each thread of the pools went to sleep: those of the runtime, the
/// warden and its starter, and all threads of all workers. By process, thread and name.
fn rests(workers: &[i32]) -> BTreeMap<(i32, String, String), u64> {
    let ours = std::process::id() as i32;
    let mut rests = BTreeMap::new();
    for &process in workers.iter().chain([&ours]) {
        for thread in fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
            let read = |name| fs::read_to_string(thread.path().join(name));
            // One of the harness's may end just now.
            let (Ok(name), Ok(status)) = (read("comm"), read("status")) else { continue };
            let count =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let is_pools = name.starts_with("procession-") || name.starts_with("tokio-rt");
            if process != ours || is_pools {
                let thread = thread.file_name().into_string().unwrap();
                rests.insert((process, thread, name), count.unwrap().trim().parse().unwrap());
            }
        }
    }
    rests
}

fn square(n: u64) -> u64 {
    n * n
}

#[test]
fn an_idle_pool_makes_no_wake_ups() {
    alone(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let pools = runtime.block_on(async {
            let plain = Pool::builder().workers(2).build().unwrap();
            let idle = || Pool::builder().workers(2).idle_timeout(Duration::from_millis(1));
            // Somebody looks at the memory of this one, while it has a task.
            let untrusted = Pool::builder().workers(1).untrusted().stderr(Stdio::piped());
            let untrusted = untrusted.memory_limit(1 << 40);
            let [idle, spare] = [idle(), idle().spare_workers(1)].map(|it| it.build().unwrap());
            let pools = [plain, idle, untrusted.build().unwrap(), spare];
            for pool in &pools {
                assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
                assert_eq!(pool.map(square, 0..1000).await.unwrap().len(), 1000);
                assert_eq!(pool.imap(square, 0..1000).count().await, 1000);
                pool.apply_async(square, 4).cancel().await;
                pool.ready().await.unwrap();
            }
            pools
        });
        // What has just been used may take a moment to come to rest.
        let deadline = Instant::now() + LIMIT;
        let workers = || {
            let workers = pools.iter().flat_map(Pool::workers);
            workers.map(|worker| worker.pid.unwrap() as i32).collect::<Vec<_>>()
        };
        // The spare stays.
        while pools.iter().map(|pool| pool.workers().len()).sum::<usize>() > 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut before = rests(&workers());
        loop {
            std::thread::sleep(Duration::from_secs(5));
            let after = rests(&workers());
            if after == before {
                break;
            }
            assert!(Instant::now() < deadline, "{after:?}, five seconds before: {before:?}");
            before = after;
        }
        let names = |process: i32| before.keys().filter(move |key| key.0 == process).count();
        assert_eq!(
            names(std::process::id() as i32),
            4,
            "the runtime's two, the warden and its starter"
        );
        assert_eq!(workers().len(), 4);
        assert!(workers().into_iter().all(|worker| names(worker) >= 2), "{before:?}");
        runtime.block_on(async {
            for pool in &pools {
                pool.terminate().await;
            }
        });
    });
}
