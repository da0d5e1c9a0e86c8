//! Which worker gets what, what is taken back from it, and what is fetched.

use super::*;
use crate::limits::SLOTS;

#[test]
fn breadth_comes_before_depth() {
    let mut pool = Pool::new(3, 8).ready();
    pool.submit(3);
    let mut seats: Vec<_> = pool.sent.iter().map(|(seat, _)| *seat).collect();
    seats.sort_unstable();
    assert_eq!(seats, [0, 1, 2]);
    pool.submit(2);
    assert_eq!((0..3).map(|seat| pool.flights(seat)).max(), Some(2));
}

#[test]
fn what_goes_alone_waits_for_a_worker_without_any() {
    let alone = Terms { alone: true, ..Terms::default() };
    let mut pool = Pool::new(2, 8).ready();
    pool.submit_with(alone);
    pool.submit_with(alone);
    assert_eq!((pool.flights(0), pool.flights(1)), (1, 1));
    // Others may wait behind one of them; it waits behind nothing.
    pool.submit(2);
    assert_eq!((pool.flights(0), pool.flights(1)), (2, 2));
    pool.submit_with(alone);
    pool.submit(2);
    let (busy, other) = (pool.sent[0].0, pool.sent[1].0);
    pool.answer(busy, 1_000);
    pool.answer(other, 1_000);
    assert_eq!((pool.flights(0), pool.flights(1)), (1, 1), "in the order they came");
    pool.answer(busy, 1_000);
    assert_eq!(pool.sent[4], (busy, 4));
    pool.finish_all(1_000);
    assert_eq!(pool.sent.len(), 7);
}

#[test]
fn nobody_gets_more_than_its_share() {
    let mut pool = Pool::new(2, 64);
    pool.get_ready(0);
    pool.submit(20);
    pool.finish_all(1_000);
    pool.get_ready(1);
    pool.submit(10);
    assert_eq!((pool.flights(0), pool.flights(1)), (5, 5));
}

#[test]
fn depth_follows_how_long_tasks_take() {
    for (usual, depth_max, depth) in [
        (0, 64, 2),
        (1, 64, 64),
        // There are no more slots.
        (1, 10_000, SLOTS),
        (1_000, 64, 64),
        (40_000, 64, 50),
        (100_000, 64, 20),
        (10_000_000, 64, 2),
        (1_000, 5, 5),
        (10_000_000, 1, 1),
    ] {
        let mut pool = Pool::new(1, depth_max).ready();
        pool.sched.run_nanos = usual;
        pool.submit(SLOTS + 100);
        assert_eq!(pool.flights(0), depth, "{usual} ns, at most {depth_max}");
    }
    let mut pool = Pool::new(1, 64).ready();
    pool.submit(100);
    for _ in 0..60 {
        pool.answer(0, 1_000_000);
    }
    assert_eq!(pool.flights(0), 2, "learned from 60 tasks of 1 ms");
}

#[test]
fn tasks_are_sent_in_the_order_of_submission() {
    for (workers, depth) in [(1, 1), (1, 4), (3, 1), (2, 8)] {
        let mut pool = Pool::new(workers, depth).ready();
        pool.submit(40);
        pool.finish_all(1_000);
        let sent: Vec<_> = pool.sent.iter().map(|(_, task)| *task).collect();
        assert_eq!(sent, Vec::from_iter(0..40), "{workers} workers, {depth} deep");
    }
}

#[test]
fn what_waits_behind_a_long_task_goes_to_an_idle_worker() {
    let mut pool = Pool::new(2, 8);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(5);
    pool.begin(0);
    pool.get_ready(1);
    assert_eq!(pool.flights(1), 0, "too early to tell");
    pool.wait(ms(2));
    let second = |pool: &Pool| -> Vec<usize> {
        pool.sent.iter().filter(|(seat, _)| *seat == 1).map(|(_, task)| *task).collect()
    };
    assert_eq!(second(&pool), [3, 4], "half of it, the newest, oldest first");
    pool.answer(1, 1_000);
    pool.answer(1, 1_000);
    pool.wait(ms(2));
    pool.answer(1, 1_000);
    pool.wait(ms(2));
    assert_eq!(second(&pool), [3, 4, 2, 1]);
}

#[test]
fn two_idle_workers_both_get_something_from_two_stuck_ones() {
    let mut pool = Pool::new(4, 2);
    pool.get_ready(0);
    pool.get_ready(1);
    pool.submit(4);
    pool.begin(0);
    pool.begin(1);
    pool.get_ready(2);
    pool.get_ready(3);
    pool.wait(ms(2));
    assert_eq!((pool.flights(2), pool.flights(3)), (1, 1));
}

#[test]
fn a_victim_whose_tasks_have_all_begun_does_not_hide_another() {
    let mut pool = Pool::new(3, 3);
    pool.get_ready(0);
    pool.get_ready(1);
    pool.sched.run_nanos = 1_000;
    pool.submit(5);
    assert_eq!((pool.flights(0), pool.flights(1)), (3, 2));
    // All of one worker's tasks but the last are over, their answers unsent.
    for (seq, phase) in [(1, Phase::Done), (2, Phase::Done), (3, Phase::Running)] {
        pool.scribble(0, seq, phase);
    }
    pool.begin(1);
    pool.get_ready(2);
    pool.wait(ms(2));
    assert_eq!(pool.flights(2), 1);
}

#[test]
fn a_stream_that_sends_items_is_a_long_task_too() {
    let mut pool = Pool::new(2, 2);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(2);
    pool.begin(0);
    pool.get_ready(1);
    let worker = pool.key(0);
    for _ in 0..20 {
        pool.wait(Duration::from_micros(200));
        assert!(pool.item(worker, 1).unwrap().is_some());
    }
    assert_eq!(pool.flights(1), 1);
}

#[test]
fn unstarted_tasks_of_a_dead_worker_come_first_and_in_their_old_order() {
    let mut pool = Pool::new(1, 4).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(6);
    pool.begin(0);
    assert_eq!(pool.sent.len(), 4);
    pool.die(0);
    pool.get_ready(0);
    pool.finish_all(1_000);
    let again: Vec<_> = pool.sent[4..].iter().map(|(_, task)| *task).collect();
    assert_eq!(again, [1, 2, 3, 4, 5]);
}

#[test]
fn siblings_of_a_killed_task_come_first_and_in_their_old_order() {
    let mut pool = Pool::new(2, 4);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(6);
    pool.begin(0);
    pool.cancel(0);
    pool.get_ready(1);
    let sent = pool.sent[4..].to_vec();
    assert_eq!(sent, [(1, 1), (1, 2), (1, 3), (1, 4)]);
}

#[test]
fn a_task_that_workers_die_of_is_not_given_to_a_fourth() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit(2);
    for _ in 0..3 {
        pool.die(0);
        assert!(pool.sched.key(0).is_none(), "not at once");
        pool.wait(ms(50));
        pool.get_ready(0);
    }
    assert_eq!(pool.sched.mode(), Mode::Open);
    assert_eq!(pool.sched.tasks.len(), 1, "the other has done nothing");
}

#[test]
fn what_waits_behind_a_long_task_comes_before_what_waits_in_the_queue() {
    let mut pool = Pool::new(2, 4).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(30);
    pool.begin(0);
    let behind: Vec<_> =
        pool.sent.iter().filter(|(seat, _)| *seat == 0).map(|(_, task)| *task).collect();
    pool.wait(ms(2));
    pool.wait(ms(20));
    let sent = pool.sent.len();
    for _ in 0..behind.len() - 1 {
        pool.answer(1, 1_000);
    }
    let next: Vec<_> = pool.sent[sent..].to_vec();
    let expected: Vec<_> = behind[1..].iter().map(|task| (1, *task)).collect();
    assert_eq!(next, expected, "with nobody idle, and none for the worker that is stuck");
}

/// Another worker would run it again.
#[test]
fn a_task_that_was_seen_to_run_is_not_taken_back() {
    let mut pool = Pool::new(2, 2);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000_000;
    pool.submit(1);
    pool.submit_with(timeout(ms(100)));
    pool.begin(0);
    pool.wait(ms(90));
    let word = SlotWord::new(2, Phase::Running);
    pool.board.set(pool.key(0), 2, Slot { word, started: pool.now, polite: false });
    pool.wait(ms(10));
    assert!(pool.worker(0).has_started(2));
    pool.scribble(0, 2, Phase::Queued);
    pool.get_ready(1);
    pool.wait(ms(50));
    assert_eq!(pool.sent, [(0, 0), (0, 1)]);
}

#[test]
fn a_task_that_was_seen_to_be_over_is_not_taken_back() {
    let mut pool = Pool::new(2, 1).ready();
    pool.submit(1);
    let (seat, _) = pool.sent[0];
    pool.scribble(seat, 1, Phase::Done);
    pool.cancel(0);
    pool.scribble(seat, 1, Phase::Queued);
    pool.wait(START_WAIT);
    assert_eq!(pool.sent.len(), 1);
}

#[test]
fn the_worker_that_was_busy_last_gets_the_next_task() {
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let mut pool = Pool::new(3, 1).ready();
        pool.submit(3);
        for seat in order {
            pool.answer(seat, 1);
        }
        pool.deeds();
        pool.submit(1);
        assert_eq!(pool.deeds(), [Send(order[2], 3)]);
    }
}

#[test]
fn tasks_that_usually_take_long_are_taken_back_at_once() {
    for (run_nanos, at_once) in [(99_999, false), (100_000, true)] {
        let mut pool = Pool::new(2, 2);
        pool.get_ready(0);
        pool.sched.run_nanos = run_nanos;
        pool.submit(2);
        pool.begin(0);
        pool.get_ready(1);
        assert_eq!(pool.flights(1) == 1, at_once);
    }
}

#[test]
fn an_idle_worker_looks_again_in_a_moment() {
    let mut pool = Pool::new(2, 2);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(2);
    pool.begin(0);
    pool.wait(Duration::from_micros(400));
    pool.get_ready(1);
    assert_eq!(pool.wait_for_deeds(), (ms(1), vec![Send(1, 1)]));
}

#[test]
fn a_worker_that_has_just_answered_is_not_in_a_long_task() {
    let mut pool = Pool::new(2, 8);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(6);
    pool.wait(ms(1));
    pool.answer(0, 1_000);
    pool.get_ready(1);
    assert_eq!((pool.flights(0), pool.flights(1)), (5, 0));
}

#[test]
fn an_idle_worker_takes_half_rounded_up() {
    let mut pool = Pool::new(2, 8);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(6);
    pool.begin(0);
    pool.get_ready(1);
    pool.deeds();
    pool.wait(ms(2));
    assert_eq!(pool.deeds(), [Send(1, 3), Send(1, 4), Send(1, 5)]);
}

#[test]
fn an_idle_worker_helps_where_most_waits() {
    for most in [0, 1] {
        let mut pool = Pool::new(3, 8);
        pool.sched.run_nanos = 1_000;
        for seat in [most, 1 - most] {
            pool.get_ready(seat);
            pool.submit(if seat == most { 6 } else { 2 });
            pool.begin(seat);
        }
        assert_eq!((pool.flights(most), pool.flights(1 - most)), (6, 2));
        pool.get_ready(2);
        pool.wait(ms(2));
        assert_eq!(pool.phase(most, 6), Some(Phase::Revoked));
        assert_eq!(pool.phase(1 - most, 2), Some(Phase::Queued));
    }
}

#[test]
fn nothing_is_taken_back_from_a_worker_that_nobody_trusts() {
    let mut pool = Pool::with(Settings { trusted: false, ..settings(2, 2) });
    pool.get_ready(0);
    pool.submit(2);
    pool.begin(0);
    pool.get_ready(1);
    pool.wait(Duration::from_secs(1));
    assert_eq!((pool.flights(0), pool.flights(1)), (2, 0));
}

#[test]
fn patience_with_a_long_task_is_four_times_what_is_usual_within_limits() {
    for (usual, patience) in [(1, 10), (5, 20), (1_000, 100)] {
        let mut pool = Pool::new(2, 2).ready();
        pool.sched.run_nanos = usual * 1_000_000;
        pool.submit(5);
        pool.begin(0);
        pool.begin(1);
        assert_eq!(pool.sched.task_counts(), (5, 1));
        pool.wait(ms(patience) - Duration::from_nanos(1));
        assert_eq!(pool.sched.task_counts(), (5, 1), "{usual} ms");
        pool.wait(Duration::from_nanos(1));
        assert_eq!(pool.sched.task_counts(), (5, 3), "{usual} ms");
    }
}

#[test]
fn a_worker_in_a_long_task_gets_no_other_before_its_answer() {
    let mut pool = Pool::new(2, 8).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(4);
    let (stuck, other) = (pool.sent[0].0, pool.sent[1].0);
    pool.begin(stuck);
    pool.wait(ms(20));
    while pool.flights(other) > 0 {
        pool.answer(other, 1_000);
    }
    pool.deeds();
    pool.submit(20);
    let sent = pool.deeds();
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|deed| matches!(deed, Send(seat, _) if *seat == other)), "{sent:?}");
    assert_eq!(pool.answer(stuck, 1_000), Some(0));
    assert!(pool.flights(stuck) > 2, "it has been given more, behind what it has to skip");
    assert_eq!(pool.answer(stuck, 1_000), None, "skipped");
    pool.submit(20);
    assert!(pool.flights(stuck) > 2);
}

#[test]
fn a_skip_is_not_the_end_of_a_long_task() {
    let mut pool = Pool::new(2, 8).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(8);
    pool.cancel(pool.sent.iter().find(|sent| sent.0 == 0).unwrap().1);
    pool.scribble(0, 2, Phase::Running);
    pool.wait(ms(20));
    assert_eq!(pool.phase(0, 3), Some(Phase::Revoked));
    assert_eq!(pool.answer(0, 1_000), None, "skipped");
    pool.deeds();
    pool.submit(20);
    pool.answer(1, 1_000);
    let sent = pool.deeds();
    assert!(sent.iter().all(|deed| matches!(deed, Send(1, _))), "{sent:?}");
}

#[test]
fn a_worker_whose_task_is_over_is_not_in_a_long_one() {
    let mut pool = Pool::new(2, 2).ready();
    pool.submit(4);
    pool.begin(0);
    pool.scribble(0, 1, Phase::Done);
    pool.wait(ms(200));
    assert_eq!(pool.phase(0, 2), Some(Phase::Queued));
}

#[test]
fn what_waits_behind_a_long_task_stays_where_there_is_no_other_worker() {
    let mut pool = Pool::new(1, 3).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(3);
    pool.begin(0);
    pool.wait(Duration::from_secs(10));
    assert_eq!(pool.sched.task_counts(), (3, 0));
    assert_eq!(pool.sched.poll_timeout(), None, "and nobody is kept awake for it");
}

#[test]
fn answers_that_are_held_back_are_fetched() {
    use Phase::{Done, Queued, Revoked, Running};
    // What the words say, and whether there may be something to fetch.
    for (phases, fetched) in [
        ([Done, Queued, Queued], true),
        ([Done, Running, Queued], true),
        ([Revoked, Done, Queued], true),
        ([Revoked, Running, Queued], true),
        ([Running, Queued, Queued], false),
        ([Queued, Queued, Queued], false),
        ([Revoked, Queued, Queued], false),
    ] {
        let mut pool = Pool::new(1, 3).ready();
        pool.sched.run_nanos = 1_000;
        pool.submit(3);
        for (seq, phase) in (1..).zip(phases) {
            pool.scribble(0, seq, phase);
        }
        pool.deeds();
        pool.wait(ms(1));
        assert_eq!(pool.deeds() == [Probe(0)], fetched, "{phases:?}");
    }
}

#[test]
fn answers_are_fetched_again_after_each_that_came() {
    let mut pool = Pool::new(1, 4).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(4);
    for left in [3, 2] {
        pool.answer(0, 1_000);
        assert_eq!(pool.flights(0), left);
        pool.scribble(0, 5 - left as u64, Phase::Done);
        assert_eq!(pool.wait_for_deeds(), (ms(1), vec![Probe(0)]));
    }
}

#[test]
fn what_tasks_take_is_learned_slowly_and_within_reason() {
    let mut pool = Pool::new(1, 1);
    for (nanos, average) in [(0, 1), (0, 1), (8_000, 1_001), (1_001, 1_001)] {
        pool.sched.note_run_time(nanos);
        assert_eq!(pool.sched.run_nanos, average);
    }
    pool.sched.run_nanos = 0;
    pool.sched.note_run_time(8_000);
    pool.sched.note_run_time(16_000);
    assert_eq!(pool.sched.run_nanos, 9_000);
    for _ in 0..200 {
        pool.sched.note_run_time(u64::MAX);
    }
    let hour = Duration::from_secs(3600).as_nanos() as u64;
    assert!((hour / 2..=hour).contains(&pool.sched.run_nanos));
}

#[test]
fn a_worker_that_has_worked_is_given_the_next_task_before_one_that_has_not() {
    let mut pool = Pool::new(3, 1).ready();
    pool.submit(2);
    assert_eq!(pool.sent, [(0, 0), (1, 1)]);
    pool.answer(0, 1);
    pool.answer(1, 1);
    pool.die(0);
    pool.get_ready(0);
    pool.submit(3);
    assert_eq!(pool.sent[2..], [(1, 2), (2, 3), (0, 4)]);
}
