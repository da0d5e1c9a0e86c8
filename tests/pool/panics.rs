//! A panic is its own call's error, and nobody else's.

use std::error::Error;

use futures::StreamExt;
use procession::{Pool, TaskError};

use crate::support::checked;
use crate::tasks::{pid, pool_of};

#[test]
fn a_panic_says_what_and_where_and_its_worker_lives_on() {
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        let line = line!() + 1;
        let task = |n: u32| -> u32 { panic!("cannot do {n}") };
        let error = pool.apply(task, 3).await.unwrap_err();
        assert!(error.is_panic() && !error.is_worker_lost() && !error.is_cancelled());
        assert_eq!((error.started(), error.exit(), error.index()), (Some(true), None, None));
        let TaskError::Panicked(panic) = &error else { panic!("{error:?}") };
        assert_eq!(panic.message(), "cannot do 3");
        let location = panic.location().unwrap();
        assert!(location.starts_with(&format!("{}:{line}:", file!())), "{location}");
        assert!(panic.backtrace().contains("panics"), "{}", panic.backtrace());
        assert!(panic.task().unwrap().name().contains("panics"));
        let text = error.to_string();
        assert!(text.contains(" panicked at "), "{text}");
        assert!(text.ends_with(&format!("{location}: cannot do 3")), "{text}");
        assert!(error.source().is_none(), "its text is in the error's own");
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
        let stats = pool.stats();
        assert_eq!((stats.panicked, stats.completed, stats.workers_started), (1, 2, 1));
    });
}

#[test]
fn a_panic_in_an_async_task_is_the_same() {
    async fn fails() -> u32 {
        tokio::task::yield_now().await;
        panic!("async");
    }
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        for _ in 0..2 {
            let error = pool.apply(fails, ()).await.unwrap_err();
            let TaskError::Panicked(panic) = &error else { panic!("{error:?}") };
            assert_eq!(panic.message(), "async");
            assert!(panic.location().unwrap().starts_with(file!()));
        }
        assert_eq!(pool.apply(|| async { std::process::id() }, ()).await.unwrap(), worker);
    });
}

#[test]
fn panics_of_every_kind_of_value() {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("and again");
        }
    }
    checked(async {
        let pool = pool_of(1);
        let worker = pool.apply(pid, ()).await.unwrap();
        macro_rules! message {
            ($body:expr) => {
                match pool.apply(|| -> () { $body }, ()).await.unwrap_err() {
                    TaskError::Panicked(panic) => panic.message().to_owned(),
                    error => panic!("{error:?}"),
                }
            };
        }
        assert_eq!(message!(panic!("text")), "text");
        assert_eq!(message!(std::panic::panic_any("boxed".to_owned())), "boxed");
        assert_eq!(message!(std::panic::panic_any(7_u8)), "a value that is not text");
        let text = message!(std::panic::panic_any(PanicsWhenDropped));
        assert_eq!(text, "a value that is not text");
        assert_eq!(message!(std::panic::resume_unwind(Box::new("resumed"))), "resumed");
        assert_eq!(
            message!(std::env::var_os("NOT THERE").map(drop).unwrap()),
            "called `Option::unwrap()` on a `None` value"
        );
        let long = message!(panic!("{}", "ł".repeat(100_000)));
        assert!(long.len() < 17 << 10 && long.starts_with("łłł"), "{}", long.len());
        assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
    });
}

#[test]
fn a_result_that_panics_when_it_is_dropped_is_that_calls_error_alone() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Result(u8);
    impl Drop for Result {
        fn drop(&mut self) {
            assert_ne!(self.0, 7, "dropped");
        }
    }
    checked(async {
        let pool = pool_of(1);
        let mut answers = pool.imap(|n: u8| Result(n), [6, 7, 8]).chunk_size(3);
        assert_eq!(answers.next().await.unwrap().unwrap(), Result(6));
        let error = answers.next().await.unwrap().unwrap_err();
        assert!(error.is_panic() && error.index() == Some(1), "{error:?}");
        assert_eq!(answers.next().await.unwrap().unwrap(), Result(8));
        assert!(answers.next().await.is_none());
    });
}

#[test]
fn a_panic_that_the_task_catches_is_no_error() {
    fn careful() -> bool {
        std::panic::catch_unwind(|| panic!("caught")).is_err()
    }
    fn careless() {
        let _ = std::panic::catch_unwind(|| panic!("caught"));
        panic!("not caught");
    }
    checked(async {
        let pool = pool_of(1);
        assert!(pool.apply(careful, ()).await.unwrap());
        let error = pool.apply(careless, ()).await.unwrap_err();
        let TaskError::Panicked(panic) = &error else { panic!("{error:?}") };
        assert_eq!(panic.message(), "not caught");
    });
}

#[test]
fn a_panic_on_a_thread_of_the_task_is_the_threads_own() {
    fn starts_one() -> bool {
        std::thread::spawn(|| panic!("elsewhere")).join().is_err()
    }
    checked(async {
        let pool = pool_of(1);
        assert!(pool.apply(starts_one, ()).await.unwrap());
    });
}

#[test]
fn panics_in_a_row_do_not_wear_a_pool_out() {
    checked(async {
        let pool = pool_of(2);
        let calls = (0..200).map(|n| pool.apply(|n: u32| assert!(n % 2 == 0), n));
        let ended = futures::future::join_all(calls).await;
        for (n, ended) in ended.into_iter().enumerate() {
            assert_eq!(ended.is_err(), n % 2 == 1);
        }
        assert_eq!(pool.stats().workers_started, 2);
    });
}

#[test]
fn a_task_that_replaced_the_panic_hook_gets_the_message_only() {
    checked(async {
        let pool = pool_of(1);
        pool.apply(|| std::panic::set_hook(Box::new(|_| {})), ()).await.unwrap();
        let error = pool.apply(|| -> () { panic!("in silence") }, ()).await.unwrap_err();
        let TaskError::Panicked(panic) = &error else { panic!("{error:?}") };
        assert_eq!(
            (panic.message(), panic.location(), panic.backtrace()),
            ("in silence", None, "")
        );
        assert!(error.to_string().ends_with(" panicked: in silence"), "{error}");
    });
}

/// One behind the other, and behind a result that is refused: each is its own
/// item's, and the worker lives on.
#[test]
fn panics_in_a_row_are_one_for_each_item_of_a_chunk() {
    checked(async {
        let pool = pool_of(1);
        let task = |n: usize| -> Vec<u8> {
            match n % 4 {
                0 => vec![1; n],
                // Over the limit of what may be sent.
                1 => vec![0; 70_000],
                _ => panic!("not {n}"),
            }
        };
        let limited = Pool::builder().workers(1).frame_limit(1 << 16).build().unwrap();
        for n in 0..2 {
            let pool = if n == 0 { &pool } else { &limited };
            let answers: Vec<_> = pool.imap(task, 0..40).chunk_size(40).collect().await;
            assert_eq!(answers.len(), 40);
            for (n, answer) in answers.into_iter().enumerate() {
                match (n % 4, answer) {
                    (0, Ok(bytes)) => assert_eq!(bytes, vec![1; n]),
                    (1, Ok(bytes)) => assert_eq!(bytes.len(), 70_000),
                    (1, Err(TaskError::TooLarge { .. })) => {}
                    (2 | 3, Err(TaskError::Panicked(panic))) => {
                        assert_eq!(panic.message(), format!("not {n}"));
                    }
                    (_, answer) => panic!("{n}: {answer:?}"),
                }
            }
            assert_eq!(pool.stats().workers_started, 1);
        }
    });
}
