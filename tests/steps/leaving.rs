//! A worker that is struck at any step of its leaving, whatever the reason for
//! that: what it was to answer before is judged as ever, and whoever waits for
//! its end is told.

use std::collections::BTreeSet;
use std::time::Duration;

use procession::{Pool, PoolBuilder, PoolState, TaskError, worker};

use crate::blow::{ALL, Blow, Steps, Strike, sweep};
use crate::judge::judge;
use crate::support::{Scratch, checked, children, is_alive, note, noted, notes, until};
use crate::tasks::*;

async fn pool_and_worker(builder: PoolBuilder) -> (Pool, i32) {
    let pool = builder.build().unwrap();
    let victim = pool.apply(pid, ()).await.unwrap() as i32;
    (pool, victim)
}

async fn has_left(pool: &Pool, victim: i32) {
    let knows = |pool: &Pool| pool.workers().iter().any(|w| w.pid == Some(victim as u32));
    until("the worker is gone", || !knows(pool)).await;
    assert!(!is_alive(victim));
}

#[test]
fn when_it_has_done_its_number_of_tasks() {
    checked(async {
        for blow in ALL {
            let pool = Pool::builder().workers(1).max_tasks_per_worker(2).build().unwrap();
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
                let result = pool.apply(quick, (journal.clone(), 0)).await;
                has_left(&pool, victim).await;
                let struck = strike.finish().await;
                judge(&[result], &journal, blow, struck);
                // The successor's second.
                let next = pool.workers()[0].tasks_done;
                for _ in next..2 {
                    assert_ne!(pool.apply(pid, ()).await.unwrap() as i32, victim);
                }
                until("it leaves", || pool.workers().iter().all(|w| w.tasks_done < 2)).await;
                struck
            })
            .await;
            if blow == Blow::Pause {
                assert_eq!(pool.stats().workers_lost, 0);
            }
            assert_all_counted(&pool);
        }
    });
}

#[test]
fn when_there_is_nothing_to_do() {
    checked(async {
        for blow in ALL {
            let idle = Duration::from_millis(15);
            let pool = Pool::builder().workers(1).idle_timeout(idle).build().unwrap();
            sweep(async |step| {
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
                has_left(&pool, victim).await;
                strike.finish().await
            })
            .await;
            assert_all_counted(&pool);
            assert_eq!(pool.stats().completed, pool.stats().submitted);
        }
    });
}

#[test]
fn when_the_pool_is_made_smaller() {
    checked(async {
        for blow in ALL {
            let pool = Pool::builder().workers(2).build().unwrap();
            sweep(async |step| {
                pool.ready().await.unwrap();
                let pids: Vec<_> = pool.workers().iter().map(|w| w.pid.unwrap() as i32).collect();
                let [stays, victim] = pids[..] else { panic!("{pids:?}") };
                let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
                pool.resize(1);
                has_left(&pool, victim).await;
                assert_eq!(pool.apply(pid, ()).await.unwrap() as i32, stays);
                let struck = strike.finish().await;
                assert_eq!(pool.workers().len(), 1);
                pool.resize(2);
                struck
            })
            .await;
            assert_all_counted(&pool);
        }
    });
}

#[test]
fn when_the_pool_is_closed_with_calls_to_make() {
    checked(async {
        for blow in ALL {
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let before = children();
                let (pool, victim) = pool_and_worker(Pool::builder().workers(1)).await;
                let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
                let calls: Vec<_> =
                    (0..2).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
                pool.close();
                pool.join().await;
                nobody_is_left(&before).await;
                let struck = strike.finish().await;
                let results = futures::future::join_all(calls).await;
                judge(&results, &journal, blow, struck);
                assert_eq!(pool.status().state, PoolState::Closed);
                assert_all_counted(&pool);
                struck
            })
            .await;
        }
    });
}

/// Notes that it has begun, and ends when asked to.
fn polite(started: String) {
    let (wake, woken) = std::sync::mpsc::channel();
    worker::on_terminate(move || wake.send(()).unwrap());
    note(started, &std::process::id().to_string());
    woken.recv().unwrap();
}

/// One task runs and one waits behind it, while the pool is ended in some way.
/// Returns whether the blow fell, and what became of the two.
async fn ended<T>(
    step: usize,
    blow: Blow,
    end: impl AsyncFnOnce(&Pool) -> T,
) -> (bool, T, Result<(), TaskError>, Result<u64, TaskError>) {
    let scratch = Scratch::new();
    let (started, journal) = (scratch.path("started"), scratch.path("journal"));
    let before = children();
    let (pool, victim) = pool_and_worker(Pool::builder().workers(1)).await;
    let running = pool.apply_async(polite, started.clone());
    let behind = pool.apply_async(quick, (journal.clone(), 0));
    noted(&started).await;
    let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
    let ended = end(&pool).await;
    nobody_is_left(&before).await;
    let struck = strike.finish().await;
    assert_eq!(pool.status().state, PoolState::Terminated);
    assert_all_counted(&pool);
    let (running, behind) = (running.await, behind.await);
    assert_eq!(notes(&journal).len(), usize::from(behind.is_ok()));
    (struck, ended, running, behind)
}

#[test]
fn when_the_pool_is_terminated() {
    checked(async {
        for blow in ALL {
            sweep(async |step| {
                let (struck, (), running, behind) = ended(step, blow, Pool::terminate).await;
                // It may be struck on its way into the wait, before the end.
                let lost = matches!(running, Err(TaskError::WorkerLost { .. }));
                assert!(!lost || (struck && blow.is_deadly()), "{running:?}");
                assert!(lost || matches!(running, Err(TaskError::Terminated)), "{running:?}");
                match behind {
                    Ok(number) => assert!(lost && number == answer(0)),
                    Err(error) => assert!(matches!(error, TaskError::Terminated), "{error}"),
                }
                struck
            })
            .await;
        }
    });
}

#[test]
fn when_the_pool_is_shut_down() {
    checked(async {
        for blow in ALL {
            sweep(async |step| {
                let shutdown = async |pool: &Pool| pool.shutdown(Duration::ZERO).await;
                let (struck, left, running, behind) = ended(step, blow, shutdown).await;
                // It may be struck before the time for that is up.
                let lost = matches!(running, Err(TaskError::WorkerLost { .. }));
                assert!(!lost || (struck && blow.is_deadly()), "{running:?}");
                assert!(lost || matches!(running, Err(TaskError::Terminated)), "{running:?}");
                match behind {
                    Ok(number) => assert!(lost && number == answer(0)),
                    Err(error) => {
                        assert!(matches!(error, TaskError::Terminated), "{error}");
                        // The worker that came after may have begun it.
                        let is_next = lost && left.running == 1;
                        assert!(left.queued == 1 || is_next, "{left:?}");
                    }
                }
                assert!(lost || left.running == 1, "{left:?}");
                struck
            })
            .await;
        }
    });
}

#[test]
fn when_an_idle_pool_is_terminated() {
    checked(async {
        for blow in ALL {
            sweep(async |step| {
                let before = children();
                let (pool, victim) = pool_and_worker(Pool::builder().workers(1)).await;
                let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
                pool.terminate().await;
                nobody_is_left(&before).await;
                let struck = strike.finish().await;
                assert!(matches!(pool.apply(pid, ()).await, Err(TaskError::Terminated)));
                struck
            })
            .await;
        }
    });
}

/// Of a worker that is traced its tracer is told first, and on a busy machine that
/// takes longer than a pool waits for it. `tests/ending` has those that are not.
async fn nobody_is_left(before: &BTreeSet<i32>) {
    until("nobody is left", || children() == *before).await;
}
