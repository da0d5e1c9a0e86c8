//! Many processes at a time.

use std::collections::BTreeSet;

use futures::stream::{FuturesUnordered, StreamExt};
use procession::Process;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::checked;
use crate::support::Scratch;
use crate::tasks::{forever, square};

#[test]
fn many_run_at_once_and_each_has_its_result() {
    checked(async {
        let processes: Vec<_> = (0..50).map(|n| Process::spawn(square, n).unwrap()).collect();
        let pids: BTreeSet<u32> = processes.iter().map(Process::pid).collect();
        assert_eq!(pids.len(), 50);
        for (n, process) in (0..).zip(processes) {
            assert_eq!(process.await.unwrap(), n * n);
        }
    });
}

#[test]
fn many_are_terminated_and_killed() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let processes: Vec<_> =
            (0..20).map(|_| Process::spawn(forever, started.clone()).unwrap()).collect();
        for (n, process) in processes.iter().enumerate() {
            if n % 2 == 0 { process.terminate() } else { process.kill() }
        }
        for (n, process) in processes.iter().enumerate() {
            let expected = if n % 2 == 0 { -15 } else { -9 };
            assert_eq!(process.join().await.exitcode(), Some(expected));
        }
    });
}

#[test]
fn the_first_of_many_to_end_is_found() {
    fn sleeps(millis: u64) -> u64 {
        std::thread::sleep(std::time::Duration::from_millis(millis));
        millis
    }
    checked(async {
        let all = [100_000, 20, 100_000].map(|millis| Process::spawn(sleeps, millis).unwrap());
        let mut ends: FuturesUnordered<_> = all
            .iter()
            .enumerate()
            .map(|(n, process)| {
                let exited = process.exited();
                async move { (n, exited.await) }
            })
            .collect();
        let (first, exit) = ends.next().await.unwrap();
        assert_eq!((first, exit.code()), (1, Some(0)));
        all.iter().for_each(Process::kill);
        while let Some((_, exit)) = ends.next().await {
            assert_eq!(exit.signal(), Some(9));
        }
    });
}

#[test]
fn a_sentinel_is_readable_once_its_process_has_ended() {
    checked(async {
        let processes: Vec<_> =
            [3, 5, 7].map(|n| Process::spawn(square, n).unwrap()).into_iter().collect();
        let sentinels = processes.iter().map(|process| {
            let sentinel = process.sentinel().try_clone_to_owned().unwrap();
            // SAFETY: it owns its descriptor, which no other end of it closes.
            unsafe { AsyncFd::register_with_interest(sentinel, Interest::READABLE) }.unwrap()
        });
        let sentinels: Vec<_> = sentinels.collect();
        for (sentinel, process) in sentinels.iter().zip(&processes) {
            let _ = sentinel.readable().await.unwrap();
            // Whatever the warden knows.
            assert!(!process.is_alive());
            assert_eq!(process.exit().unwrap().code(), Some(0));
        }
        for (process, n) in processes.into_iter().zip([3, 5, 7]) {
            assert_eq!(process.await.unwrap(), n * n);
        }
    });
}

#[test]
fn one_is_selected() {
    checked(async {
        let quick = Process::spawn(square, 3).unwrap();
        let slow = Process::spawn(std::thread::park, ()).unwrap();
        tokio::select! {
            exit = quick.exited() => assert!(exit.success()),
            exit = slow.exited() => panic!("{exit}"),
        }
    });
}
