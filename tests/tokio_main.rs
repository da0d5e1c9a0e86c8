//! `init` as the first line inside `#[tokio::main]`, in a program with a `main`
//! of its own: what runs in the worker is its tasks, and nothing behind `init`.
//!
//! No test harness, so it answers nextest's questions itself.

use procession::{Pool, Process, StartMethod};

const NAME: &str = "init_within_tokio_main";

async fn later(n: u64) -> u64 {
    tokio::task::yield_now().await;
    n + 1
}

#[tokio::main]
async fn main() {
    procession::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        if !args.iter().any(|arg| arg == "--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    // Calling it again has no effect.
    procession::init();
    let note = std::env::temp_dir().join(format!("procession-main-{}", std::process::id()));
    let path = note.to_str().unwrap().to_owned();
    let pool = Pool::builder().workers(2).env("PROCESSION_TEST_NOTE", &path).build().unwrap();
    if let Ok(path) = std::env::var("PROCESSION_TEST_NOTE") {
        std::fs::write(path, "main went on in a worker").unwrap();
    }
    assert_eq!(pool.apply(|n: u64| n * n, 3).await.unwrap(), 9);
    // Sync and async, though the thread that called `init` is in a runtime.
    assert_eq!(pool.map(later, 0..4).await.unwrap(), [1, 2, 3, 4]);
    let error = pool.apply(|| -> () { panic!("on purpose") }, ()).await.unwrap_err();
    assert!(error.is_panic());
    let error = pool.apply(|| -> () { std::process::exit(3) }, ()).await.unwrap_err();
    assert_eq!(error.exit().unwrap().code(), Some(3));
    let nested = async || Pool::new().unwrap().apply(later, 1).await.unwrap();
    assert_eq!(pool.apply(nested, ()).await.unwrap(), 2);
    pool.close();
    pool.join().await;
    // A program that has threads when it comes to `init` cannot be copied, and says so.
    let forked = Process::builder().start_method(StartMethod::ForkServer).spawn(later, 1);
    let error = forked.unwrap_err().to_string();
    assert!(error.contains("`#[tokio::main]`") && error.contains("StartMethod::Spawn"), "{error}");
    assert!(!note.exists());
    println!("test {NAME} ... ok");
}
