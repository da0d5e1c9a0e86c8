//! The task that drives a pool: takes in what the warden says, polls the links,
//! keeps the scheduler's time. One for each pool, on the runtime that the pool
//! was made in. When it is dropped, that runtime is shutting down, and it ends
//! the pool.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, Sleep};

use super::link::Link;
use super::links::End;
use super::watch::Watch;
use super::{Supervisor, os_error};
use crate::error::{Cause, SpawnError};
use crate::id::WorkerId;
use crate::limits::START_WAIT;
use crate::observe;
use crate::sched::Stage;
use crate::start::owner::Event;
use crate::start::warden::Stop;
use crate::sys::clock::monotonic_nanos;
use crate::time::Time;

pub(super) struct Driver {
    supervisor: Arc<Supervisor>,
    links: FuturesUnordered<Link>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// What `sleep` is set to.
    armed: Time,
    /// For the pool's token.
    _watch: Option<Watch>,
}

impl Driver {
    pub(super) fn new(supervisor: Arc<Supervisor>) -> Self {
        let watch = supervisor.plan.token.clone().map(|token| {
            let supervisor = Arc::clone(&supervisor);
            Watch::start(&supervisor.runtime.clone(), token, move || supervisor.terminate())
        });
        Driver {
            supervisor,
            links: FuturesUnordered::new(),
            sleep: None,
            armed: Time::FAR,
            _watch: watch,
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Started { worker, ends, .. } => {
                let pid = ends.pid;
                let Some(key) = self.supervisor.core().sched.find(worker) else { return };
                match Link::new(&self.supervisor, key, ends) {
                    Ok(link) => self.links.push(link),
                    Err(error) => {
                        // Its death will be told, and counts as a failed start.
                        let error = os_error("talk to a worker", error);
                        observe::worker_not_served(&self.supervisor.plan.name, pid, &error);
                        self.supervisor.core().last_failure = Some(error);
                        let id = self.supervisor.id;
                        self.supervisor.warden.signal(id, worker, Stop::Kill);
                    }
                }
            }
            Event::StartFailed { worker, error } => {
                let mut core = self.supervisor.core();
                let Some(key) = core.sched.find(worker) else { return };
                // Else we have taken it back, and know why.
                let failed = core.sched.stage(key) == Some(Stage::Starting);
                let error = failed.then(|| os_error("start a worker process", error));
                core.last_failure = error.clone().or(core.last_failure.take());
                drop(core);
                if let Some(error) = error {
                    observe::worker_not_started(&self.supervisor.plan.name, &error);
                }
                self.supervisor.act(|sched, now, _| sched.handle_start_failed(now, key));
            }
            Event::Died { worker, exit, .. } => self.handle_end(worker, End::Died(exit)),
            Event::Overdue { worker } => self.handle_end(worker, End::Overdue),
        }
    }

    fn handle_end(&mut self, worker: WorkerId, end: End) {
        let mut core = self.supervisor.core();
        let Some(key) = core.sched.find(worker) else { return };
        match core.links.get_mut(key) {
            // The link has to empty the socket first.
            Some(link) => {
                link.end = Some(end);
                link.alarm.ring();
            }
            // Or it is not there yet.
            None => {
                core.links.forget_abandoned(key);
                if let End::Overdue = end {
                    core.counts.workers_abandoned += 1;
                }
                drop(core);
                if let End::Overdue = end {
                    observe::start_abandoned(&self.supervisor.plan.name, worker);
                }
                self.supervisor.act(|sched, now, links| match end {
                    End::Died(exit) => sched.handle_death(now, key, exit, links),
                    End::Overdue => sched.handle_overdue(now, key, links),
                });
            }
        }
    }

    /// Lets the scheduler know that time has passed, where it asked for that.
    /// Returns whether to poll again.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> bool {
        let mut core = self.supervisor.core();
        let next = core.sched.poll_timeout().unwrap_or(Time::FAR);
        if next == Time::FAR && self.armed == Time::FAR {
            core.armed = Time::FAR;
            return false;
        }
        let now = Time(monotonic_nanos());
        let armed = armed_for(self.armed, next, now);
        // Noted before anybody can submit what must be looked at sooner.
        core.armed = armed;
        drop(core);
        if next <= now {
            let verdicts = self.supervisor.core().sched.verdicts_due(now);
            let (mut ended, mut moved, mut held) = (Vec::new(), Vec::new(), Vec::new());
            let mut bringing = Vec::new();
            for link in self.links.iter_mut().filter(|link| verdicts.contains(&link.worker())) {
                // The runtime may have been kept from telling us for long.
                if link.is_on_hold() || !link.catch_up() {
                    held.push(link.worker());
                }
                link.fetch();
                if link.has_moved() {
                    moved.push(link.worker());
                }
                if link.has_brought_much() {
                    bringing.push(link.worker());
                }
                // And so may the warden.
                if link.has_ended() {
                    ended.push(link.worker());
                }
            }
            self.note_start_timeouts(now);
            self.supervisor.act(|sched, now, links| {
                ended.into_iter().for_each(|worker| sched.handle_ended(worker));
                moved.into_iter().for_each(|worker| sched.handle_progress(now, worker));
                held.into_iter().for_each(|worker| sched.handle_hold(now, worker));
                bringing.into_iter().for_each(|worker| sched.handle_arrival(now, worker));
                sched.handle_timeout(now, links);
            });
            return true;
        }
        if armed == Time::FAR {
            // With nothing to do the runtime is not woken, either.
            (self.sleep, self.armed) = (None, Time::FAR);
            return false;
        }
        if armed != self.armed {
            self.armed = armed;
            let at = Instant::now() + (armed - now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(at),
                none => *none = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        let sleep = self.sleep.as_mut().expect("set just above, or before");
        if sleep.as_mut().poll(cx).is_ready() {
            self.armed = Time::FAR;
            return true;
        }
        false
    }

    /// Writes down why workers that are about to be stopped for it did not
    /// start.
    fn note_start_timeouts(&mut self, now: Time) {
        let mut core = self.supervisor.core();
        let core = &mut *core;
        let after = core.sched.settings().start_timeout;
        let mut late = core
            .sched
            .workers()
            .filter(|worker| worker.stage == Stage::Starting && worker.began + after <= now);
        if let Some(worker) = late.next() {
            let greeted = core.links.get(worker.key).is_some_and(|link| link.greeted);
            let cause = Cause::TimedOut { after, greeted, output: String::new() };
            core.last_failure = Some(SpawnError::new(cause));
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.supervisor.expects_calls.store(false, Ordering::Relaxed);
        loop {
            this.supervisor.alarm.start_poll(cx.waker());
            this.supervisor.begin_work();
            loop {
                let event = this.supervisor.inbox().pop_front();
                let Some(event) = event else { break };
                this.handle_event(event);
            }
            while let Poll::Ready(Some(())) = this.links.poll_next_unpin(cx) {}
            this.supervisor.tell_rest();
            if this.supervisor.core().is_over() {
                return Poll::Ready(());
            }
            if this.poll_time(cx) {
                continue;
            }
            this.supervisor.end_work();
            if this.supervisor.alarm.may_rest() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.supervisor.abandon();
    }
}

/// What the sleep should be set to, which is set to `armed`, if the scheduler
/// wants to be called at `next`. One that ends too early is cheaper than setting
/// it anew each time something is sent, and each time that was all.
fn armed_for(armed: Time, next: Time, now: Time) -> Time {
    if next == Time::FAR {
        if armed - now > START_WAIT { Time::FAR } else { armed }
    } else if next < armed || armed <= now {
        next
    } else {
        armed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Time = Time(1 << 40);

    #[test]
    fn the_sleep_never_ends_after_the_scheduler_wants_to_be_called() {
        let (soon, later) = (NOW + Duration::from_nanos(1), NOW + Duration::from_secs(1));
        for armed in [Time(0), NOW, soon, later, later + START_WAIT, Time::FAR] {
            for next in [Time(1), NOW, soon, later, Time::FAR] {
                let set = armed_for(armed, next, NOW);
                assert!(set <= next || set == armed && next == Time::FAR, "{armed:?} {next:?}");
                // Nor is it left at what has passed while something is to come.
                assert!(set > NOW || next <= NOW || next == Time::FAR, "{armed:?} {next:?}");
            }
        }
    }

    #[test]
    fn the_sleep_is_not_set_anew_where_it_ends_early_anyway() {
        let (soon, later) = (NOW + START_WAIT / 2, NOW + START_WAIT);
        assert_eq!(armed_for(soon, later, NOW), soon);
        assert_eq!(armed_for(soon, Time::FAR, NOW), soon, "there will be more");
        assert_eq!(armed_for(later, soon, NOW), soon);
        // An idle pool is not woken for nothing, hours later.
        let far = NOW + START_WAIT + Duration::from_nanos(1);
        assert_eq!(armed_for(far, Time::FAR, NOW), Time::FAR);
    }
}
