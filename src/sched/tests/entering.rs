//! Tasks that come while no worker has room.

use super::super::{Entrant, Ticket};
use super::*;

/// One worker with as many tasks as it may have, and `queued` that wait.
fn full(queued: usize) -> Pool {
    let mut pool = Pool::new(1, 4).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(4 + queued);
    pool.begin(0);
    pool.deeds();
    pool
}

impl Pool {
    fn entrant(&mut self, ticket: Ticket) -> Entrant<usize> {
        let task = self.keys.len();
        let entrant = Entrant::new(ticket, TaskId(task as u64 + 1), task, Terms::default());
        self.keys.push(entrant.key());
        entrant
    }

    fn enter_last(&mut self, entrants: Vec<Entrant<usize>>) -> Vec<Deed> {
        self.deeds();
        let entrants = entrants.into_iter();
        let tasks: Vec<_> = entrants.map(|entrant| self.sched.handle_entry(entrant)).collect();
        self.sched.handle_entered(self.now, &tasks, &self.board);
        self.drain();
        self.deeds()
    }
}

#[test]
fn a_task_only_queues_where_nobody_could_be_given_it() {
    assert!(full(1).sched.only_queues());
    // With fewer than there are workers, one more may need one.
    assert!(!full(0).sched.only_queues());
    assert!(!Pool::new(1, 4).ready().sched.only_queues());
    let mut pool = full(1);
    pool.answer(0, 1_000);
    assert!(!pool.sched.only_queues(), "its place was taken, and nothing waits");
    for end in [Pool::close, Pool::terminate] {
        let mut pool = full(1);
        end(&mut pool);
        assert!(!pool.sched.only_queues());
    }
    // A worker that is not ready yet has no room, either.
    let mut starting = Pool::new(1, 4);
    starting.submit(1);
    assert!(starting.sched.only_queues());
    starting.get_ready(0);
    assert!(!starting.sched.only_queues());
}

#[test]
fn nor_where_a_worker_would_be_started_for_it() {
    let mut pool =
        Pool::with(Settings { idle_timeout: Some(Duration::from_secs(1)), ..settings(2, 1) });
    pool.get_ready(0);
    pool.get_ready(1);
    pool.submit(2);
    assert!(!pool.sched.only_queues());
    pool.submit(1);
    assert!(!pool.sched.only_queues(), "fewer wait than there are workers");
    pool.submit(1);
    assert!(pool.sched.only_queues());
    pool.die(1);
    // Its successor has to wait a moment, or is there.
    assert_eq!(pool.sched.only_queues(), pool.sched.census().empty == 0);
}

#[test]
fn spares_are_no_room() {
    let mut pool = Pool::with(Settings { spares: 1, ..settings(1, 2) }).ready();
    pool.submit(3);
    assert!(pool.sched.only_queues());
}

#[test]
fn tickets_are_worth_while_where_many_wait() {
    assert!(!full(64).sched.is_backed_up());
    assert!(full(65).sched.is_backed_up());
}

#[test]
fn or_are_under_way_and_no_worker_is_without_any() {
    let mut pool = Pool::new(2, 1000).ready();
    pool.sched.run_nanos = 1_000;
    pool.submit(1);
    assert!(!pool.sched.is_busy(), "the other one has none");
    pool.submit(62);
    assert!(pool.sched.is_busy() && !pool.sched.is_in_demand());
    assert!(!pool.sched.only_queues(), "there is room");
    pool.submit(1);
    assert!(pool.sched.is_in_demand());
    pool.finish_all(1_000);
    assert!(!pool.sched.is_busy());
    for end in [Pool::close, Pool::terminate] {
        let mut pool = full(100);
        end(&mut pool);
        assert!(!pool.sched.is_busy() && !pool.sched.is_in_demand());
    }
}

#[test]
fn what_enters_is_found_and_runs_in_order() {
    let mut pool = full(1);
    let tickets: Vec<_> = (0..3).map(|_| pool.sched.give_ticket()).collect();
    let entrants: Vec<_> = tickets.into_iter().map(|ticket| pool.entrant(ticket)).collect();
    assert_eq!(pool.sched.place(pool.keys[5]), None, "not yet");
    for entrant in entrants {
        pool.sched.handle_entry(entrant);
    }
    assert!(pool.sched.poll_action().is_none());
    assert_eq!(pool.sched.task_counts(), (8, 4));
    assert_eq!(pool.sched.place(pool.keys[5]), Some(Place::Queued));
    pool.cancel(6);
    pool.finish_all(1_000);
    let order: Vec<_> = pool.sent.iter().map(|(_, task)| *task).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 7]);
}

#[test]
fn the_last_to_enter_get_what_has_come_free() {
    let mut pool = full(1);
    let ticket = pool.sched.give_ticket();
    let entrant = pool.entrant(ticket);
    pool.answer(0, 1_000);
    pool.answer(0, 1_000);
    assert_eq!(pool.flights(0), 3);
    assert_eq!(pool.enter_last(vec![entrant]), [Deed::Send(0, 5)]);
}

#[test]
fn the_last_to_enter_end_with_the_pool() {
    let mut pool = full(1);
    let tickets = [pool.sched.give_ticket(), pool.sched.give_ticket()];
    let entrants: Vec<_> = tickets.into_iter().map(|ticket| pool.entrant(ticket)).collect();
    pool.terminate();
    let ended = |task| Deed::End(task, Ending::Terminated { started: false });
    assert_eq!(pool.enter_last(entrants), [ended(5), ended(6)]);
    assert_eq!(pool.sched.place(pool.keys[5]), None);
}

#[test]
fn a_closed_pool_still_runs_them() {
    let mut pool = full(1);
    let ticket = pool.sched.give_ticket();
    let entrant = pool.entrant(ticket);
    pool.close();
    assert_eq!(pool.enter_last(vec![entrant]), []);
    pool.finish_all(1_000);
    assert_eq!(pool.sent.len(), 6);
}

#[test]
fn a_ticket_without_a_task_leaves_its_place_to_others() {
    let mut pool = full(1);
    let ticket = pool.sched.give_ticket();
    let index = pool.entrant(ticket).key().index;
    let ticket = pool.sched.give_ticket();
    pool.sched.handle_return(ticket);
    pool.submit(1);
    assert_eq!(pool.keys[6].index, index + 1);
}
