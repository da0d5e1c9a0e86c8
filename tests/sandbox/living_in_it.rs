use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use procession::{Pool, Sandbox, SharedBytes, worker};

use crate::support::{LIMIT, Scratch, checked, is_alive, note, noted, until, within};
use crate::{is_possible, pool_in};

fn square(n: u64) -> u64 {
    n * n
}

async fn timers_and_channels(n: u64) -> u64 {
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        tell.send(n).unwrap();
    });
    let blocking = tokio::task::spawn_blocking(move || n + 1).await.unwrap();
    told.await.unwrap() + blocking
}

fn threads(n: u64) -> u64 {
    let threads: Vec<_> = (0..8)
        .map(|i| std::thread::Builder::new().name(format!("thread-{i}")).spawn(move || n + i))
        .collect();
    threads.into_iter().map(|thread| thread.unwrap().join().unwrap()).sum()
}

fn shared(len: usize) -> SharedBytes {
    SharedBytes::copy_from_slice(&vec![7; len]).unwrap()
}

fn doubled(bytes: Bytes) -> Bytes {
    bytes.repeat(2).into()
}

fn items(n: u64) -> impl Iterator<Item = u64> {
    0..n
}

fn panics() {
    panic!("of no consequence");
}

fn overflows(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { overflows(std::hint::black_box(depth + 1)) + here[7] }
}

/// The whole of what a pool does, in the strictest of sandboxes.
#[test]
fn everything_works() {
    checked(async {
        if !is_possible().await {
            return;
        }
        let open = Sandbox::computing().write("/").network();
        for sandbox in [Sandbox::computing(), open.clone(), open.any_syscall()] {
            let pool = pool_in(sandbox);
            assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
            assert_eq!(pool.map(square, 0..5000).await.unwrap().len(), 5000);
            assert_eq!(pool.imap(square, 0..100).count().await, 100);
            assert_eq!(pool.stream(items, 1000).count().await, 1000);
            assert_eq!(pool.apply(timers_and_channels, 3).await.unwrap(), 7);
            assert_eq!(pool.apply(threads, 1).await.unwrap(), 36);
            assert_eq!(pool.apply(shared, 1 << 20).await.unwrap().len(), 1 << 20);
            let big = Bytes::from(vec![1; 3 << 20]);
            assert_eq!(pool.apply(doubled, big).await.unwrap().len(), 6 << 20);
            let error = pool.apply(panics, ()).await.unwrap_err();
            assert!(error.is_panic() && error.to_string().ends_with(": of no consequence"));
            assert_eq!(pool.stats().workers_started, 1, "all of that in one");
            let error = pool.apply(|| -> () { std::process::abort() }, ()).await.unwrap_err();
            assert_eq!(error.exit().unwrap().signal(), Some(6));
            let error = pool.apply(overflows, 0).await.unwrap_err();
            assert!(error.is_worker_lost(), "{error}");
            pool.close();
            pool.join().await;
            assert_eq!(pool.stats().workers_lost, 2);
        }
    });
}

#[test]
fn tasks_are_cancelled_timed_out_and_limited_as_outside() {
    fn never() {
        loop {
            std::thread::park();
        }
    }
    fn politely() -> bool {
        while !worker::is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
    async fn when_cancelled() {
        worker::cancelled().await;
    }
    fn gobbles() -> usize {
        (0..1 << 20).map(|_| std::hint::black_box(vec![1_u8; 1 << 20])).collect::<Vec<_>>().len()
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let pool = Pool::builder()
            .workers(1)
            .memory_limit(128 << 20)
            .sandbox(Sandbox::computing())
            .build()
            .unwrap();
        let error = pool.apply(never, ()).timeout(Duration::from_millis(50)).await.unwrap_err();
        assert!(error.is_timeout() && error.exit().unwrap().signal() == Some(15), "{error}");
        // Long enough to begin to watch.
        let short = Duration::from_millis(500);
        let error = pool.apply(politely, ()).timeout(short).await.unwrap_err();
        assert!(error.is_timeout() && error.exit().is_none(), "{error}");
        let error = pool.apply(when_cancelled, ()).timeout(short).await.unwrap_err();
        assert!(error.is_timeout() && error.exit().is_none(), "{error}");
        assert_eq!(pool.stats().workers_started, 2, "the one that was stopped, and its successor");
        let error = pool.apply(gobbles, ()).await.unwrap_err();
        assert!(error.memory_exceeded().is_some(), "{error}");
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

/// What it opens stays open.
#[test]
fn an_initializer_comes_before_the_door_is_shut() {
    use std::sync::OnceLock;
    static MODEL: OnceLock<String> = OnceLock::new();
    fn loads(path: String) {
        MODEL.set(fs::read_to_string(path).unwrap()).unwrap();
    }
    fn uses(path: String) -> (String, bool) {
        (MODEL.get().unwrap().clone(), fs::read(path).is_ok())
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let scratch = Scratch::new();
        let path = scratch.path("model");
        fs::write(&path, "small").unwrap();
        let pool = Pool::builder().workers(1).initializer(loads, path.clone());
        let pool = pool.sandbox(Sandbox::computing()).build().unwrap();
        assert_eq!(pool.apply(uses, path).await.unwrap(), ("small".into(), false));
    });
}

#[test]
fn output_goes_where_it_went() {
    fn says() {
        eprintln!("still here");
        std::process::exit(3);
    }
    checked(async {
        if is_possible().await {
            let pool = Pool::builder().workers(1).stderr(procession::Stdio::piped());
            let pool = pool.sandbox(Sandbox::computing()).build().unwrap();
            let error = pool.apply(says, ()).await.unwrap_err();
            assert!(error.to_string().ends_with("its last output: still here"), "{error}");
        }
    });
}

/// What is below is a process of its own: its workers are not to outlive it.
#[test]
fn a_worker_ends_with_its_parent() {
    const JOURNAL: &str = "PROCESSION_SANDBOX_JOURNAL";
    const NAME: &str = "living_in_it::a_worker_ends_with_its_parent";
    fn busy() {
        loop {
            std::hint::spin_loop();
        }
    }
    if let Ok(journal) = std::env::var(JOURNAL) {
        checked(async {
            let pool = pool_in(Sandbox::computing());
            pool.ready().await.unwrap();
            let busy = pool.apply_async(busy, ());
            until("it runs", || pool.status().running == 1).await;
            note(journal, &pool.workers()[0].pid.unwrap().to_string());
            let _ = busy.await;
        });
        return;
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let scratch = Scratch::new();
        let journal = scratch.path("journal");
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact"])
            .env(JOURNAL, &journal)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        within(LIMIT, noted(&journal)).await;
        let pid: i32 = fs::read_to_string(&journal).unwrap().trim().parse().unwrap();
        assert!(is_alive(pid));
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("it is gone", || !is_alive(pid)).await;
        std::io::stderr().flush().unwrap();
    });
}
