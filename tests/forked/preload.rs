//! What is preloaded is there in each process, and was loaded once.

use std::sync::OnceLock;

use nix::sys::signal::{SigHandler, Signal, signal};
use procession::process::{current, fork_server};
use procession::{Pool, Process, StartMethod};

use crate::checked;
use crate::support::{Scratch, note, notes};

static MODEL: OnceLock<Vec<u64>> = OnceLock::new();

fn load(len: u64, journal: String) {
    note(journal, current().name());
    MODEL.set((0..len).collect()).unwrap();
}

fn look_up(n: usize) -> Option<u64> {
    MODEL.get().map(|model| model[n])
}

/// A test in a process of its own, which has a fork server of its own.
pub(crate) async fn apart<F, Args, M>(f: F, args: Args)
where
    F: procession::TaskFn<Args, M, Output = ()>,
    Args: serde::Serialize + serde::de::DeserializeOwned,
{
    let process = Process::builder().start_method(StartMethod::Spawn);
    process.spawn(f, args).unwrap().await.unwrap();
}

pub(crate) fn forked() -> procession::ProcessBuilder {
    Process::builder().start_method(StartMethod::ForkServer)
}

#[test]
fn it_is_loaded_once_for_all() {
    async fn test(journal: String) {
        assert_eq!(fork_server().pid(), None);
        fork_server().preload(load, (1_000_000, journal.clone())).unwrap();
        for n in [3, 999_999] {
            let found = forked().spawn(look_up, n).unwrap().await.unwrap();
            assert_eq!(found, Some(n as u64));
        }
        let pool = Pool::builder().workers(3).start_method(StartMethod::ForkServer);
        let pool = pool.build().unwrap();
        assert_eq!(pool.map(look_up, 0..4).await.unwrap(), [0, 1, 2, 3].map(Some));
        assert_eq!(notes(&journal), ["fork server"]);
        // This process and those that it spawns have none of it.
        assert_eq!(look_up(0), None);
        let spawned = Process::builder().start_method(StartMethod::Spawn);
        assert_eq!(spawned.spawn(look_up, 0).unwrap().await.unwrap(), None);
        // One that was started anew loads it anew.
        let before = fork_server().pid().unwrap();
        fork_server().stop();
        assert_eq!(forked().spawn(look_up, 5).unwrap().await.unwrap(), Some(5));
        assert_ne!(fork_server().pid().unwrap(), before);
        assert_eq!(notes(&journal).len(), 2);
        // What its workers had goes on without it.
        assert_eq!(pool.apply(look_up, 7).await.unwrap(), Some(7));
    }
    checked(async {
        let scratch = Scratch::new();
        apart(test, scratch.path("journal")).await;
    });
}

#[test]
fn each_process_has_its_own_copy() {
    static COUNT: std::sync::Mutex<u64> = std::sync::Mutex::new(0);
    fn count() -> u64 {
        let mut count = COUNT.lock().unwrap();
        *count += 1;
        *count
    }
    async fn test() {
        fork_server().preload(count, ()).unwrap();
        for _ in 0..3 {
            assert_eq!(forked().spawn(count, ()).unwrap().await.unwrap(), 2);
        }
    }
    checked(apart(test, ()));
}

/// As those that are spawned have not what their parent does.
#[test]
fn what_it_does_to_signals_is_not_its_processes() {
    fn ignore_and_handle() {
        extern "C" fn nothing(_: i32) {}
        // SAFETY: neither runs anything that could do harm.
        unsafe {
            signal(Signal::SIGUSR1, SigHandler::SigIgn).unwrap();
            signal(Signal::SIGTERM, SigHandler::Handler(nothing)).unwrap();
        }
    }
    async fn test() {
        fork_server().preload(ignore_and_handle, ()).unwrap();
        for signal in [Signal::SIGUSR1, Signal::SIGTERM] {
            let raise = |number: i32| {
                nix::sys::signal::raise(Signal::try_from(number).unwrap()).unwrap();
            };
            let process = forked().spawn(raise, signal as i32).unwrap();
            assert_eq!(process.join().await.signal(), Some(signal as i32));
        }
    }
    checked(apart(test, ()));
}

#[test]
fn it_comes_before_the_server() {
    async fn test() {
        forked().spawn(|| (), ()).unwrap().await.unwrap();
        let error = fork_server().preload(|| (), ()).unwrap_err();
        assert_eq!(error.to_string(), "preload: the fork server is there already");
        fork_server().stop();
        fork_server().preload(|| (), ()).unwrap();
    }
    checked(apart(test, ()));
}

#[test]
fn a_panic_while_loading_is_an_error_of_the_start() {
    async fn test() {
        fork_server().preload(|| -> u8 { panic!("no such model") }, ()).unwrap();
        for _ in 0..2 {
            let error = forked().spawn(|| (), ()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("panicked at tests/forked/preload.rs"), "{text}");
            assert!(text.contains("no such model"), "{text}");
        }
        fork_server().preload(|| (), ()).unwrap();
        forked().spawn(|| (), ()).unwrap().await.unwrap();
    }
    checked(apart(test, ()));
}

#[test]
fn a_thread_that_is_left_behind_is_an_error_that_says_so() {
    fn leaves_a_thread() {
        std::thread::spawn(std::thread::park);
    }
    async fn test() {
        fork_server().preload(leaves_a_thread, ()).unwrap();
        let error = forked().spawn(|| (), ()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("threads beside its own"), "{text}");
        assert!(text.contains("StartMethod::Spawn"), "{text}");
    }
    checked(apart(test, ()));
}

/// What the server is told of its own memory is no business of others.
#[test]
fn the_environment_is_ours_all_the_same() {
    let tunables = || std::env::var("GLIBC_TUNABLES").ok();
    async fn test() {
        let tunables = || std::env::var("GLIBC_TUNABLES").ok();
        fork_server().preload(|| (), ()).unwrap();
        assert_eq!(forked().spawn(tunables, ()).unwrap().await.unwrap(), tunables());
    }
    checked(async move {
        apart(test, ()).await;
        assert_eq!(forked().spawn(tunables, ()).unwrap().await.unwrap(), tunables());
    });
}

/// It runs as a task does: an async function has a runtime.
#[test]
fn an_async_function_can_load() {
    async fn load_later() {
        tokio::task::yield_now().await;
        MODEL.set(vec![5]).unwrap();
    }
    async fn test() {
        fork_server().preload(load_later, ()).unwrap();
        assert_eq!(forked().spawn(look_up, 0).unwrap().await.unwrap(), Some(5));
        async fn looks_up_later() -> Option<u64> {
            tokio::task::yield_now().await;
            look_up(0)
        }
        assert_eq!(forked().spawn(looks_up_later, ()).unwrap().await.unwrap(), Some(5));
    }
    checked(apart(test, ()));
}
