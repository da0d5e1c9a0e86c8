//! procession alone: what more workers and longer queues cost, and whether a
//! short task waits for a long one that was given out before it.

use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Values, percentile, private_bytes};
use crate::jobs::Sizes;
use crate::ours::Procession;
use crate::tasks::{Gate, expected, hold, work};

pub fn measure(sizes: &Sizes) -> Values {
    let mut values = Values::new();
    for (workers, name) in [
        (1, "workers_1"),
        (2, "workers_2"),
        (8, "workers_8"),
        (64, "workers_64"),
        (256, "workers_256"),
    ] {
        let mut contestant = Procession::start(workers);
        contestant.runtime.block_on(contestant.pool.ready()).expect("workers");
        contestant.each(sizes.no_ops / 10, 0);
        values.insert(name, rate(&mut contestant, sizes.no_ops));
    }
    let mut contestant = Procession::start(2);
    for (tasks, name) in
        [(100, "queued_100"), (10_000, "queued_10000"), (sizes.queued_most, "queued_1000000")]
    {
        let mut rates: Vec<f64> = (0..3).map(|_| rate(&mut contestant, tasks)).collect();
        rates.sort_by(f64::total_cmp);
        values.insert(name, rates[1]);
    }
    drop(contestant);

    let mut contestant = Procession::start(1);
    contestant.queued(&Gate::new("gate"), sizes.queued_most as usize, &mut || {
        values.insert("resident", private_bytes(std::process::id()) as f64);
    });
    drop(contestant);

    let mut took: Vec<_> = (0..sizes.cancels).map(|_| behind()).collect();
    values.insert("behind_p50", percentile(&mut took, 50));
    values.insert("behind_max", percentile(&mut took, 100));
    values
}

fn rate(contestant: &mut Procession, tasks: u64) -> f64 {
    let start = Instant::now();
    let sum = contestant.each(tasks, 0);
    let took = start.elapsed();
    assert_eq!(sum, Some(expected(tasks, 0)));
    tasks as f64 / took.as_secs_f64()
}

/// Both workers have a long task, and 64 short ones are queued: one worker
/// becomes free, the other does not. The time from there until all 64 are done.
fn behind() -> Duration {
    let mut contestant = Procession::start(2);
    // Workers that answer quickly are sent more ahead.
    contestant.each(10_000, 0);
    let (long, shorter) = (Gate::new("long"), Gate::new("shorter"));
    let pool = contestant.pool.clone();
    contestant.runtime.block_on(async {
        let holds = [&long, &shorter].map(|gate| {
            let hold = pool.apply_async(hold, gate.path().to_path_buf());
            gate.wait_held();
            hold
        });
        let queued: Vec<_> = (0..64).map(|i| pool.apply_async(work, (i, 0))).collect();
        let [held_long, held_shorter] = holds;
        shorter.open();
        held_shorter.await.expect("held");
        let start = Instant::now();
        for (i, call) in (0..).zip(queued) {
            assert_eq!(call.await.expect("an answer"), i);
        }
        let took = start.elapsed();
        assert!(!held_long.is_finished(), "the long task is over already");
        long.open();
        held_long.await.expect("held");
        took
    })
}
