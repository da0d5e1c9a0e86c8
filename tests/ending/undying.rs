//! Workers that do not die of SIGKILL: nobody waits for them for ever. They are
//! kept from dying by the freezer of old control groups, which is as good as a
//! disk that does not answer.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures::join;
use nix::sys::signal::Signal;
use procession::{Pool, PoolState, TaskError, WorkerState};

use crate::orphans::not_here;
use crate::support::{LIMIT, Scratch, checked, is_alive, until, within};
use crate::tasks::*;

/// Processes that neither run nor die.
struct Freezer(PathBuf);

impl Freezer {
    fn new() -> Option<Freezer> {
        let name = format!("procession-{}", std::process::id());
        let path = PathBuf::from("/sys/fs/cgroup/freezer").join(name);
        match fs::create_dir(&path) {
            Ok(()) => Some(Freezer(path)),
            Err(error) => {
                not_here(&format!("workers that do not die: no freezer at {path:?}: {error}"));
                None
            }
        }
    }

    fn set(&self, state: &str) {
        fs::write(self.0.join("freezer.state"), state).unwrap();
    }

    /// Freezes the process, and all that are there already.
    async fn freeze(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        self.set("FROZEN");
        until("it is frozen", || {
            fs::read_to_string(self.0.join("freezer.state")).unwrap().trim() == "FROZEN"
        })
        .await;
    }

    fn is_empty(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap().is_empty()
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set("THAWED");
        while fs::remove_dir(&self.0).is_err() {
            assert!(std::thread::panicking() || !self.is_empty(), "it is empty and cannot go");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn pool_of(workers: usize) -> Pool {
    Pool::builder().workers(workers).grace_period(Duration::from_millis(20)).build().unwrap()
}

fn abandoned(pool: &Pool) -> Vec<Option<u32>> {
    let workers = pool.workers().into_iter();
    workers.filter(|worker| worker.state == WorkerState::Abandoned).map(|it| it.pid).collect()
}

/// A pool of one whose worker runs a task and is frozen.
async fn frozen(freezer: &Freezer, journal: String) -> (Pool, procession::TaskHandle<()>, i32) {
    let pool = pool_of(1);
    let task = pool.apply_async(forever, journal.clone());
    let pid = pids(&journal, 1).await[0];
    freezer.freeze(pid).await;
    (pool, task, pid)
}

#[test]
fn nobody_waits_for_a_worker_that_does_not_die() {
    checked(async {
        let Some(freezer) = Freezer::new() else { return };
        let scratch = Scratch::new();
        let make = |name: &str| frozen(&freezer, scratch.path(name));
        let (cancelled, its_task, its_pid) = make("cancelled").await;
        let (terminated, terminated_task, _) = make("terminated").await;
        let (shut, shut_task, _) = make("shut").await;
        let (killed, killed_task, _) = make("killed").await;
        let (late, late_task, _) = make("late").await;
        let joined = late.clone();
        drop(late);

        let cancelling = async {
            let cancelled = its_task.cancel().await;
            assert!(cancelled.started && cancelled.exit.is_none(), "{cancelled:?}");
        };
        let terminating = async {
            terminated.terminate().await;
            assert!(matches!(terminated_task.await, Err(TaskError::Terminated)));
            assert_eq!(terminated.status().state, PoolState::Terminated);
        };
        let shutting = async {
            shut.shutdown(Duration::from_millis(10)).await;
            assert!(matches!(shut_task.await, Err(TaskError::Terminated)));
        };
        // As if by somebody else: nobody asked for it.
        let dying = async {
            let pid = killed.workers()[0].pid.unwrap() as i32;
            send(pid, Signal::SIGKILL);
            assert!(killed_task.cancel().await.started);
        };
        let joining = async {
            drop(late_task);
            joined.close();
            joined.join().await;
        };
        within(LIMIT, async { join!(cancelling, terminating, shutting, dying, joining) }).await;

        // What there is to know about it.
        let pool = cancelled;
        assert!(is_alive(its_pid));
        assert_eq!(abandoned(&pool), [Some(its_pid as u32)]);
        assert_eq!(pool.status().abandoned, 1);
        assert_eq!(pool.stats().workers_abandoned, 1);
        // Another has its place.
        assert_eq!(pool.apply(answer, 3).await.unwrap(), answer(3));
        assert_ne!(pool.apply(pid, ()).await.unwrap(), its_pid as u32);

        // That one does not die either: there is no third, and its caller is
        // told all the same.
        let journal = scratch.path("second");
        let second = pool.apply_async(forever, journal.clone());
        freezer.freeze(pids(&journal, 1).await[0]).await;
        let cancelled = within(LIMIT, second.cancel()).await;
        assert!(cancelled.started && cancelled.exit.is_none(), "{cancelled:?}");
        assert_eq!(abandoned(&pool).len(), 2);
        assert_eq!(pool.status().workers, 1);
        assert_eq!(pool.stats().workers_started, 2);
        let unready = within(LIMIT, pool.ready()).await.unwrap_err().to_string();
        assert!(unready.ends_with("was killed and does not die"), "{unready}");
        let waiting = pool.apply_async(answer, 4);

        // Once they can, they die, and everything is as before.
        freezer.set("THAWED");
        assert_eq!(within(LIMIT, waiting).await.unwrap(), answer(4));
        within(LIMIT, pool.ready()).await.unwrap();
        for pool in [&pool, &terminated, &shut, &killed, &joined] {
            until("the dead are forgotten", || pool.status().abandoned == 0).await;
            assert!(abandoned(pool).is_empty());
            assert_all_counted(pool);
        }
        assert_eq!(pool.stats().workers_abandoned, 2);
        assert_eq!(pool.stats().workers_lost, 0);
        until("they are dead", || freezer.is_empty()).await;
    });
}

/// Its socket is empty and its page is not looked at any more: what it held is
/// given back even before it is dead.
#[test]
fn a_pool_can_be_dropped_whose_worker_does_not_die() {
    checked(async {
        let Some(freezer) = Freezer::new() else { return };
        let scratch = Scratch::new();
        let (pool, task, pid) = frozen(&freezer, scratch.path("dropped")).await;
        let other = pool.clone();
        drop(pool);
        drop(other);
        let ended = within(LIMIT, task).await;
        assert!(matches!(ended, Err(TaskError::Terminated)), "{ended:?}");
        assert!(is_alive(pid));
        freezer.set("THAWED");
        until("it is dead", || freezer.is_empty()).await;
    });
}
