//! What a worker's death or misbehaviour means for each of its tasks.

use super::*;

#[test]
fn the_word_of_a_task_tells_what_its_workers_death_means() {
    for (phase, ran) in [
        (Phase::Empty, true),
        (Phase::Queued, false),
        (Phase::Running, true),
        (Phase::CancelReq, true),
        (Phase::Done, true),
        (Phase::Revoked, false),
        (Phase::Killing, true),
    ] {
        let mut pool = busy(1);
        pool.scribble(0, 1, phase);
        let worker = pool.key(0);
        pool.die(0);
        let lost = End(0, Ending::Lost { worker, seq: 1, exit: KILLED });
        assert_eq!(pool.deeds().contains(&lost), ran, "{phase:?}");
        assert_eq!(pool.sched.task_counts(), if ran { (0, 0) } else { (1, 1) }, "{phase:?}");
    }
}

#[test]
fn an_untrusted_workers_word_is_not_believed() {
    let mut pool = untrusted(1);
    pool.submit(1);
    let worker = pool.key(0);
    pool.deeds();
    pool.die(0);
    let lost = Ending::Lost { worker, seq: 1, exit: KILLED };
    assert_eq!(pool.deeds(), [End(0, lost), Start(0)]);

    pool.get_ready(0);
    pool.submit(1);
    pool.deeds();
    pool.violate(0, GARBAGE);
    assert_eq!(pool.deeds(), [Stop(0, None)]);
    pool.die(0);
    assert_eq!(pool.deeds(), [End(1, Ending::Violated { error: GARBAGE }), Start(0)]);
}

#[test]
fn the_word_of_another_task_tells_nothing() {
    let mut pool = busy(1);
    let worker = pool.key(0);
    pool.scribble_word(0, 1, SlotWord::new(2, Phase::Queued));
    pool.die(0);
    let lost = Ending::Lost { worker, seq: 1, exit: KILLED };
    assert_eq!(pool.deeds(), [End(0, lost), Start(0)]);
}

#[test]
fn a_task_is_run_again_as_often_as_it_may_be_and_no_more() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit_with(retries(2));
    for _ in 0..2 {
        pool.begin(0);
        pool.deeds();
        pool.die(0);
        assert_eq!(pool.deeds(), [Start(0)]);
        pool.get_ready(0);
        assert_eq!(pool.deeds(), [Send(0, 0)]);
    }
    let worker = pool.key(0);
    pool.begin(0);
    pool.die(0);
    let lost = Ending::Lost { worker, seq: 1, exit: KILLED };
    assert_eq!(pool.deeds(), [End(0, lost), Start(0)]);
}

#[test]
fn what_is_run_again_comes_first_and_in_its_old_order() {
    let mut pool = Pool::new(1, 3).ready();
    pool.sched.run_nanos = 1_000;
    for _ in 0..4 {
        pool.submit_with(retries(1));
    }
    // The first two have run, one of them to its end.
    pool.scribble(0, 1, Phase::Done);
    pool.scribble(0, 2, Phase::Running);
    pool.die(0);
    pool.deeds();
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 0), Send(0, 1), Send(0, 2)]);
}

#[test]
fn a_task_is_not_run_again_for_a_pool_that_ends() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit_with(retries(1));
    pool.begin(0);
    pool.violate(0, GARBAGE);
    pool.terminate();
    pool.deeds();
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, Ending::Violated { error: GARBAGE })]);
    assert!(pool.sched.is_drained());
}

#[test]
fn what_a_stopped_worker_had_not_started_ends_with_its_pool() {
    // Neither dead nor able to start anything: the third task is taken back
    // when the pool ends, of its own accord or because no worker starts.
    let mut pool = busy(2);
    pool.violate(0, GARBAGE);
    assert_eq!(pool.deeds(), [Stop(0, None)]);
    pool.terminate();
    assert_eq!(pool.deeds(), [End(1, Ending::Terminated { started: false })]);
}

#[test]
fn a_task_that_three_workers_died_of_ends_with_the_last() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit(2);
    for death in 1..=3 {
        let worker = pool.key(0);
        pool.deeds();
        pool.die(0);
        let lost = End(0, Ending::Lost { worker, seq: 1, exit: KILLED });
        assert_eq!(pool.deeds().contains(&lost), death == 3);
        pool.wait(ms(50));
        pool.get_ready(0);
    }
    assert_eq!(pool.deeds().last(), Some(&Send(0, 1)));
}

#[test]
fn a_death_in_the_middle_of_something_is_not_blamed_on_what_waits_behind_it() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit_with(retries(9));
    pool.submit(1);
    for _ in 0..9 {
        pool.begin(0);
        pool.deeds();
        pool.die(0);
        assert_eq!(pool.deeds(), [Start(0)]);
        pool.get_ready(0);
    }
}

#[test]
fn whatever_a_worker_runs_is_fenced_before_it_is_stopped() {
    for (before, after) in [
        (Phase::Queued, Phase::Revoked),
        (Phase::Running, Phase::Killing),
        (Phase::CancelReq, Phase::Killing),
        (Phase::Done, Phase::Done),
    ] {
        let mut pool = busy(1);
        pool.scribble(0, 1, before);
        pool.violate(0, GARBAGE);
        assert_eq!(pool.deeds(), [Stop(0, None)]);
        assert_eq!(pool.phase(0, 1), Some(after));
    }
}

#[test]
fn a_violation_is_told_to_the_task_that_runs_and_not_to_its_siblings() {
    let mut pool = busy(3);
    pool.violate(0, GARBAGE);
    assert_eq!(pool.deeds(), [Stop(0, None)]);
    // Its death is blamed on the first.
    pool.violate(0, ProtocolError(Violation::Page));
    assert_eq!(pool.deeds(), []);
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, Ending::Violated { error: GARBAGE }), Start(0)]);
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 1), Send(0, 2)]);
}

#[test]
fn a_worker_that_is_being_stopped_is_not_stopped_for_anything_else() {
    let mut pool = busy(2);
    pool.submit_with(timeout(ms(1)));
    pool.hang_up(0);
    pool.cancel(0);
    assert_eq!(pool.deeds().last(), Some(&Stop(0, Some(GRACE))));
    pool.violate(0, GARBAGE);
    pool.cancel(1);
    pool.wait(ms(60_000));
    assert_eq!(pool.deeds(), [End(1, UNSTARTED)]);
}

#[test]
fn a_socket_that_closes_is_followed_by_a_death_or_by_a_kill() {
    let mut pool = busy(1);
    pool.hang_up(0);
    pool.wait(ms(900));
    pool.hang_up(0);
    let rest = EOF_TO_DEATH_WAIT - ms(900);
    assert_eq!(pool.wait_for_deeds(), (rest, vec![Stop(0, None)]), "not put off by the second");
    pool.die(0);
    let error = ProtocolError(Violation::ClosedButAlive);
    assert_eq!(pool.deeds(), [End(0, Ending::Violated { error }), Start(0)]);

    let mut pool = busy(1);
    pool.hang_up(0);
    pool.wait(ms(900));
    pool.die(0);
    pool.deeds();
    pool.get_ready(0);
    pool.wait(ms(60_000));
    assert_eq!(pool.deeds(), []);
}

#[test]
fn a_worker_whose_death_is_told_late_is_not_blamed_for_its_closed_socket() {
    for told in [false, true] {
        let mut pool = busy(1);
        pool.hang_up(0);
        if told {
            pool.sched.handle_ended(pool.key(0));
        }
        pool.wait(ms(3_600_000));
        pool.deeds();
        pool.die(0);
        let ended = match &pool.deeds()[..] {
            [End(0, ending), Start(0)] => ending.clone(),
            deeds => panic!("{deeds:?}"),
        };
        assert_eq!(matches!(ended, Ending::Lost { .. }), told, "{ended:?}");
        assert_eq!(matches!(ended, Ending::Violated { .. }), !told, "{ended:?}");
    }
}

#[test]
fn a_stream_that_has_sent_an_item_is_not_begun_again() {
    for cancelled in [false, true] {
        let mut pool = Pool::new(2, 2).ready();
        pool.submit(1);
        let (seat, _) = pool.sent[0];
        pool.deeds();
        // Its word says that it waits.
        assert!(pool.item(pool.key(seat), 1).unwrap().is_some());
        if cancelled {
            pool.cancel(0);
            assert_eq!(pool.deeds(), [Stop(seat, None)], "its end comes with the exit");
        }
        pool.die(seat);
        let deeds = pool.deeds();
        assert!(matches!(deeds[..], [End(0, _), Start(_)]), "{deeds:?}");
    }
}
