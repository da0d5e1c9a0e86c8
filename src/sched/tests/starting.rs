//! Workers that do not begin what they were sent: who gets it, and when they
//! are replaced.

use super::*;

const STOPPED_DEAD: ProtocolError = ProtocolError(Violation::NotStarted);

fn last_seat(pool: &Pool) -> u32 {
    pool.sent.last().expect("something was sent").0
}

#[test]
fn what_a_stopped_worker_has_not_begun_goes_to_one_that_moves() {
    let mut pool = Pool::new(2, 1).ready();
    pool.submit(1);
    let stopped = last_seat(&pool);
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!((waited, deeds), (START_WAIT, vec![Send(1 - stopped, 0)]));
    assert_eq!(pool.phase(stopped, 1), Some(Phase::Revoked));
    assert_eq!(pool.answer(1 - stopped, 1_000), Some(0));
}

#[test]
fn all_of_it_goes_in_its_old_order_and_nothing_new_comes() {
    let mut pool = Pool::new(2, 4);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000;
    pool.submit(4);
    assert_eq!(pool.flights(0), 4);
    // Ready, and at once in a task of its own: it is not idle.
    pool.get_ready(1);
    pool.submit(1);
    pool.begin(1);
    pool.deeds();
    pool.wait(START_WAIT);
    pool.submit(4);
    assert!(pool.sent.iter().skip(4).all(|&(seat, _)| seat == 1), "{:?}", pool.sent);
    while pool.flights(1) > 0 {
        pool.answer(1, 1_000);
    }
    let moved: Vec<_> = pool.sent.iter().filter(|sent| sent.0 == 1).map(|sent| sent.1).collect();
    assert_eq!(moved, [4, 0, 1, 2, 3, 5, 6, 7, 8]);
}

#[test]
fn one_that_moves_again_is_given_tasks_again() {
    let mut pool = Pool::new(2, 2).ready();
    pool.submit(1);
    let stopped = last_seat(&pool);
    pool.wait(START_WAIT);
    pool.begin(1 - stopped);
    assert_eq!(pool.answer(stopped, 1_000), None, "skipped");
    pool.submit(2);
    assert!(pool.flights(stopped) > 0);
    assert!(!pool.worker(stopped).stuck);
}

#[test]
fn one_that_does_not_move_even_then_is_replaced() {
    let mut pool = Pool::new(2, 1).ready();
    pool.submit(1);
    let stopped = last_seat(&pool);
    pool.wait(START_WAIT);
    pool.answer(1 - stopped, 1_000);
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!((waited, deeds), (SKIP_WAIT, vec![Stop(stopped, None)]));
}

#[test]
fn the_only_worker_has_longer_and_keeps_its_task_until_then() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit(2);
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!((waited, deeds), (START_WAIT_MAX, vec![Stop(0, None)]));
    assert_eq!(pool.worker(0).verdict, Some(STOPPED_DEAD));
    pool.die(0);
    pool.get_ready(0);
    assert_eq!(pool.answer(0, 1_000), Some(0), "nothing is lost");
    assert_eq!(pool.answer(0, 1_000), Some(1));
}

/// Else tasks would go round between workers none of which moves.
#[test]
fn several_that_are_stopped_have_each_task_once() {
    let mut pool = Pool::new(3, 1).ready();
    pool.submit(1);
    pool.wait(START_WAIT + START_WAIT + ms(1));
    let mut seats: Vec<_> = pool.sent.iter().map(|sent| sent.0).collect();
    seats.sort_unstable();
    assert_eq!(seats, [0, 1, 2]);
    pool.deeds();
    let (_, deeds) = pool.wait_for_deeds();
    assert!(matches!(deeds[..], [Stop(_, None)]), "{deeds:?}");
}

/// Taken back, it would wait in the queue instead.
#[test]
fn what_nobody_else_can_take_stays() {
    let mut still_starting = Pool::new(2, 1);
    still_starting.get_ready(0);
    still_starting.submit(1);
    let mut about_to_leave = Pool::new(2, 1).ready();
    about_to_leave.submit(2);
    about_to_leave.begin(1);
    about_to_leave.resize(1);
    for mut pool in [still_starting, about_to_leave] {
        pool.deeds();
        pool.wait(START_WAIT * 3);
        assert_eq!((pool.deeds(), pool.phase(0, 1)), (vec![], Some(Phase::Queued)));
    }
    // Whoever is looked at first still had the other to hope for.
    let mut both_asleep = Pool::new(2, 1).ready();
    both_asleep.submit(2);
    both_asleep.wait(START_WAIT * 3);
    let phases = [0, 1].map(|seat| both_asleep.phase(seat, 1));
    assert_eq!(phases, [Some(Phase::Revoked), Some(Phase::Queued)]);
}

/// Its word may be a lie, so that the task is not another's to have.
#[test]
fn an_untrusted_worker_is_replaced_and_its_task_ends() {
    let mut pool = untrusted(2);
    pool.submit(1);
    let stopped = last_seat(&pool);
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!((waited, deeds), (START_WAIT_MAX, vec![Stop(stopped, None)]));
    pool.die(stopped);
    let ended = End(0, Ending::Violated { error: STOPPED_DEAD });
    assert!(pool.deeds().contains(&ended));
}

#[test]
fn one_that_takes_in_what_it_is_sent_is_not_silent() {
    for workers in [1, 2] {
        let mut pool = Pool::new(workers, 1).ready();
        pool.submit(1);
        let slow = last_seat(&pool);
        for _ in 0..40 {
            pool.wait(START_WAIT - ms(1));
            pool.sched.handle_progress(pool.now, pool.key(slow));
        }
        pool.deeds();
        assert_eq!(pool.flights(slow), 1, "one of {workers}");
        pool.cancel(0);
        for _ in 0..40 {
            pool.wait(SKIP_WAIT - ms(1));
            pool.sched.handle_progress(pool.now, pool.key(slow));
        }
        assert_eq!(pool.deeds(), [End(0, UNSTARTED)]);
        assert_eq!(pool.wait_for_deeds(), (SKIP_WAIT, vec![Stop(slow, None)]));
    }
}

/// A machine that was stopped, a runtime that was blocked: the worker may have
/// been no better off.
#[test]
fn a_look_that_comes_late_blames_nobody() {
    for mut pool in [Pool::new(2, 1).ready(), Pool::new(1, 1).ready(), untrusted(1)] {
        pool.submit(1);
        let worker = last_seat(&pool);
        pool.deeds();
        for _ in 0..3 {
            pool.now = pool.now + Duration::from_secs(60);
            pool.sched.handle_timeout(pool.now, &pool.board);
            pool.drain();
        }
        assert_eq!((pool.deeds(), pool.flights(worker)), (vec![], 1));
        let (waited, _) = pool.wait_for_deeds();
        assert!(waited >= START_WAIT);
    }
    // So late is not late yet.
    let mut pool = Pool::new(2, 1).ready();
    pool.submit(1);
    pool.now = pool.now + 2 * START_WAIT;
    pool.sched.handle_timeout(pool.now, &pool.board);
    pool.drain();
    assert_eq!(pool.sent.len(), 2, "the other has it");
}

#[test]
fn whatever_its_word_says_a_task_that_was_seen_to_run_stays() {
    let mut pool = Pool::new(2, 1).ready();
    pool.submit(1);
    let liar = last_seat(&pool);
    let (worker, seq) = (pool.key(liar), pool.due(liar));
    pool.item(worker, seq).unwrap();
    pool.wait(START_WAIT_MAX * 2);
    assert_eq!((pool.sent.len(), pool.phase(liar, seq)), (1, Some(Phase::Queued)));
}

#[test]
fn the_second_is_looked_at_once_it_is_first() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit(2);
    pool.begin(0);
    pool.wait(START_WAIT * 3);
    pool.deeds();
    pool.answer(0, 1_000);
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!((waited, deeds), (START_WAIT_MAX, vec![Stop(0, None)]));
}
