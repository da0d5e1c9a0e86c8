//! A process started, until it has answered and ended; from a small parent, and
//! from one with much memory.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::Instant;

use procession::{Process, StartMethod};

use crate::contestant::{Values, percentile};
use crate::jobs::Sizes;

const LARGE_BYTES: usize = 4 << 30;

fn answer(n: u64) -> u64 {
    n + 1
}

fn by(method: StartMethod) {
    let process = Process::builder().start_method(method).spawn(answer, 1).expect("a process");
    assert_eq!(futures::executor::block_on(process).expect("an answer"), 2);
}

/// Names of the figures, small and large, and how to start.
type Method = (&'static str, &'static str, fn());

pub fn procession(sizes: &Sizes) -> Values {
    measure(
        sizes,
        &[
            ("spawn", "spawn_large", || by(StartMethod::Spawn)),
            ("server", "server_large", || by(StartMethod::ForkServer)),
            // This process has one thread.
            ("fork", "fork_large", || by(StartMethod::Fork)),
        ],
    )
}

/// A program that does nothing, and says nothing.
pub fn std_process(sizes: &Sizes) -> Values {
    let start = || {
        let status = Command::new("/bin/true").stdin(Stdio::null()).status();
        assert!(status.expect("a process").success());
    };
    measure(sizes, &[("spawn", "spawn_large", start)])
}

pub fn procspawn(sizes: &Sizes) -> Values {
    let start = || assert_eq!(procspawn::spawn(1, answer).join().expect("an answer"), 2);
    measure(sizes, &[("spawn", "spawn_large", start)])
}

fn measure(sizes: &Sizes, methods: &[Method]) -> Values {
    let mut values = Values::new();
    let mut rounds = |pick: fn(&Method) -> &'static str| {
        for method in methods {
            let start = method.2;
            // A server has to be started once.
            start();
            let mut took: Vec<_> = (0..sizes.starts)
                .map(|_| {
                    let began = Instant::now();
                    start();
                    began.elapsed()
                })
                .collect();
            values.insert(pick(method), percentile(&mut took, 50));
        }
    };
    rounds(|method| method.0);
    let memory = black_box(vec![1_u8; LARGE_BYTES]);
    rounds(|method| method.1);
    drop(black_box(memory));
    values
}
