//! What this process holds: descriptors, threads, children, memory. All of it
//! has to be back where it was when the pools are gone.

use std::fs;
use std::process;

/// The environment of every worker has this, so that what workers have started
/// is found too, whoever its parent is by now.
pub(crate) const MARK: &str = "PROCESSION_CHAOS";

#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Children, zombies included.
    pub(crate) children: usize,
    /// Workers and their children, whoever their parent is.
    pub(crate) marked: Vec<String>,
    pub(crate) resident_kib: u64,
}

impl Vitals {
    pub(crate) fn now() -> Self {
        Vitals {
            // One is the listing's own.
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) - 1,
            threads: fs::read_dir("/proc/self/task").map_or(0, Iterator::count),
            children: children(),
            marked: marked(),
            resident_kib: resident_kib(),
        }
    }

    /// Whether no process is left, and no more of anything else than before.
    pub(crate) fn is_within(&self, before: &Vitals) -> bool {
        self.children == 0
            && self.marked.is_empty()
            && self.descriptors <= before.descriptors
            && self.threads <= before.threads
    }
}

fn children() -> usize {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count()).sum()
}

/// Processes that have our mark in their environment, with what they run.
fn marked() -> Vec<String> {
    let mark = format!("{MARK}={}", process::id());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found = Vec::new();
    for process in processes {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes()) {
            let pid = process.file_name();
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("{} {command}", pid.to_string_lossy()));
        }
    }
    found
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
