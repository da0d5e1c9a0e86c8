//! When a task has had its time.

use super::*;

#[test]
fn a_timeout_counts_from_the_start_of_the_task() {
    let mut pool = busy(1);
    pool.submit_with(timeout(ms(50)));
    pool.wait(ms(230));
    pool.answer(0, 1);
    pool.wait(ms(7));
    pool.begin(0);
    assert_eq!(pool.wait_for_deeds(), (ms(50), vec![Stop(0, Some(GRACE))]));
    pool.die(0);
    let ending = Ending::TimedOut { after: ms(50), exit: Some(KILLED) };
    assert_eq!(pool.deeds(), [End(1, ending), Start(0)]);
}

#[test]
fn a_task_that_is_quicker_than_its_timeout_is_answered() {
    let mut pool = Pool::new(1, 1).ready();
    for task in 0..3 {
        pool.submit_with(timeout(ms(50)));
        pool.begin(0);
        pool.wait(ms(50) - Duration::from_nanos(1));
        assert_eq!(pool.answer(0, 1), Some(task));
    }
    assert_eq!(pool.sched.poll_timeout(), None);
}

#[test]
fn a_timeout_of_one_task_is_not_another_ones() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit_with(timeout(ms(300)));
    pool.submit_with(timeout(ms(20)));
    pool.begin(0);
    pool.deeds();
    pool.wait(ms(299));
    assert!(!pool.deeds().contains(&Stop(0, Some(GRACE))));
    pool.wait(ms(1));
    assert!(pool.deeds().contains(&Stop(0, Some(GRACE))));
    assert_eq!(pool.phase(0, 1), Some(Phase::Killing));
}

#[test]
fn an_untrusted_workers_time_counts_from_the_sending() {
    let mut pool = untrusted(1);
    pool.submit_with(timeout(ms(50)));
    pool.wait(ms(40));
    pool.begin(0);
    pool.deeds();
    assert_eq!(pool.wait_for_deeds(), (ms(10), vec![Stop(0, Some(GRACE))]));
}

#[test]
fn a_start_that_has_yet_to_come_counts_from_the_sending() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit_with(timeout(ms(50)));
    pool.wait(ms(40));
    pool.begin_at(0, pool.now + ms(3_600_000));
    assert_eq!(pool.wait_for_deeds(), (ms(10), vec![Stop(0, Some(GRACE))]));
}

#[test]
fn what_waits_behind_a_long_task_does_not_keep_the_pool_awake() {
    let mut pool = busy(1);
    pool.submit_with(timeout(Duration::from_nanos(1)));
    let mut looks = 0;
    let until = pool.now + ms(100);
    while pool.sched.poll_timeout().is_some_and(|next| next < until) {
        pool.look();
        looks += 1;
    }
    assert!(looks < 120, "{looks} looks in 100 ms");
}

#[test]
fn a_timeout_ends_tasks_whose_word_hides_them() {
    let second = ms(1_000);
    let stops = |word, after| {
        let mut pool = Pool::new(1, 2).ready();
        pool.submit_with(timeout(second));
        pool.scribble_word(0, 1, word);
        pool.wait(after);
        pool.deeds().iter().any(|deed| matches!(deed, Stop(0, _)))
    };
    for phase in [Phase::Empty, Phase::CancelReq, Phase::Revoked, Phase::Killing] {
        assert!(stops(SlotWord::new(1, phase), second), "{phase:?}");
    }
    assert!(!stops(SlotWord::new(1, Phase::Queued), second));
    assert!(stops(SlotWord::new(2, Phase::Queued), second), "another's word");
    // That one was in time, and its answer may be long.
    assert!(!stops(SlotWord::new(1, Phase::Done), 30 * second));
    assert!(stops(SlotWord::new(1, Phase::Done), 31 * second));
}

#[test]
fn an_answer_that_was_waited_for_does_not_hide_that_the_next_is_missing() {
    let mut pool = Pool::new(1, 2).ready();
    for seq in [1, 2] {
        pool.submit_with(timeout(ms(1_000)));
        pool.scribble(0, seq, Phase::Done);
    }
    pool.wait(ms(500));
    pool.cancel(0);
    pool.wait(ms(750));
    pool.answer(0, 1_000);
    pool.deeds();
    pool.wait(ms(40_000));
    assert!(pool.deeds().contains(&Stop(0, None)));
}
