//! A worker that is struck at any step of its work: what it had begun is lost,
//! or its answer is there; what it had not begun is done by another, once.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixStream;

use futures::StreamExt;
use futures::future::join_all;
use nix::sys::signal::Signal;
use procession::{Fd, Pool, TaskError, worker};

use crate::blow::{ALL, Blow, DEADLY, Steps, Strike, sweep};
use crate::judge::{Fate, judge};
use crate::support::{Scratch, checked, is_alive, note, noted, notes, until};
use crate::tasks::*;

/// One worker. It looks at its memory after each task: a step between the
/// moment at which that is done and its answer.
fn pool() -> Pool {
    Pool::builder().workers(1).max_worker_memory(1 << 40).build().unwrap()
}

/// Waits until a worker that was struck is gone, and checks that the pool works
/// on with another, or with the same if it has survived.
pub(crate) async fn works_on(pool: &Pool, victim: i32, died: bool) {
    if died {
        until("its death is known", || pool.workers().iter().all(|w| w.pid != Some(victim as u32)))
            .await;
        assert!(!is_alive(victim));
    }
    let next = pool.apply(pid, ()).await.unwrap() as i32;
    assert_eq!(next != victim, died);
    assert_all_counted(pool);
}

/// Notes a drop, between the end of a task and the moment at which it is done.
struct Noted(String, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        note(&self.0, self.1);
    }
}

/// Has steps of all kinds: before and after its first note, between its end and
/// its being done.
fn eventful(journal: String, number: u64) -> u32 {
    note(&journal, &number.to_string());
    let dropped = Noted(journal, "dropped");
    worker::on_terminate(move || drop(dropped));
    std::process::id()
}

#[test]
fn a_task_is_done_elsewhere_or_lost_or_answered() {
    checked(async {
        for blow in ALL {
            let pool = pool();
            let mut seen = BTreeSet::new();
            let mut before = 0;
            let mut done_and_lost = 0;
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                // With the thread that waits for cancellations.
                let victim = pool.apply(eventful, (scratch.path("first"), 0)).await.unwrap();
                let victim = victim as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let result = pool.apply(eventful, (journal.clone(), 0)).await;
                let struck = strike.finish().await;
                let elsewhere = result.as_ref().is_ok_and(|pid| *pid as i32 != victim);
                let fate = judge(&[result], &journal, blow, struck)[0];
                assert!(!elsewhere || (struck && blow.is_deadly()));
                seen.insert((fate, elsewhere));
                before += usize::from(fate == Fate::LostBefore);
                let dropped = notes(&journal).iter().any(|note| note == "dropped");
                done_and_lost += usize::from(fate == Fate::LostInBody && dropped);
                works_on(&pool, victim, struck && blow.is_deadly()).await;
                struck
            })
            .await;
            if blow.is_deadly() {
                use Fate::*;
                let all =
                    [(Answered, false), (Answered, true), (LostInBody, false), (LostBefore, false)];
                assert_eq!(seen, BTreeSet::from(all), "{blow:?}");
                // Between the task's claim and its first note there are but a few
                // steps: it opens a file, and writes. (Other threads may take
                // some of theirs meanwhile.)
                assert!(before <= 24, "{before}");
                assert!(done_and_lost > 0);
            } else {
                assert_eq!(seen, BTreeSet::from([(Fate::Answered, false)]));
            }
        }
    });
}

#[test]
fn of_pipelined_tasks_one_is_lost_and_none_runs_twice() {
    checked(async {
        for blow in ALL {
            let pool = Pool::builder().workers(1).build().unwrap();
            make_hasty(&pool).await;
            let mut lost = BTreeSet::new();
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let calls = (0..4).map(|n| pool.apply_async(quick, (journal.clone(), n)));
                let results = join_all(calls.collect::<Vec<_>>()).await;
                let struck = strike.finish().await;
                let fates = judge(&results, &journal, blow, struck);
                lost.extend(fates.iter().position(|fate| *fate != Fate::Answered));
                // In their order, whoever runs them.
                assert!(notes(&journal).is_sorted(), "{:?}", notes(&journal));
                works_on(&pool, victim, struck && blow.is_deadly()).await;
                struck
            })
            .await;
            let all = if blow.is_deadly() { BTreeSet::from([0, 1, 2, 3]) } else { BTreeSet::new() };
            assert_eq!(lost, all, "each of them once, if the blow is deadly");
        }
    });
}

/// With a second worker, which takes over what waits.
#[test]
fn siblings_on_another_worker_do_not_notice() {
    checked(async {
        for blow in ALL {
            let pool = Pool::builder().workers(2).build().unwrap();
            sweep(async |step| {
                let scratch = Scratch::new();
                let (started, gate, journal) =
                    (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
                pool.ready().await.unwrap();
                let sibling = pool.apply_async(held, (started.clone(), gate.clone()));
                let bystander = pids(&started, 1).await[0];
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                assert_ne!(victim, bystander);
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let calls = (0..3).map(|n| pool.apply_async(quick, (journal.clone(), n)));
                let results = join_all(calls.collect::<Vec<_>>()).await;
                let struck = strike.finish().await;
                judge(&results, &journal, blow, struck);
                open(&gate);
                assert_eq!(sibling.await.unwrap() as i32, bystander);
                let deaths = u64::from(struck && blow.is_deadly());
                until("its death is known", || {
                    pool.workers().iter().filter(|w| w.pid == Some(victim as u32)).count() as u64
                        == 1 - deaths
                })
                .await;
                assert!(is_alive(bystander));
                struck
            })
            .await;
            assert_all_counted(&pool);
        }
    });
}

#[test]
fn a_stream_gives_its_first_items_and_then_the_loss() {
    fn counting(started: String) -> impl Iterator<Item = u64> {
        note(started, "0");
        0..6
    }
    checked(async {
        for blow in ALL {
            let pool = pool();
            let mut ends = BTreeSet::new();
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let stream = pool.stream(counting, journal.clone()).buffer(2);
                let mut items: Vec<_> = stream.collect().await;
                let struck = strike.finish().await;
                let end = match items.last() {
                    Some(Err(_)) => items.pop().unwrap().map(drop),
                    _ => Ok(()),
                };
                let items: Vec<u64> = items.into_iter().map(Result::unwrap).collect();
                assert_eq!(items, (0..items.len() as u64).collect::<Vec<_>>());
                let lost = end.is_err();
                assert!(lost || items.len() == 6);
                judge(&[end], &journal, blow, struck);
                ends.extend(lost.then_some(items.len()));
                works_on(&pool, victim, struck && blow.is_deadly()).await;
                struck
            })
            .await;
            // It can be lost after any item; which steps fall between two of them
            // depends on who is quicker, the worker or its reader.
            if blow.is_deadly() {
                assert!(ends.contains(&0) && ends.contains(&6) && ends.len() > 3, "{ends:?}");
            } else {
                assert!(ends.is_empty(), "{ends:?}");
            }
        }
    });
}

#[test]
fn a_map_fails_at_the_item_that_was_lost() {
    checked(async {
        for blow in ALL {
            let pool = pool();
            let mut failed = BTreeSet::new();
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let inputs = (0..4).map(|n| (journal.clone(), n)).collect::<Vec<_>>();
                let result = pool.map(quick, inputs).chunk_size(2).await;
                let struck = strike.finish().await;
                let noted = |n: usize| {
                    let times =
                        notes(&journal).iter().filter(|note| **note == n.to_string()).count();
                    assert!(times <= 1, "{n} ran {times} times");
                    times == 1
                };
                match result {
                    Ok(answers) => {
                        assert_eq!(answers, [0, 1, 2, 3].map(answer));
                        assert!((0..4).all(noted));
                    }
                    Err(error) => {
                        assert!(struck && blow.is_deadly(), "{error}");
                        assert!(matches!(error, TaskError::WorkerLost { .. }), "{error}");
                        let index = error.index().expect("known");
                        match index % 2 {
                            0 => assert!(!noted(index + 1), "lost before that"),
                            _ => assert!(noted(index - 1), "came before"),
                        }
                        failed.insert(index);
                    }
                }
                works_on(&pool, victim, struck && blow.is_deadly()).await;
                struck
            })
            .await;
            let all = if blow.is_deadly() { (0..4).collect() } else { BTreeSet::new() };
            assert_eq!(failed, all);
        }
    });
}

/// Too long for the outbox and for the socket's buffer: it is written in parts.
#[test]
fn a_long_answer_is_whole_or_lost() {
    fn long(journal: String) -> String {
        note(journal, "0");
        "x".repeat(1 << 20)
    }
    checked(async {
        for blow in ALL {
            let pool = pool();
            let mut seen = BTreeSet::new();
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let result = pool.apply(long, journal.clone()).await;
                let struck = strike.finish().await;
                assert!(result.as_ref().is_err() || result.as_ref().unwrap().len() == 1 << 20);
                seen.insert(judge(&[result], &journal, blow, struck)[0]);
                works_on(&pool, victim, struck && blow.is_deadly()).await;
                struck
            })
            .await;
            assert_eq!(seen.len(), if blow.is_deadly() { 3 } else { 1 }, "{seen:?}");
        }
    });
}

/// They come with three messages, between which it can be struck.
#[test]
fn an_answer_with_hundreds_of_descriptors_is_whole_or_lost_and_none_stays() {
    fn many(journal: String, stream: Fd<UnixStream>) -> Vec<Fd<UnixStream>> {
        note(journal, "0");
        vec![stream; 300]
    }
    checked(async {
        for blow in ALL {
            let pool = pool();
            let mut seen = BTreeSet::new();
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let (ours, theirs) = UnixStream::pair().unwrap();
                ours.set_nonblocking(true).unwrap();
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let result = pool.apply(many, (journal.clone(), Fd::new(theirs))).await;
                let struck = strike.finish().await;
                assert!(result.as_ref().is_err() || result.as_ref().unwrap().len() == 300);
                seen.insert(judge(&[result], &journal, blow, struck)[0]);
                let has_ended = || (&ours).read(&mut [0]).is_ok_and(|read| read == 0);
                until("nobody has any of them", has_ended).await;
                works_on(&pool, victim, struck && blow.is_deadly()).await;
                struck
            })
            .await;
            assert_eq!(seen.len(), if blow.is_deadly() { 3 } else { 1 }, "{seen:?}");
        }
    });
}

/// A call that may be made again is, and is answered.
#[test]
fn a_call_with_retry_survives_any_blow() {
    checked(async {
        for blow in DEADLY {
            let pool = pool();
            let mut most = 0;
            sweep(async |step| {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let strike = Strike::prepare(victim, step, blow, Steps::All).await;
                let call = pool.apply(quick, (journal.clone(), 0)).retry(1);
                assert_eq!(call.await.unwrap(), answer(0));
                let struck = strike.finish().await;
                let starts = notes(&journal).len();
                assert!((1..=2).contains(&starts));
                most = most.max(starts);
                works_on(&pool, victim, struck).await;
                struck
            })
            .await;
            assert_eq!(most, 2);
        }
    });
}

/// However long it is stopped: its sibling works on, and it goes on where it was.
#[test]
fn a_worker_that_is_stopped_at_any_step_and_continued_later_goes_on() {
    checked(async {
        let pool = Pool::builder().workers(2).build().unwrap();
        sweep(async |step| {
            let scratch = Scratch::new();
            let (started, gate, journal) =
                (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
            pool.ready().await.unwrap();
            let busy = pool.apply_async(held, (started.clone(), gate.clone()));
            noted(&started).await;
            let victim = pool.apply(pid, ()).await.unwrap() as i32;
            let strike = Strike::prepare(victim, step, Blow::Hold, Steps::All).await;
            let calls: Vec<_> =
                (0..3).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
            let all_done = || calls.iter().all(|call| call.is_finished());
            until("it is stopped or done", || strike.has_fallen() || all_done()).await;
            let struck = strike.finish().await;
            if struck {
                has_stopped(victim).await;
            }
            open(&gate);
            assert_ne!(busy.await.unwrap() as i32, victim);
            if struck {
                send(victim, Signal::SIGCONT);
            }
            let fates = judge(&join_all(calls).await, &journal, Blow::Hold, struck);
            assert_eq!(fates, [Fate::Answered; 3]);
            assert_eq!(pool.apply(answer, 3).await.unwrap(), answer(3));
            struck
        })
        .await;
        let stats = pool.stats();
        assert_eq!((stats.workers_started, stats.workers_lost), (2, 0));
        assert_all_counted(&pool);
    });
}
