//! Thumbnails of a folder of images, made in worker processes: one that cannot be
//! decoded, takes all memory or crashes its decoder is one line of the output.
//!
//! ```console
//! $ cargo run --release --manifest-path examples/batch/Cargo.toml -- PICTURES THUMBNAILS
//! 248 thumbnails made, 2 failed, 0 were there, in … s
//! ```
//!
//! Ctrl-C stops it in good order; started again, it does what is left.

mod done;
mod progress;
mod thumbnail;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

use clap::{Parser, ValueEnum};
use futures::StreamExt;
use procession::{Pool, Resource, Sandbox, Stdio, TaskError};
use tokio::signal::unix::{SignalKind, signal};

use crate::done::Done;
use crate::progress::Progress;
use crate::thumbnail::{Job, partial, thumbnail};

/// Makes thumbnails of all images below a folder.
#[derive(Debug, Parser)]
#[command(name = "batch", version, max_term_width = 80)]
struct Args {
    /// Where the images are: .bmp, .gif, .jpeg, .jpg, .png, .webp
    source: PathBuf,
    /// Where the thumbnails go, under the same names with .png appended
    target: PathBuf,
    /// Images at a time [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Longest side of a thumbnail, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// What to do about an image of which there can be none
    #[arg(long, value_enum, default_value_t = OnError::Skip)]
    on_error: OnError,
    /// Memory for each image, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    memory: u64,
    /// Seconds for each image
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    timeout: u64,
    /// Where it is written down what is done [default: .batch in TARGET]
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum OnError {
    /// Say so, and go on
    Skip,
    /// Say so, and stop
    Stop,
}

/// How it ended.
enum End {
    Finished,
    /// At an image that failed.
    Stopped,
    /// By Ctrl-C, or SIGTERM.
    Interrupted,
}

fn main() -> ExitCode {
    procession::init(); // a worker starts its work here and never returns
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain("no runtime", &error),
    };
    match runtime.block_on(run(&args)) {
        Ok(code) => code,
        Err(error) => complain("cannot go on", &*error),
    }
}

fn complain(what: &str, error: &dyn std::error::Error) -> ExitCode {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    eprintln!("batch: {what}: {error}{cause}");
    ExitCode::from(2)
}

async fn run(args: &Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // From here on an interruption is an end in good order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let began = Instant::now();
    let named = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let source = fs::canonicalize(&args.source).map_err(|e| named(&args.source, e))?;
    fs::create_dir_all(&args.target).map_err(|e| named(&args.target, e))?;
    let target = fs::canonicalize(&args.target)?;

    let resume = args.resume.clone().unwrap_or_else(|| target.join(".batch"));
    let mut done = Done::open(&resume, args.size)?;
    let mut images = Vec::new();
    list(&source, Path::new(""), &target, &mut images).map_err(|e| named(&source, e))?;
    images.sort();
    let all = images.len();
    images.retain(|image| !done.has(image, &target));
    let before = all - images.len();

    let progress = Progress::new(all as u64, before as u64);
    let (mut made, mut failed) = (0, 0);
    let end = {
        let pool = pool(args, &source, &target)?;
        let jobs = images.iter().map(|image| Job {
            image: source.join(image),
            thumbnail: thumbnail_of(&target, image),
            size: args.size,
        });
        let jobs: Vec<Job> = jobs.collect();
        let parts: Vec<PathBuf> = jobs.iter().map(|job| partial(&job.thumbnail)).collect();
        // One image a call: the next is not to wait for it, nor to end with it.
        let mut results = pool.imap_unordered(thumbnail, jobs).chunk_size(1).indexed();
        let end = loop {
            let next = tokio::select! {
                biased;
                _ = interrupt.recv() => break End::Interrupted,
                _ = terminate.recv() => break End::Interrupted,
                next = results.next() => next,
            };
            let Some((index, result)) = next else { break End::Finished };
            let image = &images[index];
            match result.map_err(|error| reason(&error)).and_then(|made| made) {
                Ok(()) => {
                    done.note(image)?;
                    made += 1;
                }
                Err(reason) => {
                    failed += 1;
                    let _ = fs::remove_file(&parts[index]);
                    // Some decoders' reasons have several lines.
                    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
                    progress.complain(&format!("batch: {}: {reason}", image.display()));
                    if args.on_error == OnError::Stop {
                        break End::Stopped;
                    }
                }
            }
            progress.set(made + failed, failed);
        };
        // What runs is stopped; the rest was never begun.
        drop(results);
        pool.terminate().await;
        if !matches!(end, End::Finished) {
            for part in parts {
                let _ = fs::remove_file(part);
            }
        }
        end
    };
    progress.finish();

    let seconds = began.elapsed().as_secs_f64();
    println!("{made} thumbnails made, {failed} failed, {before} were there, in {seconds:.1} s");
    let left = all as u64 - before as u64 - made;
    Ok(match end {
        End::Interrupted => {
            eprintln!("batch: stopped with {left} left; the same command does the rest");
            ExitCode::from(130)
        }
        End::Stopped => {
            eprintln!("batch: stopped at the first that failed, with {left} left");
            ExitCode::FAILURE
        }
        End::Finished if failed > 0 => ExitCode::FAILURE,
        End::Finished => ExitCode::SUCCESS,
    })
}

/// Workers that may read the images and write the thumbnails, and nothing else.
fn pool(args: &Args, source: &Path, target: &Path) -> Result<Pool, procession::SpawnError> {
    let memory = args.memory << 20;
    let mut pool = Pool::builder()
        .name("thumbnails")
        .memory_limit(memory)
        // Above it, for one that asks for everything at once.
        .rlimits([(Resource::AddressSpace, memory * 4 + (4 << 30)), (Resource::CoreFile, 0)])
        .task_timeout(Duration::from_secs(args.timeout))
        .grace_period(Duration::from_millis(500))
        .sandbox(Sandbox::computing().read(source).write(target).best_effort())
        .nice(5)
        // A decoder that crashes says so in the error, not across the bar.
        .stderr(Stdio::piped());
    if let Some(jobs) = args.jobs {
        pool = pool.workers(jobs.into());
    }
    pool.build()
}

/// Why there is no thumbnail, for people.
fn reason(error: &TaskError) -> String {
    match error {
        TaskError::WorkerLost { memory: Some(memory), .. } => format!("its decoder was {memory}"),
        TaskError::WorkerLost { exit, .. } if exit.signal().is_some() => {
            format!("its decoder was {exit}")
        }
        TaskError::WorkerLost { exit, .. } => format!("its decoder {exit}"),
        TaskError::TimedOut { after, .. } => format!("not done after {after:?}"),
        error => error.to_string(),
    }
}

/// The images below `source`, by their paths from there on. Links are not
/// followed, and the thumbnails are not images.
fn list(source: &Path, below: &Path, target: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(source.join(below))? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, below.join(entry.file_name()));
        if kind.is_dir() && entry.path() != target {
            list(source, &path, target, found)?;
        } else if kind.is_file() && is_image(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let known = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];
    extension.is_some_and(|extension| known.contains(&extension.as_str()))
}

/// `a/b.jpg` has its own in `a/b.jpg.png`: `a/b.png` may be another image.
fn thumbnail_of(target: &Path, image: &Path) -> PathBuf {
    let mut path = target.join(image).into_os_string();
    path.push(".png");
    path.into()
}
