//! Pools, runtimes and handles that are dropped at each step, in any order and
//! in odd places.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use futures::StreamExt;
use procession::{Pool, TaskError};
use tokio::runtime::{Builder, Runtime};

use crate::life::{Handles, STAGES, Stage, life, pool_at};
use crate::polls::up_to;
use crate::support::{LIMIT, Scratch, alone, checked, children, until, within};
use crate::tasks::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_pool_that_is_dropped_at_any_stage_ends_its_handles() {
    checked(async {
        // Those who wait for its end hold a pool.
        for stage in STAGES.into_iter().filter(|stage| *stage != Stage::Ending) {
            for elsewhere in [false, true] {
                let scratch = Scratch::new();
                let before = children();
                let handles = Handles::default();
                let pool = pool_at(stage, &scratch, &handles).await;
                if elsewhere {
                    thread::spawn(|| drop(pool)).join().unwrap();
                } else {
                    drop(pool);
                }
                handles.end().await;
                until("its workers are gone", || children().is_subset(&before)).await;
            }
        }
    });
}

/// The future of a pool's whole life, with the pool in it.
#[test]
fn a_pool_that_is_dropped_at_any_poll_ends_its_handles() {
    checked(async {
        for moment in 0.. {
            let before = children();
            let handles = Handles::default();
            let ended = up_to(moment, life(&handles, drop)).await;
            handles.end().await;
            until("its workers are gone", || children().is_subset(&before)).await;
            if ended.is_some() {
                break;
            }
        }
    });
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let insert = |order: &Vec<usize>, at| {
        let mut order = order.clone();
        order.insert(at, count - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..count).map(move |at| insert(order, at))).collect()
}

/// A runtime, a pool in it, and handles of all kinds are dropped in every order.
#[test]
fn any_order_of_drops_will_do() {
    alone(|| {
        for (number, order) in orders(4).into_iter().enumerate() {
            for stage in STAGES {
                let scratch = Scratch::new();
                let before = children();
                let handles = Handles::default();
                let own = runtime();
                let pool = own.block_on(within(LIMIT, pool_at(stage, &scratch, &handles)));
                let mut some = handles.take();
                let others = some.split_off(some.len() / 2);
                let mut parts: Vec<Option<Box<dyn FnOnce() + Send>>> = vec![
                    Some(Box::new(move || drop(own))),
                    Some(Box::new(move || drop(pool))),
                    Some(Box::new(move || drop(some))),
                    Some(Box::new(move || drop(others))),
                ];
                let other = runtime();
                for (place, part) in order.iter().enumerate() {
                    let part = parts[*part].take().unwrap();
                    // Here, on a thread that knows no runtime, or in another one.
                    match (number + place) % 3 {
                        0 => part(),
                        1 => thread::spawn(part).join().unwrap(),
                        _ => {
                            let _inside = other.enter();
                            part();
                        }
                    }
                }
                other.block_on(until("its workers are gone", || children().is_subset(&before)));
            }
        }
    });
}

#[test]
fn a_panic_takes_everything_along() {
    alone(|| {
        for stage in STAGES {
            let before = children();
            // In the runtime's own block, in a task of it, and beside it.
            let scenes: [fn(Runtime, Stage); 3] = [
                |runtime, stage| {
                    runtime.block_on(async {
                        let (scratch, handles) = (Scratch::new(), Handles::default());
                        let _pool = pool_at(stage, &scratch, &handles).await;
                        resume_unwind(Box::new("as it was told"));
                    })
                },
                |runtime, stage| {
                    let task = async move {
                        let (scratch, handles) = (Scratch::new(), Handles::default());
                        let _pool = pool_at(stage, &scratch, &handles).await;
                        resume_unwind(Box::new("as it was told"));
                    };
                    let joined: Result<(), _> = runtime.block_on(runtime.spawn(task));
                    resume_unwind(joined.unwrap_err().into_panic());
                },
                |runtime, stage| {
                    let (scratch, handles) = (Scratch::new(), Handles::default());
                    let _pool = runtime.block_on(pool_at(stage, &scratch, &handles));
                    resume_unwind(Box::new("as it was told"));
                },
            ];
            for scene in scenes {
                catch_unwind(AssertUnwindSafe(|| scene(runtime(), stage))).unwrap_err();
                runtime().block_on(until("its workers are gone", || children().is_subset(&before)));
            }
        }
    });
}

/// The last pool goes in the destructor of something that the pool itself drops:
/// an input, a waker, an answer.
#[test]
fn the_last_pool_may_go_with_its_own_input() {
    struct Input(#[allow(dead_code, reason = "held, and dropped")] Pool, u64);
    impl Iterator for Input {
        type Item = u64;
        fn next(&mut self) -> Option<u64> {
            self.1 += 1;
            Some(self.1)
        }
    }
    checked(async {
        for _ in 0..5 {
            let before = children();
            let pool = Pool::builder().workers(1).build().unwrap();
            let map = pool.map_async(answer, Input(pool.clone(), 0).take(1000));
            assert_eq!(map.await.unwrap().len(), 1000);
            let map = pool.map_async(answer, Input(pool.clone(), 0));
            let mut imap = Box::pin(pool.imap(answer, Input(pool.clone(), 0)));
            imap.next().await.unwrap().unwrap();
            drop(pool);
            drop(imap);
            drop(map);
            until("its workers are gone", || children().is_subset(&before)).await;
        }
    });
}

/// Made, closed and dropped from threads that are in no runtime.
#[test]
fn a_handle_is_dropped_on_a_thread_without_a_runtime() {
    checked(async {
        let scratch = Scratch::new();
        let (started, journal) = (scratch.path("started"), scratch.path("journal"));
        let pool = Pool::builder().workers(1).build().unwrap();
        let running = pool.apply_async(forever, started.clone());
        let victim = pids(&started, 1).await[0];
        let waiting = pool.apply_async(quick, (journal.clone(), 0));
        let kept = pool.apply_async(quick, (journal.clone(), 1));
        thread::spawn(move || {
            drop(waiting);
            drop(running);
        })
        .join()
        .unwrap();
        assert_eq!(kept.await.unwrap(), answer(1));
        assert_eq!(crate::support::notes(&journal), ["1"]);
        assert!(!crate::support::is_alive(victim));
        let theirs = pool.clone();
        let result = thread::spawn(move || {
            futures::executor::block_on(async {
                let answered = theirs.apply(answer, 2).await;
                theirs.terminate().await;
                (answered, theirs.apply(answer, 3).await)
            })
        });
        let result = tokio::task::spawn_blocking(|| result.join().unwrap()).await.unwrap();
        assert_eq!(result.0.unwrap(), answer(2));
        assert!(matches!(result.1, Err(TaskError::Terminated)));
    });
}
