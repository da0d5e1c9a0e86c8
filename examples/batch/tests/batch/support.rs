//! A folder of images, a folder for thumbnails, and the program between them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

/// Far beyond anything that is waited for; only a hang takes this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Batch {
    folder: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let batch = Batch { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(batch.source("")).unwrap();
        batch
    }

    pub(crate) fn source(&self, name: &str) -> PathBuf {
        self.folder.path().join("source").join(name)
    }

    pub(crate) fn target(&self, name: &str) -> PathBuf {
        self.folder.path().join("target").join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_procession-batch"));
        command.arg(self.source("")).arg(self.target("")).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.start(arguments))
    }

    /// Each thumbnail, and when it was made.
    pub(crate) fn times(&self) -> Vec<(PathBuf, SystemTime)> {
        let mut found = Vec::new();
        collect(&self.target(""), &mut found);
        found.sort();
        found
    }

    /// That nothing half-made is left.
    pub(crate) fn assert_whole(&self) {
        let times = self.times();
        let is_part = |path: &Path| path.extension().is_some_and(|it| it == "part");
        let parts: Vec<_> = times.iter().filter(|(path, _)| is_part(path)).collect();
        assert!(parts.is_empty(), "{parts:?}");
        for (path, _) in times {
            image::open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
    }
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, SystemTime)>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), found);
        } else if entry.file_name() != ".batch" {
            match entry.metadata() {
                Ok(metadata) => found.push((entry.path(), metadata.modified().unwrap())),
                // It got its final name since it was listed.
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
    }
}

pub(crate) fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn picture(path: &Path, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_fn(width, height, |x, y| {
        let noise = x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503);
        image::Rgb([x as u8, y as u8, (noise >> 8) as u8])
    })
    .save(path)
    .unwrap();
}

#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes whose parent `pid` is.
pub(crate) fn children_of(pid: u32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether there is such a process, not counting zombies.
pub(crate) fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}
