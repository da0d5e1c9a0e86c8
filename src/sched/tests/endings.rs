//! How a pool comes to its end: closed, terminated, broken, abandoned.

use std::time::Instant;

use super::*;

#[test]
fn a_closed_pool_lets_each_worker_go_when_there_is_nothing_left_for_it() {
    let mut pool = Pool::new(3, 1).ready();
    pool.submit(3);
    pool.answer(0, 1);
    pool.deeds();
    pool.close();
    assert_eq!(pool.deeds(), [Dismiss(0)]);
    pool.answer(1, 1);
    assert_eq!(pool.deeds(), [Dismiss(1)]);
    pool.die(0);
    pool.begin(2);
    pool.die(2);
    assert!(!pool.sched.is_drained());
    pool.die(1);
    assert!(pool.sched.is_drained());
    assert!(!pool.deeds().contains(&Start(0)));
}

#[test]
fn a_closed_pool_waits_for_those_that_have_begun() {
    let mut pool = Pool::new(2, 1).ready();
    pool.linger(true);
    pool.close();
    assert_eq!(pool.deeds(), []);
    pool.submit(1);
    let seat = pool.sent[0].0;
    assert_eq!(pool.deeds(), [Send(seat, 0)]);
    pool.answer(seat, 1);
    assert_eq!(pool.deeds(), []);
    pool.linger(false);
    assert_eq!(pool.deeds(), [Dismiss(0), Dismiss(1)]);
}

#[test]
fn a_closed_pool_replaces_workers_as_far_as_there_is_work() {
    let mut pool = Pool::new(2, 2).ready();
    pool.submit(4);
    pool.close();
    pool.begin(0);
    pool.begin(1);
    pool.deeds();
    pool.die(0);
    pool.die(1);
    assert!(pool.deeds().ends_with(&[Start(1)]));
    pool.get_ready(0);
    pool.get_ready(1);
    pool.finish_all(1);
    assert_eq!(pool.deeds(), [Send(0, 3), Send(0, 2), Dismiss(1), Dismiss(0)]);
}

#[test]
fn what_is_cancelled_last_lets_a_closed_pool_end() {
    let mut pool = Pool::new(2, 2);
    pool.get_ready(0);
    pool.submit(2);
    pool.begin(0);
    pool.get_ready(1);
    pool.deeds();
    pool.close();
    assert_eq!(pool.deeds(), [], "one task waits behind another, and may yet be its");
    pool.cancel(1);
    let cancelled = Ending::Cancelled { started: false, exit: None };
    assert_eq!(pool.deeds(), [End(1, cancelled), Dismiss(1)]);
}

// Terminating and abandoning ------------------------------------------------

#[test]
fn terminating_ends_each_worker_in_its_own_way() {
    let mut pool = Pool::new(4, 2);
    for seat in [2, 1, 0] {
        pool.get_ready(seat);
    }
    pool.submit(2);
    pool.begin(2);
    pool.deeds();
    pool.terminate();
    let ended = |task| End(task, Ending::Terminated { started: false });
    let expected = [
        Dismiss(0),
        // Its task had not started.
        ended(1),
        Dismiss(1),
        Stop(2, Some(GRACE)),
        // It had not said that it was ready.
        Stop(3, None),
    ];
    assert_eq!(pool.deeds(), expected);
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!((waited, &deeds[..]), (GRACE, &[Stop(0, None), Stop(1, None)][..]));
    for seat in 0..4 {
        pool.die(seat);
    }
    assert_eq!(pool.deeds(), [End(0, Ending::Terminated { started: true })]);
    assert!(pool.sched.is_drained());
    assert_eq!(pool.sched.mode(), Mode::Terminated);
    assert_eq!(pool.sched.poll_timeout(), None);
}

#[test]
fn terminating_ends_what_waits_before_anything_else_can_start() {
    let mut pool = busy(1);
    pool.sched.settings.depth_max = 1;
    pool.submit(2);
    pool.terminate();
    let ended = |task| End(task, Ending::Terminated { started: false });
    assert_eq!(pool.deeds(), [ended(1), ended(2), Stop(0, Some(GRACE))]);
    pool.submit(1);
    assert_eq!(pool.deeds(), [ended(3)], "and takes nothing more");
}

#[test]
fn terminating_ends_what_has_not_started_before_anybody_is_stopped() {
    let mut pool = busy(3);
    pool.terminate();
    let ended = |task| End(task, Ending::Terminated { started: false });
    assert_eq!(pool.deeds(), [ended(2), ended(1), Stop(0, Some(GRACE))]);
}

#[test]
fn a_long_grace_period_does_not_let_idle_workers_stay() {
    let settings = Settings { grace_period: ms(60_000), ..settings(1, 1) };
    let mut pool = Pool::with(settings).ready();
    pool.terminate();
    assert_eq!(pool.deeds(), [Dismiss(0)]);
    assert_eq!(pool.wait_for_deeds(), (LEAVE_WAIT, vec![Stop(0, None)]));
}

#[test]
fn a_pools_end_is_final() {
    let mut pool = Pool::new(1, 1).ready();
    pool.terminate();
    pool.close();
    assert_eq!(pool.sched.mode(), Mode::Terminated);

    let mut pool = Pool::new(1, 1);
    pool.submit(1);
    for _ in 0..3 {
        pool.fail_to_start(0);
        pool.wait(ms(1_000));
    }
    assert_eq!(pool.sched.mode(), Mode::Broken);
    assert_eq!(pool.deeds().last(), Some(&End(0, Ending::Broken)));
    pool.close();
    pool.terminate();
    pool.abandon();
    assert_eq!(pool.sched.mode(), Mode::Broken);
    pool.submit(1);
    assert_eq!(pool.deeds(), [End(1, Ending::Broken)]);
}

#[test]
fn a_word_that_is_set_back_does_not_bring_a_task_into_a_pool_that_is_over() {
    let set_back = |pool: &mut Pool, ending: Ending| {
        pool.scribble(0, 1, Phase::Queued);
        pool.die(0);
        assert_eq!(pool.deeds().last(), Some(&End(0, ending)));
        assert_eq!(pool.sched.task_counts(), (0, 0));
    };
    let mut pool = busy(1);
    pool.violate(0, GARBAGE);
    pool.terminate();
    set_back(&mut pool, Ending::Terminated { started: false });

    let mut pool = Pool::new(2, 1);
    pool.get_ready(0);
    pool.submit(1);
    pool.begin(0);
    pool.violate(0, GARBAGE);
    for _ in 0..3 {
        pool.fail_to_start(1);
        pool.wait(ms(1_000));
    }
    assert_eq!(pool.sched.mode(), Mode::Broken);
    set_back(&mut pool, Ending::Broken);
}

#[test]
fn abandoning_ends_all_and_says_what_had_started() {
    let mut pool = Pool::new(2, 1).ready();
    pool.submit(3);
    let seat = pool.sent[0].0;
    pool.begin(seat);
    pool.deeds();
    pool.abandon();
    let ended = |task, started| End(task, Ending::Terminated { started });
    assert_eq!(pool.deeds(), [ended(0, true), ended(1, false), ended(2, false)]);
    assert!(pool.sched.is_drained());
    assert_eq!(pool.sched.mode(), Mode::Terminated);
}

#[test]
fn abandoning_what_has_ended_in_order_changes_nothing() {
    for (gone, mode) in [(true, Mode::Closed), (false, Mode::Terminated)] {
        let mut pool = Pool::new(1, 1).ready();
        pool.close();
        if gone {
            pool.die(0);
        }
        pool.abandon();
        assert_eq!(pool.sched.mode(), mode);
    }
}

#[test]
fn an_answer_costs_a_closed_pool_no_more_than_an_open_one() {
    let quickest = |close: bool| {
        let mut pool = Pool::new(8, 256).ready();
        pool.sched.run_nanos = 1_000;
        pool.submit(8 * 256 + 500);
        if close {
            pool.close();
        }
        let mut answer = |nth: u32| {
            let seat = nth % 8;
            pool.begin(seat);
            let started = Instant::now();
            pool.answer(seat, 1_000);
            started.elapsed()
        };
        (0..200_u32).map(&mut answer).min().unwrap()
    };
    let (open, closed) = (quickest(false), quickest(true));
    assert!(closed < 3 * open, "{closed:?}, and {open:?} before");
}
