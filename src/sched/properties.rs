//! Random walks through pools too large to be explored: more tasks and
//! workers, resizes, idle timeouts, worker lifetimes, failed starts, damaged
//! workers, untrusted pools. Each step is checked as in `model`; at the end
//! the pool is closed or terminated, and must come to its end.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Budget, Bug, Call, Event, Model, Setup, settings};
use super::{Mode, Terms};

fn call() -> impl Strategy<Value = Call> {
    let timeout = prop_oneof![
        3 => Just(None),
        1 => (0u64..20).prop_map(|millis| Some(Duration::from_millis(millis))),
    ];
    let retries = prop_oneof![3 => Just(0), 1 => 1u32..3];
    let rarely = || prop::bool::weighted(0.15);
    (timeout, retries, rarely(), any::<bool>(), rarely(), rarely()).prop_map(
        |(timeout, retries, endless, polite, retire, laden)| Call {
            terms: Terms { timeout, retries, alone: laden },
            endless,
            polite,
            retire,
            laden,
        },
    )
}

fn budget() -> impl Strategy<Value = Budget> {
    let resizes = prop::collection::vec(1usize..5, 0..4);
    (resizes, 0u8..8, 0u8..4, 0u8..2, 0u8..3, 0u8..3, 0u8..4, 0u8..4).prop_map(
        |(resizes, cancels, crashes, garbage, start_failures, eofs, overdue, holds)| Budget {
            cancels,
            crashes,
            garbage,
            ticks: 30,
            start_failures,
            eofs,
            overdue,
            holds,
            closes: 1,
            terminates: 1,
            resizes,
        },
    )
}

fn setups() -> impl Strategy<Value = Setup> {
    let life = prop::option::weighted(0.3, 1u64..6);
    let idle = prop::option::weighted(0.3, (0u64..50).prop_map(Duration::from_millis));
    let workers = (1usize..5, prop_oneof![2 => Just(0usize), 1 => 1usize..3]);
    let pool = (workers, 1usize..9, prop::bool::weighted(0.8), life, idle, any::<bool>());
    let nanos = prop_oneof![Just(1_000u64), Just(300_000), Just(50_000_000)];
    (pool, prop::collection::vec(call(), 0..30), budget(), nanos, any::<bool>()).prop_map(
        |(
            ((workers, spares), depth, trusted, life, idle, grace),
            tasks,
            budget,
            run_nanos,
            lazy,
        )| {
            let mut settings = settings(workers, if trusted { depth } else { 1 });
            settings.spares = spares;
            settings.trusted = trusted;
            settings.tasks_per_worker_max = life;
            settings.idle_timeout = idle;
            if !grace {
                settings.grace_period = Duration::ZERO;
            }
            let bug = Bug::None;
            let (meddling, slow_processes) = (false, true);
            Setup { settings, tasks, run_nanos, budget, lazy, meddling, slow_processes, bug }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn whatever_happens_the_promises_hold(
        setup in setups(),
        choices in prop::collection::vec(any::<u16>(), 0..250),
        terminate in any::<bool>(),
    ) {
        let mut model = Model::new(Box::leak(Box::new(setup)));
        let mut story = Vec::new();
        let mut choose = choices.iter().map(|&choice| choice as usize);
        for choice in choose.by_ref() {
            let (will, may) = model.events();
            let events: Vec<_> = will.into_iter().chain(may).collect();
            // Closing and terminating are for the end, most of the time.
            let event = match events.get(choice % events.len().max(1)) {
                Some(Event::Close | Event::Terminate) if choice % 7 != 0 => continue,
                Some(event) => *event,
                None => break,
            };
            story.push(event);
            model.apply(event, None);
            prop_assert_eq!(model.found(), None, "{:#?}", story);
        }
        let mut order = choices.iter().cycle();
        let mut any = |count| order.next().map_or(0, |&choice| choice as usize % count);
        model.settle(&mut any);
        prop_assert_eq!(model.found(), None, "settling after {:?}", story);
        let end = if terminate { Event::Terminate } else { Event::Close };
        for event in [end, Event::Terminate] {
            if model.events().1.contains(&event) {
                story.push(event);
                model.apply(event, None);
                model.settle(&mut any);
                prop_assert_eq!(model.found(), None, "settling after {:?}", story);
            }
        }
        let over = model.sched.mode() != Mode::Open;
        prop_assert!(over && (model.sched.is_drained() || model.sched.mode() == Mode::Closed));
    }
}
