//! What the seed decides: the pools, the tasks and who does what to whom. It
//! fixes the plan, not the interleaving: that is the kernel's.

use std::time::Duration;

use procession::{Pool, Resource, SpawnError, Stdio};

use crate::tasks::{Manner, open_journal};
use crate::vitals::MARK;

/// Pseudorandom numbers (splitmix64): the same for the same seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn millis(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.below(below * 1000))
    }
}

/// How a pool ends when its time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Closed and joined: all it has is finished.
    Join,
    /// `shutdown` with a limit that may not be enough.
    Shutdown,
    Terminate,
    /// The last handle is dropped, and calls outlive it.
    Drop,
}

/// A pool of some kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    workers: usize,
    spares: usize,
    pipeline: usize,
    pub(crate) untrusted: bool,
    queue_limit: usize,
    grace_millis: u64,
    tasks_per_worker: Option<u64>,
    idle_millis: Option<u64>,
    piped: bool,
    pub(crate) ending: Ending,
}

impl Settings {
    pub(crate) fn new(rng: &mut Rng, workers_max: usize) -> Self {
        use Ending::*;
        Settings {
            workers: 1 + rng.below(workers_max as u64) as usize,
            spares: rng.pick(&[0, 0, 1, 2]),
            pipeline: rng.pick(&[1, 2, 8, 64, 64]),
            untrusted: rng.one_in(4),
            queue_limit: rng.pick(&[0, 4, 64, 1024]),
            grace_millis: rng.pick(&[0, 5, 50, 300]),
            tasks_per_worker: rng.pick(&[None, None, Some(1), Some(30), Some(100)]),
            idle_millis: rng.pick(&[None, None, None, Some(2), Some(20), Some(200)]),
            piped: rng.one_in(2),
            ending: rng.pick(&[Join, Join, Join, Shutdown, Terminate, Drop]),
        }
    }

    /// `journal`: where its tasks note their starts.
    pub(crate) fn build(&self, journal: &str) -> Result<Pool, SpawnError> {
        let mut pool = Pool::builder()
            .workers(self.workers)
            .spare_workers(self.spares)
            .pipeline(self.pipeline)
            .queue_limit(self.queue_limit)
            .grace_period(Duration::from_millis(self.grace_millis))
            .max_worker_memory(64 << 20)
            // A worker that is killed before its first task looks as if it
            // could not start.
            .restart_limit(1000)
            .initializer(open_journal, journal.to_owned())
            .env(MARK, std::process::id().to_string())
            .rlimits([(Resource::CoreFile, 0)])
            .stdout(Stdio::null())
            .stderr(if self.piped { Stdio::piped() } else { Stdio::null() });
        if self.untrusted {
            pool = pool.untrusted();
        }
        if let Some(tasks) = self.tasks_per_worker {
            pool = pool.max_tasks_per_worker(tasks);
        }
        if let Some(millis) = self.idle_millis {
            pool = pool.idle_timeout(Duration::from_millis(millis));
        }
        pool.build()
    }
}

/// A task for a call that nobody means to stop: it ends by itself.
pub(crate) fn manner(rng: &mut Rng) -> Manner {
    match rng.below(200) {
        0..100 => Manner::Quick,
        100..150 => Manner::Busy { micros: rng.below(500) },
        150..160 => Manner::Busy { micros: rng.below(10_000) },
        160..172 => Manner::Slow { millis: rng.below(30) },
        172..176 => Manner::Async { millis: rng.below(30) },
        176..180 => Manner::Polite { millis: rng.below(30) },
        180..184 => Manner::Stubborn { millis: rng.below(30) },
        184..186 => Manner::Hoard,
        186..188 => Manner::Fork,
        188..192 => Manner::Panic,
        192..195 => Manner::Exit,
        195..197 => Manner::Abort,
        197..199 => Manner::Segfault,
        _ => Manner::Overflow,
    }
}

/// A task for a call that is stopped, perhaps before it ends by itself.
pub(crate) fn doomed_manner(rng: &mut Rng) -> Manner {
    match rng.below(10) {
        0 => Manner::Stopped,
        1 => Manner::Stubborn { millis: 1000 },
        2 => Manner::Polite { millis: 1000 },
        3 => Manner::Async { millis: 1000 },
        4 => Manner::Slow { millis: 1000 },
        5 => Manner::Busy { micros: rng.below(50_000) },
        _ => manner(rng),
    }
}

/// Bytes to carry there and back.
pub(crate) fn ballast(rng: &mut Rng) -> usize {
    match rng.below(100) {
        0 => rng.below(1 << 20) as usize,
        1..5 => rng.below(1 << 16) as usize,
        _ => rng.below(64) as usize,
    }
}
