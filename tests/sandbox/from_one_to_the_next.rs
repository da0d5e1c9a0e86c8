use std::collections::BTreeSet;
use std::sync::Mutex;

use procession::{Pool, Sandbox};

use crate::support::checked;
use crate::{free_pool, is_possible};

static LEFT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Leaves its own secret behind, and returns what it has found.
fn visits(secret: String) -> (u32, Vec<String>) {
    let mut left = LEFT.lock().unwrap();
    let found = left.clone();
    left.push(secret);
    (std::process::id(), found)
}

/// What a worker is kept for, it keeps.
#[test]
fn a_worker_that_stays_shows_one_task_what_another_has_left() {
    checked(async {
        let pool = free_pool();
        pool.apply(visits, "first".into()).await.unwrap();
        let (_, found) = pool.apply(visits, "second".into()).await.unwrap();
        assert_eq!(found, ["first"]);
    });
}

#[test]
fn a_worker_for_one_task_has_nothing_of_any_other() {
    checked(async {
        let builder = || Pool::builder().workers(2).spare_workers(1).max_tasks_per_worker(1);
        let mut pools = vec![builder().untrusted().build().unwrap()];
        if is_possible().await {
            pools.push(builder().untrusted().sandbox(Sandbox::computing()).build().unwrap());
        }
        for pool in pools {
            let calls = (0..20).map(|n| pool.apply(visits, format!("secret {n}")));
            let visits = futures::future::join_all(calls).await;
            let mut pids = BTreeSet::new();
            for visit in visits {
                let (pid, found) = visit.unwrap();
                assert!(found.is_empty(), "{found:?}");
                pids.insert(pid);
            }
            assert_eq!(pids.len(), 20);
        }
    });
}
