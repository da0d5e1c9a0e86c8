//! Workers beyond those that may have tasks: they wait, and take over.

use super::*;

fn with_spares(workers: usize, spares: usize, depth_max: usize) -> Pool {
    Pool::with(Settings { spares, ..settings(workers, depth_max) })
}

/// One worker, one spare, and `tasks` tasks of which the first runs. Returns the
/// seats of both.
fn pair(depth_max: usize, tasks: usize) -> (Pool, u32, u32) {
    let mut pool = with_spares(1, 1, depth_max).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(tasks);
    let serves = pool.sent[0].0;
    pool.begin(serves);
    pool.deeds();
    (pool, serves, 1 - serves)
}

#[test]
fn spares_are_started_and_waited_for() {
    let mut pool = with_spares(2, 1, 1);
    assert_eq!(pool.deeds(), [Start(0), Start(1), Start(2)]);
    pool.get_ready(0);
    pool.get_ready(1);
    assert!(!pool.sched.is_ready());
    pool.get_ready(2);
    assert!(pool.sched.is_ready());
}

#[test]
fn a_spare_that_cannot_be_had_is_not_waited_for() {
    let mut pool = with_spares(1, 1, 1).ready();
    let does_not_die = |pool: &mut Pool| {
        pool.violate(1, GARBAGE);
        pool.sched.handle_overdue(pool.now, pool.key(1), &pool.board);
        pool.wait(ms(50));
    };
    does_not_die(&mut pool);
    assert!(!pool.sched.cannot_start());
    pool.get_ready(1);
    does_not_die(&mut pool);
    assert!(!pool.sched.is_ready() && pool.sched.cannot_start());
}

#[test]
fn a_spare_has_no_task_while_enough_others_have() {
    let mut pool = with_spares(2, 2, 1).ready();
    pool.submit(4);
    assert_eq!(pool.sent.len(), 2);
    assert_eq!(pool.sched.task_counts(), (4, 2));
    let (one, other) = (pool.sent[0].0, pool.sent[1].0);
    pool.begin(one);
    pool.begin(other);
    pool.answer(one, 1);
    assert_eq!(pool.sent[2..], [(one, 2)]);
    pool.answer(one, 1);
    assert_eq!(pool.sent[3..], [(one, 3)]);
}

#[test]
fn tasks_are_shared_among_those_that_serve() {
    let mut pool = with_spares(2, 2, 64).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(8);
    let (one, other) = (pool.sent[0].0, pool.sent[1].0);
    assert_eq!((pool.flights(one), pool.flights(other)), (4, 4));
}

#[test]
fn a_spare_takes_over_when_a_worker_is_stopped() {
    let (mut pool, serves, spare) = pair(1, 3);
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Stop(serves, Some(GRACE)), Send(spare, 1)]);
    pool.answer(spare, 1);
    assert_eq!(pool.deeds(), [Send(spare, 2)], "the other may take its time");
    pool.die(serves);
    assert_eq!(pool.deeds(), [End(0, STOPPED), Start(serves)]);
    pool.get_ready(serves);
    pool.submit(1);
    assert_eq!(pool.deeds(), [], "it is the spare now");
    assert_eq!(pool.sched.task_counts(), (2, 1));
}

#[test]
fn a_spare_takes_over_when_a_worker_crashes_or_breaks_the_protocol() {
    let (mut pool, serves, spare) = pair(1, 2);
    pool.die(serves);
    let [End(0, Ending::Lost { .. }), Send(to, 1), Start(started)] = pool.deeds()[..] else {
        panic!("{:?}", pool.deeds)
    };
    assert_eq!((to, started), (spare, serves));

    let (mut pool, serves, spare) = pair(1, 2);
    pool.violate(serves, GARBAGE);
    assert_eq!(pool.deeds(), [Stop(serves, None), Send(spare, 1)]);
}

#[test]
fn a_spare_takes_over_when_a_worker_retires() {
    let settings = Settings { spares: 1, tasks_per_worker_max: Some(2), ..settings(1, 1) };
    let mut pool = Pool::with(settings).ready();
    pool.submit(4);
    let serves = pool.sent[0].0;
    pool.answer(serves, 1);
    pool.deeds();
    pool.answer(serves, 1);
    assert_eq!(pool.deeds(), [Dismiss(serves), Send(1 - serves, 2)]);
}

#[test]
fn what_waits_behind_a_task_that_is_ended_goes_to_the_spare() {
    let (mut pool, serves, spare) = pair(8, 3);
    assert_eq!(pool.flights(serves), 3);
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Stop(serves, Some(GRACE)), Send(spare, 1), Send(spare, 2)]);
}

#[test]
fn what_waits_behind_a_long_task_does_not_go_to_a_spare() {
    let (mut pool, serves, _) = pair(8, 3);
    pool.wait(ms(1_000));
    assert!(pool.sent.iter().all(|&(seat, _)| seat == serves), "{:?}", pool.sent);
}

#[test]
fn nothing_is_taken_back_for_a_spare_that_may_not_have_it() {
    let mut pool = with_spares(1, 1, 8);
    pool.get_ready(0);
    pool.sched.run_nanos = 1_000_000;
    pool.submit(2);
    pool.begin(0);
    pool.deeds();
    pool.get_ready(1);
    assert_eq!((pool.flights(0), pool.sched.task_counts()), (2, (2, 0)));
}

/// What waits behind another's task, where nothing waits in the queue.
#[test]
fn a_spare_takes_from_the_others_what_waits_there() {
    let mut pool = with_spares(2, 1, 8).ready();
    pool.sched.run_nanos = 1_000_000;
    pool.submit(4);
    let (one, other) = (pool.sent[0].0, pool.sent[1].0);
    assert_eq!((pool.flights(one), pool.flights(other)), (2, 2));
    pool.begin(one);
    pool.begin(other);
    let alone = pool.sent.iter().rposition(|sent| sent.0 == other).unwrap();
    pool.cancel(alone);
    pool.deeds();
    pool.cancel(1);
    let spare = 3 - one - other;
    let behind = pool.sent.iter().rposition(|sent| sent.0 == one).unwrap();
    assert_eq!(pool.deeds(), [Stop(other, Some(GRACE)), Send(spare, behind)]);
}

#[test]
fn a_worker_whose_only_task_was_taken_back_goes_on_serving() {
    let mut pool = with_spares(1, 1, 1).ready();
    pool.submit(2);
    let serves = pool.sent[0].0;
    pool.deeds();
    pool.cancel(0);
    assert_eq!(pool.deeds(), [End(0, UNSTARTED)]);
    pool.answer(serves, 1);
    assert_eq!(pool.deeds(), [Send(serves, 1)]);

    let (mut pool, serves, _) = pair(2, 3);
    pool.wait(ms(500));
    assert_eq!(pool.flights(serves), 2, "one has been taken back behind a long one");
    assert_eq!(pool.sched.task_counts(), (3, 2));
    pool.answer(serves, 1);
    assert!(pool.sent.iter().all(|&(seat, _)| seat == serves), "{:?}", pool.sent);
}

#[test]
fn a_spare_takes_over_from_a_worker_that_does_not_begin() {
    let mut pool = with_spares(1, 1, 1).ready();
    pool.submit(1);
    let serves = pool.sent[0].0;
    assert_eq!(pool.wait_for_deeds(), (START_WAIT, vec![Send(1 - serves, 0)]));
}

#[test]
fn a_task_that_watches_for_its_end_keeps_its_worker_serving() {
    let (mut pool, serves, spare) = pair(1, 2);
    pool.watch(serves);
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Ring(serves, 1)]);
    assert_eq!(pool.wait_for_deeds(), (GRACE, vec![Stop(serves, None), Send(spare, 1)]));
}

#[test]
fn a_larger_pool_has_its_spares_serve_at_once_and_a_smaller_one_fewer() {
    let (mut pool, serves, spare) = pair(1, 4);
    pool.resize(2);
    assert_eq!(pool.deeds(), [Start(2), Send(spare, 1)]);
    pool.begin(spare);
    pool.get_ready(2);
    pool.resize(1);
    assert_eq!(pool.deeds(), [Dismiss(2)]);
    pool.answer(serves, 1);
    assert_eq!(pool.deeds(), [], "one is at work, and so many may be");
    pool.answer(spare, 1);
    assert_eq!(pool.deeds(), [Send(spare, 2)]);
}

#[test]
fn those_too_many_at_work_get_no_more() {
    let mut pool = with_spares(2, 1, 4).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(8);
    assert_eq!((pool.flights(0), pool.flights(1)), (4, 4));
    pool.deeds();
    pool.resize(1);
    assert_eq!(pool.deeds(), [Dismiss(2)]);
    pool.submit(1);
    for left in (0..4).rev() {
        pool.answer(1, 1);
        assert_eq!((pool.flights(1), pool.deeds()), (left, vec![]));
    }
    pool.answer(0, 1);
    assert_eq!(pool.deeds(), [Send(0, 8)]);
}

#[test]
fn spares_stay_when_the_idle_leave() {
    let idle_timeout = Some(ms(200));
    let settings = Settings { spares: 1, idle_timeout, ..settings(2, 1) };
    let mut pool = Pool::with(settings).ready();
    pool.wait(ms(200));
    assert_eq!(pool.deeds(), [Dismiss(0), Dismiss(1)]);
    pool.die(0);
    pool.die(1);
    assert_eq!((pool.deeds(), pool.sched.poll_timeout()), (vec![], None));
    assert!(pool.sched.is_ready());
    pool.submit(1);
    assert_eq!(pool.deeds(), [Send(2, 0), Start(0)], "and there is a spare again");
    pool.get_ready(0);
    pool.answer(2, 1);
    let (_, deeds) = pool.wait_for_deeds();
    assert_eq!(deeds, [Dismiss(0)], "it has been idle for longer");
    pool.die(0);
    pool.wait(ms(1_000));
    assert_eq!((pool.deeds(), pool.sched.poll_timeout()), (vec![], None));
}

#[test]
fn a_closed_pool_keeps_its_spares_for_what_waits_and_starts_none() {
    let (mut pool, serves, spare) = pair(1, 3);
    pool.close();
    assert_eq!(pool.deeds(), [], "they may yet be of use");
    pool.cancel(0);
    assert_eq!(pool.deeds(), [Stop(serves, Some(GRACE)), Send(spare, 1)]);
    pool.die(serves);
    assert_eq!(pool.deeds(), [End(0, STOPPED)]);
    pool.answer(spare, 1);
    pool.answer(spare, 1);
    assert_eq!(pool.deeds(), [Send(spare, 2), Dismiss(spare)]);

    let (mut pool, serves, spare) = pair(1, 1);
    pool.close();
    assert_eq!(pool.deeds(), [Dismiss(spare)], "nothing waits");
    pool.terminate();
    assert_eq!(pool.deeds(), [Stop(serves, Some(GRACE))]);
}

#[test]
fn a_spare_takes_over_from_one_that_kept_its_tasks_by_a_lie_once_they_are_cancelled() {
    let mut pool = with_spares(1, 1, 2).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(2);
    let liar = pool.sent[0].0;
    pool.scribble(liar, 2, Phase::Running);
    pool.wait(START_WAIT);
    assert_eq!(pool.sent.len(), 2, "nothing could be taken back");
    pool.scribble(liar, 2, Phase::Queued);
    pool.cancel(0);
    pool.cancel(1);
    pool.submit(1);
    assert_eq!(pool.sent[2..], [(1 - liar, 2)]);
}
