//! `status`, `stats`, `workers`, and what `tracing` is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use procession::{Pool, PoolState, WorkerState};
use tracing::{Instrument, Level};

use crate::records::{Record, has_ended, heard, listen};
use crate::support::{Scratch, checked, checked_current_thread, noted, notes, until};
use crate::tasks::{hold, kill, never, open, pid, pool_of, square};

#[test]
fn status_tells_what_is_now() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(2);
        assert_eq!(pool.status().state, PoolState::Open);
        assert_eq!((pool.status().workers, pool.status().queued), (2, 0));
        pool.ready().await.unwrap();
        let status = pool.status();
        assert_eq!((status.starting, status.idle, status.busy), (0, 2, 0));
        let args = || (journal.clone(), gate.clone());
        let mut held = vec![pool.apply_async(hold, args())];
        noted(&journal).await;
        let status = pool.status();
        assert_eq!((status.idle, status.busy), (1, 1));
        assert_eq!((status.running, status.queued), (1, 0));
        held.extend((0..4).map(|_| pool.apply_async(hold, args())));
        until("two run", || notes(&journal).len() == 2).await;
        let status = pool.status();
        assert_eq!((status.idle, status.busy), (0, 2));
        assert_eq!((status.running, status.queued), (2, 3));
        pool.close();
        assert_eq!(pool.status().state, PoolState::Closed);
        open(&gate);
        for handle in held {
            handle.await.unwrap();
        }
        pool.join().await;
        let status = pool.status();
        assert_eq!((status.idle, status.busy, status.starting), (0, 0, 0));
        assert_eq!((status.running, status.queued), (0, 0));
        pool.terminate().await;
        assert_eq!(pool.status().state, PoolState::Terminated);
    });
}

#[test]
fn stats_add_up() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = pool_of(1);
        for n in 0..3 {
            pool.apply(square, n).await.unwrap();
        }
        for _ in 0..2 {
            pool.apply(|| -> () { panic!("one") }, ()).await.unwrap_err();
        }
        pool.apply(|| -> () { std::process::exit(1) }, ()).await.unwrap_err();
        let short = Duration::from_millis(20);
        pool.apply(never, journal.clone()).timeout(short).await.unwrap_err();
        let running = scratch.path("running");
        let handle = pool.apply_async(never, running.clone());
        noted(&running).await;
        handle.cancel().await;
        let running = scratch.path("queued");
        let handle = pool.apply_async(never, running.clone());
        let queued = pool.apply_async(square, 1);
        noted(&running).await;
        queued.cancel().await;
        handle.cancel().await;
        let last = pool.apply_async(never, scratch.path("last"));
        pool.terminate().await;
        last.await.unwrap_err();
        // These never came in.
        assert!(pool.try_apply(square, 1).is_err());
        let stats = pool.stats();
        assert_eq!(stats.completed, 3);
        assert_eq!(stats.panicked, 2);
        assert_eq!(stats.lost, 1);
        assert_eq!(stats.timed_out, 1);
        assert_eq!(stats.cancelled, 3);
        assert_eq!(stats.failed, 1);
        assert_eq!(stats.submitted, 3 + 2 + 1 + 1 + 3 + 1);
        assert_eq!(stats.workers_lost, 1);
        assert!((5..=6).contains(&stats.workers_started), "{stats:?}");
        // All but the first, of the one that there is at a time.
        assert_eq!(stats.workers_respawned, stats.workers_started - 1);
    });
}

#[test]
fn workers_tell_what_each_does() {
    checked(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = pool_of(2);
        pool.ready().await.unwrap();
        let before = Instant::now();
        let call = pool.apply(hold, (journal.clone(), gate.clone())).label("a long one");
        let held = call.start();
        noted(&journal).await;
        let workers = pool.workers();
        assert_eq!(workers.iter().map(|worker| worker.index).collect::<Vec<_>>(), [0, 1]);
        assert_ne!(workers[0].id, workers[1].id);
        let busy = workers.iter().find(|worker| worker.state == WorkerState::Busy).unwrap();
        let idle = workers.iter().find(|worker| worker.state == WorkerState::Idle).unwrap();
        assert_eq!(notes(&journal), [busy.pid.unwrap().to_string()]);
        let task = busy.task.as_ref().unwrap();
        assert_eq!(task.info.id(), held.id());
        assert_eq!(task.info.label(), Some("a long one"));
        assert!(task.info.name().ends_with("tasks::hold"));
        assert!(before <= task.since && task.since <= Instant::now());
        assert!(idle.task.is_none());
        let place = busy.index;
        let id = busy.id;
        open(&gate);
        held.await.unwrap();
        let done = |place: usize| pool.workers()[place].tasks_done;
        assert_eq!((done(place), done(1 - place)), (1, 0));
        // Its successor has its place, another id, and starts from nothing.
        kill(pool.workers()[place].pid.unwrap());
        until("there is another", || pool.workers().iter().any(|w| w.index == place && w.id != id))
            .await;
        pool.ready().await.unwrap();
        let successor = &pool.workers()[place];
        assert_eq!((successor.restarts, successor.tasks_done), (1, 0));
        assert!(successor.id > id);
        assert_eq!(pool.workers()[1 - place].restarts, 0);
    });
}

fn messages(records: &[Record]) -> Vec<&str> {
    records.iter().map(Record::message).collect()
}

#[test]
fn a_tasks_life_is_traced_inside_the_callers_span() {
    checked(async {
        listen();
        let pool = Pool::builder().name("traced").workers(1).build().unwrap();
        let request = tracing::info_span!("request", user = "eve");
        pool.apply(square, 3).label("nine").instrument(request).await.unwrap();
        let records = heard("procession::task");
        assert_eq!(messages(&records), ["queued", "sent", "ended"]);
        for record in &records {
            let [(name, fields), (outer, theirs), ..] = &record.spans[..] else {
                panic!("{record:?}");
            };
            assert_eq!((*name, *outer), ("task", "request"));
            assert_eq!(theirs.get("user"), Some("eve"));
            assert_eq!(fields.get("pool"), Some("traced"));
            assert_eq!(fields.get("label"), Some("nine"));
            assert!(fields.get("name").unwrap().ends_with("tasks::square"));
            assert_eq!(record.fields.get("task"), records[0].fields.get("task"));
        }
        assert_eq!(records[2].level, Level::DEBUG);
        assert_eq!(records[2].fields.get("outcome"), Some("completed"));
        pool.apply(|| -> () { panic!("one") }, ()).await.unwrap_err();
        let last = heard("procession::task").pop().unwrap();
        assert_eq!(last.fields.get("outcome"), Some("panicked"));
    });
}

#[test]
fn a_workers_life_is_traced() {
    checked(async {
        listen();
        let pool = Pool::builder().name("traced").workers(1).build().unwrap();
        let worker = pool.apply(pid, ()).await.unwrap();
        let error = pool.apply(|| -> () { std::process::exit(3) }, ()).await.unwrap_err();
        assert!(error.is_worker_lost());
        pool.ready().await.unwrap();
        pool.close();
        pool.join().await;
        let records = heard("procession::worker");
        let expected = ["started", "ready", "lost", "started", "ready", "ended"];
        assert_eq!(messages(&records), expected);
        for record in &records {
            assert_eq!(record.spans.len(), 1, "not inside of whoever polls");
            let (name, fields) = &record.spans[0];
            assert_eq!(*name, "worker");
            assert_eq!(fields.get("pool"), Some("traced"));
            assert!(fields.get("worker").is_some());
        }
        assert_eq!(records[0].spans[0].1.get("pid"), Some(&*worker.to_string()));
        assert_eq!(records[2].level, Level::WARN);
        assert_eq!(records[2].fields.get("exit"), Some("exited with code 3"));
        assert_eq!(records[5].level, Level::DEBUG);
        assert_eq!(records[5].fields.get("exit"), Some("exited with code 0"));
    });
}

#[test]
fn a_broken_pool_is_traced() {
    checked(async {
        listen();
        let pool = Pool::builder()
            .workers(1)
            .restart_limit(2)
            .initializer(|| Err::<(), _>("no model".to_owned()), ())
            .build()
            .unwrap();
        pool.ready().await.unwrap_err();
        let last = |records: Vec<Record>| records.into_iter().next_back();
        until("it is told", || {
            last(heard("procession::worker")).is_some_and(|it| it.level == Level::ERROR)
        })
        .await;
        let record = last(heard("procession::worker")).unwrap();
        assert_eq!(record.message(), "pool is broken");
        assert!(record.fields.get("error").unwrap().contains("no model"), "{record:?}");
    });
}

/// How many were sent and had not ended, at most.
fn most_in_flight() -> i32 {
    let mut now = 0;
    let mut most = 0;
    for record in heard("procession::task") {
        now += match record.message() {
            "sent" => 1,
            "ended" => -1,
            _ => 0,
        };
        most = most.max(now);
    }
    most
}

#[test]
fn as_many_tasks_are_sent_ahead_as_the_pipeline_allows() {
    // Two threads would tell of what they do in another order than they do it.
    checked_current_thread(async {
        let run = async |builder: procession::PoolBuilder| {
            listen();
            let pool = builder.workers(1).build().unwrap();
            let handles: Vec<_> = (0..500).map(|n| pool.apply_async(square, n)).collect();
            for handle in handles {
                handle.await.unwrap();
            }
            most_in_flight()
        };
        assert_eq!(run(Pool::builder().pipeline(1)).await, 1);
        assert_eq!(run(Pool::builder().untrusted()).await, 1);
        assert_eq!(run(Pool::builder().pipeline(2)).await, 2);
        let most = run(Pool::builder()).await;
        assert!((3..=1024).contains(&most), "{most}");
    });
}

/// The driver is on another thread, and may be faster.
#[test]
fn a_quick_call_ends_after_it_was_queued() {
    checked(async {
        listen();
        let pool = pool_of(1);
        pool.ready().await.unwrap();
        for n in 0..500 {
            pool.apply_async(square, n).await.unwrap();
        }
        let mut told = BTreeMap::<_, Vec<String>>::new();
        for record in heard("procession::task") {
            let task = record.fields.get("task").unwrap().to_owned();
            told.entry(task).or_default().push(record.message().to_owned());
        }
        assert_eq!(told.len(), 500);
        for (task, told) in told {
            assert_eq!((&*told[0], told.len()), ("queued", 3), "{task}: {told:?}");
        }
    });
}

#[test]
fn a_tasks_span_ends_with_the_task_even_if_nobody_takes_the_answer() {
    checked(async {
        listen();
        let pool = Pool::builder().name("span").workers(1).build().unwrap();
        let handle = pool.apply_async(square, 3);
        // The worker's own span is there for longer.
        until("the span has ended", || has_ended("span")).await;
        assert_eq!(handle.await.unwrap(), 9);
    });
}
