//! When workers are started, replaced and let go.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use procession::{Pool, WorkerState};

use crate::support::{Scratch, checked, is_alive, note, noted, notes, until};
use crate::tasks::{hold, open, pid, pool_of, square};

#[test]
fn ready_means_that_all_workers_are_there() {
    checked(async {
        let pool = pool_of(3);
        pool.ready().await.unwrap();
        let workers = pool.workers();
        assert_eq!(workers.len(), 3);
        assert!(workers.iter().all(|worker| worker.state == WorkerState::Idle));
        assert_eq!(pool.status().idle, 3);
        pool.ready().await.unwrap();
        pool.terminate().await;
        assert!(pool.ready().await.is_err());
    });
}

#[test]
fn a_worker_leaves_after_its_number_of_tasks() {
    checked(async {
        for (max, tasks) in [(1, 10), (3, 20)] {
            let pool = Pool::builder().workers(2).max_tasks_per_worker(max).build().unwrap();
            let calls = (0..tasks).map(|_| pool.apply(pid, ()));
            let mut each = BTreeMap::new();
            for worker in futures::future::join_all(calls).await {
                *each.entry(worker.unwrap()).or_insert(0) += 1;
            }
            assert!(each.values().all(|n| *n <= max), "{each:?}");
            let stats = pool.stats();
            assert_eq!((stats.completed, stats.lost, stats.workers_lost), (tasks, 0, 0));
        }
    });
}

#[test]
fn a_chunk_counts_as_one_task() {
    checked(async {
        let pool = Pool::builder().workers(1).max_tasks_per_worker(2).build().unwrap();
        let workers = pool.map(|_: u32| pid(), 0..40).chunk_size(10).await.unwrap();
        assert!(workers[..20].iter().all(|worker| *worker == workers[0]));
        assert!(workers[20..].iter().all(|worker| *worker == workers[20]));
        assert_ne!(workers[0], workers[20]);
    });
}

static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Takes memory and keeps it.
fn keep(bytes: usize) -> u32 {
    *KEPT.lock().unwrap() = vec![1; bytes];
    pid()
}

#[test]
fn a_worker_with_too_much_memory_is_replaced_after_its_task() {
    checked(async {
        let pool = Pool::builder().workers(1).max_worker_memory(96 << 20).build().unwrap();
        let first = pool.apply(keep, 1 << 20).await.unwrap();
        assert_eq!(pool.apply(keep, 8 << 20).await.unwrap(), first, "not enough to matter");
        assert_eq!(pool.apply(keep, 128 << 20).await.unwrap(), first, "answered all the same");
        let second = pool.apply(pid, ()).await.unwrap();
        assert_ne!(second, first);
        assert_eq!(pool.apply(pid, ()).await.unwrap(), second);
        assert_eq!(pool.stats().workers_lost, 0);
    });
}

#[test]
fn an_idle_worker_is_let_go_and_comes_back_when_needed() {
    checked(async {
        let pool =
            Pool::builder().workers(2).idle_timeout(Duration::from_millis(50)).build().unwrap();
        let first = pool.apply(pid, ()).await.unwrap();
        until("all have left", || pool.workers().is_empty()).await;
        assert!(!is_alive(first as i32));
        assert_eq!(pool.stats().workers_lost, 0);
        let second = pool.apply(pid, ()).await.unwrap();
        assert_ne!(second, first);
        pool.ready().await.unwrap();
        until("it has left again", || pool.workers().is_empty()).await;
        assert_eq!(pool.map(square, 0..100).await.unwrap().len(), 100);
    });
}

#[test]
fn a_busy_worker_is_not_idle() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let idle = Duration::from_millis(20);
        let pool = Pool::builder().workers(2).idle_timeout(idle).build().unwrap();
        let held = pool.apply_async(hold, (journal.clone(), gate.clone()));
        noted(&journal).await;
        until("the other has left", || pool.workers().len() == 1).await;
        tokio::time::sleep(idle * 3).await;
        open(&gate);
        assert_eq!(notes(&journal), [held.await.unwrap().to_string()]);
    });
}

#[test]
fn a_pool_grows_and_shrinks() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(1);
        pool.resize(3);
        pool.ready().await.unwrap();
        assert_eq!(pool.workers().len(), 3);
        let args = || (journal.clone(), gate.clone());
        let held: Vec<_> = (0..3).map(|_| pool.apply_async(hold, args())).collect();
        until("three run", || notes(&journal).len() == 3).await;
        pool.resize(1);
        assert_eq!(pool.status().workers, 1);
        assert_eq!(pool.status().running, 3, "nobody is stopped for it");
        open(&gate);
        for handle in held {
            handle.await.unwrap();
        }
        until("two have left", || pool.workers().len() == 1).await;
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(pool.stats().workers_lost, 0);
    });
}

#[test]
#[should_panic(expected = "a pool needs at least one worker")]
fn no_workers_at_all_panics() {
    checked(async { pool_of(1).resize(0) });
}

/// As its runtime would wait for it, if it were given the chance.
#[test]
fn work_that_an_async_task_left_behind_keeps_no_worker() {
    static JOURNAL: Mutex<String> = Mutex::new(String::new());
    /// Is not called in a process that is killed, as workers are that do not leave.
    extern "C" fn leaves_by_itself() {
        note(&*JOURNAL.lock().unwrap(), "left");
    }
    async fn leaves_work(journal: String) -> u32 {
        *JOURNAL.lock().unwrap() = journal;
        // SAFETY: the function is there as long as the program is.
        assert_eq!(unsafe { nix::libc::atexit(leaves_by_itself) }, 0);
        tokio::spawn(std::future::pending::<()>());
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_secs(3600)));
        pid()
    }
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let worker = pool.apply(leaves_work, journal.clone()).await.unwrap();
        assert_eq!(pool.apply(leaves_work, journal.clone()).await.unwrap(), worker);
        pool.close();
        pool.join().await;
        assert_eq!(notes(&journal), ["left", "left"]);
    });
}

/// Ignores SIGTERM.
pub(crate) fn stubborn(journal: String) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring runs no code of ours.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
    crate::tasks::never(journal);
}

#[test]
fn the_grace_period_is_between_term_and_kill() {
    checked(async {
        let scratch = Scratch::new();
        let pool = |grace| Pool::builder().workers(1).grace_period(grace).build().unwrap();
        let signal = |ended: procession::Cancelled| {
            assert!(ended.started);
            ended.exit.unwrap().signal()
        };
        let journal = scratch.path("stubborn");
        let grace = Duration::from_millis(100);
        let it = pool(grace);
        let handle = it.apply_async(stubborn, journal.clone());
        noted(&journal).await;
        let before = Instant::now();
        assert_eq!(signal(handle.cancel().await), Some(9));
        assert!(before.elapsed() >= grace);

        let journal = scratch.path("zero");
        let it = pool(Duration::ZERO);
        let handle = it.apply_async(stubborn, journal.clone());
        noted(&journal).await;
        assert_eq!(signal(handle.cancel().await), Some(9));

        let journal = scratch.path("willing");
        let it = pool(Duration::from_secs(3600));
        let handle = it.apply_async(crate::tasks::never, journal.clone());
        noted(&journal).await;
        assert_eq!(signal(handle.cancel().await), Some(15));
    });
}
