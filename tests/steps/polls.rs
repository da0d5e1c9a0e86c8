//! Every handle, dropped after each of its polls, and after each wake-up that no
//! poll has followed. What it had not begun never begins, what it had begun is
//! stopped, others do not notice, and its places in the queue come back.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use futures::{FutureExt, StreamExt};
use procession::{Pool, PoolState, TaskError, worker};

use crate::support::{Scratch, checked, note, noted, notes, until};
use crate::tasks::*;

/// Drives `future` up to a moment in its life and drops it there. They are
/// counted: 0 is before the first poll, 1 right after it, 2 is when it has been
/// woken for the second and not polled, and so on. Returns its output if it
/// comes before that.
pub(crate) async fn up_to<F: Future>(moment: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut now = 0;
    poll_fn(|cx| {
        if now == moment {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        now += 1;
        if now == moment {
            return Poll::Ready(None);
        }
        now += 1;
        Poll::Pending
    })
    .await
}

/// Polls so many times, whether it was woken or not, and drops it.
async fn polled<F: Future>(times: usize, future: F) {
    let mut future = pin!(future);
    for _ in 0..times {
        assert!(futures::poll!(future.as_mut()).is_pending(), "this does not end");
        tokio::task::yield_now().await;
    }
}

/// Some calls of the task that is named, awaited to their end.
type Calls = fn(&Pool, Target) -> BoxFuture<'static, ()>;

/// What a task is told: where to note that it has begun, and what it waits for.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Target {
    journal: String,
    gate: Option<String>,
    polite: bool,
}

fn target(target: Target) -> u64 {
    if target.polite {
        worker::is_cancelled();
    }
    note(&target.journal, &std::process::id().to_string());
    while target.gate.as_ref().is_some_and(|gate| !std::path::Path::new(gate).exists()) {
        if target.polite && worker::is_cancelled() {
            return 0;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    1
}

fn target_items(task: Target) -> impl Iterator<Item = u64> {
    (0..4).map(move |_| target(task.clone()))
}

const TARGETS: usize = 4;

fn targets(task: Target) -> Vec<Target> {
    vec![task; TARGETS]
}

/// Every kind of handle.
const HANDLES: [(&str, Calls); 10] = [
    ("apply", |pool, task| pool.apply(target, task).map(drop).boxed()),
    ("apply_async", |pool, task| pool.apply_async(target, task).map(drop).boxed()),
    ("map", |pool, task| pool.map(target, targets(task)).map(drop).boxed()),
    ("map in chunks", |pool, task| pool.map(target, targets(task)).chunk_size(2).map(drop).boxed()),
    ("map_async", |pool, task| pool.map_async(target, targets(task)).map(drop).boxed()),
    ("imap", |pool, task| pool.imap(target, targets(task)).for_each(async |_| ()).boxed()),
    ("imap_unordered", |pool, task| {
        pool.imap_unordered(target, targets(task)).buffer(2).for_each(async |_| ()).boxed()
    }),
    ("indexed", |pool, task| {
        pool.imap(target, targets(task)).buffer(1).indexed().for_each(async |_| ()).boxed()
    }),
    ("imap_stream", |pool, task| {
        let inputs = futures::stream::iter(targets(task)).then(async |task| {
            tokio::task::yield_now().await;
            task
        });
        pool.imap_stream(target, inputs).for_each(async |_| ()).boxed()
    }),
    ("stream", |pool, task| {
        pool.stream(target_items, task).buffer(1).for_each(async |_| ()).boxed()
    }),
];

/// Waits in the queue beyond those that run.
const QUEUE: usize = 5;

fn pool() -> Pool {
    Pool::builder().workers(1).queue_limit(QUEUE).build().unwrap()
}

/// All places of the queue are free.
async fn assert_no_place_lost(pool: &Pool) {
    let scratch = Scratch::new();
    let (started, gate) = (scratch.path("started"), scratch.path("gate"));
    until("nothing is left", || pool.status().queued + pool.status().running == 0).await;
    let running = pool.try_apply(held, (started.clone(), gate.clone())).unwrap();
    noted(&started).await;
    let mut waiting = Vec::new();
    while let Ok(handle) = pool.try_apply(pid, ()) {
        waiting.push(handle);
    }
    assert_eq!(waiting.len(), QUEUE, "places in the queue");
    open(&gate);
    running.await.unwrap();
    for handle in waiting {
        handle.await.unwrap();
    }
    assert_all_counted(pool);
}

#[test]
fn while_its_calls_are_made() {
    for (name, calls) in HANDLES {
        checked(async {
            let pool = pool();
            for moment in 0.. {
                let scratch = Scratch::new();
                let (journal, others) = (scratch.path("journal"), scratch.path("others"));
                let before = pool.apply_async(quick, (others.clone(), 0));
                let task = Target { journal: journal.clone(), gate: None, polite: false };
                let ended = up_to(moment, calls(&pool, task)).await.is_some();
                let after = pool.apply_async(quick, (others.clone(), 1));
                assert_eq!(before.await.unwrap(), answer(0), "{name} at {moment}");
                assert_eq!(after.await.unwrap(), answer(1), "{name} at {moment}");
                assert_eq!(notes(&others), ["0", "1"], "{name} at {moment}");
                let begun = notes(&journal).len();
                assert!(begun <= TARGETS, "{name} at {moment}: {begun}");
                // `apply_async` and `map_async` have begun without being polled.
                assert!(moment > 0 || begun == 0 || name.ends_with("_async"), "{name}: {begun}");
                if ended {
                    break;
                }
            }
            assert_eq!(pool.stats().workers_lost, 0, "{name}");
            assert_no_place_lost(&pool).await;
        });
    }
}

#[test]
fn while_its_calls_wait_behind_another() {
    for pipeline in [1, 256] {
        for (name, calls) in HANDLES {
            checked(async {
                let builder = Pool::builder().workers(1).queue_limit(QUEUE);
                let pool = builder.pipeline(pipeline).build().unwrap();
                for times in 0..4 {
                    let scratch = Scratch::new();
                    let (journal, others) = (scratch.path("journal"), scratch.path("others"));
                    let (started, gate) = (scratch.path("started"), scratch.path("gate"));
                    let running = pool.apply_async(held, (started.clone(), gate.clone()));
                    noted(&started).await;
                    let task = Target { journal: journal.clone(), gate: None, polite: false };
                    polled(times, calls(&pool, task)).await;
                    let after = pool.apply_async(quick, (others.clone(), 1));
                    open(&gate);
                    let worker = running.await.unwrap();
                    assert_eq!(after.await.unwrap(), answer(1));
                    assert_eq!(pool.apply(pid, ()).await.unwrap(), worker, "nobody was killed");
                    assert!(notes(&journal).is_empty(), "{name} after {times} polls");
                }
                assert_eq!(pool.stats().workers_started, 1, "{name}");
                assert_no_place_lost(&pool).await;
            });
        }
    }
}

#[test]
fn while_its_task_runs() {
    for polite in [false, true] {
        for (name, calls) in HANDLES {
            checked(async {
                let pool = pool();
                for times in 1..4 {
                    let scratch = Scratch::new();
                    let (journal, others) = (scratch.path("journal"), scratch.path("others"));
                    let gate = Some(scratch.path("gate"));
                    let task = Target { journal: journal.clone(), gate, polite };
                    let behind = {
                        let mut calls = pin!(calls(&pool, task));
                        assert!(futures::poll!(calls.as_mut()).is_pending());
                        let behind = {
                            let begun = pin!(noted(&journal));
                            match select(calls.as_mut(), begun).await {
                                Either::Left(_) => panic!("{name} has ended"),
                                Either::Right(_) => pool.apply_async(quick, (others.clone(), 1)),
                            }
                        };
                        polled(times, calls.as_mut()).await;
                        behind
                    };
                    let before: u32 = notes(&journal)[0].parse().unwrap();
                    assert_eq!(behind.await.unwrap(), answer(1), "{name}");
                    assert_eq!(notes(&others), ["1"]);
                    let after = pool.apply(pid, ()).await.unwrap();
                    assert_eq!(before == after, polite, "{name}");
                    assert_eq!(notes(&journal).len(), 1, "{name}: nothing more was begun");
                    assert_eq!(pool.stats().workers_lost, 0);
                }
                assert_eq!(pool.stats().workers_started, if polite { 1 } else { 4 }, "{name}");
                assert_no_place_lost(&pool).await;
            });
        }
    }
}

/// Cancelled already: to drop what waits for that changes nothing.
#[test]
fn while_a_cancellation_is_awaited() {
    checked(async {
        for polite in [false, true] {
            let pool = pool();
            for moment in 0.. {
                let scratch = Scratch::new();
                let (journal, others) = (scratch.path("journal"), scratch.path("others"));
                let gate = Some(scratch.path("gate"));
                let task = Target { journal: journal.clone(), gate, polite };
                let running = pool.apply_async(target, task);
                noted(&journal).await;
                let before: u32 = notes(&journal)[0].parse().unwrap();
                let behind = pool.apply_async(quick, (others.clone(), 1));
                let cancelled = up_to(moment, running.cancel()).await;
                assert_eq!(behind.await.unwrap(), answer(1));
                assert_eq!(pool.apply(pid, ()).await.unwrap() == before, polite);
                assert_eq!(notes(&others), ["1"]);
                if let Some(cancelled) = cancelled {
                    assert!(cancelled.started);
                    assert_eq!(cancelled.exit.is_none(), polite);
                    break;
                }
            }
            assert_no_place_lost(&pool).await;
        }
    });
}

/// A place that came free for a call that is not made goes to the next.
#[test]
fn while_it_waits_for_a_place_in_the_queue() {
    checked(async {
        let pool = pool();
        for moment in 0.. {
            let scratch = Scratch::new();
            let (started, gate, journal) =
                (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
            let running = pool.try_apply(held, (started.clone(), gate.clone())).unwrap();
            noted(&started).await;
            let waiting: Vec<_> = (0..QUEUE).map(|_| pool.try_apply(pid, ()).unwrap()).collect();
            assert!(pool.try_apply(pid, ()).unwrap_err().is_full());
            let late = up_to(moment, pool.apply(quick, (journal.clone(), 0)));
            let opened = async {
                tokio::task::yield_now().await;
                open(&gate);
            };
            let (late, ()) = futures::join!(late, opened);
            running.await.unwrap();
            for handle in waiting {
                handle.await.unwrap();
            }
            assert!(notes(&journal).len() <= usize::from(moment > 2));
            assert_no_place_lost(&pool).await;
            if late.is_some() {
                break;
            }
        }
        assert_eq!(pool.stats().workers_lost, 0);
    });
}

#[test]
fn while_the_workers_get_ready() {
    checked(async {
        for moment in 0.. {
            let pool = pool();
            let ready = up_to(moment, pool.ready()).await;
            pool.ready().await.unwrap();
            assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
            if let Some(ready) = ready {
                ready.unwrap();
                break;
            }
        }
    });
}

#[test]
fn while_the_end_of_the_pool_is_awaited() {
    checked(async {
        for closed in [false, true] {
            for moment in 0.. {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let pool = pool();
                let calls: Vec<_> =
                    (0..5).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
                let mut begun = pool.imap(answer, 0..5);
                assert_eq!(begun.next().await.unwrap().unwrap(), answer(0));
                if closed {
                    pool.close();
                    let joined = up_to(moment, pool.join()).await.is_some();
                    // It can be read on, whether workers have left meanwhile or not.
                    let rest: Vec<_> = begun.map(Result::unwrap).collect().await;
                    assert!(rest.into_iter().eq((1..5).map(answer)));
                    pool.join().await;
                    for (n, call) in (0..).zip(calls) {
                        assert_eq!(call.await.unwrap(), answer(n));
                    }
                    assert_eq!(notes(&journal), ["0", "1", "2", "3", "4"]);
                    if joined {
                        break;
                    }
                } else {
                    polled(moment, pool.join()).await;
                    for (n, call) in (0..).zip(calls) {
                        assert_eq!(call.await.unwrap(), answer(n));
                    }
                    assert_eq!(pool.status().state, PoolState::Open);
                    assert_eq!(begun.count().await, 4);
                    if moment == 3 {
                        break;
                    }
                }
                assert_all_counted(&pool);
            }
        }
    });
}

#[test]
fn while_the_pool_is_terminated() {
    checked(async {
        for moment in 0.. {
            let scratch = Scratch::new();
            let started = scratch.path("started");
            let pool = pool();
            let running = pool.apply_async(forever, started.clone());
            let waiting = pool.apply_async(pid, ());
            noted(&started).await;
            let terminated = up_to(moment, pool.terminate()).await.is_some();
            if moment == 0 {
                assert_eq!(pool.status().state, PoolState::Open);
                running.cancel().await;
                waiting.await.unwrap();
                continue;
            }
            assert!(matches!(running.await, Err(TaskError::Terminated)));
            assert!(matches!(waiting.await, Err(TaskError::Terminated)));
            pool.join().await;
            assert!(pool.workers().is_empty());
            if terminated {
                break;
            }
        }
    });
}

#[test]
fn while_the_pool_is_shut_down() {
    checked(async {
        for moment in 0.. {
            let scratch = Scratch::new();
            let (started, gate) = (scratch.path("started"), scratch.path("gate"));
            let pool = pool();
            let running = pool.apply_async(held, (started.clone(), gate.clone()));
            let waiting = pool.apply_async(pid, ());
            noted(&started).await;
            let left = up_to(moment, pool.shutdown(Duration::from_millis(1))).await;
            let state = pool.status().state;
            match (moment, left) {
                (0, _) => assert_eq!(state, PoolState::Open),
                (_, Some(left)) => {
                    assert_eq!((left.queued, left.running), (1, 1));
                    assert!(matches!(running.await, Err(TaskError::Terminated)));
                    assert!(matches!(waiting.await, Err(TaskError::Terminated)));
                    break;
                }
                (_, None) if state == PoolState::Terminated => {
                    assert!(matches!(running.await, Err(TaskError::Terminated)));
                    assert!(matches!(waiting.await, Err(TaskError::Terminated)));
                    pool.join().await;
                    continue;
                }
                (_, None) => assert_eq!(state, PoolState::Closed),
            }
            // Nobody terminates it any more.
            open(&gate);
            let worker = running.await.unwrap();
            assert_eq!(waiting.await.unwrap(), worker);
            pool.close();
            pool.join().await;
        }
    });
}
