//! Which task goes to which worker, how many at a time, and what is taken back
//! from a worker that is stuck in a long one.
//!
//! Breadth before depth: no worker gets a second task while another has none,
//! and none gets more than its share of what there is.

use std::time::Duration;

use super::key::WorkerKey;
use super::slot::{Holds, Stage, Worker};
use super::task::Place;
use super::{Action, Scheduler, Words};
use crate::limits::SLOTS;
use crate::slot_word::Phase;
use crate::time::Time;

/// Tasks in flight to one worker should last about this long: long enough to
/// hide the round trip that fetches the next ones (some 50 µs), short enough
/// that little has to be taken back.
const WINDOW: Duration = Duration::from_millis(1);

/// Tasks longer than this are worth taking back at once for an idle worker:
/// fetching one costs a swap and a frame.
const LONG_TASK: Duration = Duration::from_micros(100);

/// What waits behind a task is taken back after four times what tasks take, but
/// not sooner than the first (taking back costs the worker a round trip) and not
/// later than the last, by which even a person begins to notice.
const RELIEF_FIRST: Duration = Duration::from_millis(10);
const RELIEF_LAST: Duration = Duration::from_millis(100);

/// A worker that has said nothing for this long is in a long task.
const SILENT: Duration = Duration::from_micros(500);

impl<T> Scheduler<T> {
    /// Sends waiting tasks to workers that have room. `prefer` has just made
    /// some.
    pub(super) fn assign(&mut self, now: Time, prefer: Option<u32>, words: &impl Words) {
        while let Some(task) = self.tasks.front() {
            let Some(seat) = self.next_seat(prefer) else { return };
            let key = self.key(seat).expect("a seat with room has a worker");
            let slot = self.worker_mut(key).expect("a seat with room has a worker");
            if slot.flights.is_empty() {
                slot.heard = now;
                slot.timers.idle_until = Time::FAR;
            }
            let seq = slot.launch(now, task);
            if slot.flights.len() > 1 {
                slot.timers.probe_soon(now, true);
            }
            if let Some(timeout) = self.tasks.get(task).and_then(|task| task.terms.timeout) {
                let slot = self.worker_mut(key).expect("launched just above");
                slot.timers.timeout_at = slot.timers.timeout_at.min(now + timeout);
            }
            self.tasks.send(task, Place::Sent { worker: key, seq });
            words.enqueue(key, seq);
            self.actions.push_back(Action::Run { worker: key, seq, task });
        }
    }

    /// The worker that should get the next task.
    fn next_seat(&mut self, prefer: Option<u32>) -> Option<u32> {
        while let Some(seat) = self.idle.pop() {
            if let Some(slot) = &mut self.seats[seat as usize].worker {
                slot.listed = false;
                if slot.is_idle() {
                    return Some(seat);
                }
            }
        }
        if self.full {
            return None;
        }
        let share = self.share();
        if prefer.is_some_and(|seat| self.room(seat, share) > 0) {
            return prefer;
        }
        let seats = 0..self.seats.len() as u32;
        let best = seats.filter(|&seat| self.room(seat, share) > 0).min_by_key(|&seat| {
            let slot = self.seats[seat as usize].worker.as_ref();
            slot.map_or(0, |slot| slot.flights.len())
        });
        self.full = best.is_none();
        best
    }

    /// How many tasks one worker may have in flight now.
    fn share(&self) -> usize {
        let ready = |seat: &&super::Seat| {
            seat.worker.as_ref().is_some_and(|slot| slot.stage == Stage::Ready)
        };
        let workers = self.seats.iter().filter(ready).count().max(1);
        self.depth().min(self.tasks.len().div_ceil(workers))
    }

    /// How many tasks make a full window at the pace of late.
    fn depth(&self) -> usize {
        let depth = match self.run_nanos {
            // Nothing is known yet: one that runs and one that is ready to.
            0 => 2,
            nanos => (WINDOW.as_nanos() as u64 / nanos).clamp(2, SLOTS as u64) as usize,
        };
        depth.min(self.settings.depth_max)
    }

    /// How many more tasks the worker at `seat` may be given.
    fn room(&self, seat: u32, share: usize) -> usize {
        let Some(slot) = &self.seats[seat as usize].worker else { return 0 };
        if slot.stage != Stage::Ready || slot.retiring || slot.stuck {
            return 0;
        }
        let room = share.saturating_sub(slot.flights.len());
        match self.settings.tasks_per_worker_max {
            Some(max) => room.min(max.saturating_sub(slot.given) as usize),
            None => room,
        }
    }

    /// Takes unstarted tasks back from workers that are stuck in long ones, for
    /// those that have nothing to do.
    pub(super) fn steal(&mut self, now: Time, words: &impl Words) {
        if !self.settings.trusted {
            return;
        }
        while self.tasks.queued() == 0 && self.has_idle() {
            let (victim, more_later) = self.victim(now, words);
            let taken = victim.is_some_and(|(waiting, seat)| {
                self.take_from(now, seat, waiting.div_ceil(2), words)
            });
            if !taken {
                if victim.is_some() || more_later {
                    self.steal_at = self.steal_at.min(now + 2 * SILENT);
                }
                return;
            }
            self.assign(now, None, words);
        }
    }

    fn has_idle(&self) -> bool {
        self.seats.iter().filter_map(|seat| seat.worker.as_ref()).any(Worker::is_idle)
    }

    /// The worker behind whose task most others wait, and how many, if it is a
    /// long one; and whether tasks wait behind others that may be.
    fn victim(&self, now: Time, words: &impl Words) -> (Option<(usize, u32)>, bool) {
        let tasks_are_long = u128::from(self.run_nanos) >= LONG_TASK.as_nanos();
        let mut victim: Option<(usize, u32)> = None;
        let mut more_later = false;
        for (index, seat) in self.seats.iter().enumerate() {
            let Some(slot) = &seat.worker else { continue };
            let waiting = slot.held().saturating_sub(1);
            if slot.stage != Stage::Ready || waiting == 0 {
                continue;
            }
            // The newest tells for all: it starts last. Those before it may be
            // over, with their answers still to come.
            let newest = slot.flights.iter().rev().find(|flight| flight.holds != Holds::Nothing);
            let key = WorkerKey { seat: index as u32, id: slot.id };
            let phase = newest.and_then(|flight| words.load(key, flight.seq).phase());
            if phase != Some(Phase::Queued) {
                continue;
            }
            if !tasks_are_long && now - slot.heard < SILENT {
                // It will probably be done before anything could be moved.
                more_later = true;
            } else if victim.is_none_or(|(most, _)| waiting > most) {
                victim = Some((waiting, index as u32));
            }
        }
        (victim, more_later)
    }

    /// Takes back up to `wanted` of the tasks that wait at a worker, newest
    /// first. Returns whether there was any that it had not started meanwhile.
    fn take_from(&mut self, now: Time, seat: u32, wanted: usize, words: &impl Words) -> bool {
        let key = self.key(seat).expect("a victim is a worker");
        let slot = self.worker_mut(key).expect("a victim is a worker");
        let mut taken = Vec::new();
        for index in (1..slot.flights.len()).rev() {
            if taken.len() == wanted {
                break;
            }
            let flight = slot.flights[index];
            let Holds::Task(task) = flight.holds else { continue };
            if !words.swap(key, flight.seq, Phase::Queued, Phase::Revoked) {
                break;
            }
            slot.revoke(flight.seq);
            taken.push(task);
        }
        slot.watch_skip(now);
        let any = !taken.is_empty();
        for task in taken {
            self.tasks.requeue(task);
        }
        any
    }

    /// A worker has been in one task since `since`. Once that is long, whatever
    /// waits behind it waits for any worker instead, even if all have work: it
    /// came before what is in the queue.
    pub(super) fn relieve(&mut self, now: Time, key: WorkerKey, since: Time, words: &impl Words) {
        let usual = Duration::from_nanos(self.run_nanos);
        let patience = (usual * 4).clamp(RELIEF_FIRST, RELIEF_LAST);
        let others = self.seats.iter().filter_map(|seat| seat.worker.as_ref());
        let others = others.filter(|slot| slot.stage == Stage::Ready && slot.id != key.id).count();
        let trusted = self.settings.trusted;
        let Some(slot) = self.worker_mut(key) else { return };
        slot.timers.probe_at = Time::FAR;
        if !trusted || others == 0 || slot.held() < 2 {
            return;
        }
        if now - since < patience {
            slot.timers.probe_at = since + patience;
            return;
        }
        slot.stuck = true;
        let waiting = slot.held() - 1;
        if self.take_from(now, key.seat, waiting, words) {
            self.assign(now, None, words);
        }
    }

    /// Learns from a task that took this long.
    pub(super) fn note_run_time(&mut self, nanos: u64) {
        let nanos = nanos.clamp(1, Duration::from_secs(3600).as_nanos() as u64);
        self.run_nanos = match self.run_nanos {
            0 => nanos,
            // One part in eight is new.
            average => (average - average / 8 + nanos / 8).max(1),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;

    use super::super::key::TaskKey;
    use super::super::model::settings;
    use super::super::{Answer, Intent, Terms};
    use super::*;
    use crate::exit::Exit;
    use crate::slot_word::SlotWord;

    #[derive(Default)]
    struct Board(RefCell<HashMap<(WorkerKey, u64), SlotWord>>, Cell<Time>);

    impl Board {
        fn set(&self, worker: WorkerKey, seq: u64, phase: Phase) {
            self.0.borrow_mut().insert((worker, seq), SlotWord::new(seq, phase));
        }
    }

    impl Words for Board {
        fn load(&self, worker: WorkerKey, seq: u64) -> SlotWord {
            self.0.borrow().get(&(worker, seq)).copied().unwrap_or(SlotWord(0))
        }

        fn swap(&self, worker: WorkerKey, seq: u64, from: Phase, to: Phase) -> bool {
            let there = self.load(worker, seq) == SlotWord::new(seq, from);
            if there {
                self.set(worker, seq, to);
            }
            there
        }

        fn enqueue(&self, worker: WorkerKey, seq: u64) {
            self.set(worker, seq, Phase::Queued);
        }

        fn is_polite(&self, _: WorkerKey, _: u64) -> bool {
            false
        }

        /// When the last of all began.
        fn started_at(&self, _: WorkerKey, _: u64) -> Time {
            self.1.get()
        }
    }

    /// A pool whose workers do what a test says.
    struct Pool {
        sched: Scheduler<usize>,
        board: Board,
        now: Time,
        submitted: usize,
        keys: Vec<TaskKey>,
        /// Seat and task of everything that was sent.
        sent: Vec<(u32, usize)>,
    }

    impl Pool {
        fn new(workers: usize, depth_max: usize) -> Self {
            let now = Time(1 << 40);
            let sched = Scheduler::new(now, settings(workers, depth_max));
            let (board, keys, sent) = (Board::default(), Vec::new(), Vec::new());
            let mut pool = Pool { sched, board, now, submitted: 0, keys, sent };
            pool.drain();
            pool
        }

        fn ready(mut self) -> Self {
            for seat in 0..self.sched.seats.len() as u32 {
                self.get_ready(seat);
            }
            self
        }

        fn get_ready(&mut self, seat: u32) {
            let worker = self.sched.key(seat).unwrap();
            self.sched.handle_ready(self.now, worker, &self.board);
            self.drain();
        }

        fn submit(&mut self, count: usize) {
            for _ in 0..count {
                let task = self.submitted;
                self.submitted += 1;
                let terms = Terms::default();
                self.keys.push(self.sched.handle_submit(self.now, task, terms, &self.board));
                self.drain();
            }
        }

        fn drain(&mut self) {
            while let Some(action) = self.sched.poll_action() {
                if let Action::Run { worker, task, .. } = action {
                    self.sent.push((worker.seat, *self.sched.data(task).unwrap()));
                }
            }
        }

        /// The worker begins with what it has been given first.
        fn begin(&mut self, seat: u32) {
            let worker = self.sched.key(seat).unwrap();
            let seq = self.sched.worker_mut(worker).unwrap().flights[0].seq;
            assert!(self.board.swap(worker, seq, Phase::Queued, Phase::Running));
            self.board.1.set(self.now);
        }

        /// The worker answers for what it has been given first.
        fn answer(&mut self, seat: u32, run_nanos: u64) -> Option<usize> {
            let worker = self.sched.key(seat).unwrap();
            let flight = self.sched.worker_mut(worker).unwrap().flights[0];
            let answer = match flight.holds {
                Holds::Task(_) => {
                    self.board.set(worker, flight.seq, Phase::Done);
                    Answer::Ran { run_nanos, retire: false }
                }
                Holds::Nothing => Answer::Skipped,
            };
            let (now, seq) = (self.now, flight.seq);
            let result = self.sched.handle_answer(now, worker, seq, answer, &self.board);
            self.drain();
            result.unwrap().map(|(_, task)| task)
        }

        /// Lets all tasks run, one after the other, on all workers.
        fn finish_all(&mut self, run_nanos: u64) {
            while self.sched.tasks.len() > 0 {
                for seat in 0..self.sched.seats.len() as u32 {
                    if self.flights(seat) > 0 {
                        self.answer(seat, run_nanos);
                    }
                }
            }
        }

        fn flights(&self, seat: u32) -> usize {
            self.sched.seats[seat as usize].worker.as_ref().unwrap().flights.len()
        }

        fn wait(&mut self, wait: Duration) {
            let until = self.now + wait;
            while let Some(next) = self.sched.poll_timeout().filter(|next| *next <= until) {
                self.now = self.now.max(next);
                self.sched.handle_timeout(self.now, &self.board);
                self.drain();
            }
            self.now = until;
        }
    }

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
        let mut pool = Pool::new(1, 64);
        assert_eq!(pool.sched.depth(), 2, "nothing is known");
        for (nanos, depth) in [(1_000, 64), (100_000, 10), (10_000_000, 2), (1, 64)] {
            pool.sched.run_nanos = nanos;
            assert_eq!(pool.sched.depth(), depth, "{nanos} ns");
        }
        for _ in 0..60 {
            pool.sched.note_run_time(1_000_000);
        }
        assert_eq!(pool.sched.depth(), 2, "learned from 60 tasks of 1 ms");
        pool.sched.settings.depth_max = 1;
        assert_eq!(pool.sched.depth(), 1);
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
        pool.wait(Duration::from_millis(2));
        let second = |pool: &Pool| -> Vec<usize> {
            pool.sent.iter().filter(|(seat, _)| *seat == 1).map(|(_, task)| *task).collect()
        };
        assert_eq!(second(&pool), [3, 4], "half of it, the newest, oldest first");
        pool.answer(1, 1_000);
        pool.answer(1, 1_000);
        pool.wait(Duration::from_millis(2));
        pool.answer(1, 1_000);
        pool.wait(Duration::from_millis(2));
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
        pool.wait(Duration::from_millis(2));
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
        let worker = pool.sched.key(0).unwrap();
        for (seq, phase) in [(1, Phase::Done), (2, Phase::Done), (3, Phase::Running)] {
            pool.board.set(worker, seq, phase);
        }
        pool.begin(1);
        pool.get_ready(2);
        pool.wait(Duration::from_millis(2));
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
        let worker = pool.sched.key(0).unwrap();
        for _ in 0..20 {
            pool.wait(Duration::from_micros(200));
            assert!(pool.sched.handle_item(worker, 1).unwrap().is_some());
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
        let worker = pool.sched.key(0).unwrap();
        let exit = Exit::from_signal(11);
        pool.sched.handle_death(pool.now, worker, exit, &pool.board);
        pool.drain();
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
        let doomed = pool.keys[0];
        pool.sched.handle_cancel(pool.now, doomed, Intent::Cancel, &pool.board);
        pool.drain();
        pool.get_ready(1);
        let sent = pool.sent[4..].to_vec();
        assert_eq!(sent, [(1, 1), (1, 2), (1, 3), (1, 4)]);
    }

    #[test]
    fn a_task_that_workers_die_of_is_not_given_to_a_fourth() {
        let mut pool = Pool::new(1, 2).ready();
        pool.submit(2);
        for _ in 0..3 {
            let worker = pool.sched.key(0).expect("started again");
            let exit = Exit::from_signal(9);
            pool.sched.handle_death(pool.now, worker, exit, &pool.board);
            pool.drain();
            assert!(pool.sched.key(0).is_none(), "not at once");
            pool.wait(Duration::from_millis(50));
            pool.get_ready(0);
        }
        assert_eq!(pool.sched.mode(), super::super::Mode::Open);
        assert_eq!(pool.sched.tasks.len(), 1, "the other has done nothing");
    }

    #[test]
    fn a_timeout_ends_tasks_whose_word_hides_them() {
        let second = Duration::from_secs(1);
        let doomed = |phase, after: Duration| {
            let mut pool = Pool::new(1, 2).ready();
            let terms = Terms { timeout: Some(second), ..Terms::default() };
            pool.sched.handle_submit(pool.now, 0, terms, &pool.board);
            pool.drain();
            let worker = pool.sched.key(0).unwrap();
            pool.board.set(worker, 1, phase);
            pool.wait(after);
            pool.sched.stage(worker) == Some(Stage::Doomed)
        };
        for phase in [Phase::Empty, Phase::Revoked, Phase::Killing] {
            assert!(doomed(phase, second), "{phase:?}");
        }
        // That one was in time, and its answer may be long.
        assert!(!doomed(Phase::Done, 30 * second));
        assert!(doomed(Phase::Done, 31 * second));
    }

    #[test]
    fn what_waits_behind_a_long_task_comes_before_what_waits_in_the_queue() {
        let mut pool = Pool::new(2, 4).ready();
        pool.sched.run_nanos = 1_000;
        pool.submit(30);
        pool.begin(0);
        let behind: Vec<_> =
            pool.sent.iter().filter(|(seat, _)| *seat == 0).map(|(_, task)| *task).collect();
        pool.wait(Duration::from_millis(2));
        pool.wait(Duration::from_millis(20));
        let sent = pool.sent.len();
        for _ in 0..behind.len() - 1 {
            pool.answer(1, 1_000);
        }
        let next: Vec<_> = pool.sent[sent..].to_vec();
        let expected: Vec<_> = behind[1..].iter().map(|task| (1, *task)).collect();
        assert_eq!(next, expected, "with nobody idle, and none for the worker that is stuck");
    }
}
