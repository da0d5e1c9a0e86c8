//! SIGKILL from outside, at any instant of a process's life.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Process, TaskError};

use crate::checked;

/// Some are struck while they come up, some in the middle of a long answer.
#[test]
fn each_ends_with_its_result_or_with_that_signal() {
    checked(async {
        let (mut lost, mut done) = (0, 0);
        for n in 0..150_u64 {
            let length = if n % 2 == 0 { 10 } else { 2 << 20 };
            let answer = |length: usize| vec![1_u8; length];
            let mut process = Process::spawn(answer, length).unwrap();
            // Up to some ten milliseconds, in no order.
            let pause = Duration::from_micros(n * 7919 % 12_000);
            std::thread::sleep(pause);
            // Not reaped before we have asked: the number is its own, or nobody's.
            if process.is_alive() {
                let _ = kill(Pid::from_raw(process.pid() as i32), Signal::SIGKILL);
            }
            match (&mut process).await {
                Ok(answer) => {
                    assert_eq!(answer.len(), length);
                    done += 1;
                }
                Err(TaskError::WorkerLost { exit, .. }) => {
                    assert_eq!(exit.signal(), Some(9));
                    assert_eq!(process.exit(), Some(exit));
                    lost += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
            assert!(!process.is_alive());
        }
        assert!(lost > 0, "{done} were done");
    });
}

#[test]
fn a_handle_dropped_at_any_instant_leaves_nothing() {
    checked(async {
        for n in 0..150_u64 {
            let process = Process::spawn(|| vec![1_u8; 2 << 20], ()).unwrap();
            std::thread::sleep(Duration::from_micros(n * 7919 % 12_000));
            drop(process);
        }
    });
}
