//! Hashes every file below a folder in a pool of worker processes.
//!
//! ```text
//! $ cargo run --release --example sha256sum -- src
//! 5ac6…  src/error.rs
//! …
//! $ cargo run --release --example sha256sum > /tmp/sums && sha256sum --quiet --check /tmp/sums
//! ```
//!
//! Takes one folder, or none for the current one: this repository, when started
//! by cargo from there, with all that is below it: `.git` and `target` too.
//! Lines come sorted by the bytes of their paths, in the format of coreutils.
//!
//! Files are what `find -type f` finds. Symbolic links are not followed (but
//! the argument may be one), so there are no loops; how many links and other
//! special files were left out is said on stderr, as is every file and folder
//! that cannot be read. The file that the output goes to is left out as well.
//!
//! The exit code is 0, or 1 if something could not be read, 2 for wrong usage,
//! 130 after Ctrl-C or SIGTERM, and 141 if nobody reads the output any more.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use procession::{Pool, TaskError};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};

/// The task. Paths travel as bytes: they need not be UTF-8.
fn hash(path: Bytes) -> Result<[u8; 32], String> {
    let digest = || -> io::Result<[u8; 32]> {
        let mut file = File::open(OsStr::from_bytes(&path))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finalize().into()),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    };
    digest().map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    procession::init();
    let mut args = std::env::args_os().skip(1);
    let folder = args.next().unwrap_or_else(|| ".".into());
    if args.next().is_some() || folder.as_bytes().starts_with(b"-") {
        eprintln!("usage: sha256sum [FOLDER]");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let code = runtime.block_on(run(folder.into())).unwrap_or_else(|error| fail(&*error));
    // A thread may still be listing files; nobody waits for it.
    runtime.shutdown_background();
    code
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("sha256sum: {error}");
    ExitCode::FAILURE
}

async fn run(folder: PathBuf) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Before there is anything to stop.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A task that only reads has nothing to tidy up when it is stopped.
    let pool = Pool::builder().name("sha256sum").grace_period(Duration::ZERO).build()?;
    let progress = Progress::default();

    let outcome = tokio::select! {
        biased;
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        outcome = hash_all(&pool, folder, &progress) => Some(outcome),
    };
    pool.terminate().await;
    progress.bar.finish_and_clear();

    match outcome {
        Some(Ok(true)) => Ok(ExitCode::SUCCESS),
        Some(Ok(false)) => Ok(ExitCode::FAILURE),
        Some(Err(error)) if is_broken_pipe(&*error) => Ok(ExitCode::from(128 + 13)),
        Some(Err(error)) => Err(error),
        None => {
            let hashed = progress.hashed.load(Ordering::Relaxed);
            match progress.files.load(Ordering::Relaxed) {
                0 => eprintln!("sha256sum: stopped while listing the files"),
                files => eprintln!("sha256sum: stopped after {hashed} of {files} files"),
            }
            Ok(ExitCode::from(130))
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// How far it came. The bar shows itself on a terminal only.
struct Progress {
    bar: ProgressBar,
    files: AtomicUsize,
    hashed: AtomicUsize,
}

impl Default for Progress {
    fn default() -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {eta} left");
        let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
        Progress { bar, files: AtomicUsize::new(0), hashed: AtomicUsize::new(0) }
    }
}

impl Progress {
    /// Names something that could not be read.
    fn report(&self, path: &Path, problem: impl std::fmt::Display) {
        self.bar.suspend(|| eprintln!("sha256sum: {path:?}: {problem}"));
    }
}

/// Whether everything could be read.
async fn hash_all(
    pool: &Pool,
    folder: PathBuf,
    progress: &Progress,
) -> Result<bool, Box<dyn std::error::Error>> {
    let listing = tokio::task::spawn_blocking(|| list(folder)).await?;
    for (path, error) in &listing.unreadable {
        progress.report(path, error);
    }
    let mut all_read = listing.unreadable.is_empty();
    let files = &listing.files;
    progress.files.store(files.len(), Ordering::Relaxed);
    progress.bar.set_length(files.len() as u64);

    let mut stdout = tokio::io::stdout();
    // Results come as they finish, so that a large file holds nobody up. Lines
    // are printed in order: each waits for those before it.
    let inputs: Vec<Bytes> = files.iter().map(|path| path.clone().into_vec().into()).collect();
    let results = pool.imap_unordered(hash, inputs).indexed();
    let mut results = std::pin::pin!(results.ready_chunks(256));
    let mut early = BTreeMap::new();
    let mut next = 0;
    while let Some(finished) = results.next().await {
        progress.hashed.fetch_add(finished.len(), Ordering::Relaxed);
        progress.bar.inc(finished.len() as u64);
        for (index, result) in finished {
            if let Err(TaskError::Broken(error)) = result {
                return Err(error.into());
            }
            early.insert(index, result);
        }
        let mut lines = Vec::new();
        while let Some(result) = early.remove(&next) {
            let path = Path::new(&files[next]);
            match &result {
                Ok(Ok(digest)) => push_line(&mut lines, path, digest),
                Ok(Err(problem)) => progress.report(path, problem),
                Err(error) => progress.report(path, error),
            }
            all_read &= matches!(result, Ok(Ok(_)));
            next += 1;
        }
        if io::stdout().is_terminal() {
            progress.bar.suspend(|| io::Write::write_all(&mut io::stdout(), &lines))?;
        } else {
            // Whoever reads this may take their time: Ctrl-C works meanwhile.
            stdout.write_all(&lines).await?;
            stdout.flush().await?;
        }
    }
    if let Some(left_out) = listing.left_out() {
        progress.bar.suspend(|| eprintln!("sha256sum: left out: {left_out}"));
    }
    Ok(all_read)
}

/// One line as coreutils 9 writes it: a backslash in front says that the name
/// is escaped.
fn push_line(lines: &mut Vec<u8>, path: &Path, digest: &[u8; 32]) {
    let name = path.as_os_str().as_bytes();
    if name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        lines.push(b'\\');
    }
    for byte in digest {
        lines.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    lines.extend_from_slice(b"  ");
    for &byte in name {
        match byte {
            b'\\' => lines.extend_from_slice(b"\\\\"),
            b'\n' => lines.extend_from_slice(b"\\n"),
            b'\r' => lines.extend_from_slice(b"\\r"),
            _ => lines.push(byte),
        }
    }
    lines.push(b'\n');
}

/// What is below a folder.
#[derive(Default)]
struct Listing {
    /// Sorted.
    files: Vec<OsString>,
    unreadable: Vec<(PathBuf, io::Error)>,
    links: usize,
    special: usize,
    output: bool,
}

fn list(root: PathBuf) -> Listing {
    let mut listing = Listing::default();
    let output = fs::metadata("/proc/self/fd/1").ok().filter(fs::Metadata::is_file);
    let is_output = |entry: &fs::Metadata| {
        output.as_ref().is_some_and(|out| (out.dev(), out.ino()) == (entry.dev(), entry.ino()))
    };
    let mut folders = Vec::new();
    match fs::metadata(&root) {
        Ok(metadata) if metadata.is_dir() => folders.push(root),
        Ok(metadata) if metadata.is_file() => listing.files.push(root.into()),
        Ok(_) => listing.special += 1,
        Err(error) => listing.unreadable.push((root, error)),
    }
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                listing.unreadable.push((folder, error));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    listing.unreadable.push((folder.clone(), error));
                    continue;
                }
            };
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if metadata.is_symlink() => listing.links += 1,
                Ok(metadata) if !metadata.is_file() => listing.special += 1,
                Ok(metadata) if is_output(&metadata) => listing.output = true,
                Ok(_) => listing.files.push(entry.path().into()),
                Err(error) => listing.unreadable.push((entry.path(), error)),
            }
        }
    }
    listing.files.sort_unstable();
    listing
}

impl Listing {
    fn left_out(&self) -> Option<String> {
        let mut kinds = Vec::new();
        match self.links {
            0 => {}
            1 => kinds.push("1 symbolic link".to_string()),
            n => kinds.push(format!("{n} symbolic links")),
        }
        match self.special {
            0 => {}
            1 => kinds.push("1 special file".to_string()),
            n => kinds.push(format!("{n} special files")),
        }
        if self.output {
            kinds.push("the file that this output goes to".to_string());
        }
        (!kinds.is_empty()).then(|| kinds.join(", "))
    }
}
