//! Whose descriptors workers and what they start come to have: nobody holds
//! what ties another worker to the parent, or its life would hang on two.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, id};

use futures::future::join_all;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use procession::Pool;

use crate::support::checked;

/// What the descriptors in this folder stand for.
fn open_in(folder: &str) -> Vec<String> {
    let all = fs::read_dir(folder).unwrap().flatten();
    let all = all.filter_map(|entry| fs::read_link(entry.path()).ok());
    // The folder itself is open while it is read.
    all.map(|target| target.display().to_string()).filter(|it| !it.contains("/fd")).collect()
}

/// Sockets, pidfds, pages: what is not a file's, a pipe's or a terminal's.
fn ties(open: Vec<String>) -> BTreeSet<String> {
    let is_tie = |it: &String| ["socket:", "anon_inode:", "memfd"].iter().any(|k| it.contains(k));
    open.into_iter().filter(is_tie).collect()
}

fn own() -> Vec<String> {
    open_in("/proc/self/fd")
}

/// Of a process that has our descriptors and has not become a program.
fn of_a_fork() -> Vec<String> {
    // SAFETY: the child calls nothing but the kernel.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => loop {
            // SAFETY: it returns for signals only.
            unsafe { libc::pause() };
        },
        ForkResult::Parent { child } => {
            let open = open_in(&format!("/proc/{child}/fd"));
            kill(child, Signal::SIGKILL).unwrap();
            waitpid(child, None).unwrap();
            open
        }
    }
}

fn of_a_program() -> String {
    let ls = Command::new("ls").arg("/proc/self/fd").output().unwrap();
    String::from_utf8(ls.stdout).unwrap().replace('\n', " ")
}

/// Of the thread that watches over the parent, which has its own.
fn of_the_lifeline() -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", id())).unwrap().flatten();
    let is_lifeline = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|it| it.starts_with("procession-life"))
    };
    let lifeline = threads.map(|entry| entry.path()).find(is_lifeline).unwrap();
    open_in(lifeline.join("fd").to_str().unwrap())
}

#[test]
fn nobody_has_descriptors_of_another_worker_or_of_the_parent() {
    checked(async {
        let pools: Vec<_> = (0..3)
            .map(|_| Pool::builder().workers(2).max_tasks_per_worker(1).build().unwrap())
            .collect();
        join_all(pools.iter().map(Pool::ready)).await.into_iter().for_each(Result::unwrap);
        let ours = ties(own());
        assert!(ours.len() > 12, "a socket and a leash for each worker: {ours:?}");
        let mut seen = BTreeSet::new();
        for pool in &pools {
            let theirs = ties(pool.apply(own, ()).await.unwrap());
            assert_eq!(theirs.len(), 1, "its socket: {theirs:?}");
            let forked = ties(pool.apply(of_a_fork, ()).await.unwrap());
            assert_eq!(forked.len(), 1, "the worker's socket: {forked:?}");
            // Whoever started the tests may have left some open for us. Files among them
            // are workers', too, where the kernel has no `kcmp`.
            let (listed, known) = (pool.apply(of_a_program, ()).await.unwrap(), of_a_program());
            assert!(listed.split(' ').all(|one| known.split(' ').any(|other| one == other)));
            let lifeline = pool.apply(of_the_lifeline, ()).await.unwrap();
            assert_eq!(lifeline.len(), 3, "socket, leash and pidfd: {lifeline:?}");
            for tie in theirs.iter().chain(&forked).filter(|it| it.starts_with("socket:")) {
                assert!(!ours.contains(tie), "the parent's end: {tie}");
                assert!(seen.insert(tie.clone()), "two workers have {tie}");
            }
        }
    });
}
