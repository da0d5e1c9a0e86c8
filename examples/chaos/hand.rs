//! The hand from outside: sends signals to workers that were doing no harm, and
//! changes the size of pools. It writes down each signal before it sends it.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::Pool;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::ledger::Ledger;
use crate::plan::{Ending, Rng, Settings};

pub(crate) struct Hand {
    pub(crate) pools: Vec<(Pool, Settings)>,
    pub(crate) workers_max: usize,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) rng: Rng,
}

impl Hand {
    /// Goes on for a little while after the pools are told to end.
    pub(crate) async fn run(mut self, until: Instant) {
        let mut stopped = JoinSet::new();
        while Instant::now() < until + Duration::from_millis(200) {
            sleep(Duration::from_millis(5) + self.rng.millis(60)).await;
            if Instant::now() > until {
                // To hold one is to keep it.
                self.pools.retain(|(_, settings)| settings.ending != Ending::Drop);
            }
            if self.pools.is_empty() {
                break;
            }
            let at = self.rng.below(self.pools.len() as u64) as usize;
            let (pool, _) = &self.pools[at];
            if self.rng.one_in(10) {
                pool.resize(1 + self.rng.below(self.workers_max as u64) as usize);
                continue;
            }
            let workers = pool.workers();
            let nth = self.rng.below(workers.len().max(1) as u64) as usize;
            let Some(pid) = workers.get(nth).and_then(|worker| worker.pid) else { continue };
            match self.rng.below(10) {
                0..4 => self.ledger.send(pid, Signal::SIGKILL),
                4..6 => self.ledger.send(pid, Signal::SIGTERM),
                _ => {
                    self.ledger.send(pid, Signal::SIGSTOP);
                    // Some are stopped for longer than a pool waits for an
                    // answer or a farewell.
                    let millis = if self.rng.one_in(10) { 1500 } else { 100 };
                    let pause = self.rng.millis(millis);
                    stopped.spawn(async move {
                        sleep(pause).await;
                        // If it is gone, there is nothing to continue.
                        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGCONT);
                    });
                }
            }
        }
        drop(self.pools);
        stopped.join_all().await;
    }
}
