//! Feature `metrics`: what a pool does, told to the `metrics` facade. `names` is
//! public, and `integrate/metrics.rs` says what each is.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use metrics::{Key, Label, Level, Metadata, Unit, with_recorder};

use super::{Levels, OUTCOMES, STATES, Times, guarded};

/// How often one who tells looks whether there is more, before it goes on with what
/// it was doing.
const ROUNDS_MAX: usize = 4;

/// What a recorder is told of.
pub(crate) mod names {
    /// Gauge: workers, by `state`.
    pub const WORKERS: &str = "procession.pool.workers";
    /// Gauge: calls that no worker has been given.
    pub const PENDING: &str = "procession.pool.tasks.pending";
    /// Gauge: calls that a worker has been given.
    pub const IN_FLIGHT: &str = "procession.pool.tasks.in_flight";
    /// Counter: calls taken in.
    pub const SUBMITTED: &str = "procession.pool.tasks.submitted";
    /// Counter: calls that have ended, by `outcome`.
    pub const TASKS: &str = "procession.pool.tasks";
    /// Histogram, in seconds: from a place in the queue to the start of the body.
    pub const WAIT_TIME: &str = "procession.pool.task.wait_time";
    /// Histogram, in seconds: from the start of a body to its end.
    pub const RUN_TIME: &str = "procession.pool.task.run_time";
    /// Counter: worker processes started.
    pub const STARTED: &str = "procession.pool.workers.started";
    /// Counter: those of them that took the place of another.
    pub const RESPAWNED: &str = "procession.pool.workers.respawned";
    /// Counter: workers that died without having been asked to.
    pub const LOST: &str = "procession.pool.workers.lost";
}

/// Tells of one pool.
#[derive(Debug)]
pub(crate) struct Meter {
    keys: Keys,
    /// What was told last. Held while that is done, so that what is told last is
    /// what was read last.
    told: Mutex<Levels>,
    /// There is news since.
    is_stale: AtomicBool,
}

/// What a recorder finds things by. Made once: there may be a lot to tell.
#[derive(Debug)]
struct Keys {
    workers: [Key; STATES.len()],
    pending: Key,
    in_flight: Key,
    submitted: Key,
    tasks: [Key; OUTCOMES.len()],
    started: Key,
    respawned: Key,
    lost: Key,
    wait_time: Key,
    run_time: Key,
}

impl Keys {
    /// Lets a recorder know of the counters, each of which is 0 yet: a rate is seen
    /// from the second value on, and the first loss of a worker is to be seen.
    fn begin_counters(&self) {
        let Keys { submitted, tasks, started, respawned, lost, .. } = self;
        guarded(|| {
            for key in tasks.iter().chain([submitted, started, respawned, lost]) {
                let counter = with_recorder(|recorder| recorder.register_counter(key, &METADATA));
                counter.increment(0);
            }
        });
    }
}

static METADATA: Metadata<'static> =
    Metadata::new("procession::pool", Level::INFO, Some(module_path!()));

impl Meter {
    /// Whether there is anything to be told.
    pub(crate) const LISTENS: bool = true;

    pub(crate) fn new(pool: &str) -> Self {
        describe();
        let key = |name| Key::from_parts(name, vec![Label::new("pool", pool.to_owned())]);
        let with = |name, label, value| {
            let own = Label::from_static_parts(label, value);
            Key::from_parts(name, vec![Label::new("pool", pool.to_owned()), own])
        };
        let keys = Keys {
            workers: STATES.map(|state| with(names::WORKERS, "state", state)),
            pending: key(names::PENDING),
            in_flight: key(names::IN_FLIGHT),
            submitted: key(names::SUBMITTED),
            tasks: OUTCOMES.map(|outcome| with(names::TASKS, "outcome", outcome)),
            started: key(names::STARTED),
            respawned: key(names::RESPAWNED),
            lost: key(names::LOST),
            wait_time: key(names::WAIT_TIME),
            run_time: key(names::RUN_TIME),
        };
        keys.begin_counters();
        Meter { keys, told: Mutex::default(), is_stale: AtomicBool::new(false) }
    }

    /// Notes a call that was answered.
    pub(crate) fn note_times(&self, times: Times) {
        let histogram = |key: &Key, time: Duration| {
            let histogram = with_recorder(|recorder| recorder.register_histogram(key, &METADATA));
            histogram.record(time);
        };
        guarded(|| {
            histogram(&self.keys.wait_time, times.waited);
            histogram(&self.keys.run_time, times.ran);
        });
    }

    /// Tells what has changed. Whoever comes while that is being done, even from
    /// within, leaves it to whoever does it, who does it a few times and no more:
    /// others may make news faster than a recorder takes them. Returns whether none
    /// is left, or somebody else sees to it.
    pub(crate) fn tell(&self, read: impl Fn() -> Levels) -> bool {
        self.is_stale.store(true, Ordering::Relaxed);
        self.tell_rest(read)
    }

    /// Tells what nobody has told yet.
    pub(crate) fn tell_rest(&self, read: impl Fn() -> Levels) -> bool {
        for _ in 0..ROUNDS_MAX {
            // Between the end of telling and the look at whether to go on, and between
            // bringing news and the look at whether somebody tells: one of two sees
            // the other's.
            fence(Ordering::SeqCst);
            if !self.is_stale.load(Ordering::Relaxed) {
                return true;
            }
            let mut told = match self.told.try_lock() {
                Ok(told) => told,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return true,
            };
            self.is_stale.store(false, Ordering::Relaxed);
            // What is read now is no older than the news.
            fence(Ordering::SeqCst);
            let now = read();
            if *told != now {
                guarded(|| self.tell_levels(&told, &now));
                *told = now;
            }
        }
        fence(Ordering::SeqCst);
        !self.is_stale.load(Ordering::Relaxed)
    }

    fn tell_levels(&self, before: &Levels, now: &Levels) {
        // All of them: the recorder may be a new one.
        let gauge = |key: &Key, value: usize| {
            let gauge = with_recorder(|recorder| recorder.register_gauge(key, &METADATA));
            gauge.set(value as f64);
        };
        let counter = |key: &Key, before: u64, now: u64| {
            if before != now {
                let counter = with_recorder(|recorder| recorder.register_counter(key, &METADATA));
                counter.increment(now - before);
            }
        };
        let Keys { workers, pending, in_flight, submitted, tasks, .. } = &self.keys;
        let Keys { started, respawned, lost, .. } = &self.keys;
        workers.iter().zip(now.workers).for_each(|(key, count)| gauge(key, count));
        gauge(pending, now.queued);
        gauge(in_flight, now.in_flight);
        counter(submitted, before.submitted, now.submitted);
        for (key, (before, now)) in tasks.iter().zip(before.ended.into_iter().zip(now.ended)) {
            counter(key, before, now);
        }
        counter(started, before.workers_started, now.workers_started);
        counter(respawned, before.workers_respawned, now.workers_respawned);
        counter(lost, before.workers_lost, now.workers_lost);
    }
}

fn describe() {
    guarded(|| {
        use metrics::{describe_counter, describe_gauge, describe_histogram};
        describe_gauge!(names::WORKERS, Unit::Count, "workers, by state");
        describe_gauge!(names::PENDING, Unit::Count, "calls that no worker has been given");
        describe_gauge!(names::IN_FLIGHT, Unit::Count, "calls that a worker has been given");
        describe_counter!(names::SUBMITTED, Unit::Count, "calls taken in");
        describe_counter!(names::TASKS, Unit::Count, "calls that have ended, by outcome");
        describe_histogram!(names::WAIT_TIME, Unit::Seconds, "from the queue to the body's start");
        describe_histogram!(names::RUN_TIME, Unit::Seconds, "from a body's start to its end");
        describe_counter!(names::STARTED, Unit::Count, "worker processes started");
        describe_counter!(names::RESPAWNED, Unit::Count, "workers that took another's place");
        describe_counter!(names::LOST, Unit::Count, "workers that died unasked");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_meanwhile_leaves_its_news_to_the_other() {
        let meter = Meter::new("a");
        let reads = std::cell::Cell::new(0);
        let is_told = meter.tell(|| {
            reads.set(reads.get() + 1);
            if reads.get() == 1 {
                // From within, as a recorder might.
                assert!(meter.tell(|| panic!("it is not read here")));
            }
            Levels { queued: reads.get(), ..Levels::default() }
        });
        assert!(is_told);
        assert_eq!(reads.get(), 2);
        assert_eq!(meter.told.lock().unwrap().queued, 2);
    }

    #[test]
    fn news_without_end_are_left_to_another_and_not_lost() {
        let meter = Meter::new("a");
        let reads = std::cell::Cell::new(0);
        let read = || Levels { queued: reads.get(), ..Levels::default() };
        let is_told = meter.tell(|| {
            let levels = read();
            reads.set(reads.get() + 1);
            meter.tell(|| panic!("it is not read here"));
            levels
        });
        assert!(!is_told);
        assert_eq!(reads.get(), ROUNDS_MAX);
        assert_eq!(meter.told.lock().unwrap().queued, ROUNDS_MAX - 1);
        assert!(meter.tell_rest(read));
        assert_eq!(meter.told.lock().unwrap().queued, ROUNDS_MAX);
        assert!(meter.tell_rest(|| panic!("there is nothing new")));
    }
}
