//! How workers come and go, what they may say, and what is told about them.

use super::*;

// Starting ------------------------------------------------------------------

#[test]
fn a_worker_gets_ready_in_time_or_is_stopped() {
    let mut pool = Pool::new(2, 1);
    assert_eq!(pool.deeds(), [Start(0), Start(1)]);
    pool.wait(ms(1));
    pool.get_ready(0);
    assert_eq!(pool.wait_for_deeds(), (START_TIMEOUT - ms(1), vec![Stop(1, None)]));
    pool.wait(2 * START_TIMEOUT);
    assert_eq!(pool.deeds(), [], "and one that is ready is left in peace");
}

#[test]
fn a_stopped_worker_does_not_get_ready() {
    let mut pool = Pool::new(1, 1);
    pool.submit(1);
    pool.fail_to_init(0);
    assert_eq!(pool.deeds(), [Start(0), Stop(0, None)]);
    pool.get_ready(0);
    assert_eq!(pool.deeds(), []);
    assert_eq!(pool.sched.stage(pool.key(0)), Some(Stage::Doomed));
}

#[test]
fn workers_that_cannot_start_are_tried_again_and_again_until_the_pool_is_broken() {
    for fail in [Pool::fail_to_start as fn(&mut Pool, u32), Pool::die] {
        let mut pool = Pool::new(1, 1);
        pool.submit(2);
        pool.deeds();
        for wait in [50, 100] {
            fail(&mut pool, 0);
            assert_eq!(pool.deeds(), []);
            assert_eq!(pool.wait_for_deeds(), (ms(wait), vec![Start(0)]));
        }
        fail(&mut pool, 0);
        assert_eq!(pool.deeds(), [End(0, Ending::Broken), End(1, Ending::Broken)]);
        assert_eq!(pool.sched.mode(), Mode::Broken);
        assert_eq!(pool.sched.poll_timeout(), None);
    }
}

#[test]
fn one_worker_that_gets_ready_lets_the_count_start_again() {
    let mut pool = Pool::new(1, 1);
    for _ in 0..5 {
        for wait in [50, 100] {
            pool.fail_to_start(0);
            assert_eq!(pool.wait_for_deeds(), (ms(wait), vec![Start(0)]));
        }
        pool.get_ready(0);
        pool.submit(1);
        pool.begin(0);
        pool.die(0);
    }
    assert_eq!(pool.sched.mode(), Mode::Open);
}

#[test]
fn a_pool_with_a_ready_worker_does_not_break() {
    let mut pool = Pool::new(2, 1);
    pool.get_ready(0);
    for _ in 0..10 {
        pool.fail_to_start(1);
        pool.wait(ms(5_000));
    }
    assert_eq!(pool.sched.mode(), Mode::Open);
}

#[test]
fn a_worker_that_still_starts_gives_hope_for_a_while() {
    let mut pool = Pool::new(2, 1);
    for failures in 1..=6 {
        assert_eq!(pool.sched.mode(), Mode::Open, "after {failures} failures");
        pool.fail_to_start(1);
        // Within the other's time to start.
        pool.wait(ms(1_600));
    }
    assert_eq!(pool.sched.mode(), Mode::Broken);
}

#[test]
fn a_worker_that_was_taken_back_has_not_failed() {
    for fail in [Pool::fail_to_start as fn(&mut Pool, u32), Pool::die] {
        let mut pool = Pool::new(2, 1);
        for _ in 0..10 {
            pool.deeds();
            pool.resize(1);
            assert_eq!(pool.deeds(), [Stop(1, None)]);
            fail(&mut pool, 1);
            pool.resize(2);
            assert_eq!(pool.deeds(), [Start(1)], "at once");
        }
    }
}

#[test]
fn failures_of_workers_that_nobody_knows_any_more_change_nothing() {
    let mut pool = Pool::new(1, 1);
    let gone = pool.key(0);
    pool.fail_to_start(0);
    pool.wait(ms(50));
    pool.deeds();
    let (sched, board, now) = (&mut pool.sched, &pool.board, pool.now);
    sched.handle_start_failed(now, gone);
    sched.handle_init_failed(now, gone, board);
    sched.handle_death(now, gone, KILLED, board);
    sched.handle_ready(now, gone, board);
    assert!(sched.poll_action().is_none());
    let view = sched.workers().next().unwrap();
    assert_eq!((view.stage, view.restarts), (Stage::Starting, 1));
}

#[test]
fn one_that_dies_young_and_idle_is_followed_after_a_pause() {
    // How long it had been ready, and whether it had a task then, or had
    // answered one.
    for (life, busy, useful, pause) in [
        (ms(0), false, false, true),
        (ms(9_999), false, false, true),
        (ms(10_000), false, false, false),
        (ms(0), true, false, false),
        (ms(0), false, true, false),
    ] {
        let mut pool = Pool::new(1, 1).ready();
        if useful {
            pool.submit(1);
            pool.answer(0, 1);
        }
        pool.wait(life);
        if busy {
            pool.submit(1);
            pool.begin(0);
        }
        pool.deeds();
        pool.die(0);
        assert_eq!(!pool.deeds().contains(&Start(0)), pause, "{life:?} {busy} {useful}");
        if pause {
            assert_eq!(pool.wait_for_deeds(), (ms(50), vec![Start(0)]));
        }
    }
}

// Answers --------------------------------------------------------------------

#[test]
fn only_the_answer_that_is_due_is_taken() {
    let ran = Answer::Ran { run_nanos: 1, retire: false };
    let wrong = |seq, due| Err(ProtocolError(Violation::WrongTask { seq, due }));
    let mut pool = Pool::new(1, 2).ready();
    assert_eq!(pool.say(0, 1, ran), wrong(1, None));
    pool.submit(2);
    for seq in [0, 2, 3] {
        assert_eq!(pool.say(0, seq, ran), wrong(seq, Some(1)));
        let item = pool.item(pool.key(0), seq).map(|data| data.copied());
        assert_eq!(item, wrong(seq, Some(1)));
    }
    assert_eq!(pool.say(0, 1, Answer::Skipped), Err(ProtocolError(Violation::WrongAnswer)));
    for phase in [Phase::Empty, Phase::Queued, Phase::Running, Phase::Revoked, Phase::Killing] {
        pool.scribble(0, 1, phase);
        assert_eq!(pool.say(0, 1, ran), Err(ProtocolError(Violation::Page)), "{phase:?}");
    }
    pool.scribble(0, 1, Phase::Done);
    assert_eq!(pool.say(0, 1, ran), Ok(Some(0)));
    assert_eq!(pool.phase(0, 1), Some(Phase::Empty));
    assert_eq!(pool.say(0, 1, ran), wrong(1, Some(2)));
    pool.cancel(1);
    let error = Err(ProtocolError(Violation::RevokedTaskRan { seq: 2 }));
    assert_eq!(pool.say(0, 2, ran), error);
    assert_eq!(pool.item(pool.key(0), 2).map(|data| data.copied()), error);
    assert_eq!(pool.say(0, 2, Answer::Skipped), Ok(None));
}

#[test]
fn answers_of_a_buried_worker_are_for_nobody() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit(1);
    let gone = pool.key(0);
    pool.begin(0);
    pool.die(0);
    let ran = Answer::Ran { run_nanos: 1, retire: false };
    let answered = pool.sched.handle_answer(pool.now, gone, 1, ran, &pool.board);
    assert_eq!(answered, Ok(None));
    assert_eq!(pool.item(gone, 1), Ok(None));
}

#[test]
fn items_reach_a_task_until_it_is_to_end() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit(1);
    pool.begin(0);
    let worker = pool.key(0);
    assert_eq!(pool.item(worker, 1), Ok(Some(&mut 0)));
    pool.watch(0);
    pool.cancel(0);
    assert_eq!(pool.item(worker, 1), Ok(None));
}

// Leaving --------------------------------------------------------------------

fn idle_timeout(workers: usize, depth_max: usize, idle: Duration) -> Pool {
    Pool::with(Settings { idle_timeout: Some(idle), ..settings(workers, depth_max) }).ready()
}

#[test]
fn a_worker_that_asks_to_be_replaced_is_replaced_when_it_has_nothing_left() {
    let mut pool = Pool::new(1, 2).ready();
    pool.submit(3);
    pool.deeds();
    pool.answer_and(0, 1, true);
    assert_eq!(pool.deeds(), [], "it gets nothing more");
    pool.answer(0, 1);
    assert_eq!(pool.deeds(), [Dismiss(0)]);
    pool.die(0);
    assert_eq!(pool.deeds(), [Start(0)]);
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 2)]);
}

#[test]
fn a_worker_runs_as_many_tasks_as_it_may_and_leaves() {
    let settings = Settings { tasks_per_worker_max: Some(3), ..settings(1, 8) };
    let mut pool = Pool::with(settings).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(8);
    for worker in [0..3, 3..6, 6..8] {
        let given: Vec<_> = worker.clone().map(|task| Send(0, task)).collect();
        assert_eq!(pool.deeds(), given);
        for task in worker {
            assert_eq!(pool.answer(0, 1_000), Some(task));
        }
        if pool.deeds() == [Dismiss(0)] {
            pool.die(0);
            assert_eq!(pool.deeds(), [Start(0)], "at once");
            pool.get_ready(0);
        }
    }
    assert_eq!(pool.worker(0).answered, 2);
}

#[test]
fn a_task_that_was_taken_back_does_not_count_for_its_workers_life() {
    let settings = Settings { tasks_per_worker_max: Some(2), ..settings(1, 2) };
    let mut pool = Pool::with(settings).ready();
    pool.submit(3);
    pool.begin(0);
    pool.deeds();
    pool.cancel(1);
    assert_eq!(pool.deeds().len(), 1);
    pool.answer(0, 1);
    pool.answer(0, 1);
    assert_eq!(pool.deeds(), [Send(0, 2)]);
    pool.answer(0, 1);
    assert_eq!(pool.deeds(), [Dismiss(0)]);
}

#[test]
fn a_worker_that_does_not_leave_is_stopped() {
    let mut pool = Pool::new(1, 1).ready();
    pool.close();
    assert_eq!(pool.deeds(), [Dismiss(0)]);
    assert_eq!(pool.wait_for_deeds(), (LEAVE_WAIT, vec![Stop(0, None)]));
    pool.die(0);
    assert!(pool.sched.is_drained());
}

#[test]
fn an_old_worker_finishes_what_it_has_and_is_replaced() {
    let mut pool = Pool::with(Settings { age_max: Some(ms(800)), ..settings(1, 2) }).ready();
    pool.wait(ms(700));
    pool.submit(1);
    assert_eq!(pool.deeds(), [Send(0, 0)]);
    pool.begin(0);
    pool.wait(ms(100));
    pool.submit(1);
    assert_eq!(pool.deeds(), [], "it gets nothing more");
    assert_eq!(pool.answer(0, 1), Some(0));
    assert_eq!(pool.deeds(), [Dismiss(0)]);
    pool.die(0);
    assert_eq!(pool.deeds(), [Start(0)], "at once");
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 1)]);
}

#[test]
fn those_that_came_together_leave_one_after_the_other() {
    let mut pool = Pool::with(Settings { age_max: Some(ms(800)), ..settings(4, 1) }).ready();
    for (after, worker) in [(725, 3), (25, 2), (25, 1), (25, 0)] {
        assert_eq!(pool.wait_for_deeds(), (ms(after), vec![Dismiss(worker)]));
        pool.die(worker);
        assert_eq!(pool.deeds(), [Start(worker)]);
        pool.get_ready(worker);
    }
}

#[test]
fn an_idle_worker_leaves_after_its_time_and_comes_back_for_work() {
    let mut pool = idle_timeout(2, 1, ms(200));
    pool.wait(ms(150));
    pool.submit(1);
    pool.wait(ms(20));
    let (busy, other) = (pool.sent[0].0, 1 - pool.sent[0].0);
    assert_eq!(pool.wait_for_deeds(), (ms(30), vec![Dismiss(other)]));
    pool.die(other);
    assert_eq!(pool.deeds(), []);
    assert!(pool.sched.is_ready(), "it rests");
    pool.answer(busy, 1);
    assert_eq!(pool.wait_for_deeds(), (ms(200), vec![Dismiss(busy)]), "counted from its answer");
    pool.die(busy);
    assert_eq!(pool.deeds(), []);
    assert_eq!(pool.sched.poll_timeout(), None);
    pool.submit(1);
    assert_eq!(pool.deeds(), [Start(0)]);
    pool.get_ready(0);
    assert_eq!(pool.deeds(), [Send(0, 1)]);
    pool.submit(1);
    assert_eq!(pool.deeds(), [Start(1)]);
    pool.submit(1);
    assert_eq!(pool.deeds(), [], "no more than it may have");
}

#[test]
fn a_worker_that_leaves_is_not_waited_for() {
    let mut pool = idle_timeout(2, 1, ms(200));
    pool.wait(ms(200));
    assert_eq!(pool.deeds(), [Dismiss(0), Dismiss(1)]);
    pool.die(0);
    pool.submit(1);
    assert_eq!(pool.deeds(), [Start(0)]);
}

#[test]
fn an_idle_worker_stays_for_what_waits_behind_another() {
    // Shorter than anybody waits before taking it over.
    let mut pool = idle_timeout(2, 2, Duration::from_micros(500));
    pool.submit(3);
    let (one, other) = (pool.sent[0].0, pool.sent[1].0);
    pool.begin(one);
    pool.answer(other, 1);
    // What waits behind `one` is on its way to it.
    pool.wait(ms(30));
    assert_eq!(pool.sent.last(), Some(&(other, 2)));
    assert!(!pool.deeds().contains(&Dismiss(other)));
}

#[test]
fn an_idle_worker_leaves_when_what_it_stayed_for_is_gone() {
    let mut pool = idle_timeout(2, 2, Duration::from_micros(500));
    pool.submit(3);
    pool.answer(1, 1);
    assert_eq!(pool.flights(0), 2);
    pool.begin(0);
    pool.wait(Duration::from_micros(600));
    pool.cancel(2);
    assert_eq!(pool.deeds().last(), Some(&End(2, UNSTARTED)));
    let (waited, deeds) = pool.wait_for_deeds();
    assert_eq!(deeds, [Dismiss(1)]);
    assert!(waited <= ms(1), "{waited:?}");
}

#[test]
fn nobody_is_woken_for_what_is_another_workers_to_the_end() {
    // Both rest, and one comes back for a task.
    let mut pool = idle_timeout(2, 1, ms(200));
    pool.wait(ms(200));
    pool.die(0);
    pool.die(1);
    pool.submit(1);
    pool.get_ready(0);
    pool.begin(0);
    pool.deeds();
    pool.violate(0, GARBAGE);
    assert_eq!(pool.deeds(), [Stop(0, None)], "for a task that dies with its worker");
    pool.submit(1);
    assert_eq!(pool.deeds(), [Start(1)], "but for the next");
    pool.die(0);
    assert_eq!(pool.deeds(), [End(0, Ending::Violated { error: GARBAGE }), Start(0)]);

    for (tasks, woken) in [(2, false), (3, true)] {
        let mut pool = Pool::new(2, 3);
        pool.get_ready(0);
        pool.sched.run_nanos = 1_000;
        pool.submit(tasks);
        pool.close();
        pool.fail_to_start(1);
        pool.answer_and(0, 1, true);
        pool.wait(ms(50));
        // The last of them waits behind another, and need not.
        assert_eq!(pool.deeds().ends_with(&[Start(1)]), woken, "{tasks} tasks");
    }

    let mut pool = idle_timeout(2, 1, ms(200));
    pool.submit(2);
    pool.answer(0, 1);
    pool.begin(1);
    pool.wait(ms(200));
    pool.die(0);
    pool.deeds();
    pool.resize(1);
    assert_eq!(pool.deeds(), []);
    pool.submit(1);
    assert_eq!(pool.deeds(), [Start(0)]);
}

#[test]
fn a_look_that_comes_late_does_all_that_is_due() {
    let asked = |word| {
        let mut pool = busy(1);
        pool.watch(0);
        pool.cancel(0);
        pool.scribble(0, 1, word);
        pool
    };
    let mut stealing = Pool::new(2, 2);
    stealing.get_ready(0);
    stealing.submit(2);
    stealing.begin(0);
    stealing.get_ready(1);
    let mut hung_up = busy(1);
    hung_up.hang_up(0);
    let mut silent = Pool::new(1, 1).ready();
    silent.submit(1);
    silent.cancel(0);
    let mut failed = Pool::new(1, 1);
    failed.fail_to_start(0);
    let mut timed = Pool::new(1, 1).ready();
    timed.submit_with(timeout(ms(50)));
    timed.begin(0);
    let mut held_back = busy(2);
    held_back.scribble(0, 1, Phase::Done);
    for (mut pool, due) in [
        (Pool::new(1, 1), Stop(0, None)),
        (hung_up, Stop(0, None)),
        (silent, Stop(0, None)),
        (asked(Phase::CancelReq), Stop(0, None)),
        (asked(Phase::Done), Probe(0)),
        (timed, Stop(0, Some(GRACE))),
        (idle_timeout(1, 1, ms(5)), Dismiss(0)),
        (stealing, Send(1, 1)),
        (failed, Start(0)),
        (held_back, Probe(0)),
    ] {
        pool.deeds();
        pool.now = pool.now + ms(3_600_000);
        while pool.sched.poll_timeout().is_some_and(|next| next <= pool.now) {
            pool.look();
        }
        assert_eq!(pool.deeds(), [due]);
    }
}

#[test]
fn an_idle_pool_is_left_in_peace() {
    let mut pool = Pool::new(3, 4).ready();
    pool.submit(20);
    pool.finish_all(1_000);
    assert_eq!(pool.sched.poll_timeout().filter(|at| *at > pool.now + ms(2)), None);
    pool.wait(ms(2));
    assert_eq!(pool.sched.poll_timeout(), None);
}

#[test]
fn nobody_looks_at_a_worker_that_is_in_its_only_task() {
    let mut pool = Pool::new(2, 2).ready();
    pool.submit(3);
    pool.answer(0, 1);
    pool.answer(1, 1);
    assert_eq!((pool.flights(0), pool.flights(1)), (1, 0));
    pool.begin(0);
    pool.wait(START_WAIT);
    assert_eq!(pool.sched.poll_timeout(), None, "one worker has a task, one has none");
}

// Resizing -------------------------------------------------------------------

#[test]
fn a_pool_grows_and_shrinks_to_what_was_asked_for() {
    let mut pool = Pool::new(1, 1).ready();
    pool.resize(3);
    assert_eq!(pool.deeds(), [Start(1), Start(2)]);
    assert!(!pool.sched.is_ready());
    pool.get_ready(1);
    pool.submit(2);
    pool.deeds();
    // One is busy and needed, one is busy, one is starting.
    pool.resize(1);
    assert_eq!(pool.deeds(), [Stop(2, None)]);
    pool.submit(1);
    pool.answer(1, 1);
    assert_eq!(pool.deeds(), [Dismiss(1)], "it finishes what it has");
    pool.die(1);
    pool.die(2);
    assert_eq!(pool.deeds(), []);
    assert!(pool.sched.is_ready());
    pool.answer(0, 1);
    assert_eq!(pool.deeds(), [Send(0, 2)]);
    pool.resize(2);
    assert_eq!(pool.deeds(), [Start(1)]);
}

#[test]
fn a_smaller_pool_does_not_wait_for_those_too_many() {
    let mut pool = Pool::new(3, 1).ready();
    pool.submit(4);
    pool.deeds();
    pool.resize(1);
    pool.answer(0, 1);
    assert_eq!(pool.deeds(), [Send(0, 3)]);
}

// What is told ---------------------------------------------------------------

#[test]
fn workers_are_shown_as_they_are() {
    let mut pool = Pool::new(2, 2);
    pool.get_ready(0);
    pool.get_ready(1);
    pool.submit(2);
    pool.answer(0, 1);
    pool.submit(2);
    pool.begin(1);
    pool.die(1);
    let now = pool.now;
    let views: Vec<_> = pool.sched.workers().collect();
    let shown = |view: &WorkerView| {
        let tasks: Vec<_> = view
            .in_flight
            .iter()
            .map(|&(seq, task)| (seq, *pool.sched.data(task).unwrap()))
            .collect();
        (view.key.seat, view.stage, view.answered, view.restarts, tasks)
    };
    assert_eq!(shown(&views[0]), (0, Stage::Ready, 1, 0, vec![(2, 2), (3, 3)]));
    assert_eq!(shown(&views[1]), (1, Stage::Starting, 0, 1, vec![]));
    assert_eq!(views[1].began, now);
    for view in &views {
        assert_eq!(pool.sched.find(view.key.id), Some(view.key));
        assert_eq!(pool.sched.stage(view.key), Some(view.stage));
    }
    assert_eq!(pool.sched.find(WorkerId(99)), None);
    let stranger = WorkerKey { seat: 0, id: WorkerId(99) };
    assert_eq!(pool.sched.stage(stranger), None);
}

#[test]
fn a_task_is_alone_while_its_worker_has_no_other() {
    let mut pool = Pool::new(2, 2).ready();
    let alone = |pool: &Pool, seat, seq| pool.sched.is_alone(pool.key(seat), seq);
    assert_eq!(pool.sched.busy_workers(), 0);
    assert!(!alone(&pool, 1, 1), "nothing was sent");
    pool.submit(1);
    assert!(alone(&pool, 0, 1) && !alone(&pool, 0, 2) && !alone(&pool, 1, 1));
    assert_eq!(pool.sched.busy_workers(), 1);
    pool.submit(2);
    assert_eq!([pool.flights(0), pool.flights(1)], [2, 1]);
    assert!(alone(&pool, 1, 1) && !alone(&pool, 0, 1) && !alone(&pool, 0, 2));
    assert_eq!(pool.sched.busy_workers(), 2);
    pool.answer(0, 1);
    assert!(alone(&pool, 0, 2) && !alone(&pool, 0, 1));
    let stranger = WorkerKey { seat: 0, id: WorkerId(99) };
    assert!(!pool.sched.is_alone(stranger, 2));
    pool.answer(0, 1);
    assert_eq!(pool.sched.busy_workers(), 1);
    let nowhere = WorkerKey { seat: 9, ..pool.key(1) };
    assert!(!pool.sched.is_alone(nowhere, 1));
}

#[test]
fn tasks_are_found_until_they_end() {
    let mut pool = Pool::new(1, 1).ready();
    pool.submit(2);
    assert_eq!(pool.sched.task_counts(), (2, 1));
    let worker = pool.key(0);
    assert_eq!(pool.sched.place(pool.keys[0]), Some(Place::Sent { worker, seq: 1 }));
    assert_eq!(pool.sched.place(pool.keys[1]), Some(Place::Queued));
    assert_eq!(pool.sched.data(pool.keys[1]), Some(&1));
    pool.answer(0, 1);
    pool.submit(1);
    // The third sits where the first sat.
    assert_eq!(pool.sched.place(pool.keys[0]), None);
    assert_eq!(pool.sched.data(pool.keys[0]), None);
    assert_eq!(pool.sched.data(pool.keys[2]), Some(&2));
    pool.cancel(0);
    assert_eq!(pool.sched.task_counts(), (2, 1));
}

#[test]
fn verdicts_are_due_where_somebody_has_been_silent_for_too_long() {
    let mut pool = Pool::new(2, 1);
    pool.get_ready(0);
    let late = pool.now + START_TIMEOUT;
    assert_eq!(pool.sched.verdicts_due(Time(late.0 - 1)), []);
    assert_eq!(pool.sched.verdicts_due(late), [pool.key(1)]);
    pool.submit(1);
    pool.begin(0);
    pool.hang_up(0);
    let both = pool.now + EOF_TO_DEATH_WAIT;
    assert_eq!(pool.sched.verdicts_due(both), [pool.key(0)]);
    assert_eq!(pool.sched.verdicts_due(late), [pool.key(0), pool.key(1)]);
}
