//! A worker that is struck at any step between its program's start and its
//! being ready: another takes its place, and the calls that wait are made once.

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use procession::Pool;

use crate::blow::{ALL, Blow, Steps, Strike};
use crate::hold::{held, hold_first};
use crate::judge::judge;
use crate::support::{Scratch, checked, is_alive, until};
use crate::tasks::*;

/// Scenes at a time: most of each is waiting for the second attempt.
const TOGETHER: usize = 12;

/// Returns whether the blow fell.
async fn start(step: usize, blow: Blow) -> bool {
    let scratch = Scratch::new();
    let journal = scratch.path("journal");
    let builder = Pool::builder().workers(1).restart_limit(2);
    let pool = hold_first(builder, &scratch).build().unwrap();
    let calls: Vec<_> = (0..3).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
    let victim = held(&scratch).await;
    let strike = Strike::prepare(victim, step, blow, Steps::few()).await;
    pool.ready().await.unwrap();
    let results = join_all(calls).await;
    let struck = strike.finish().await;
    let died = struck && blow.is_deadly();
    if died {
        until("its death is known", || pool.stats().workers_lost == 1).await;
        assert!(!is_alive(victim));
    }
    // Steps go on into the first calls.
    judge(&results, &journal, blow, struck);
    let worker = pool.apply(pid, ()).await.unwrap() as i32;
    assert_eq!(worker != victim, died, "{blow:?} at step {step}");
    let stats = pool.stats();
    let deaths = u64::from(died);
    assert_eq!((stats.workers_started, stats.workers_lost), (1 + deaths, deaths));
    assert_all_counted(&pool);
    struck
}

#[test]
fn a_worker_that_is_struck_while_it_starts_is_replaced() {
    checked(async {
        for blow in ALL {
            let mut scenes = stream::iter((0..).map(|step| start(step, blow))).buffered(TOGETHER);
            let mut steps = 0;
            while scenes.next().await.unwrap() {
                steps += 1;
            }
            assert!(steps > 20, "{steps} steps");
        }
    });
}
