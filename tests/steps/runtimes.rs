//! The runtime that a pool was made in is shut down at each step: every handle
//! resolves, wherever it is polled, and no worker stays.

use std::sync::Mutex;
use std::time::Duration;

use procession::{Pool, PoolState, TaskError};
use tokio::runtime::{Builder, Runtime};

use crate::life::{Handles, STAGES, Stage, life, pool_at};
use crate::polls::up_to;
use crate::support::{LIMIT, Scratch, alone, children, within};
use crate::tasks::*;

type Make = fn() -> Runtime;

const FLAVORS: [Make; 2] = [
    || Builder::new_current_thread().enable_all().build().unwrap(),
    || Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
];

const ENDS: [fn(Runtime); 3] =
    [drop, |runtime| runtime.shutdown_timeout(LIMIT), Runtime::shutdown_background];

/// Where handles are polled that have outlived their runtime.
const ELSEWHERE: [fn(&mut dyn FnMut() -> BoxedEnd); 3] = [
    |end| FLAVORS[0]().block_on(within(LIMIT, end())),
    |end| FLAVORS[1]().block_on(within(LIMIT, end())),
    // No runtime at all.
    |end| futures::executor::block_on(end()),
];

type BoxedEnd = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// What is left of the pool does not hang either.
async fn is_over(pool: &Pool, stage: Stage) {
    // One that had closed may have begun again for what is read on.
    let has_ended = |error: &TaskError| {
        matches!(error, TaskError::Terminated)
            || (stage == Stage::Closed && matches!(error, TaskError::Closed))
    };
    // A runtime that is shut down in the background takes a moment.
    let error = loop {
        if let Err(error) = pool.apply(answer, 1).await {
            break error;
        }
    };
    assert!(has_ended(&error), "{error}");
    assert!(pool.try_apply(answer, 1).is_err_and(|error| error.is_closed()));
    assert!(pool.map(answer, 0..3).await.is_err());
    assert!(pool.ready().await.is_err());
    pool.close();
    pool.join().await;
    assert!(pool.shutdown(Duration::from_secs(1000)).await.is_clean());
    pool.terminate().await;
    assert_ne!(pool.status().state, PoolState::Open);
    assert!(pool.workers().is_empty());
    assert_all_counted(pool);
}

#[test]
fn at_each_stage_of_a_pool() {
    alone(|| {
        for make in FLAVORS {
            for end in ENDS {
                for elsewhere in ELSEWHERE {
                    for stage in STAGES {
                        let scratch = Scratch::new();
                        let before = children();
                        let handles = Handles::default();
                        let runtime = make();
                        let pool =
                            runtime.block_on(within(LIMIT, pool_at(stage, &scratch, &handles)));
                        end(runtime);
                        let mut rest = Some((handles, pool));
                        elsewhere(&mut || {
                            let (handles, pool) = rest.take().unwrap();
                            Box::pin(async move {
                                handles.end().await;
                                is_over(&pool, stage).await;
                            })
                        });
                        assert_eq!(children(), before, "{stage:?}");
                    }
                }
            }
        }
    });
}

/// After each poll of a pool's whole life.
#[test]
fn at_each_poll_of_its_main_task() {
    alone(|| {
        for make in FLAVORS {
            for moment in 0.. {
                let before = children();
                let handles = Handles::default();
                let pool = Mutex::new(None);
                let keep = |made| *pool.lock().unwrap() = Some(made);
                let runtime = make();
                let ended = runtime.block_on(within(LIMIT, up_to(moment, life(&handles, keep))));
                drop(runtime);
                futures::executor::block_on(async {
                    handles.end().await;
                    if let Some(pool) = pool.into_inner().unwrap() {
                        pool.join().await;
                        pool.terminate().await;
                        assert_all_counted(&pool);
                    }
                });
                assert_eq!(children(), before, "at moment {moment}");
                if ended.is_some() {
                    break;
                }
            }
        }
    });
}
