//! Workers that cannot start: some patience, then a broken pool with the cause
//! in everything that waits.

use std::env;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use nix::sys::resource::{Resource, setrlimit};
use procession::{Pool, PoolBuilder, PoolState, SpawnError, TaskError};

use crate::support::{Scratch, alone, checked, note, notes, until};
use crate::tasks::*;

/// What happens to a worker before its `main`, if this variable says so: for
/// programs that cannot even begin.
const BEFORE_MAIN: &str = "PROCESSION_TEST_BEFORE_MAIN";

extern "C" fn before_main() {
    match env::var(BEFORE_MAIN).as_deref() {
        Ok("hang") => loop {
            std::thread::sleep(Duration::from_secs(1000));
        },
        Ok("exit") => std::process::exit(41),
        Ok("kill") => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
        _ => {}
    }
}

// SAFETY: the loader calls what is in this section, with arguments that a C
// function may ignore.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE: extern "C" fn() = before_main;

fn builder() -> PoolBuilder {
    Pool::builder().workers(2).restart_limit(3)
}

/// Everything that waits is told the cause, and everything that comes later.
async fn breaks(pool: Pool) -> SpawnError {
    let cause = |error: TaskError| match error {
        TaskError::Broken(cause) => cause.to_string(),
        error => panic!("{error}"),
    };
    let handles: Vec<_> = (0..20).map(|n| pool.apply_async(answer, n)).collect();
    let map = pool.map_async(answer, 0..100);
    let mut imap = pool.imap(answer, 0..100);
    let mut stream = pool.stream(|n: u64| 0..n, 3);
    let (ready, imap, stream) = futures::join!(pool.ready(), imap.next(), stream.next());
    let error = ready.unwrap_err();
    let mut causes = vec![
        cause(imap.unwrap().unwrap_err()),
        cause(stream.unwrap().unwrap_err()),
        cause(map.await.unwrap_err()),
    ];
    for result in join_all(handles).await {
        let error = result.unwrap_err();
        assert_eq!(error.started(), Some(false));
        causes.push(cause(error));
    }
    causes.push(cause(pool.apply(answer, 1).await.unwrap_err()));
    causes.push(cause(pool.map(answer, 0..3).await.unwrap_err()));
    for cause in causes {
        assert_eq!(cause, error.to_string());
    }
    assert_eq!(pool.status().state, PoolState::Broken);
    assert!(pool.try_apply(answer, 1).unwrap_err().is_closed());
    assert_all_counted(&pool);
    pool.close();
    pool.join().await;
    assert!(pool.shutdown(Duration::ZERO).await.is_clean());
    pool.terminate().await;
    error
}

#[test]
fn an_initializer_that_exits() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        fn init(journal: String) {
            note(journal, "tried");
            std::process::exit(7);
        }
        let start = Instant::now();
        let error = breaks(builder().initializer(init, journal.clone()).build().unwrap()).await;
        assert_eq!(error.exit().unwrap().code(), Some(7));
        assert!(error.to_string().contains("exited with code 7"), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(50 + 100), "it had some patience");
        let tries = notes(&journal).len();
        assert!((3..=6).contains(&tries), "{tries} tries");
    });
}

#[test]
fn an_initializer_that_panics() {
    checked(async {
        fn init() {
            panic!("no model {}", 5);
        }
        let error = breaks(builder().initializer(init, ()).build().unwrap()).await;
        assert_eq!(error.panic().unwrap().message(), "no model 5");
        assert!(error.to_string().contains("no model 5"), "{error}");
    });
}

#[test]
fn an_initializer_that_refuses() {
    checked(async {
        fn init(reason: String) -> Result<(), String> {
            Err(reason)
        }
        let reason = "no licence".to_owned();
        let error = breaks(builder().initializer(init, reason).build().unwrap()).await;
        assert!(error.to_string().contains("no licence"), "{error}");
    });
}

#[test]
fn an_initializer_that_takes_too_long() {
    checked(async {
        let limit = Duration::from_millis(100);
        let init = || std::thread::sleep(Duration::from_secs(1000));
        let builder = Pool::builder().workers(2).restart_limit(2).start_timeout(limit);
        let error = breaks(builder.initializer(init, ()).build().unwrap()).await;
        assert!(error.is_timeout(), "{error}");
        assert!(!error.to_string().contains("first line of main"), "it has said hello: {error}");
    });
}

#[test]
fn an_initializer_that_fails_once() {
    checked(async {
        fn init(journal: String) {
            let first = notes(&journal).is_empty();
            note(journal, "tried");
            assert!(!first, "the first never works");
        }
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(1).initializer(init, journal.clone()).build().unwrap();
        assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
        assert_eq!(notes(&journal).len(), 2);
    });
}

#[test]
fn a_program_that_says_nothing() {
    checked(async {
        let limit = Duration::from_millis(200);
        let builder = Pool::builder().workers(2).restart_limit(2).start_timeout(limit);
        let error = breaks(builder.env(BEFORE_MAIN, "hang").build().unwrap()).await;
        assert!(error.is_timeout(), "{error}");
        assert!(error.to_string().contains("procession::init()"), "{error}");
    });
}

#[test]
fn a_program_that_ends_at_once() {
    checked(async {
        let error = breaks(builder().env(BEFORE_MAIN, "exit").build().unwrap()).await;
        assert_eq!(error.exit().unwrap().code(), Some(41), "{error}");
        let error = breaks(builder().env(BEFORE_MAIN, "kill").build().unwrap()).await;
        assert_eq!(error.exit().unwrap().signal(), Some(9), "{error}");
    });
}

#[test]
fn cancelling_while_no_worker_starts() {
    checked(async {
        let limit = Duration::from_secs(1000);
        let builder = Pool::builder().workers(1).start_timeout(limit);
        let pool = builder.env(BEFORE_MAIN, "hang").build().unwrap();
        until("it has a process", || pool.workers().iter().any(|w| w.pid.is_some())).await;
        let handle = pool.apply_async(answer, 1);
        assert!(!handle.cancel().await.started);
        let handle = pool.apply_async(answer, 1);
        assert_eq!(pool.status().queued, 1);
        let shutdown = pool.shutdown(Duration::from_millis(20)).await;
        assert_eq!((shutdown.queued, shutdown.running), (1, 0));
        assert!(matches!(handle.await, Err(TaskError::Terminated)));
    });
}

const LIMIT: &str = "PROCESSION_TEST_LIMIT";
const REPORT: &str = "PROCESSION_TEST_REPORT";

/// Not a test of its own: runs out of something, in a process of its own.
#[test]
fn limited_process() {
    let Ok(limit) = env::var(LIMIT) else { return };
    let report = env::var(REPORT).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let error = runtime.block_on(async {
        // One that works, from before; it goes on working.
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        match limit.as_str() {
            "files" => {
                let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
                setrlimit(Resource::RLIMIT_NOFILE, open + 1, open + 1).unwrap();
            }
            _ => {
                // Root has no such limit. Where we are somebody else, this fails
                // and does no harm.
                // SAFETY: takes a number, and touches no memory of ours.
                let _ = unsafe { nix::libc::setuid(65_432) };
                setrlimit(Resource::RLIMIT_NPROC, 1, 1).unwrap();
            }
        }
        let error = breaks(builder().build().unwrap()).await;
        assert_eq!(pool.apply(answer, 1).await.unwrap(), answer(1));
        pool.shutdown(Duration::from_secs(10)).await;
        error
    });
    let source = std::error::Error::source(&error).map(ToString::to_string);
    note(report, &format!("{error}: {}", source.unwrap_or_default()));
}

fn limited(limit: &str) -> String {
    let scratch = Scratch::new();
    let report = scratch.path("report");
    std::fs::write(&report, "").unwrap();
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&report, anybody).unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["starting::limited_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(LIMIT, limit)
        .env(REPORT, &report)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    notes(&report).join("\n")
}

#[test]
fn too_many_open_files() {
    alone(|| {
        let error = limited("files");
        assert!(error.contains("Too many open files"), "{error}");
    });
}

#[test]
fn too_many_processes() {
    alone(|| {
        let error = limited("processes");
        assert!(error.contains("Resource temporarily unavailable"), "{error}");
    });
}
