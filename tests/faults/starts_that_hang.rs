//! A start does not come back: the program lies on a disk that does not answer,
//! or the machine is overloaded. Nothing but that start, and those that come
//! after it, may have to wait for it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use procession::{Pool, PoolBuilder, TaskError};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::interpose::{Call, Hits, Plan, arm, disarm};
use crate::scenario::{checked_with, is_part, pool_threads, run_part};
use crate::support::{LIMIT, Scratch, children, note, noted, until, within};

fn forever(started: String) {
    note(started, "runs");
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn exit(code: i32) {
    std::process::exit(code);
}

fn echo(n: u32) -> u32 {
    n
}

fn builder() -> PoolBuilder {
    Pool::builder().workers(1).grace_period(Duration::ZERO)
}

/// A pool whose first worker is being started, and does not come.
async fn hung() -> Pool {
    arm(Plan::hold_spawn(1, 1));
    let pool = builder().build().unwrap();
    until("a start hangs", || Hits::now().of(Call::Spawn) == 1).await;
    pool
}

#[test]
fn other_pools_go_on_while_a_start_hangs() {
    checked_with(None, async {
        let scratch = Scratch::new();
        let [dies, cancels, shuts] = [builder().workers(2), builder().workers(2), builder()]
            .map(|builder| builder.build().unwrap());
        for pool in [&dies, &cancels, &shuts] {
            pool.ready().await.unwrap();
        }
        let started = scratch.path("started");
        let runs = cancels.apply_async(forever, started.clone());
        let started_too = scratch.path("started too");
        let runs_too = shuts.apply_async(forever, started_too.clone());
        noted(&started).await;
        noted(&started_too).await;

        let hung = hung().await;
        let lost = dies.apply(exit, 3).await.unwrap_err();
        assert_eq!(lost.exit().unwrap().code(), Some(3));
        assert_eq!(dies.apply(echo, 1).await.unwrap(), 1, "there is another worker");
        assert_eq!(runs.cancel().await.exit.unwrap().signal(), Some(9));
        assert!(!shuts.shutdown(Duration::ZERO).await.is_clean());
        assert!(matches!(runs_too.await, Err(TaskError::Terminated)));
        // All that while, and nobody had to take over from who makes the starts.
        assert_eq!((hung.status().starting, pool_threads()), (1, 2));
        disarm();
        assert_eq!(hung.apply(echo, 2).await.unwrap(), 2);
        for pool in [dies, cancels, hung] {
            pool.ready().await.unwrap();
            pool.terminate().await;
        }
    });
}

#[test]
fn nobody_waits_for_ever_for_the_end_of_a_pool_whose_start_hangs() {
    fn terminated(ended: Result<u32, TaskError>) {
        assert!(matches!(ended, Err(TaskError::Terminated)), "{ended:?}");
    }
    for drops in [false, true] {
        checked_with(None, async {
            let mut hung = Some(hung().await);
            let task = hung.as_ref().unwrap().apply_async(echo, 1);
            // Behind it; these are taken back at once.
            let behind = builder().workers(3).build().unwrap();
            behind.terminate().await;
            assert_eq!(pool_threads(), 2, "nobody has taken over from who makes the starts");
            if drops {
                hung = None;
            }
            if let Some(hung) = &hung {
                hung.shutdown(Duration::ZERO).await;
                hung.terminate().await;
                hung.join().await;
                assert_eq!(hung.stats().workers_abandoned, 1);
            }
            terminated(task.await);
            // What comes now is killed, and nobody hears of it.
            disarm();
            if let Some(hung) = &hung {
                until("it is forgotten", || hung.status().abandoned == 0).await;
            }
            let pool = builder().build().unwrap();
            assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
            pool.terminate().await;
        });
    }
}

/// Asks the pool about itself whenever it is told of an error of it.
struct Curious;

static POOL: OnceLock<Pool> = OnceLock::new();
static ANSWERED: AtomicU32 = AtomicU32::new(0);

impl<S: Subscriber> Layer<S> for Curious {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(pool) = POOL.get().filter(|_| *event.metadata().level() == Level::ERROR) else {
            return;
        };
        let (answer, answered) = mpsc::channel();
        // Elsewhere, so that it shows if there is none.
        thread::spawn(move || answer.send(pool.status()));
        if answered.recv_timeout(LIMIT / 4).is_ok() {
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Not a test of its own: a process which keeps another thread for good.
#[test]
fn a_seat_of_a_start_that_hangs() {
    if !is_part() {
        return;
    }
    let _curious = tracing::subscriber::set_default(tracing_subscriber::registry().with(Curious));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(within(LIMIT, async {
        arm(Plan::hold_spawn(1, 1));
        let limit = Duration::from_millis(100);
        let pool = POOL.get_or_init(|| builder().start_timeout(limit).build().unwrap());
        until("a start hangs", || Hits::now().of(Call::Spawn) == 1).await;
        let other = builder().start_timeout(LIMIT).build().unwrap();
        // One more thread starts what waits behind it.
        assert_eq!(other.apply(echo, 1).await.unwrap(), 1);
        until("it is given up", || pool.status().abandoned == 1).await;
        while let Err(error) = pool.ready().await {
            assert!(error.is_timeout(), "{error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
        assert_eq!(pool.stats().workers_abandoned, 1);
        assert_eq!(ANSWERED.load(Ordering::Relaxed), 1, "told of that, and not with a lock held");
        disarm();
        until("it is forgotten", || pool.status().abandoned == 0).await;
        assert_eq!(pool.stats().workers_lost, 0);
        pool.terminate().await;
        other.terminate().await;
        assert!(children().is_empty());
    }));
}

#[test]
fn a_seat_and_other_pools_get_workers_although_a_start_hangs() {
    run_part("starts_that_hang::a_seat_of_a_start_that_hangs");
}
