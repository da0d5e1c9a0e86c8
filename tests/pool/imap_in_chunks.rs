//! Items that go to a worker together have fates of their own: what was answered
//! stays answered, what was not begun runs elsewhere, once.

use std::collections::BTreeMap;

use futures::StreamExt;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use procession::{Pool, TaskError};

use crate::support::{Scratch, checked, note, notes, until};
use crate::tasks::{await_file, open, pid, pool_of};

/// Notes `n`, and takes no time.
fn noted(journal: String, n: u64) -> u64 {
    note(journal, &n.to_string());
    n
}

/// How often each number was noted.
fn counts(journal: &str) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for line in notes(journal) {
        *counts.entry(line.parse().unwrap()).or_default() += 1;
    }
    counts
}

fn outcome(answer: &Result<u64, TaskError>) -> Result<u64, Option<usize>> {
    answer.as_ref().map(|n| *n).map_err(TaskError::index)
}

/// Every 97th ends its worker, every 31st panics.
#[test]
fn a_death_and_a_panic_are_those_of_one_item() {
    fn dangerous(journal: String, n: u64) -> u64 {
        noted(journal, n);
        match n {
            n if n % 97 == 96 => std::process::exit(3),
            n if n % 31 == 30 => panic!("{n}"),
            n => n,
        }
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = pool_of(2);
        for size in [None, Some(1), Some(3), Some(500)] {
            let journal = scratch.path(&format!("{size:?}"));
            let input: Vec<_> = (0..1000).map(|n| (journal.clone(), n)).collect();
            let imap = pool.imap(dangerous, input);
            let imap = match size {
                Some(size) => imap.chunk_size(size),
                None => imap,
            };
            let answers: Vec<_> = imap.collect().await;
            assert_eq!(answers.len(), 1000);
            for (n, answer) in answers.iter().enumerate() {
                match outcome(answer) {
                    Ok(m) => assert!(m == n as u64 && n % 97 != 96 && n % 31 != 30, "{n}"),
                    Err(index) => assert_eq!(index, Some(n)),
                }
                if n % 97 == 96 {
                    assert_eq!(answer.as_ref().unwrap_err().exit().unwrap().code(), Some(3));
                } else if n % 31 == 30 {
                    assert!(answer.as_ref().unwrap_err().is_panic());
                }
            }
            let counts = counts(&journal);
            assert!(counts.len() == 1000 && counts.values().all(|count| *count == 1), "{size:?}");
        }
    });
}

/// Killed from outside, again and again, wherever they are.
#[test]
fn items_of_workers_that_are_killed_run_once_and_are_answered_or_lost() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(2);
        let it = journal.clone();
        let input = (0..20_000).map(move |n| (it.clone(), n));
        let mut imap = pool.imap_unordered(noted, input).indexed();
        let mut fates = BTreeMap::new();
        while let Some((index, answer)) = imap.next().await {
            let is_new = fates.insert(index as u64, answer).is_none();
            assert!(is_new, "{index} came twice");
            if index % 700 == 0 {
                let pid = pool.workers().into_iter().find_map(|worker| worker.pid);
                let pid = pid.map(|pid| Pid::from_raw(pid as i32));
                // It may just be gone.
                let _ = pid.map(|pid| signal::kill(pid, Signal::SIGKILL));
            }
        }
        assert_eq!(fates.len(), 20_000);
        let counts = counts(&journal);
        let mut lost = 0;
        for (n, answer) in fates {
            let runs = counts.get(&n).copied().unwrap_or_default();
            match answer {
                Ok(m) => assert_eq!((m, runs), (n, 1)),
                Err(error) => {
                    assert!(error.is_worker_lost() && runs <= 1, "{n}: {error}, {runs} times");
                    lost += 1;
                }
            }
        }
        let deaths = pool.stats().workers_lost;
        assert!(deaths > 0 && lost <= deaths, "{lost} lost with {deaths} workers");
    });
}

/// One item of a chunk takes for ever, and another worker is free.
#[test]
fn a_long_item_does_not_keep_those_behind_it() {
    fn gated(gate: String, n: u64) -> u64 {
        if n == 3000 {
            await_file(gate);
        }
        n
    }
    checked(async {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let pool = pool_of(2);
        let it = gate.clone();
        let mut imap = pool.imap_unordered(gated, (0..6000).map(move |n| (it.clone(), n)));
        let mut others: Vec<_> = (&mut imap).take(5999).map(Result::unwrap).collect().await;
        others.sort_unstable();
        assert!(others.into_iter().eq((0..3000).chain(3001..6000)));
        open(&gate);
        assert_eq!(imap.next().await.unwrap().unwrap(), 3000);
        assert!(imap.next().await.is_none());
        // Where the size is given, those before it come, and those behind it wait.
        let gate = scratch.path("another");
        let it = gate.clone();
        let imap = pool.imap_unordered(gated, (2500..3500).map(move |n| (it.clone(), n)));
        let mut imap = imap.chunk_size(1000).buffer(1000);
        for n in 2500..3000 {
            assert_eq!(imap.next().await.unwrap().unwrap(), n);
        }
        let next = futures::poll!(imap.next());
        assert!(next.is_pending(), "{next:?}");
        open(&gate);
        let rest: Vec<_> = imap.map(Result::unwrap).collect().await;
        assert!(rest.into_iter().eq(3000..3500));
    });
}

/// Longer than what is put down of a chunk, in all and each.
#[test]
fn long_answers_come_in_chunks_too() {
    checked(async {
        let pool = pool_of(2);
        for len in [100, 10_000, 100_000] {
            let task = |n: u64, len: usize| vec![n as u8; len];
            let mut imap = pool.imap(task, (0..300).map(move |n| (n, len)));
            for n in 0..300_u64 {
                assert_eq!(imap.next().await.unwrap().unwrap(), vec![n as u8; len]);
            }
        }
    });
}

/// What a pool has a limit for is counted in items.
#[test]
fn with_limits_for_each_task_items_go_alone() {
    async fn pids(pool: Pool) -> Vec<u32> {
        pool.imap(|_: u32| pid(), 0..20).map(Result::unwrap).collect().await
    }
    checked(async {
        let builder = || Pool::builder().workers(2);
        let one_each = pids(builder().max_tasks_per_worker(1).build().unwrap()).await;
        let mut different = one_each.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 20);
        for builder in
            [builder().task_timeout(std::time::Duration::from_secs(600)), builder().untrusted()]
        {
            let pool = builder.build().unwrap();
            pids(pool.clone()).await;
            assert_eq!(pool.stats().completed, 20);
        }
        let pool = builder().build().unwrap();
        pool.imap(|_: u32| (), 0..2000).for_each(|answer| async { answer.unwrap() }).await;
        let calls = pool.stats().completed;
        assert!(calls < 1000, "{calls}: that is no chunks");
    });
}

/// The stream is let go while its worker is in a chunk, and nobody is left over.
#[test]
fn dropped_in_a_chunk_it_ends_the_chunk() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        let it = journal.clone();
        let task = |journal: String, n: u64| {
            if n == 500 {
                crate::tasks::never(journal);
            }
        };
        let mut imap = pool.imap(task, (0..1000).map(move |n| (it.clone(), n)));
        for _ in 0..500 {
            imap.next().await.unwrap().unwrap();
        }
        assert!(futures::poll!(imap.next()).is_pending());
        crate::support::noted(&journal).await;
        drop(imap);
        assert_eq!(pool.apply(crate::tasks::square, 3).await.unwrap(), 9);
        until("it is replaced", || pool.stats().workers_started == 2).await;
    });
}
