//! A pool's end, by every way and in every order: all handles resolve, all
//! processes are gone.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procession::{Pool, PoolState, TaskError, TryApplyError};

use crate::support::{Scratch, checked, checked_current_thread, children, is_alive, noted, until};
use crate::tasks::*;

const GRACE: Duration = Duration::from_millis(100);

fn pool(workers: usize) -> Pool {
    Pool::builder().workers(workers).grace_period(GRACE).build().unwrap()
}

async fn is_over(pool: &Pool, before: usize) {
    assert_eq!(children().len(), before, "no process is left, not even as a zombie");
    assert!(pool.workers().is_empty());
    let error = pool.apply(answer, 1).await.unwrap_err();
    assert!(matches!(error, TaskError::Closed | TaskError::Terminated), "{error}");
    assert_ne!(error.started(), Some(true));
    assert!(matches!(pool.try_apply(answer, 1), Err(TryApplyError::Closed(1))));
    assert!(pool.map(answer, 0..3).await.is_err());
    assert!(pool.imap(answer, 0..3).next().await.unwrap().is_err());
    assert!(pool.ready().await.is_err());
    assert_all_counted(pool);
}

#[test]
fn close_and_join_finish_what_there_is() {
    checked(async {
        let scratch = Scratch::new();
        let (started, gate, journal) =
            (scratch.path("started"), scratch.path("gate"), scratch.path("journal"));
        let before = children().len();
        let pool = pool(2);
        let long = pool.apply_async(held, (started.clone(), gate.clone()));
        noted(&started).await;
        let mut ledger = Ledger::new(journal.clone());
        let short: Vec<_> =
            (0..300).map(|n| (n, pool.apply_async(quick, (journal.clone(), n)))).collect();
        pool.close();
        pool.close();
        assert_eq!(pool.status().state, PoolState::Closed);
        let error = pool.apply(answer, 1).await.unwrap_err();
        assert!(matches!(error, TaskError::Closed), "{error}");
        let mut join = Box::pin(pool.join());
        for (n, handle) in short {
            ledger.answered(n, handle.await);
        }
        assert!(futures::poll!(join.as_mut()).is_pending(), "it waits for the long one");
        open(&gate);
        join.await;
        pool.join().await;
        long.await.unwrap();
        ledger.check();
        is_over(&pool, before).await;
    });
}

/// One that got idle while there was more than one task has to be told to leave
/// when they are all over, however they end.
#[test]
fn an_idle_worker_leaves_when_the_last_task_dies() {
    checked(async {
        let scratch = Scratch::new();
        for round in 0..24 {
            let before = children().len();
            let pool = pool(2);
            make_hasty(&pool).await;
            let path = |name: &str| scratch.path(&format!("{name}-{round}"));
            let (one, two, gate) = (path("one"), path("two"), path("gate"));
            let first = pool.apply_async(held, (two.clone(), gate.clone()));
            noted(&two).await;
            let last = pool.apply_async(forever, one.clone());
            let victim = pids(&one, 1).await[0];
            let behind: Vec<_> = (0..8).map(|n| pool.apply_async(answer, n)).collect();
            open(&gate);
            first.await.unwrap();
            match round % 4 {
                0 => {}
                1 => drop((last, behind)),
                2 => drop((behind, last)),
                _ => send(victim, nix::sys::signal::Signal::SIGKILL),
            }
            if round % 4 == 0 {
                pool.terminate().await;
            } else {
                pool.close();
                pool.join().await;
            }
            is_over(&pool, before).await;
        }
    });
}

#[test]
fn close_before_the_workers_are_ready() {
    checked(async {
        let before = children().len();
        let pool = pool(2);
        let handles: Vec<_> = (0..100).map(|n| pool.apply_async(answer, n)).collect();
        pool.close();
        pool.join().await;
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.await.unwrap(), answer(n as u64));
        }
        is_over(&pool, before).await;
    });
}

#[test]
fn join_before_close() {
    checked(async {
        let before = children().len();
        let pool = pool(1);
        let joining = tokio::spawn({
            let pool = pool.clone();
            async move { pool.join().await }
        });
        assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
        assert!(!joining.is_finished(), "the pool is open");
        pool.close();
        joining.await.unwrap();
        is_over(&pool, before).await;
    });
}

#[test]
fn a_map_async_that_has_begun_is_finished() {
    checked(async {
        let before = children().len();
        let pool = pool(2);
        let map = pool.map_async(answer, 0..50_000);
        pool.close();
        pool.join().await;
        assert!(map.await.unwrap().into_iter().eq((0..50_000).map(answer)));
        is_over(&pool, before).await;
    });
}

#[test]
fn a_begun_stream_is_read_on_after_close_and_join() {
    checked(async {
        let before = children().len();
        let pool = pool(2);
        let mut results = pool.imap(answer, 0..2000).buffer(10).chunk_size(1);
        assert_eq!(results.next().await.unwrap().unwrap(), answer(0));
        pool.close();
        pool.join().await;
        for n in 1..2000 {
            assert_eq!(results.next().await.unwrap().unwrap(), answer(n));
        }
        assert!(results.next().await.is_none());
        drop(results);
        pool.join().await;
        is_over(&pool, before).await;
    });
}

/// Both workers are lost before they have done anything, so that the next ones have to
/// wait, and in a closed pool nobody needs them yet. Then the stream is read on.
#[test]
fn a_begun_stream_is_read_on_after_close_when_the_next_workers_have_to_wait() {
    checked(async {
        for _ in 0..5 {
            let pool = pool(2);
            pool.ready().await.unwrap();
            let mut answers = pool.imap(answer, 0..10);
            pool.close();
            for worker in pool.workers() {
                let pid = worker.pid.expect("it is ready") as i32;
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
            until("both are gone", || pool.workers().is_empty()).await;
            for n in 0..10 {
                assert_eq!(answers.next().await.unwrap().unwrap(), answer(n));
            }
            assert!(answers.next().await.is_none());
            pool.join().await;
        }
    });
}

#[test]
fn a_clean_shutdown_says_so() {
    checked(async {
        let before = children().len();
        let pool = pool(2);
        let handles: Vec<_> = (0..100).map(|n| pool.apply_async(answer, n)).collect();
        assert!(pool.shutdown(Duration::from_secs(30)).await.is_clean());
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.await.unwrap(), answer(n as u64));
        }
        assert!(pool.shutdown(Duration::ZERO).await.is_clean());
        is_over(&pool, before).await;
    });
}

#[test]
fn an_unclean_shutdown_says_what_it_ended() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let before = children().len();
        let pool = pool(2);
        let running: Vec<_> = (0..2).map(|_| pool.apply_async(forever, started.clone())).collect();
        pids(&started, 2).await;
        let queued: Vec<_> = (0..5).map(|n| pool.apply_async(answer, n)).collect();
        let shutdown = pool.shutdown(Duration::from_millis(20)).await;
        assert_eq!((shutdown.running, shutdown.queued), (2, 5));
        assert!(!shutdown.is_clean());
        for handle in running {
            let error = handle.await.unwrap_err();
            assert!(matches!(error, TaskError::Terminated), "{error}");
        }
        for handle in queued {
            let error = handle.await.unwrap_err();
            assert!(matches!(error, TaskError::Terminated), "{error}");
        }
        is_over(&pool, before).await;
    });
}

#[test]
fn terminate_ends_what_ignores_sigterm() {
    checked(async {
        let scratch = Scratch::new();
        let (started, spinning) = (scratch.path("started"), scratch.path("spinning"));
        let before = children().len();
        let pool = pool(3);
        let one = pool.apply_async(stubborn, started.clone());
        let two = pool.apply_async(spin, spinning.clone());
        noted(&started).await;
        noted(&spinning).await;
        let queued = pool.apply_async(forever, scratch.path("queued"));
        let start = Instant::now();
        futures::future::join(pool.terminate(), pool.terminate()).await;
        assert!(start.elapsed() >= GRACE);
        pool.terminate().await;
        assert!(one.is_finished() && two.is_finished() && queued.is_finished());
        for handle in [one, two, queued] {
            let error = handle.await.unwrap_err();
            assert!(matches!(error, TaskError::Terminated), "{error}");
        }
        is_over(&pool, before).await;
    });
}

/// However long it takes to tell those who made the calls.
#[test]
fn after_terminate_all_handles_are_finished() {
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Memory that is given back only once the test says so.
    struct Slow(Vec<u8>, Sender<()>, Receiver<()>);
    impl AsRef<[u8]> for Slow {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            self.1.send(()).unwrap();
            self.2.recv().unwrap();
        }
    }
    checked(async {
        let before = children();
        let scratch = Scratch::new();
        let pool = pool(1);
        let running = pool.apply_async(spin, scratch.path("spinning"));
        noted(&scratch.path("spinning")).await;
        let (drops, dropped) = channel();
        let (go, gone) = channel();
        // Long enough to be sent from where it is.
        let slow = bytes::Bytes::from_owner(Slow(vec![0; 64 << 10], drops, gone));
        let first = pool.apply_async(|bytes: bytes::Bytes| bytes.len(), slow);
        let queued = pool.apply_async(|| (), ());
        let ends = pool.clone();
        let ending = std::thread::spawn(move || futures::executor::block_on(ends.terminate()));
        tokio::task::spawn_blocking(move || dropped.recv().unwrap()).await.unwrap();
        until("the worker is gone", || children() == before).await;
        let mut terminated = std::pin::pin!(pool.terminate());
        for _ in 0..1000 {
            assert!(futures::poll!(&mut terminated).is_pending());
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        terminated.await;
        assert!(running.is_finished() && first.is_finished() && queued.is_finished());
        tokio::task::spawn_blocking(|| ending.join().unwrap()).await.unwrap();
    });
}

/// Whichever of them come in whichever order.
#[test]
fn endings_in_any_order() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Step {
        Close,
        Join,
        Shutdown,
        Terminate,
    }
    use Step::*;
    checked(async {
        let scratch = Scratch::new();
        let steps = [Close, Join, Shutdown, Terminate];
        let mut rng = Rng::new(13);
        for round in 0..40 {
            let before = children().len();
            let pool = pool(2);
            if rng.one_in(2) {
                pool.ready().await.unwrap();
            }
            let mut handles: Vec<_> =
                (0..rng.below(30)).map(|n| pool.apply_async(answer, n)).collect();
            let map = pool.map_async(answer, 0..rng.below(2000));
            let started = scratch.path(&format!("started-{round}"));
            let forever = (round % 4 == 0).then(|| pool.apply_async(forever, started.clone()));
            let mut chosen: Vec<Step> = (0..5).map(|_| steps[rng.below(4) as usize]).collect();
            chosen.push(Terminate);
            let mut joins = Vec::new();
            for step in chosen {
                match step {
                    Close => pool.close(),
                    Join => {
                        let pool = pool.clone();
                        joins.push(tokio::spawn(async move { pool.join().await }));
                    }
                    Shutdown => {
                        let limit = Duration::from_millis(rng.below(3));
                        pool.shutdown(limit).await;
                    }
                    Terminate => pool.terminate().await,
                }
                if rng.one_in(3) {
                    handles.push(pool.apply_async(answer, 1));
                }
            }
            for join in joins {
                join.await.unwrap();
            }
            for handle in handles {
                match handle.await {
                    Ok(_) | Err(TaskError::Terminated | TaskError::Closed) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            match map.await {
                Ok(_) | Err(TaskError::Terminated | TaskError::Closed) => {}
                Err(error) => panic!("{error}"),
            }
            if let Some(forever) = forever {
                assert!(matches!(forever.await, Err(TaskError::Terminated)));
            }
            is_over(&pool, before).await;
        }
    });
}

#[test]
fn the_last_handle_ends_everything() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(2);
        pool.ready().await.unwrap();
        let clone = pool.clone();
        let running = pool.apply_async(stubborn, started.clone());
        let stopped_at = scratch.path("stopped");
        let stopped = pool.apply_async(stopped, stopped_at.clone());
        let queued: Vec<_> = (0..100).map(|n| pool.apply_async(answer, n)).collect();
        let map = pool.map_async(answer, 0..100_000);
        let victim = pids(&started, 1).await[0];
        has_stopped(pids(&stopped_at, 1).await[0]).await;
        drop(pool);
        assert!(is_alive(victim), "there is a clone");
        drop(clone);
        until("it is gone", || !is_alive(victim)).await;
        assert!(matches!(running.await, Err(TaskError::Terminated)));
        assert!(matches!(stopped.await, Err(TaskError::Terminated)));
        for handle in queued {
            assert!(matches!(handle.await, Err(TaskError::Terminated)));
        }
        assert!(matches!(map.await, Err(TaskError::Terminated)));
    });
}

#[test]
fn the_last_handle_goes_inside_a_task_of_the_pools_runtime() {
    for test in [checked, checked_current_thread] {
        test(Box::pin(async {
            let pool = pool(1);
            let handle = pool.apply_async(|| std::thread::sleep(Duration::from_secs(1000)), ());
            tokio::spawn(async move {
                pool.ready().await.unwrap();
                drop(pool);
            })
            .await
            .unwrap();
            assert!(matches!(handle.await, Err(TaskError::Terminated)));
        }) as std::pin::Pin<Box<dyn Future<Output = ()>>>);
    }
}

#[test]
fn a_pool_may_go_while_its_workers_start() {
    checked(async {
        let mut rng = Rng::new(17);
        for _ in 0..30 {
            let pool = pool(3);
            let handle = pool.apply_async(answer, 1);
            for _ in 0..rng.below(200) {
                tokio::task::yield_now().await;
            }
            drop(pool);
            match handle.await {
                Ok(value) => assert_eq!(value, answer(1)),
                Err(error) => assert!(matches!(error, TaskError::Terminated), "{error}"),
            }
        }
    });
}

#[test]
fn two_hundred_pools_come_and_go() {
    checked(async {
        let mut handles = Vec::new();
        for n in 0..200 {
            let pool = pool(1);
            if n % 8 == 0 {
                assert_eq!(pool.apply(answer, n).await.unwrap(), answer(n));
            } else {
                handles.push(pool.apply_async(answer, n));
            }
        }
        for result in join_all(handles).await {
            assert!(matches!(result, Ok(_) | Err(TaskError::Terminated)));
        }
    });
}

#[test]
fn terminate_does_not_wait_for_a_stopped_worker() {
    checked(async {
        let before = children().len();
        let pool = pool(1);
        let worker = pool.apply(pid, ()).await.unwrap() as i32;
        send(worker, nix::sys::signal::Signal::SIGSTOP);
        has_stopped(worker).await;
        // Sent, and never started.
        let waiting = pool.apply_async(answer, 1);
        pool.terminate().await;
        assert!(matches!(waiting.await, Err(TaskError::Terminated)));
        is_over(&pool, before).await;
    });
}

#[test]
fn shutdown_does_not_wait_for_a_stopped_worker() {
    checked(async {
        let before = children().len();
        let pool = pool(1);
        let worker = pool.apply(pid, ()).await.unwrap() as i32;
        send(worker, nix::sys::signal::Signal::SIGSTOP);
        has_stopped(worker).await;
        let waiting = pool.apply_async(answer, 1);
        drop(waiting);
        pool.shutdown(Duration::from_millis(10)).await;
        is_over(&pool, before).await;
    });
}

#[test]
fn a_task_can_end_its_own_pool() {
    checked(async {
        // Pools within workers: the inner one ends with its task.
        fn nested() -> u64 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let pool = Pool::builder().workers(1).build().unwrap();
                pool.apply(answer, 2).await.unwrap()
            })
        }
        let pool = pool(1);
        assert_eq!(pool.apply(nested, ()).await.unwrap(), answer(2));
        pool.close();
        pool.join().await;
    });
}

/// A task whose worker has a pool of its own: that one's workers go with it.
#[test]
fn the_workers_of_a_cancelled_worker_go_with_it() {
    fn nested(started: String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::builder().workers(1).build().unwrap();
            let _ = pool.apply(forever, started).await;
        });
    }
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let pool = pool(1);
        let handle = pool.apply_async(nested, started.clone());
        let inner = pids(&started, 1).await[0];
        assert!(handle.cancel().await.started);
        until("the inner worker is gone", || !is_alive(inner)).await;
    });
}

/// It was taken for one that a closed pool still has to serve, and started a
/// worker that nobody looked after.
#[test]
fn what_was_begun_ends_with_a_pool_that_was_closed_joined_and_dropped() {
    checked(async {
        let before = children().len();
        let pool = Pool::builder().workers(1).build().unwrap();
        let mut imap = pool.imap(answer, 0..10).buffer(1);
        assert_eq!(imap.next().await.unwrap().unwrap(), answer(0));
        let map = pool.map(answer, 0..10);
        pool.close();
        pool.join().await;
        drop(pool);
        assert!(matches!(map.await, Err(TaskError::Terminated)));
        // What was answered before may still be there.
        let rest: Vec<_> = imap.collect().await;
        let (last, answered) = rest.split_last().unwrap();
        assert!(matches!(last, Err(TaskError::Terminated)), "{last:?}");
        assert!(answered.len() <= 1 && answered.iter().all(Result::is_ok), "{answered:?}");
        assert_eq!(children().len(), before, "no worker was started for them");
    });
}
