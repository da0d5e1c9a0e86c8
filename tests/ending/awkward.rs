//! Tasks, callers and runtimes that make trouble in ways of their own. Each of
//! these once hung, killed a bystander, or cost the pool something for good.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use nix::libc;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::{Pid, getpgid, getppid, setpgid};
use procession::{Pool, PoolState, Resource, Stdio, TaskError};
use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};

use crate::support::{
    LIMIT, Scratch, alone, checked, checked_current_thread, note, noted, notes, until, within,
};
use crate::tasks::{forever, held, open, quick};

fn length(bytes: bytes::Bytes) -> usize {
    bytes.len()
}

fn pid() -> u32 {
    std::process::id()
}

#[test]
fn arguments_that_kill_every_worker_that_receives_them_end() {
    checked(async {
        let limits = [(Resource::AddressSpace, 250 << 20), (Resource::CoreFile, 0)];
        let pool =
            Pool::builder().workers(1).stderr(Stdio::null()).rlimits(limits).build().unwrap();
        let large = bytes::Bytes::from(vec![0; 200 << 20]);
        let poison = pool.apply_async(length, large);
        let behind = pool.apply_async(length, bytes::Bytes::from_static(b"four"));
        let error = within(LIMIT, poison).await.unwrap_err();
        assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
        assert_eq!(within(LIMIT, behind).await.unwrap(), 4);
        assert!(pool.stats().workers_started <= 4, "{:?}", pool.stats());
    });
}

#[test]
fn a_task_that_leaves_its_process_group_can_be_stopped() {
    fn leave(started: String) {
        let parents = getpgid(Some(getppid())).unwrap();
        setpgid(Pid::from_raw(0), parents).unwrap();
        forever(started);
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        let task = pool.apply_async(leave, scratch.path("started"));
        noted(&scratch.path("started")).await;
        let cancelled = within(LIMIT, task.cancel()).await;
        assert_eq!(cancelled.exit.unwrap().signal(), Some(15));
        let again = pool.apply_async(leave, scratch.path("again"));
        noted(&scratch.path("again")).await;
        within(LIMIT, pool.terminate()).await;
        assert!(matches!(again.await, Err(TaskError::Terminated)));
    });
}

#[test]
fn a_signal_handler_of_a_task_does_not_end_its_idle_worker() {
    fn handle() -> u32 {
        extern "C" fn nothing(_: i32) {}
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any time.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        std::process::id()
    }
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let worker = pool.apply(handle, ()).await.unwrap();
        // Blocked in a read, as far as one can see from here.
        let stat = format!("/proc/{worker}/stat");
        until("it sleeps", || std::fs::read_to_string(&stat).unwrap().contains(") S ")).await;
        for _ in 0..20 {
            kill(Pid::from_raw(worker as i32), Signal::SIGUSR1).unwrap();
            assert_eq!(pool.apply(pid, ()).await.unwrap(), worker);
        }
    });
}

/// Nor may its watch over the parent wait for anything then.
#[test]
fn a_task_that_gave_up_all_descriptors_keeps_no_processor_busy() {
    fn give_up(started: String) {
        extern "C" fn nothing(_: i32) {}
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is safe at any time.
        unsafe { sigaction(Signal::SIGTRAP, &action) }.unwrap();
        let (_, most) = getrlimit(Limit::RLIMIT_NOFILE).unwrap();
        note(started, &std::process::id().to_string());
        setrlimit(Limit::RLIMIT_NOFILE, 0, most).unwrap();
        loop {
            std::thread::park();
        }
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        let call = pool.apply_async(give_up, scratch.path("started"));
        noted(&scratch.path("started")).await;
        let worker = notes(scratch.path("started")).remove(0);
        until("it may have none", || {
            let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            line.split_whitespace().nth(3) == Some("0")
        })
        .await;
        let threads = fs::read_dir(format!("/proc/{worker}/task")).unwrap().flatten();
        let is_lifeline = |path: &PathBuf| {
            fs::read_to_string(path.join("comm")).unwrap().starts_with("procession-life")
        };
        let lifeline = threads.map(|entry| entry.path()).find(is_lifeline).unwrap();
        let id: i32 = lifeline.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let worker: i32 = worker.parse().unwrap();
        // It waits once more when it has handled that, which is one of those that it does not
        // block.
        // SAFETY: takes integers.
        let told = unsafe { libc::syscall(libc::SYS_tgkill, worker, id, libc::SIGTRAP) };
        assert_eq!(told, 0);
        let mut looks = 0;
        until("it sleeps whenever one looks", || {
            let stat = fs::read_to_string(lifeline.join("stat")).unwrap();
            looks = if stat.contains(") S ") { looks + 1 } else { 0 };
            looks == 20
        })
        .await;
        drop(call);
    });
}

#[test]
fn a_blocked_runtime_kills_nobody() {
    crate::support::checked_current_thread(async {
        let scratch = Scratch::new();
        let path = scratch.path("started");
        let pool = Pool::builder().workers(1).build().unwrap();
        // Too long for the outbox, so that it is in the socket or nowhere.
        let long = pool.apply_async(|n: usize| "x".repeat(n), 150_000);
        let behind = pool.apply_async(
            |path: String| {
                note(path, "started");
                std::thread::sleep(Duration::from_millis(1500));
                7
            },
            path.clone(),
        );
        tokio::task::yield_now().await;
        // The worker is past the first; nobody reads what it says.
        while !std::path::Path::new(&path).exists() {
            std::hint::spin_loop();
            tokio::task::yield_now().await;
        }
        drop(long);
        // Longer than an answer that is asked for may stay away.
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(within(LIMIT, behind).await.unwrap(), 7);
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn calls_are_served_beside_an_endless_stream() {
    checked(async {
        let pool = Pool::builder().workers(2).queue_limit(0).build().unwrap();
        let mut stream = pool.imap_unordered(|n: u64| n, 0..);
        let reader = async { while stream.next().await.is_some() {} };
        let caller = async {
            for n in 0..20 {
                assert_eq!(pool.apply(|n: u32| n, n).await.unwrap(), n);
            }
        };
        futures::pin_mut!(reader, caller);
        within(LIMIT, futures::future::select(reader, caller)).await;
    });
}

#[test]
fn arguments_that_panic_cost_no_place_in_the_queue() {
    #[derive(Deserialize)]
    struct Bomb;
    impl Serialize for Bomb {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            if std::hint::black_box(true) {
                panic!("as it was told")
            }
            Err(S::Error::custom("never"))
        }
    }
    checked(async {
        let pool = Pool::builder().workers(1).queue_limit(0).build().unwrap();
        for _ in 0..3 {
            let call = || pool.try_apply(|_: Bomb| (), Bomb).is_ok();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
        }
        let handle = pool.try_apply(pid, ()).expect("the queue is empty");
        handle.await.unwrap();
    });
}

#[test]
fn a_pool_that_was_closed_stays_closed() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.apply(pid, ()).await.unwrap();
        pool.close();
        pool.join().await;
        for _ in 0..100 {
            assert_eq!(pool.status().state, PoolState::Closed);
            assert!(matches!(pool.apply(pid, ()).await, Err(TaskError::Closed)));
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_runtime_without_drivers_is_an_error() {
    alone(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(async { Pool::builder().build().unwrap_err() });
        assert!(error.to_string().contains("enable_all"), "{error}");
    });
}

#[test]
fn a_finished_handle_has_its_answer() {
    checked(async {
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let pool = Pool::builder().workers(2).build().unwrap();
        for n in 0..300 {
            let handle = pool.apply_async(quick, (journal.clone(), n));
            while !handle.is_finished() {
                tokio::task::yield_now().await;
            }
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            // Else tokio would have this test wait now and then, to be fair.
            let handle = std::pin::pin!(tokio::task::unconstrained(handle));
            assert!(handle.poll(&mut context).is_ready(), "round {n}");
        }
    });
}

#[test]
fn a_worker_gives_the_memory_of_a_large_answer_back() {
    fn resident() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let before = pool.apply(resident, ()).await.unwrap();
        let large = |n: usize| bytes::Bytes::from(vec![1; n]);
        assert_eq!(pool.apply(large, 100 << 20).await.unwrap().len(), 100 << 20);
        let after = pool.apply(resident, ()).await.unwrap();
        assert!(after < before + (32 << 20), "{before} bytes before, {after} after");
    });
}

#[test]
fn a_subscriber_may_ask_the_pool() {
    use std::sync::OnceLock;
    static POOL: OnceLock<Pool> = OnceLock::new();

    struct Curious;
    impl<S: tracing_subscriber::registry::LookupSpan<'static> + tracing::Subscriber>
        tracing_subscriber::Layer<S> for Curious
    {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            if let Some(pool) = POOL.get() {
                pool.status();
            }
        }
    }
    // In a process of its own: a subscriber and a static are for good.
    let program = std::env::current_exe().unwrap();
    if std::env::var_os("PROCESSION_CURIOUS").is_none() {
        let status = std::process::Command::new(program)
            .args(["awkward::a_subscriber_may_ask_the_pool", "--exact", "--nocapture"])
            .env("PROCESSION_CURIOUS", "1")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    use tracing_subscriber::layer::SubscriberExt;
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Curious)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(within(LIMIT, async {
        let pool = POOL.get_or_init(|| Pool::builder().workers(2).build().unwrap());
        for n in 0..50 {
            assert_eq!(pool.apply(|n: u32| n, n).await.unwrap(), n);
        }
        pool.apply(|| -> () { std::process::abort() }, ()).await.unwrap_err();
        pool.terminate().await;
    }));
}

/// The copy has the pages of the workers too, and once took their tasks back.
#[test]
fn a_forked_copy_of_the_program_leaves_the_originals_pool_alone() {
    checked_current_thread(async {
        let scratch = Scratch::new();
        let (journal, gate) = (scratch.path("journal"), scratch.path("gate"));
        let pool = Pool::builder().workers(1).build().unwrap();
        let running = pool.apply_async(held, (journal.clone(), gate.clone()));
        noted(&journal).await;
        let behind = pool.apply_async(length, bytes::Bytes::from_static(b"four"));
        // SAFETY: on this thread nobody holds a lock that dropping handles needs.
        let copy = match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                // Nor is anything of it sent to a worker of the original's.
                let more = pool.apply_async(length, bytes::Bytes::from_static(b"more"));
                let refused = more.is_finished();
                let mut terminating = std::pin::pin!(pool.terminate());
                let waker = std::task::Waker::noop();
                let _ = terminating.as_mut().poll(&mut std::task::Context::from_waker(waker));
                drop((running, behind, more));
                // SAFETY: nothing of the original's is to be cleaned up here.
                unsafe { nix::libc::_exit(i32::from(!refused)) }
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        let ended = nix::sys::wait::waitpid(copy, None).unwrap();
        assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(copy, 0));
        open(&gate);
        within(LIMIT, running).await.unwrap();
        assert_eq!(within(LIMIT, behind).await.unwrap(), 4);
        assert_eq!(pool.stats().workers_started, 1);
    });
}

/// Its frames were once answered to the original.
#[test]
fn a_forked_copy_of_the_program_asks_nothing_of_the_originals_workers() {
    checked_current_thread(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        assert_eq!(pool.apply(length, bytes::Bytes::from_static(b"four")).await.unwrap(), 4);
        // SAFETY: on this thread nobody holds a lock that a call needs.
        let copy = match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                let call = pool.apply_async(length, bytes::Bytes::from_static(b"another"));
                // SAFETY: nothing of the original's is to be cleaned up here.
                unsafe { nix::libc::_exit(i32::from(!call.is_finished())) }
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        let ended = nix::sys::wait::waitpid(copy, None).unwrap();
        assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(copy, 0));
        for n in 0..20 {
            let bytes = bytes::Bytes::from(vec![0; n]);
            assert_eq!(within(LIMIT, pool.apply(length, bytes)).await.unwrap(), n);
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

/// Other threads, which are not in the copy, had any lock at that moment.
#[test]
fn a_copy_of_a_program_that_makes_calls_waits_for_nobody_who_is_not_there() {
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let caller = {
            let (pool, is_over) = (pool.clone(), std::sync::Arc::clone(&is_over));
            std::thread::spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
                    let calls = (0..500).map(|_| pool.apply_async(|n: u32| n, 1));
                    drop(calls.collect::<Vec<_>>());
                }
            })
        };
        for _ in 0..200 {
            // SAFETY: the copy makes calls, which are refused without a lock, and ends.
            let copy = match unsafe { nix::unistd::fork() }.unwrap() {
                nix::unistd::ForkResult::Child => {
                    // SAFETY: sets a timer, which ends a copy that waits.
                    unsafe { nix::libc::alarm(30) };
                    let call = pool.apply_async(|n: u32| n, 1);
                    let long = pool.apply_async(length, bytes::Bytes::from_static(b"four"));
                    let is_refused = call.is_finished()
                        && long.is_finished()
                        && pool.try_apply(|n: u32| n, 1).is_err();
                    // SAFETY: nothing of the original's is to be cleaned up here.
                    unsafe { nix::libc::_exit(i32::from(!is_refused)) }
                }
                nix::unistd::ForkResult::Parent { child } => child,
            };
            let ended = nix::sys::wait::waitpid(copy, None).unwrap();
            assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(copy, 0));
        }
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        caller.join().unwrap();
        pool.terminate().await;
    });
}

/// Notes that it was woken, and panics then if it is that kind.
struct Woken {
    is_woken: std::sync::atomic::AtomicBool,
    panics: bool,
}

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.is_woken.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(!self.panics, "a waker's bug, on purpose");
    }
}

#[test]
fn a_waker_that_panics_keeps_no_other_from_being_woken() {
    checked_current_thread(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let scratch = Scratch::new();
        let busy = pool.apply_async(held, (scratch.path("journal"), scratch.path("gate")));
        noted(&scratch.path("journal")).await;
        let woken = |panics| std::sync::Arc::new(Woken { is_woken: false.into(), panics });
        let (bad, good) = (woken(true), woken(false));
        let mut map = Box::pin(pool.map(length, [bytes::Bytes::new()]).chunk_size(1));
        let waker = std::task::Waker::from(good.clone());
        assert!(map.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        let mut other = Box::pin(pool.apply_async(length, bytes::Bytes::new()));
        let waker = std::task::Waker::from(bad.clone());
        assert!(other.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        let terminating = std::panic::AssertUnwindSafe(async { pool.terminate().await });
        // It may continue here, or in the driver.
        let _ = futures::FutureExt::catch_unwind(terminating).await;
        let _ = busy.await;
        pool.terminate().await;
        assert!(bad.is_woken.load(std::sync::atomic::Ordering::SeqCst));
        assert!(good.is_woken.load(std::sync::atomic::Ordering::SeqCst));
    });
}

/// As it is for programs that write to pipes and want to end quietly. A worker
/// that died while it was written to was once the end of such a program.
#[test]
fn a_program_that_dies_of_broken_pipes_does_not_die_of_a_workers() {
    checked(async {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: nothing here runs in a handler.
        let before = unsafe { sigaction(Signal::SIGPIPE, &default) }.unwrap();
        let pool = Pool::builder().workers(1).build().unwrap();
        for _ in 0..20 {
            let id = pool.apply(pid, ()).await.unwrap() as i32;
            // It does not read any more.
            kill(Pid::from_raw(id), Signal::SIGSTOP).unwrap();
            let large = pool.apply_async(length, bytes::Bytes::from(vec![0; 8 << 20]));
            tokio::task::yield_now().await;
            kill(Pid::from_raw(id), Signal::SIGKILL).unwrap();
            assert_eq!(within(LIMIT, large).await.unwrap(), 8 << 20);
        }
        // SAFETY: as above.
        unsafe { sigaction(Signal::SIGPIPE, &before) }.unwrap();
    });
}
