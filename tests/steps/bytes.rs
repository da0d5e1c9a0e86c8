//! A worker that is struck after each byte that it reads or writes, and one that
//! gets, or sends, its bytes in two parts.

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use procession::Pool;

use crate::blow::Blow;
use crate::judge::{Fate, judge};
use crate::support::{Scratch, checked, note, until};
use crate::tasks::*;
use crate::wire::{Direction, FAULTS, Fault, cut, cut_first};
use crate::working::works_on;

/// In a worker: cuts what it writes from here on, which begins with the answer
/// of this task.
fn cut_writes(journal: String, bytes: u64, signal: i32) -> u32 {
    note(journal, "0");
    cut(Direction::Writes, bytes, signal);
    std::process::id()
}

/// The same of what it reads: the next task's frame.
fn cut_reads(bytes: u64, signal: i32) -> u32 {
    cut(Direction::Reads, bytes, signal);
    std::process::id()
}

/// An answer of so many bytes, cut.
fn long(journal: String, len: usize, bytes: u64, signal: i32) -> String {
    note(journal, "0");
    cut(Direction::Writes, bytes, signal);
    "x".repeat(len)
}

fn blow(fault: Fault) -> Blow {
    match fault {
        Fault::Blow(blow) => blow,
        Fault::Split => Blow::Pause,
    }
}

/// More than an answer's frame has that is a number, and less than two.
const SHORT_FRAME: u64 = 40;

/// Has the worker read and write until its cut comes.
async fn until_it_dies(pool: &Pool, victim: i32) {
    while pool.apply(pid, ()).await.unwrap() as i32 == victim {}
}

/// It is in the outbox, whole, before the first byte of it is written; so it is
/// taken from there.
#[test]
fn a_short_answer_is_there_whatever_part_of_it_was_written() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        for fault in FAULTS {
            for bytes in 0..SHORT_FRAME {
                let scratch = Scratch::new();
                let args = (scratch.path("journal"), bytes, fault.number());
                let victim = pool.apply(cut_writes, args).await.unwrap() as i32;
                // The cut may come behind that answer.
                if matches!(fault, Fault::Blow(_)) {
                    until_it_dies(&pool, victim).await;
                }
                works_on(&pool, victim, matches!(fault, Fault::Blow(_))).await;
            }
        }
    });
}

#[test]
fn a_task_whose_frame_was_read_in_part_runs_once() {
    checked(async {
        for fault in FAULTS {
            let pool = Pool::builder().workers(1).build().unwrap();
            make_hasty(&pool).await;
            for bytes in 0..4 * SHORT_FRAME {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(cut_reads, (bytes, fault.number())).await.unwrap() as i32;
                let calls: Vec<_> =
                    (0..3).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
                let results = join_all(calls).await;
                let fates = judge(&results, &journal, blow(fault), true);
                assert_eq!(fates, [Fate::Answered; 3], "{fault:?} after {bytes}");
                let died = matches!(fault, Fault::Blow(_));
                if died {
                    // If the three were shorter than that.
                    until_it_dies(&pool, victim).await;
                }
                works_on(&pool, victim, died).await;
            }
        }
    });
}

/// Hello and ready go through the outbox too, so that they are heard; but a
/// worker that is dead is not ready.
#[test]
fn a_worker_whose_greeting_was_cut_is_replaced() {
    async fn start(direction: Direction, bytes: u64, fault: Fault) -> bool {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let builder = Pool::builder().workers(1).restart_limit(2);
        let pool = cut_first(builder, &scratch, direction, bytes, fault).build().unwrap();
        pool.ready().await.unwrap();
        let calls: Vec<_> = (0..3).map(|n| pool.apply_async(quick, (journal.clone(), n))).collect();
        let results = join_all(calls).await;
        let fates = judge(&results, &journal, blow(fault), true);
        assert_eq!(fates, [Fate::Answered; 3], "{direction:?}: {fault:?} after {bytes}");
        assert_all_counted(&pool);
        let lost = pool.stats().workers_lost;
        assert_eq!(pool.stats().workers_started, 1 + lost);
        lost > 0
    }
    checked(async {
        for direction in [Direction::Reads, Direction::Writes] {
            for fault in FAULTS {
                let starts = (0..48).map(|bytes| start(direction, bytes, fault));
                let lost: Vec<bool> = stream::iter(starts).buffered(12).collect().await;
                let last = lost.iter().rposition(|lost| *lost);
                match fault {
                    Fault::Blow(_) => assert!(last > Some(16), "{direction:?}: {lost:?}"),
                    Fault::Split => assert_eq!(last, None, "{direction:?}"),
                }
            }
        }
    });
}

/// Longer than the outbox holds: it goes into the socket straight away, and is
/// lost if that is not all of it.
#[test]
fn a_long_answer_that_was_written_in_part_is_lost() {
    const LEN: usize = 300_000;
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let middle = [1000, 32_768, 65_536, 200_000, 212_992];
        let end = LEN as u64..LEN as u64 + 64;
        for fault in FAULTS {
            let mut fates = Vec::new();
            for bytes in (0..48).chain(middle).chain(end.clone()) {
                let scratch = Scratch::new();
                let journal = scratch.path("journal");
                let victim = pool.apply(pid, ()).await.unwrap() as i32;
                let args = (journal.clone(), LEN, bytes, fault.number());
                let result = pool.apply(long, args).await;
                let died = matches!(fault, Fault::Blow(_));
                if let Ok(answer) = &result {
                    assert_eq!(answer.len(), LEN);
                    if died {
                        // Whatever is left to be written before the cut.
                        until_it_dies(&pool, victim).await;
                    }
                }
                fates.push((judge(&[result], &journal, blow(fault), true)[0], bytes));
                works_on(&pool, victim, died).await;
            }
            let lost = fates.iter().filter(|(fate, _)| *fate == Fate::LostInBody).count();
            let (short, whole) = fates.split_at(lost);
            assert!(short.iter().all(|(fate, _)| *fate == Fate::LostInBody), "{fates:?}");
            assert!(whole.iter().all(|(fate, _)| *fate == Fate::Answered), "{fates:?}");
            match fault {
                // Its frame has a few bytes more than its payload.
                Fault::Blow(_) => assert!(whole[0].1 > LEN as u64, "{fates:?}"),
                Fault::Split => assert_eq!(lost, 0),
            }
        }
    });
}

/// Nothing of the sort disturbs a stream: every item that was made is read.
#[test]
fn the_items_of_a_stream_are_read_up_to_the_cut() {
    fn items(bytes: u64, signal: i32) -> impl Iterator<Item = u32> {
        cut(Direction::Writes, bytes, signal);
        0..4
    }
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        for fault in FAULTS {
            for bytes in 0..3 * SHORT_FRAME {
                pool.apply(pid, ()).await.unwrap();
                let stream = pool.stream(items, (bytes, fault.number()));
                let all: Vec<_> = stream.collect().await;
                let (items, errors): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
                let items: Vec<u32> = items.into_iter().map(Result::unwrap).collect();
                // The one that was being written is in the outbox.
                let whole = (0..4).take(items.len());
                assert!(items.iter().copied().eq(whole), "{fault:?} after {bytes}: {items:?}");
                match fault {
                    Fault::Split => assert!(errors.is_empty() && items.len() == 4),
                    Fault::Blow(_) => {
                        assert!(errors.iter().all(|e| e.as_ref().unwrap_err().is_worker_lost()));
                        assert!(!items.is_empty() && errors.len() <= 1);
                    }
                }
                until("it is settled", || pool.status().running == 0).await;
            }
        }
    });
}
