//! Cancelled tasks, by where they are, and what is waited for afterwards.

use super::*;

#[test]
fn a_task_that_waits_is_cancelled_once_and_nobody_hears_of_it() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit(2);
    pool.deeds();
    pool.cancel(1);
    assert_eq!(pool.deeds(), [End(1, UNSTARTED)]);
    pool.cancel(1);
    assert_eq!(pool.deeds(), []);
}

#[test]
fn a_task_is_not_cancelled_for_one_that_was_in_its_place() {
    let mut pool = busy(1);
    pool.answer(0, 1);
    pool.submit(1);
    assert_eq!(pool.keys[0].index, pool.keys[1].index);
    pool.begin(0);
    pool.deeds();
    pool.cancel(0);
    assert_eq!(pool.deeds(), []);
    assert_eq!(pool.phase(0, 2), Some(Phase::Running));
}

#[test]
fn a_task_that_was_sent_and_has_not_started_is_taken_back() {
    let mut pool = busy(2);
    pool.cancel(1);
    assert_eq!(pool.deeds(), [End(1, UNSTARTED)]);
    assert_eq!(pool.phase(0, 2), Some(Phase::Revoked));
    assert_eq!(pool.answer(0, 1), Some(0));
    assert_eq!(pool.answer(0, 1), None, "it was skipped");
    assert_eq!(pool.deeds(), []);
}

#[test]
fn a_task_that_runs_is_fenced_before_its_worker_is_stopped() {
    let mut pool = busy(3);
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Stop(0, Some(GRACE))]);
    assert_eq!(pool.phase(0, 1), Some(Phase::Killing));
    assert_eq!(pool.phase(0, 2), Some(Phase::Revoked));
    assert_eq!(pool.phase(0, 3), Some(Phase::Revoked));
    assert_eq!(pool.sched.poll_timeout(), None, "the rest is the warden's");
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, STOPPED), Start(0)]);
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 1), Send(0, 2)]);
}

#[test]
fn without_a_grace_period_nobody_is_asked() {
    for watches in [false, true] {
        let settings = Settings { grace_period: Duration::ZERO, ..settings(1, 1) };
        let mut pool = Pool::with(settings).ready();
        pool.submit(1);
        pool.begin(0);
        if watches {
            pool.watch(0);
        }
        pool.deeds();
        pool.cancel(0);
        assert_eq!(pool.deeds(), [Stop(0, None)]);
        assert_eq!(pool.phase(0, 1), Some(Phase::Killing));
    }
}

#[test]
fn a_task_that_watches_is_asked_and_has_one_grace_period_in_all() {
    let mut pool = busy(1);
    pool.watch(0);
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Ring(0, 1)]);
    assert_eq!(pool.phase(0, 1), Some(Phase::CancelReq));
    assert_eq!(pool.wait_for_deeds(), (GRACE, vec![Stop(0, None)]));
    assert_eq!(pool.phase(0, 1), Some(Phase::Killing));
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, STOPPED), Start(0)]);
}

#[test]
fn a_task_that_ends_when_it_is_asked_to_keeps_its_worker() {
    let mut pool = busy(2);
    pool.watch(0);
    pool.cancel(0);
    pool.deeds();
    assert_eq!(pool.answer(0, 1), None);
    assert_eq!(pool.deeds(), [End(0, ANSWERED)]);
    pool.begin(0);
    pool.wait(2 * GRACE);
    assert_eq!(pool.answer(0, 1), Some(1), "the next is not stopped for it");
    assert_eq!(pool.deeds(), []);
    assert_eq!(pool.sched.poll_timeout(), None);
}

#[test]
fn nobody_is_killed_for_a_task_that_is_over() {
    let mut pool = busy(1);
    pool.scribble(0, 1, Phase::Done);
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Probe(0)], "the answer may wait in the outbox");
    assert_eq!(pool.answer(0, 1), None, "it comes too late");
    assert_eq!(pool.deeds(), [End(0, ANSWERED)]);
    assert_eq!(pool.sched.poll_timeout(), None);
}

#[test]
fn an_answer_that_is_asked_for_and_never_comes_is_a_violation() {
    // Over when it was asked for, and over when it should have been.
    let mut over = busy(1);
    over.scribble(0, 1, Phase::Done);
    over.cancel(0);
    let mut polite = busy(1);
    polite.watch(0);
    polite.cancel(0);
    polite.scribble(0, 1, Phase::Done);
    assert_eq!(polite.wait_for_deeds(), (GRACE, vec![Probe(0)]));
    for mut pool in [over, polite] {
        assert_eq!(pool.wait_for_deeds(), (REPLY_WAIT, vec![Stop(0, None)]));
        pool.die(0);
        assert_eq!(pool.deeds(), [End(0, STOPPED), Start(0)]);
    }
}

#[test]
fn an_answer_is_waited_for_while_its_worker_goes_on() {
    let mut pool = busy(2);
    pool.scribble(0, 1, Phase::Done);
    pool.scribble(0, 2, Phase::Running);
    pool.cancel(0);
    for _ in 0..3 {
        pool.deeds();
        pool.wait(REPLY_WAIT);
        let deeds = pool.deeds();
        assert!(deeds.contains(&Probe(0)), "{deeds:?}");
        assert!(deeds.iter().all(|deed| *deed == Probe(0)), "{deeds:?}");
    }
    assert_eq!(pool.answer(0, 1), None);
    pool.wait(REPLY_WAIT);
    assert_eq!(pool.deeds()[0], End(0, ANSWERED));
}

#[test]
fn an_answer_is_waited_for_while_much_of_it_comes() {
    let mut pool = busy(1);
    pool.scribble(0, 1, Phase::Done);
    pool.cancel(0);
    for _ in 0..100 {
        pool.deeds();
        pool.wait(REPLY_WAIT - Duration::from_nanos(1));
        pool.arrival(0);
    }
    assert_eq!(pool.wait_for_deeds(), (REPLY_WAIT, vec![Stop(0, None)]));

    // Nor does anything that an untrusted one sends count for it.
    let mut pool = untrusted(1);
    pool.submit(1);
    pool.begin(0);
    pool.scribble(0, 1, Phase::Done);
    pool.cancel(0);
    pool.deeds();
    pool.wait(REPLY_WAIT - Duration::from_nanos(1));
    pool.arrival(0);
    assert_eq!(pool.wait_for_deeds(), (Duration::from_nanos(1), vec![Stop(0, None)]));
}

#[test]
fn an_answer_is_not_forgotten_when_the_next_task_is_asked_to_end() {
    let mut pool = busy(2);
    pool.watch(0);
    pool.cancel(0);
    pool.scribble(0, 1, Phase::Done);
    pool.scribble(0, 2, Phase::Done);
    pool.wait(ms(50));
    pool.cancel(1);
    // Both are over, and neither answer comes.
    pool.wait(ms(50) + REPLY_WAIT - Duration::from_nanos(1));
    assert!(pool.deeds().contains(&Probe(0)));
    pool.wait(Duration::from_nanos(1));
    assert_eq!(pool.deeds(), [Stop(0, None)]);
    pool.die(0);
    assert_eq!(pool.deeds(), [End(1, STOPPED), End(0, STOPPED), Start(0)]);
}

#[test]
fn words_that_cannot_be_are_violations() {
    for phase in [Phase::Empty, Phase::Revoked, Phase::Killing] {
        let mut pool = busy(2);
        pool.scribble(0, 1, phase);
        pool.cancel(0);
        assert_eq!(pool.deeds()[0], Stop(0, None), "{phase:?}");
    }
    let mut pool = busy(1);
    pool.watch(0);
    pool.cancel(0);
    pool.scribble(0, 1, Phase::Empty);
    assert_eq!(pool.wait_for_deeds(), (GRACE, vec![Stop(0, None)]));
}

#[test]
fn the_first_reason_to_end_a_task_stays() {
    let mut pool = busy(1);
    pool.watch(0);
    pool.cancel(0);
    pool.wait(ms(10));
    pool.terminate();
    assert_eq!(pool.deeds(), [Ring(0, 1)]);
    assert_eq!(pool.wait_for_deeds(), (ms(90), vec![Stop(0, None)]));
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, STOPPED)]);
}

// Tasks that were taken back ------------------------------------------------

#[test]
fn a_worker_that_does_not_skip_what_was_taken_back_is_stopped_in_time() {
    let mut pool = Pool::new(1, 64).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(3);
    pool.cancel(0);
    pool.wait(ms(5_000));
    pool.cancel(1);
    pool.deeds();
    let rest = SKIP_WAIT - ms(5_000);
    assert_eq!(pool.wait_for_deeds(), (rest, vec![Stop(0, None)]), "not put off by the second");
    pool.die(0);
    assert_eq!(pool.deeds(), [Start(0)]);
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 2)]);
}

#[test]
fn a_skip_is_waited_for_while_its_worker_goes_on() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit(2);
    pool.cancel(0);
    pool.scribble(0, 2, Phase::Running);
    for _ in 0..3 {
        pool.wait(SKIP_WAIT);
        let deeds = pool.deeds();
        assert!(deeds.contains(&Probe(0)) && !deeds.contains(&Stop(0, None)), "{deeds:?}");
    }
    assert_eq!(pool.answer(0, 1), None);
    assert_eq!(pool.answer(0, 1), Some(1));
    assert_eq!(pool.sched.poll_timeout(), None);
}

#[test]
fn what_was_sent_to_an_untrusted_worker_ends_with_it() {
    let mut pool = untrusted(1);
    pool.submit(1);
    pool.deeds();
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Stop(0, None)]);
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, STOPPED), Start(0)]);
}

#[test]
fn that_it_goes_on_is_not_believed_of_a_worker_that_nobody_trusts() {
    for (first, wait) in [(Phase::Done, REPLY_WAIT), (Phase::Queued, SKIP_WAIT)] {
        let mut pool = Pool::with(Settings { trusted: false, ..settings(1, 2) }).ready();
        pool.submit(2);
        pool.scribble(0, 1, first);
        pool.scribble(0, 2, Phase::Running);
        pool.cancel(0);
        pool.wait(wait);
        assert_eq!(pool.deeds().last(), Some(&Stop(0, None)), "{first:?}");
    }
}

#[test]
fn a_skip_is_not_waited_for_while_another_task_runs() {
    let mut pool = busy(2);
    pool.cancel(1);
    pool.wait(2 * SKIP_WAIT);
    pool.deeds();
    pool.answer(0, 1);
    assert_eq!(pool.wait_for_deeds(), (SKIP_WAIT, vec![Stop(0, None)]));
}

/// It could put its end off for ever with that.
#[test]
fn what_was_taken_back_does_not_excuse_a_worker_by_claiming_to_run() {
    for phase in [Phase::Running, Phase::CancelReq, Phase::Done] {
        let mut pool = Pool::new(1, 2).ready();
        pool.submit(2);
        pool.cancel(1);
        pool.cancel(0);
        pool.deeds();
        pool.scribble(0, 1, phase);
        pool.scribble(0, 2, phase);
        pool.wait(SKIP_WAIT);
        assert!(pool.deeds().contains(&Stop(0, None)), "{phase:?}");
    }
}
