//! What the machine itself takes: bytes to and fro on a blocking socket between
//! two cores, into buffers that are used again, and copying them in memory.

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::contestant::{ECHOES, Values, percentile, time_each};
use crate::jobs::Sizes;
use crate::tasks::timed;

pub fn socketpair(job: &str, sizes: &Sizes) -> Values {
    match job {
        "round_trip" => {
            let mut took = ping_pong(32, sizes.round_trips);
            let (p50, p99) = (percentile(&mut took, 50), percentile(&mut took, 99));
            // However many workers: one waits.
            Values::from([("one_p50", p50), ("one_p99", p99), ("two_p50", p50), ("two_p99", p99)])
        }
        "pipe" => {
            let mut took = ping_pong(8, sizes.round_trips);
            Values::from([("p50", percentile(&mut took, 50)), ("p99", percentile(&mut took, 99))])
        }
        "echo" => ECHOES
            .into_iter()
            .map(|(name, length, times)| {
                let took = ping_pong(length, times * sizes.echoes + 1);
                (name, percentile(&mut took[1..].to_vec(), 50))
            })
            .collect(),
        _ => Values::new(),
    }
}

/// A message of so many bytes to a thread on another core and back, each side
/// reading all of it before it writes.
fn ping_pong(length: usize, times: usize) -> Vec<std::time::Duration> {
    let (mut near, mut far) = UnixStream::pair().expect("a socket pair");
    let echo = thread::spawn(move || {
        pin(1);
        let mut buffer = vec![1; length];
        for _ in 0..times {
            far.read_exact(&mut buffer).expect("all of it");
            far.write_all(&buffer).expect("a reader");
        }
    });
    let took = thread::spawn(move || {
        pin(0);
        let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut buffer = vec![1; length];
        let took = time_each(times, || {
            near.write_all(&message).expect("a reader");
            near.read_exact(&mut buffer).expect("all of it");
        });
        assert!(buffer == message, "what came back is something else");
        took
    });
    echo.join().expect("no panic");
    took.join().expect("no panic")
}

/// Keeps this thread on the `index`th of the cores that it may use, or the last.
fn pin(index: usize) {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("affinity");
    let mine: Vec<usize> =
        (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    let mut only = CpuSet::new();
    only.set(mine[index.min(mine.len() - 1)]).expect("a core");
    sched_setaffinity(this, &only).expect("affinity");
}

/// There and back is two copies.
pub fn memcpy(job: &str, sizes: &Sizes) -> Values {
    if job != "echo" {
        return Values::new();
    }
    ECHOES
        .into_iter()
        .map(|(name, length, times)| {
            let message: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let (mut there, mut back) = (vec![1; length], vec![1; length]);
            let mut took: Vec<_> = (0..times * sizes.echoes)
                .map(|_| {
                    timed(|| {
                        there.copy_from_slice(black_box(&message));
                        back.copy_from_slice(black_box(&there));
                    })
                })
                .collect();
            assert!(back == message);
            (name, percentile(&mut took, 50))
        })
        .collect()
}
