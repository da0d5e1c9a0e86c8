//! What all test binaries share: a test's frame with its check for leftovers,
//! waiting with a limit, and things that tasks and tests tell each other by.

#![allow(dead_code, reason = "no test binary uses everything")]

pub(crate) mod one_thread;

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Far beyond anything a test takes, on a machine that has ten other things to do as
/// well; only a hang takes this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Runs one test on a runtime of its own, alone in this process, and checks
/// that it leaves nothing: no child, no zombie, no descriptor.
#[track_caller]
pub(crate) fn checked(test: impl Future<Output = ()>) {
    checked_on(Flavor::MultiThread, Box::pin(test));
}

/// The same on a current-thread runtime.
#[track_caller]
pub(crate) fn checked_current_thread(test: impl Future<Output = ()>) {
    checked_on(Flavor::CurrentThread, Box::pin(test));
}

pub(crate) enum Flavor {
    MultiThread,
    CurrentThread,
}

/// Takes all tests as one type: the runtimes are compiled once, not for each test.
#[track_caller]
fn checked_on(flavor: Flavor, test: Pin<Box<dyn Future<Output = ()> + '_>>) {
    alone(|| {
        let runtime = match flavor {
            Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            Flavor::CurrentThread => {
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
            }
        };
        runtime.block_on(within(LIMIT, test));
    });
}

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

/// Does what leaves something behind for good while no test looks.
pub(crate) fn for_good(act: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    act();
}

/// Runs a test that makes its own runtimes, with the same checks.
#[track_caller]
pub(crate) fn alone(test: impl FnOnce()) {
    alone_with(Box::new(test));
}

#[track_caller]
fn alone_with(test: Box<dyn FnOnce() + '_>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    warm_up();
    let before = Leftovers::now();
    test();
    let mut after = Leftovers::now();
    let deadline = Instant::now() + LIMIT;
    // Workers of a dropped pool are collected a moment later.
    while !after.is_within(&before) {
        if Instant::now() > deadline {
            panic!("the test leaves something behind: {after:?}, before: {before:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
        after = Leftovers::now();
    }
}

/// What a process keeps for good from its first pool: the warden and its starter.
fn warm_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = procession::Pool::builder().workers(1).build().unwrap();
            pool.terminate().await;
        });
    });
}

#[derive(Debug)]
struct Leftovers {
    children: BTreeSet<i32>,
    descriptors: Vec<String>,
}

impl Leftovers {
    fn now() -> Self {
        let mut descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .filter(|target| !target.contains("/proc/"))
            .collect();
        descriptors.sort();
        Leftovers { children: children(), descriptors }
    }

    fn is_within(&self, before: &Leftovers) -> bool {
        self.children.is_subset(&before.children)
            && self.descriptors.len() <= before.descriptors.len()
    }
}

/// Processes whose parent this process is, zombies included.
pub(crate) fn children() -> BTreeSet<i32> {
    children_of(std::process::id() as i32)
}

/// Processes whose parent `pid` is, zombies included.
pub(crate) fn children_of(pid: i32) -> BTreeSet<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
        })
        .collect()
}

/// Whether there is such a process, not counting zombies.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

/// A file of the calling thread's in `/proc`, as a task too. The thread's own: in a test
/// program a worker is not on the main thread.
pub(crate) fn proc_self(file: String) -> String {
    fs::read_to_string(format!("/proc/thread-self/{file}")).unwrap()
}

/// The value behind `name` in a text of lines such as `name:  value`.
pub(crate) fn line_of(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))[name.len()..].trim().to_owned()
}

/// Awaits `future`, which must not take longer than `limit`.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => {
            let children = children();
            panic!("nothing happened for {limit:?}; children: {children:?}");
        }
    }
}

/// Looks again and again until `condition` holds: for what the kernel does not
/// announce.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A folder of a test's own, gone with it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("procession-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                Ok(()) => return Scratch(path),
                // Left by a test that was killed, in a process of this number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("no folder {path:?}: {error}"),
            }
        }
    }

    /// A path in it, as a task's argument.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Adds a line to a file, in one write: what several processes add stays whole.
pub(crate) fn note(path: impl AsRef<Path>, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The lines that were noted.
pub(crate) fn notes(path: impl AsRef<Path>) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until something was noted.
pub(crate) async fn noted(path: &str) {
    until(&format!("a note in {path}"), || !notes(path).is_empty()).await;
}
