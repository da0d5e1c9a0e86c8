//! Tasks as services, alone and under tower's layers.

use std::future::pending;
use std::path::Path;
use std::time::Duration;

use futures::future::poll_immediate;
use procession::{Pool, TaskError, TaskService};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower::load_shed::error::Overloaded;
use tower::timeout::Timeout;
use tower::timeout::error::Elapsed;
use tower::{Service, ServiceExt};

use crate::support::{Scratch, checked, is_alive, note, noted, until};

fn square(n: u64) -> u64 {
    n * n
}

fn add(a: u64, b: u64) -> u64 {
    a + b
}

/// Notes its pid, and goes on once the gate's file is there.
fn held(started: String, gate: String) -> u32 {
    note(started, &std::process::id().to_string());
    while !Path::new(&gate).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::id()
}

/// One worker, and no place in the queue but its own.
fn pool_of_one() -> Pool {
    Pool::builder().workers(1).queue_limit(0).build().unwrap()
}

fn is_over<S, Request>(service: &mut S) -> bool
where
    S: Service<Request>,
{
    futures::executor::block_on(poll_immediate(std::future::poll_fn(|cx| service.poll_ready(cx))))
        .is_some()
}

#[test]
fn a_task_is_a_service_of_its_arguments() {
    checked(async {
        let pool = Pool::builder().workers(2).build().unwrap();
        let mut squares = pool.service::<_, u64, _>(square);
        assert_eq!(squares.ready().await.unwrap().call(7).await.unwrap(), 49);
        let sums = pool.service::<_, (u64, u64), _>(add);
        assert_eq!(sums.clone().oneshot((3, 4)).await.unwrap(), 7);
        let mut waits = pool.service::<_, u64, _>(async |n: u64| n + 1);
        assert_eq!(waits.ready().await.unwrap().call(1).await.unwrap(), 2);
        let answers = sums.call_all(futures::stream::iter((0..50).map(|n| (n, 1))));
        let answers: Vec<_> = futures::TryStreamExt::try_collect(answers).await.unwrap();
        assert_eq!(answers, (1..51).collect::<Vec<_>>());
    });
}

#[test]
fn being_ready_is_a_place_in_the_queue() {
    checked(async {
        let pool = pool_of_one();
        let mut first = pool.service::<_, u64, _>(square);
        let mut second = first.clone();
        assert!(is_over(&mut first) && is_over(&mut first), "it keeps its place");
        assert!(!is_over(&mut second));
        assert!(pool.try_apply(square, 1).is_err_and(|error| error.is_full()));
        // A clone has no place of its own.
        drop(first.clone());
        assert!(!is_over(&mut second));
        drop(first);
        assert!(is_over(&mut second), "the place was given back");
        assert_eq!(second.call(3).await.unwrap(), 9);
        assert!(is_over(&mut second), "and again, once the call has ended");
        drop(second);
        // Not ready, and called all the same.
        let busy = pool.service::<_, u64, _>(square);
        let calls: Vec<_> = (0..5).map(|n| busy.clone().call(n)).collect();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.await.unwrap(), n * n);
        }
        assert!(is_over(&mut busy.clone()));
    });
}

#[test]
fn a_pool_that_has_ended_is_never_ready() {
    checked(async {
        let pool = pool_of_one();
        let mut ready = pool.service::<_, u64, _>(square);
        ready.ready().await.unwrap();
        let waiting = tokio::spawn(pool.service::<_, u64, _>(square).oneshot(3));
        pool.close();
        assert!(matches!(waiting.await.unwrap(), Err(TaskError::Closed)));
        assert!(matches!(ready.ready().await.map(drop), Err(TaskError::Closed)));
        assert!(matches!(ready.call(2).await, Err(TaskError::Closed)));
    });
}

#[test]
fn load_shed_refuses_what_has_no_place() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate) = (scratch.path("started"), scratch.path("gate"));
        let pool = pool_of_one();
        let service = LoadShed::new(pool.service::<_, (String, String), _>(held));
        let first = tokio::spawn(service.clone().oneshot((started.clone(), gate.clone())));
        noted(&started).await;
        let refused = service.clone().oneshot((started.clone(), gate.clone())).await.unwrap_err();
        assert!(refused.is::<Overloaded>(), "{refused}");
        std::fs::write(&gate, "").unwrap();
        first.await.unwrap().unwrap();
        service.oneshot((started, gate)).await.unwrap();
    });
}

#[test]
fn timeout_stops_the_task_in_its_worker() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate) = (scratch.path("started"), scratch.path("gate"));
        let pool = pool_of_one();
        let inner = pool.service::<_, (String, String), _>(held);
        let mut service = Timeout::new(inner, Duration::from_millis(300));
        let call = service.ready().await.unwrap().call((started.clone(), gate));
        let error = call.await.unwrap_err();
        assert!(error.is::<Elapsed>(), "{error}");
        // On a slow machine it may not have come to its worker.
        if let Some(pid) = crate::support::notes(&started).first() {
            let pid = pid.parse().unwrap();
            until("the worker is gone", || !is_alive(pid)).await;
        }
        assert_eq!(pool.apply(square, 2).await.unwrap(), 4);
    });
}

#[test]
fn it_works_under_concurrency_limit_and_buffer() {
    checked(async {
        let pool = Pool::builder().workers(2).queue_limit(1).build().unwrap();
        let limited = ConcurrencyLimit::new(pool.service::<_, u64, _>(square), 2);
        let service = Buffer::new(limited, 8);
        let calls = (0..100).map(|n| tokio::spawn(service.clone().oneshot(n)));
        for (n, call) in (0..).zip(calls.collect::<Vec<_>>()) {
            assert_eq!(call.await.unwrap().unwrap(), n * n);
        }
        // The buffer's own task ends with its last handle, and the pool with that.
        drop(service);
    });
}

#[test]
fn services_go_where_servers_put_them() {
    fn good<T: Clone + Send + Sync + 'static>(_: &T) {}
    checked(async {
        let pool = pool_of_one();
        let service: TaskService<_, u64, _> = pool.service(square);
        good(&service);
        let hang = pool.service::<_, (), _>(async || pending::<()>().await);
        good(&hang);
        let call = hang.clone().call(());
        drop(call);
    });
}
