//! Whoever rings is heard: the driver sees what was there before, or is polled
//! once more.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::sync::atomic::{AtomicBool, Ordering};

use crate::SWITCHES_MAX;

use self::alarm::Alarm;

#[path = "../../../src/supervisor/alarm.rs"]
mod alarm;

/// `ringers` threads leave news and ring; the driver rests until it has all of
/// them. The news are `Relaxed`: it is the alarm that makes them visible.
fn news_arrive(ringers: usize, switches_max: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = switches_max;
    model.check(move || {
        let alarm = Arc::new(Alarm::default());
        let news: Arc<Vec<_>> = Arc::new((0..ringers).map(|_| AtomicBool::new(false)).collect());
        for ringer in 0..ringers {
            let (alarm, news) = (Arc::clone(&alarm), Arc::clone(&news));
            loom::thread::spawn(move || {
                news[ringer].store(true, Ordering::Relaxed);
                alarm.ring();
            });
        }
        loom::future::block_on(poll_fn(|cx| {
            loop {
                alarm.start_poll(cx.waker());
                if news.iter().all(|news| news.load(Ordering::Relaxed)) {
                    return Poll::Ready(());
                }
                if alarm.may_rest() {
                    return Poll::Pending;
                }
            }
        }));
    });
}

#[test]
fn one_ring_is_heard() {
    news_arrive(1, None);
}

#[test]
fn two_rings_at_once_are_heard() {
    news_arrive(2, Some(SWITCHES_MAX));
}
