//! Items that go to a worker together have fates of their own: what was answered
//! stays answered, what was not begun runs elsewhere, once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use procession::{Pool, SharedBytes, SharedBytesMut, TaskError};
use serde::{Deserialize, Serialize};

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
        for builder in [builder().task_timeout(Duration::from_secs(600)), builder().untrusted()] {
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

/// As many bytes as its number makes, all of them the same.
fn bytes_of(n: u64) -> Vec<u8> {
    vec![n as u8; (n * 7919 % 23) as usize]
}

/// Whatever a worker was doing: putting an answer down, or writing the frame that
/// has them all.
#[test]
fn what_a_killed_worker_has_answered_is_right() {
    checked(async {
        let pool = pool_of(2);
        let killer = tokio::spawn({
            let pool = pool.clone();
            async move {
                for n in 0_u64.. {
                    let pause = 2000 + n.wrapping_mul(6_364_136_223_846_793_005) % 5000;
                    tokio::time::sleep(Duration::from_micros(pause)).await;
                    let workers = pool.workers();
                    let busy = workers.iter().find(|worker| worker.task.is_some());
                    let pid = busy.and_then(|worker| worker.pid);
                    // It may just be gone.
                    let _ = pid.map(|pid| signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL));
                }
            }
        });
        let mut lost = 0;
        while pool.stats().workers_lost < 150 {
            let mut imap = pool.imap_unordered(bytes_of, 0..20_000).indexed();
            let mut seen = vec![false; 20_000];
            while let Some((index, answer)) = imap.next().await {
                assert!(!std::mem::replace(&mut seen[index], true), "{index} came twice");
                match answer {
                    Ok(bytes) => assert_eq!(bytes, bytes_of(index as u64), "{index}"),
                    Err(error) => {
                        assert!(error.is_worker_lost(), "{index}: {error}");
                        lost += 1;
                    }
                }
            }
            assert!(seen.into_iter().all(|seen| seen));
        }
        killer.abort();
        assert!(lost <= pool.stats().workers_lost);
    });
}

/// The pool is terminated with long items in the midst of chunks, and others that
/// were cut off and wait.
#[test]
fn items_that_a_pool_did_not_get_to_are_told() {
    fn item(n: u64) -> u64 {
        if n >= 20_000 && n % 700 < 2 {
            std::thread::sleep(Duration::from_millis(150));
        }
        n
    }
    checked(async {
        for round in 0..4 {
            let pool = pool_of(2);
            let pulled = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&pulled);
            let input = (0..).inspect(move |_| _ = counter.fetch_add(1, Ordering::Relaxed));
            let imap = if round % 2 == 0 {
                pool.imap(item, input)
            } else {
                pool.imap_unordered(item, input)
            };
            let mut imap = imap.buffer(200_000).indexed();
            let mut seen = BTreeMap::new();
            while let Some((index, answer)) = imap.next().await {
                assert!(seen.insert(index, answer.is_ok()).is_none(), "{index} came twice");
                if seen.len() == 20_100 {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        // Some of those behind long ones have been cut off by then.
                        tokio::time::sleep(Duration::from_millis(60 + 40 * round)).await;
                        pool.terminate().await;
                    });
                }
            }
            let pulled = pulled.load(Ordering::Relaxed);
            assert!(seen.len() == pulled && *seen.last_key_value().unwrap().0 + 1 == pulled);
            assert!(seen.values().any(|is_ok| !is_ok), "it ended without an error");
        }
    });
}

/// Of all numbers but one.
#[derive(Serialize, Deserialize, Debug)]
#[serde(try_from = "u64", into = "u64")]
struct Picky(u64);

impl Clone for Picky {
    fn clone(&self) -> Self {
        Picky(self.0)
    }
}

impl From<Picky> for u64 {
    fn from(picky: Picky) -> u64 {
        picky.0
    }
}

impl TryFrom<u64> for Picky {
    type Error = String;

    fn try_from(n: u64) -> Result<Self, String> {
        if n == 777 { Err("unlucky".into()) } else { Ok(Picky(n)) }
    }
}

#[test]
fn a_result_that_cannot_be_read_is_one_items() {
    checked(async {
        let pool = pool_of(2);
        for size in [None, Some(500)] {
            let imap = pool.imap(|n: u64| Picky(n), 0..3000);
            let imap = match size {
                Some(size) => imap.chunk_size(size),
                None => imap,
            };
            let answers: Vec<_> = imap.collect().await;
            let failed: Vec<_> = (0..3000).filter(|n| answers[*n].is_err()).collect();
            assert_eq!(failed, [777]);
            assert!(answers[778].as_ref().unwrap().0 == 778);
        }
    });
}

/// One asks to be called when it is cancelled, and ends. Another one is.
#[test]
fn what_an_item_has_asked_for_is_for_that_item() {
    fn item(folder: String, n: u64) {
        if n == 100 {
            procession::worker::on_terminate(move || note(format!("{folder}/called"), "called"));
        } else if n == 105 {
            crate::tasks::never(format!("{folder}/begun"));
        }
    }
    checked(async {
        let scratch = Scratch::new();
        let folder = scratch.path("folder");
        std::fs::create_dir(&folder).unwrap();
        let pool = pool_of(1);
        let it = folder.clone();
        let mut imap = pool.imap(item, (0..2000).map(move |n| (it.clone(), n))).chunk_size(200);
        for _ in 0..105 {
            imap.next().await.unwrap().unwrap();
        }
        crate::support::noted(&format!("{folder}/begun")).await;
        drop(imap);
        until("it is replaced", || pool.stats().workers_started == 2).await;
        assert!(!std::path::Path::new(&format!("{folder}/called")).exists());
    });
}

/// An item that takes its time to come does not keep those before it.
#[test]
fn what_has_come_is_sent_while_the_input_is_slow() {
    checked(async {
        let pool = pool_of(1);
        let pulled = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pulled);
        let slow = move |n: u64| {
            if n >= 20_000 {
                std::thread::sleep(Duration::from_millis(1));
                counter.fetch_add(1, Ordering::Relaxed);
            }
            n
        };
        let mut imap = pool.imap(|n: u64| n, (0..20_300).map(slow));
        let mut at_most = 0;
        for n in 0..20_300 {
            let before = pulled.load(Ordering::Relaxed);
            assert_eq!(imap.next().await.unwrap().unwrap(), n);
            at_most = at_most.max(pulled.load(Ordering::Relaxed) - before);
        }
        // Each chunk is as many as come in a millisecond; there may be some of them.
        assert!(at_most < 100, "{at_most} were pulled before one was given");
    });
}

/// Results that hold memory of their own, after some that do not.
#[test]
fn shared_results_and_arguments_go_in_chunks_too() {
    async fn add(n: u64, bytes: SharedBytes) -> u64 {
        tokio::task::yield_now().await;
        if n % 50 == 49 {
            std::process::exit(2);
        }
        n + u64::from(bytes[0])
    }
    fn sometimes(n: u64) -> Option<SharedBytes> {
        (n % 40 == 39).then(|| SharedBytesMut::zeroed(64).unwrap().freeze().unwrap())
    }
    checked(async {
        let pool = pool_of(2);
        let mut bytes = SharedBytesMut::zeroed(100_000).unwrap();
        bytes[0] = 5;
        let bytes = bytes.freeze().unwrap();
        let input = (0..500).map(move |n| (n, bytes.clone()));
        let answers: Vec<_> = pool.imap(add, input).collect().await;
        for (n, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(sum) => assert_eq!(sum, n as u64 + 5),
                Err(error) => assert!(error.is_worker_lost() && n % 50 == 49, "{n}: {error}"),
            }
        }
        let answers: Vec<_> = pool.imap(sometimes, 0..400).map(Result::unwrap).collect().await;
        let shared = answers.iter().enumerate().filter(|(_, answer)| answer.is_some());
        assert!(shared.map(|(n, _)| n).eq((39..400).step_by(40)));
    });
}
