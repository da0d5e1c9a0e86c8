//! Workers that are kept ready beside those that work, and take their places.

use std::collections::BTreeSet;
use std::time::Duration;

use procession::{Pool, PoolBuilder, WorkerState};

use crate::life_of_workers::stubborn;
use crate::support::{Scratch, checked, note, noted, notes, until};
use crate::tasks::{hold, kill, never, open, pid, square};

fn one_and_a_spare() -> PoolBuilder {
    Pool::builder().workers(1).spare_workers(1)
}

/// The processes of those that are ready.
fn ready(pool: &Pool) -> BTreeSet<u32> {
    let workers = pool.workers();
    let idle = workers.iter().filter(|worker| worker.state == WorkerState::Idle);
    idle.map(|worker| worker.pid.unwrap()).collect()
}

fn busy(pool: &Pool) -> usize {
    pool.workers().iter().filter(|worker| worker.state == WorkerState::Busy).count()
}

#[test]
fn spares_are_started_with_the_others() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let noted = |journal: String| note(journal, &pid().to_string());
        let builder = Pool::builder().workers(2).spare_workers(1);
        let pool = builder.initializer(noted, journal.clone()).build().unwrap();
        assert_eq!((pool.status().workers, pool.status().starting), (2, 3));
        pool.ready().await.unwrap();
        assert_eq!(notes(&journal).len(), 3, "the initializer runs in spares too");
        assert_eq!(ready(&pool).len(), 3);
        assert_eq!((pool.status().idle, pool.status().spare), (2, 1));
    });
}

#[test]
fn no_more_tasks_run_at_once_than_there_are_workers() {
    checked(async {
        let scratch = Scratch::new();
        let args = || (scratch.path("journal"), scratch.path("gate"));
        let pool = Pool::builder().workers(2).spare_workers(2).build().unwrap();
        pool.ready().await.unwrap();
        let calls: Vec<_> = (0..5).map(|_| pool.apply_async(hold, args())).collect();
        assert_eq!(busy(&pool), 2);
        until("two run", || pool.status().running == 2).await;
        let status = pool.status();
        assert_eq!((status.busy, status.idle, status.spare, status.queued), (2, 0, 2, 3));
        open(&scratch.path("gate"));
        let workers = futures::future::join_all(calls).await;
        let workers: BTreeSet<_> = workers.into_iter().map(Result::unwrap).collect();
        assert_eq!(workers.len(), 2, "and nobody else has had one");
    });
}

/// The one that is stopped may take an hour to end: nobody waits for it.
#[test]
fn a_spare_takes_the_place_of_a_worker_that_is_stopped() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = one_and_a_spare().grace_period(Duration::from_secs(3600)).build().unwrap();
        pool.ready().await.unwrap();
        let mut before = ready(&pool);
        let stubborn = pool.apply_async(stubborn, journal.clone());
        let waits = pool.apply_async(pid, ());
        noted(&journal).await;
        assert_eq!(pool.status().queued, 1, "a spare is no second worker");
        drop(stubborn);
        let next = waits.await.unwrap();
        assert!(before.remove(&next), "{next} was not ready before");
        assert_eq!(before.len(), 1);
        assert_eq!(notes(&journal), [before.first().unwrap().to_string()]);
        assert_eq!(pool.apply(pid, ()).await.unwrap(), next);
        assert_eq!((pool.status().idle, pool.status().spare), (1, 0));
    });
}

#[test]
fn a_spare_takes_the_place_of_one_that_timed_out_or_crashed() {
    checked(async {
        let scratch = Scratch::new();
        let pool = one_and_a_spare().build().unwrap();
        for round in 0..6 {
            pool.ready().await.unwrap();
            let before = ready(&pool);
            assert_eq!(before.len(), 2);
            let journal = scratch.path(&round.to_string());
            let fails = pool.apply(never, journal.clone());
            let fails = match round % 2 {
                // Long enough to note its process.
                0 => fails.timeout(Duration::from_millis(500)).start(),
                _ => fails.start(),
            };
            let next = pool.apply_async(pid, ());
            noted(&journal).await;
            let lost = notes(&journal)[0].parse().unwrap();
            if round % 2 == 1 {
                kill(lost);
            }
            assert!(fails.await.is_err());
            let next = next.await.unwrap();
            assert!(next != lost && before.contains(&next));
            until("there is a spare again", || pool.status().spare == 1).await;
        }
    });
}

#[test]
fn a_spare_takes_the_place_of_one_that_retires() {
    checked(async {
        let pool = one_and_a_spare().max_tasks_per_worker(1).build().unwrap();
        pool.ready().await.unwrap();
        let before = ready(&pool);
        let calls = [pool.apply_async(pid, ()), pool.apply_async(pid, ())];
        let served = futures::future::join_all(calls).await;
        let served: BTreeSet<_> = served.into_iter().map(Result::unwrap).collect();
        assert_eq!(served, before);
        pool.ready().await.unwrap();
        assert!(ready(&pool).is_disjoint(&before));
    });
}

/// What a stopped worker was given and has not begun goes to the spare.
#[test]
fn a_spare_takes_what_a_worker_does_not_begin() {
    checked(async {
        let pool = one_and_a_spare().build().unwrap();
        pool.ready().await.unwrap();
        let first = pool.apply(pid, ()).await.unwrap();
        let signal = |signal| {
            let first = nix::unistd::Pid::from_raw(first as i32);
            nix::sys::signal::kill(first, signal).unwrap();
        };
        signal(nix::sys::signal::Signal::SIGSTOP);
        let stat = || std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap();
        until("it has stopped", || stat().contains(") T ")).await;
        assert_ne!(pool.apply(pid, ()).await.unwrap(), first);
        signal(nix::sys::signal::Signal::SIGCONT);
    });
}

#[test]
fn a_storm_of_crashes_is_survived_with_no_more_at_work_than_there_are_workers() {
    checked(async {
        let pool = Pool::builder().workers(2).spare_workers(2).restart_limit(1000);
        let pool = pool.stderr(procession::Stdio::null()).build().unwrap();
        let crash = |n: u64| if n % 3 == 0 { std::process::abort() } else { n };
        let calls: Vec<_> = (0..120).map(|n| pool.apply_async(crash, n)).collect();
        let mut most = 0;
        until("all have ended", || {
            most = most.max(busy(&pool));
            pool.stats().completed + pool.stats().lost == 120
        })
        .await;
        assert!(most <= 2, "{most} at once");
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.await.ok(), (n % 3 != 0).then_some(n));
        }
        assert_eq!(pool.stats().lost, 40);
        until("all are there again", || pool.status().spare == 2).await;
        assert_eq!((pool.status().idle, pool.workers().len()), (2, 4));
    });
}

#[test]
fn a_spare_that_dies_is_replaced() {
    checked(async {
        let pool = one_and_a_spare().build().unwrap();
        pool.ready().await.unwrap();
        let before = ready(&pool);
        before.iter().for_each(|&worker| kill(worker));
        until("both are new", || {
            let now = ready(&pool);
            now.len() == 2 && now.is_disjoint(&before)
        })
        .await;
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn resizing_keeps_the_spares() {
    checked(async {
        let scratch = Scratch::new();
        let args = || (scratch.path("journal"), scratch.path("gate"));
        let pool = one_and_a_spare().build().unwrap();
        pool.ready().await.unwrap();
        let before = ready(&pool);
        let calls = [pool.apply_async(hold, args()), pool.apply_async(hold, args())];
        assert_eq!(busy(&pool), 1);
        pool.resize(2);
        until("the spare has begun", || notes(scratch.path("journal")).len() == 2).await;
        pool.ready().await.unwrap();
        let status = pool.status();
        assert_eq!((status.workers, status.busy, status.idle, status.spare), (2, 2, 0, 1));
        open(&scratch.path("gate"));
        for call in calls {
            assert!(before.contains(&call.await.unwrap()));
        }
        pool.resize(1);
        until("one has left", || pool.workers().len() == 2).await;
        assert_eq!((pool.status().idle, pool.status().spare), (1, 1));
    });
}

#[test]
fn spares_stay_when_the_idle_leave() {
    checked(async {
        let idle = Duration::from_millis(20);
        let builder = Pool::builder().workers(3).spare_workers(1).idle_timeout(idle);
        let pool = builder.build().unwrap();
        for _ in 0..3 {
            until("all but the spare have left", || pool.workers().len() == 1).await;
            tokio::time::sleep(3 * idle).await;
            let spare = ready(&pool);
            assert_eq!(spare.len(), 1);
            let calls = futures::future::join_all((0..2).map(|_| pool.apply(pid, ()))).await;
            let workers: BTreeSet<_> = calls.into_iter().map(Result::unwrap).collect();
            assert!(!workers.is_disjoint(&spare));
        }
    });
}

#[test]
fn a_closed_pool_finishes_with_its_spares_and_lets_them_go() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = one_and_a_spare().build().unwrap();
        pool.ready().await.unwrap();
        let stopped = pool.apply_async(never, journal.clone());
        let next = pool.apply_async(square, 7);
        noted(&journal).await;
        pool.close();
        drop(stopped);
        assert_eq!(next.await.unwrap(), 49);
        pool.join().await;
        assert!(pool.workers().is_empty());
        assert_eq!(pool.stats().workers_started, 2, "none is started for nothing");
    });
}

#[test]
fn untrusted_workers_have_spares_too() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = one_and_a_spare().untrusted().build().unwrap();
        pool.ready().await.unwrap();
        let before = ready(&pool);
        let stopped = pool.apply_async(never, journal.clone());
        noted(&journal).await;
        drop(stopped);
        assert!(before.contains(&pool.apply(pid, ()).await.unwrap()));
    });
}
