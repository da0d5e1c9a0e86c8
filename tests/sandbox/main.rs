//! Workers that try to get out, each way with a sandbox and without, so that what
//! is refused is known to be the sandbox's doing. And that everything works in one.

mod from_one_to_the_next;
mod getting_out;
mod living_in_it;
mod queues;
mod what_is_said;

#[path = "../support/mod.rs"]
mod support;

procession::test_worker!();

use procession::{Pool, Sandbox};

fn pool_in(sandbox: Sandbox) -> Pool {
    Pool::builder().workers(1).restart_limit(1).sandbox(sandbox).build().unwrap()
}

fn free_pool() -> Pool {
    Pool::builder().workers(1).build().unwrap()
}

/// Whether this system has all that a sandbox takes; says aloud what is missing.
async fn is_possible() -> bool {
    let pool = pool_in(Sandbox::computing().read("/").best_effort());
    pool.ready().await.unwrap();
    let report = pool.workers()[0].sandbox.unwrap();
    if !report.is_complete() {
        eprintln!("NOT TESTED HERE: this system has no whole sandbox: {report:?}");
    }
    report.is_complete()
}
