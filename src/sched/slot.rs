//! A worker as the scheduler sees it: its place in the pool, what is in flight
//! to it, and the moments at which it must be looked at again.

use std::collections::VecDeque;
use std::time::Duration;

use super::Words;
use super::key::{TaskKey, WorkerKey};
use crate::id::WorkerId;
use crate::limits::{SKIP_WAIT, START_WAIT};
use crate::proto::peer::ProtocolError;
use crate::slot_word::Phase;
use crate::time::Time;

/// A place for a worker. The pool has as many as it may have workers; a lost
/// worker's successor takes its seat.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    pub(super) worker: Option<Worker>,
    /// One that sat here and does not die. There is room for one only: the next
    /// such worker stays where it is, so that those who cannot be ended are
    /// never more than twice the seats.
    pub(super) abandoned: Option<Worker>,
    /// Workers that have sat here before.
    pub(super) restarts: u64,
    /// Emptied because there was nothing to do: filled again only for work.
    pub(super) dormant: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    /// Started, and not ready yet.
    Starting,
    /// Takes tasks.
    Ready,
    /// Told to leave; has no tasks.
    Leaving,
    /// Being killed.
    Doomed,
    /// Killed, and does not die. Has no tasks any more.
    Abandoned,
}

#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) stage: Stage,
    /// Everything sent and not answered, oldest first. Sequence numbers are
    /// consecutive, so no two share a slot while there are at most `SLOTS`.
    pub(super) flights: VecDeque<Flight>,
    next_seq: u64,
    /// Tasks given and not taken back.
    pub(super) given: u64,
    pub(super) answered: u64,
    /// The start round it belongs to, see `Respawn`.
    pub(super) round: u32,
    pub(super) began: Time,
    pub(super) ready_at: Option<Time>,
    pub(super) idle_since: Time,
    /// When it last answered, took in some of what was sent, or was last given
    /// something while idle.
    pub(super) heard: Time,
    /// Takes no further tasks, leaves when it has answered all it has.
    pub(super) retiring: bool,
    /// In a long task, or not seen to move: gets no other before it has answered
    /// for what it has.
    pub(super) stuck: bool,
    /// Told to go, and not for a failure of its own.
    pub(super) unwanted: bool,
    /// Listed in the scheduler's idle stack.
    pub(super) listed: bool,
    /// What it did to be killed, if it broke the protocol.
    pub(super) verdict: Option<ProtocolError>,
    pub(super) timers: Timers,
}

/// One frame on its way through the worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Flight {
    pub(super) seq: u64,
    pub(super) sent: Time,
    /// When its body began, as the worker said when that was first seen: what
    /// it says later is not believed, nor that it has not started.
    pub(super) started: Option<Time>,
    pub(super) holds: Holds,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Holds {
    Task(TaskKey),
    /// The task was taken back; the worker has yet to say that it skipped it.
    Nothing,
}

impl Seat {
    /// Who sits here, and who was given up.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.worker.iter().chain(&self.abandoned)
    }
}

impl Flight {
    /// When its body began, as the worker says.
    pub(super) fn began(&self, now: Time, worker: WorkerKey, words: &impl Words) -> Time {
        self.started.unwrap_or_else(|| {
            let began = words.started_at(worker, self.seq);
            // A time that has yet to come is a lie.
            if began <= now { began } else { self.sent }
        })
    }
}

impl Worker {
    pub(super) fn new(id: WorkerId, now: Time, start_until: Time, round: u32) -> Self {
        Worker {
            id,
            stage: Stage::Starting,
            flights: VecDeque::new(),
            next_seq: 1,
            given: 0,
            answered: 0,
            round,
            began: now,
            ready_at: None,
            idle_since: now,
            heard: now,
            retiring: false,
            stuck: false,
            unwanted: false,
            listed: false,
            verdict: None,
            timers: Timers { stage_until: start_until, ..Timers::default() },
        }
    }

    /// Whether it has nothing in flight and takes tasks.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.flights.is_empty() && !self.retiring
    }

    /// Whether it has tasks, or has just had: not one that is being ended, however
    /// long that takes, nor one that does not even skip what was taken from it.
    pub(super) fn serves(&self) -> bool {
        self.stage == Stage::Ready && !self.flights.is_empty() && !(self.stuck && self.held() == 0)
    }

    /// Whether it counts towards the workers that the pool wants.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Ready) && !self.retiring
    }

    /// Whether it has never been given a task.
    pub(super) fn is_new(&self) -> bool {
        self.next_seq == 1
    }

    /// Tasks in flight that were not taken back.
    pub(super) fn held(&self) -> usize {
        self.flights.iter().filter(|flight| flight.holds != Holds::Nothing).count()
    }

    /// Notes that `task` goes out now, and under which sequence number.
    pub(super) fn launch(&mut self, now: Time, task: TaskKey) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.given += 1;
        self.flights.push_back(Flight { seq, sent: now, started: None, holds: Holds::Task(task) });
        seq
    }

    /// Notes that the flight's task has been taken back.
    pub(super) fn revoke(&mut self, seq: u64) {
        if let Some(flight) = self.flight_mut(seq) {
            flight.holds = Holds::Nothing;
            self.given -= 1;
        }
    }

    fn flight_mut(&mut self, seq: u64) -> Option<&mut Flight> {
        let at = self.index_of(seq)?;
        self.flights.get_mut(at)
    }

    /// Where the flight is, if it is under way.
    pub(super) fn index_of(&self, seq: u64) -> Option<usize> {
        let at = seq.checked_sub(self.flights.front()?.seq)?;
        usize::try_from(at).ok().filter(|at| *at < self.flights.len())
    }

    /// Notes that the task has been seen to run.
    pub(super) fn note_started(&mut self, seq: u64, at: Time) {
        if let Some(flight) = self.flight_mut(seq) {
            flight.started.get_or_insert(at);
        }
    }

    /// Whether the task has been seen to run.
    pub(super) fn has_started(&self, seq: u64) -> bool {
        self.index_of(seq).is_some_and(|at| self.flights[at].started.is_some())
    }

    /// Sets the time for skipping, if that is what comes next: a worker that is
    /// given time to run at all does it at once.
    pub(super) fn watch_skip(&mut self, now: Time) {
        let next = self.flights.front().map(|flight| flight.holds);
        self.timers.skip_until = match next {
            Some(Holds::Nothing) => self.timers.skip_until.min(now + SKIP_WAIT),
            _ => Time::FAR,
        };
    }

    /// Whether the worker has begun a task behind number `seq`. Then it has
    /// answered for all before: the bytes are in its outbox, or in the socket,
    /// and it is not stopped for their being slow. Of what was taken back it can
    /// have begun nothing, whatever it writes there.
    pub(super) fn went_on_after(&self, seq: u64, words: &impl Words, seat: u32) -> bool {
        let key = WorkerKey { seat, id: self.id };
        let later = |flight: &&Flight| flight.seq > seq && flight.holds != Holds::Nothing;
        self.flights.iter().filter(later).any(|flight| {
            matches!(
                words.load(key, flight.seq).phase(),
                Some(Phase::Running | Phase::CancelReq | Phase::Done)
            )
        })
    }

    /// What is left of it when it is given up: all but its tasks.
    pub(super) fn abandoned(&self) -> Worker {
        Worker {
            stage: Stage::Abandoned,
            flights: VecDeque::new(),
            listed: false,
            timers: Timers::default(),
            ..self.clone()
        }
    }

    /// Makes sure that somebody looks whether it begins what it was sent. The
    /// look is not put off when it does: one too early costs little.
    pub(super) fn watch_start(&mut self, now: Time) {
        self.timers.start_until = self.timers.start_until.min(now + START_WAIT);
    }

    /// Drops the oldest flight, and the timers that waited for it.
    pub(super) fn land(&mut self) {
        let Some(flight) = self.flights.pop_front() else { return };
        self.stuck &= flight.holds == Holds::Nothing && !self.flights.is_empty();
        self.timers.skip_until = Time::FAR;
        self.timers.settle(flight.seq);
    }
}

/// When to look at a worker again; `Time::FAR` where there is no need.
#[derive(Clone, Debug)]
pub(super) struct Timers {
    /// Starting: ready by then. Leaving: gone by then.
    pub(super) stage_until: Time,
    /// The socket has closed: dead by then.
    pub(super) death_until: Time,
    /// The running task may be over its timeout.
    pub(super) timeout_at: Time,
    /// The task with this number was asked to end, and must have by then.
    pub(super) polite_until: (u64, Time),
    /// Up to this number all tasks whose end is asked for must have answered.
    pub(super) answer_until: (u64, Time),
    /// How often that was put off because the worker has gone on.
    pub(super) answer_looks: usize,
    /// Nothing is before a task that was taken back: skipped by then.
    pub(super) skip_until: Time,
    /// Nothing may be before a task that waits: begun by then.
    pub(super) start_until: Time,
    /// An answer may wait in the worker's outbox behind a long task.
    pub(super) probe_at: Time,
    pub(super) probe_wait: Duration,
    /// Idle for too long.
    pub(super) idle_until: Time,
    /// Old enough to be replaced.
    pub(super) age_until: Time,
}

/// An answer that is held back waits at most about this long (DESIGN section
/// 8 asks for half a millisecond; timers are this coarse).
pub(super) const PROBE_FIRST: Duration = Duration::from_millis(1);
const PROBE_MOST: Duration = Duration::from_millis(64);

impl Default for Timers {
    fn default() -> Self {
        Timers {
            stage_until: Time::FAR,
            death_until: Time::FAR,
            timeout_at: Time::FAR,
            polite_until: (0, Time::FAR),
            answer_until: (0, Time::FAR),
            answer_looks: 0,
            skip_until: Time::FAR,
            start_until: Time::FAR,
            probe_at: Time::FAR,
            probe_wait: PROBE_FIRST,
            idle_until: Time::FAR,
            age_until: Time::FAR,
        }
    }
}

impl Timers {
    pub(super) fn next(&self) -> Time {
        self.next_verdict()
            .min(self.timeout_at)
            .min(self.polite_until.1)
            .min(self.probe_at)
            .min(self.idle_until)
            .min(self.age_until)
    }

    /// When a worker will have kept silent for too long.
    pub(super) fn next_verdict(&self) -> Time {
        self.stage_until
            .min(self.death_until)
            .min(self.answer_until.1)
            .min(self.skip_until)
            .min(self.start_until)
    }

    /// Nothing that it has not said will be held against it.
    pub(super) fn drop_verdicts(&mut self) {
        self.stage_until = Time::FAR;
        self.death_until = Time::FAR;
        self.answer_until = (0, Time::FAR);
        self.skip_until = Time::FAR;
        self.start_until = Time::FAR;
    }

    /// The task with number `seq` has landed.
    fn settle(&mut self, seq: u64) {
        if self.polite_until.0 <= seq {
            self.polite_until = (0, Time::FAR);
        }
        if self.answer_until.0 <= seq {
            self.answer_until = (0, Time::FAR);
            self.answer_looks = 0;
        }
    }

    /// Asks for the answers up to `seq` by `until`.
    pub(super) fn expect_answer(&mut self, seq: u64, until: Time) {
        self.answer_until = (self.answer_until.0.max(seq), until);
    }

    /// Asks for the end of the task `seq` by `until`.
    pub(super) fn expect_end(&mut self, seq: u64, until: Time) {
        self.polite_until = (seq, until);
    }

    /// Something was sent or heard: probe soon, if there is reason to.
    pub(super) fn probe_soon(&mut self, now: Time, needed: bool) {
        self.probe_wait = PROBE_FIRST;
        self.probe_at = if needed { now + PROBE_FIRST } else { Time::FAR };
    }

    /// The last probe found nothing to fetch: probe later.
    pub(super) fn probe_later(&mut self, now: Time) {
        self.probe_wait = (self.probe_wait * 2).min(PROBE_MOST);
        self.probe_at = now + self.probe_wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;

    const TASK: TaskKey = TaskKey { index: 0, id: TaskId(1) };

    #[test]
    fn numbers_are_consecutive_and_never_used_twice() {
        let mut worker = Worker::new(WorkerId(1), Time(0), Time::FAR, 0);
        for seq in 1..200 {
            assert_eq!(worker.launch(Time(0), TASK), seq);
            if seq % 3 == 0 {
                worker.revoke(seq);
            }
            if seq > 60 {
                worker.land();
            }
        }
    }

    #[test]
    fn every_timer_is_waited_for() {
        let timers = Timers::default;
        let verdicts = [
            Timers { stage_until: Time(5), ..timers() },
            Timers { death_until: Time(5), ..timers() },
            Timers { answer_until: (1, Time(5)), ..timers() },
            Timers { skip_until: Time(5), ..timers() },
            Timers { start_until: Time(5), ..timers() },
        ];
        let looks = [
            Timers { timeout_at: Time(5), ..timers() },
            Timers { polite_until: (1, Time(5)), ..timers() },
            Timers { probe_at: Time(5), ..timers() },
            Timers { idle_until: Time(5), ..timers() },
            Timers { age_until: Time(5), ..timers() },
        ];
        for timers in verdicts {
            assert_eq!((timers.next(), timers.next_verdict()), (Time(5), Time(5)), "{timers:?}");
        }
        for timers in looks {
            assert_eq!((timers.next(), timers.next_verdict()), (Time(5), Time::FAR), "{timers:?}");
        }
    }

    #[test]
    fn what_has_landed_is_not_waited_for_and_what_has_not_is() {
        for landed in 1..6 {
            let mut timers = Timers::default();
            timers.expect_end(3, Time(5));
            timers.expect_answer(4, Time(7));
            timers.expect_answer(2, Time(9));
            timers.settle(landed);
            let end = if landed < 3 { (3, Time(5)) } else { (0, Time::FAR) };
            let answer = if landed < 4 { (4, Time(9)) } else { (0, Time::FAR) };
            assert_eq!((timers.polite_until, timers.answer_until), (end, answer));
        }
    }

    #[test]
    fn fruitless_probes_become_rare() {
        let mut timers = Timers::default();
        let mut waits = Vec::new();
        let mut now = Time(0);
        timers.probe_soon(now, true);
        for _ in 0..9 {
            waits.push((timers.probe_at - now).as_millis());
            now = timers.probe_at;
            timers.probe_later(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        timers.probe_soon(now, false);
        assert_eq!(timers.probe_at, Time::FAR);
        timers.probe_soon(now, true);
        assert_eq!(timers.probe_at, now + PROBE_FIRST);
    }
}
