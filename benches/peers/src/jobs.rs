//! What is measured: the jobs, their figures, and how much of each is done.

/// How a figure is written, and whether more of it is better.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    Seconds,
    PerSecond,
    Share,
    Bytes,
    Count,
}

impl Unit {
    pub fn more_is_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::Share)
    }
}

pub struct Job {
    pub name: &'static str,
    pub title: &'static str,
    /// Name in the JSON line, heading, unit.
    pub figures: &'static [(&'static str, &'static str, Unit)],
}

/// In the order of the table. All are asked for all jobs; who cannot do one
/// gives no figures for it.
pub const CONTESTANTS: [&str; 14] = [
    "procession",
    "by fork server",
    "spawn_blocking",
    "rayon",
    "procspawn",
    "ipc-channel",
    "socketpair",
    "memcpy",
    "std::process",
    "multiprocessing",
    "Pool",
    "ProcessPoolExecutor",
    "loky",
    "joblib",
];

/// Those that `python/peers.py` runs.
pub fn is_python(who: &str) -> bool {
    CONTESTANTS[9..].contains(&who)
}

use self::Unit::{Bytes, Count, PerSecond, Seconds, Share};

pub const JOBS: &[Job] = &[
    Job {
        name: "round_trip",
        title: "One no-op after another",
        figures: &[
            ("one_p50", "1 worker, p50", Seconds),
            ("one_p99", "1 worker, p99", Seconds),
            ("two_p50", "2 workers, p50", Seconds),
            ("two_p99", "2 workers, p99", Seconds),
        ],
    },
    Job {
        name: "in_flight",
        title: "No-ops, many in flight",
        figures: &[
            ("each", "queued singly", PerSecond),
            ("callers", "by 64 callers, awaited", PerSecond),
            ("stream", "as a stream, one at a time", PerSecond),
            ("chunked", "as a stream, in chunks", PerSecond),
        ],
    },
    Job { name: "map", title: "A million squares", figures: &[("map", "numbers", PerSecond)] },
    Job {
        name: "efficiency",
        title: "Tasks of 100 µs: serial time / (2 × elapsed)",
        figures: &[
            ("map", "map", Share),
            ("stream", "as a stream, one at a time", Share),
            ("chunked", "as a stream, in chunks", Share),
            ("each", "queued singly", Share),
        ],
    },
    Job {
        name: "echo",
        title: "Bytes there and back",
        figures: &[("large", "64 MiB", Seconds), ("small", "1 MiB", Seconds)],
    },
    Job {
        name: "first_result",
        title: "A pool of two made, and its first result",
        figures: &[("first_result", "elapsed", Seconds)],
    },
    Job {
        name: "cancel",
        title: "A running task stopped, and the next one's result",
        figures: &[("cancel", "elapsed", Seconds), ("spare", "with a spare worker", Seconds)],
    },
    Job {
        name: "memory",
        title: "Memory and descriptors",
        figures: &[
            ("worker", "idle worker's own", Bytes),
            ("queued", "queued call, in the parent", Bytes),
            ("descriptors", "descriptors per queued call", Count),
        ],
    },
    Job {
        name: "pipe",
        title: "A number to a process and back, over a pipe",
        figures: &[
            ("p50", "p50", Seconds),
            ("p99", "p99", Seconds),
            ("awaited", "in a runtime, p50", Seconds),
        ],
    },
    Job {
        name: "queue",
        title: "Numbers through a queue, from processes to processes",
        figures: &[
            ("one_one", "1 to 1", PerSecond),
            ("two_one", "2 to 1", PerSecond),
            ("two_two", "2 to 2", PerSecond),
        ],
    },
    Job {
        name: "start",
        title: "A process started, until it has answered and ended",
        figures: &[
            ("spawn", "spawn", Seconds),
            ("server", "fork server", Seconds),
            ("fork", "fork", Seconds),
            ("spawn_large", "spawn, parent of 4 GiB", Seconds),
            ("server_large", "fork server, of 4 GiB", Seconds),
            ("fork_large", "fork, of 4 GiB", Seconds),
        ],
    },
    Job {
        name: "growth",
        title: "How procession's cost grows",
        figures: &[
            ("workers_1", "1 worker", PerSecond),
            ("workers_2", "2 workers", PerSecond),
            ("workers_8", "8 workers", PerSecond),
            ("workers_64", "64 workers", PerSecond),
            ("workers_256", "256 workers", PerSecond),
            ("queued_100", "100 queued", PerSecond),
            ("queued_10000", "10 000 queued", PerSecond),
            ("queued_1000000", "1 000 000 queued", PerSecond),
            ("resident", "parent's memory at 1 000 000 queued", Bytes),
            ("behind_p50", "64 short behind a long one, p50", Seconds),
            ("behind_max", "64 short behind a long one, longest", Seconds),
        ],
    },
];

/// How much of each job is one measurement.
pub struct Sizes {
    pub round_trips: usize,
    pub no_ops: u64,
    pub squares: u64,
    pub busy_tasks: u64,
    pub echoes: usize,
    pub pools: usize,
    pub cancels: usize,
    pub queued: usize,
    pub queued_most: u64,
    pub items: u64,
    pub starts: usize,
}

impl Sizes {
    pub fn new(quick: bool) -> Sizes {
        let pick = |quick_size: usize, size| if quick { quick_size } else { size };
        Sizes {
            round_trips: pick(1_000, 10_000),
            no_ops: pick(10_000, 100_000) as u64,
            squares: 1_000_000,
            busy_tasks: pick(2_000, 20_000) as u64,
            echoes: pick(3, 9),
            pools: pick(3, 9),
            cancels: pick(3, 15),
            queued: pick(20_000, 100_000),
            queued_most: 1_000_000,
            items: pick(20_000, 200_000) as u64,
            starts: pick(20, 100),
        }
    }
}
