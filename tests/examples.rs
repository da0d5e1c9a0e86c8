//! Every example does and prints what its first lines say, and none hangs.
//!
//! A new file in `examples/` is run without being listed here. `sha256sum`,
//! `chaos` and the packages `batch` and `service` have tests of their own.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{LIMIT, Scratch, children_of, is_alive, within};

#[path = "support/mod.rs"]
mod support;

/// Where cargo puts examples: beside the folder of this test's program.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.parent().unwrap().with_file_name("examples").join(name);
    assert!(
        path.exists(),
        "{} is not there: `cargo test` builds it, `cargo test --test examples` does not; \
         run `cargo build --examples` first",
        path.display()
    );
    path
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(command: &mut Command) -> Output {
    // Unlike `Command::output`, leaves stdout where the test has put it.
    within(LIMIT, command.spawn().unwrap().wait_with_output()).await.unwrap()
}

fn sha256sum(folder: impl AsRef<Path>) -> Command {
    let mut command = command(program("sha256sum"));
    command.arg(folder.as_ref());
    command
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn examples_print_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() > 1, "{names:?}");
    for source in names {
        let name = source.file_stem().unwrap().to_str().unwrap();
        if matches!(name, "sha256sum" | "chaos" | "batch" | "service") {
            continue;
        }
        prints_what_it_says(&mut command(program(name)), name, &source).await;
    }
}

async fn prints_what_it_says(command: &mut Command, name: &str, source: &Path) {
    let source = fs::read_to_string(source).unwrap();
    let promised = promised(&source, name);
    let output = output(command).await;
    assert!(output.status.success(), "{name}: {output:?}");
    let printed = text(&output.stdout);
    let same = printed.lines().count() == promised.len()
        && printed.lines().zip(&promised).all(|(line, promise)| fits(line, promise));
    assert!(same, "{name} promises {promised:#?} and prints {printed}");
}

/// The lines after the command in the example's first comment.
fn promised<'a>(source: &'a str, name: &str) -> Vec<&'a str> {
    let comment = source.lines().map_while(|line| line.strip_prefix("//!"));
    let mut lines = comment.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let run = format!("--example {name}");
    let runs = |line: &str| line.starts_with("$ cargo run ") && line.contains(&run);
    assert!(lines.any(runs), "{name} does not say `cargo run {run}`");
    lines.take_while(|line| *line != "```").collect()
}

#[tokio::test]
async fn chaos_ends_with_its_books_in_balance() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chaos/main.rs");
    let mut command = command(program("chaos"));
    prints_what_it_says(command.args(["--seed", "1", "--seconds", "5"]), "chaos", &source).await;
}

/// Whether a line is what was promised, where `…` stands for anything.
fn fits(line: &str, promise: &str) -> bool {
    let (first, rest) = promise.split_once('…').unwrap_or((promise, ""));
    let Some(mut line) = line.strip_prefix(first) else { return false };
    if first == promise {
        return line.is_empty();
    }
    let mut parts: Vec<_> = rest.split('…').collect();
    let last = parts.pop().unwrap();
    for part in parts {
        match line.find(part) {
            Some(at) => line = &line[at + part.len()..],
            None => return false,
        }
    }
    line.ends_with(last)
}

#[tokio::test]
async fn sha256sum_prints_what_coreutils_prints() {
    let scratch = Scratch::new();
    let folder = PathBuf::from(scratch.path("."));
    fs::create_dir_all(folder.join("below/below")).unwrap();
    let names: [&[u8]; 9] = [
        b"plain",
        b"empty",
        b"below/below/deep",
        b" spaces ",
        b"*star",
        b"-dash",
        b"back\\slash",
        b"new\nline\\n",
        b"not \xff UTF-8",
    ];
    for name in names {
        let content = if name == b"empty" { b"" } else { name };
        fs::write(folder.join(OsStr::from_bytes(name)), content).unwrap();
    }
    fs::write(folder.join("below-before"), "'-' is less than '/'").unwrap();
    // More than one read, and not a multiple of its size.
    fs::write(folder.join("large"), vec![7; 3_000_001]).unwrap();
    symlink("..", folder.join("below/loop")).unwrap();
    symlink("plain", folder.join("link")).unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    mkfifo(&folder.join("fifo"), Mode::S_IRWXU).unwrap();

    let ours = output(sha256sum("").current_dir(&folder)).await;
    assert_eq!(ours.status.code(), Some(1), "no folder has an empty name: {ours:?}");
    // Without an argument: the current folder.
    let ours = output(command(program("sha256sum")).current_dir(&folder)).await;
    assert_eq!(ours.status.code(), Some(0), "{ours:?}");
    assert_eq!(
        text(&ours.stderr),
        "sha256sum: left out: 3 symbolic links, 1 special file\n",
        "no progress bar where there is no terminal"
    );
    let find = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    let theirs = output(command("sh").args(["-c", find]).current_dir(&folder)).await;
    assert!(theirs.status.success(), "{theirs:?}");
    assert_eq!(ours.stdout.escape_ascii().to_string(), theirs.stdout.escape_ascii().to_string());

    let sums = scratch.path("sums");
    fs::write(&sums, &ours.stdout).unwrap();
    let check = ["--check", "--strict", "--status", "sums"];
    let check = output(command("sha256sum").args(check).current_dir(&folder)).await;
    assert!(check.status.success(), "{check:?}");
}

#[tokio::test]
async fn sha256sum_leaves_its_own_output_out() {
    let scratch = Scratch::new();
    let folder = PathBuf::from(scratch.path("."));
    fs::write(folder.join("plain"), "plain").unwrap();
    let sums = File::create(folder.join("sums")).unwrap();
    let mut command = sha256sum(".");
    let output = output(command.current_dir(&folder).stdout(sums)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stderr), "sha256sum: left out: the file that this output goes to\n");
    assert_eq!(fs::read_to_string(folder.join("sums")).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn sha256sum_goes_on_past_what_it_cannot_read() {
    let scratch = Scratch::new();
    let folder = PathBuf::from(scratch.path("tree"));
    fs::create_dir(&folder).unwrap();
    for name in ["a", "locked", "z"] {
        fs::write(folder.join(name), name).unwrap();
    }
    fs::create_dir(folder.join("closed")).unwrap();
    fs::write(folder.join("closed/inside"), "never seen").unwrap();
    for name in ["locked", "closed"] {
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o000)).unwrap();
    }

    let mut command = sha256sum(&folder);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Nothing is locked for root, so somebody else runs a copy of the
        // program, which they need not be able to reach where it is.
        for folder in [Path::new(&scratch.path(".")), &folder] {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        let copy = scratch.path("sha256sum");
        fs::copy(program("sha256sum"), &copy).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
        for name in ["a", "z"] {
            fs::set_permissions(folder.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        command = self::command(&copy);
        command.arg(&folder).current_dir("/").uid(65534).gid(65534);
    }
    let output = output(&mut command).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let sums: Vec<_> = text(&output.stdout).lines().collect();
    assert_eq!(sums.len(), 2, "{output:?}");
    assert!(sums[0].ends_with("/tree/a") && sums[1].ends_with("/tree/z"), "{sums:?}");
    let problems: Vec<_> = text(&output.stderr).lines().collect();
    let denied = |name| format!("{:?}: Permission denied (os error 13)", folder.join(name));
    assert_eq!(problems, ["closed", "locked"].map(|name| format!("sha256sum: {}", denied(name))));
    // So that the folder can be removed.
    fs::set_permissions(folder.join("closed"), Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn sha256sum_names_a_folder_that_is_not_there() {
    let output = output(&mut sha256sum("/nowhere/at/all")).await;
    assert_eq!(output.status.code(), Some(1));
    let problem = "sha256sum: \"/nowhere/at/all\": No such file or directory (os error 2)\n";
    assert_eq!(text(&output.stderr), problem);
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn sha256sum_explains_itself_to_who_calls_it_wrongly() {
    let output = output(sha256sum("one").arg("two")).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "usage: sha256sum [FOLDER]\n");
}

#[tokio::test]
async fn sha256sum_ends_when_nobody_reads() {
    let scratch = Scratch::new();
    fs::write(scratch.path("plain"), "plain").unwrap();
    let (_, deaf) = UnixStream::pair().unwrap();
    let mut command = sha256sum(scratch.path("."));
    let output = output(command.stdout(OwnedFd::from(deaf))).await;
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

#[tokio::test]
async fn sha256sum_says_how_far_it_came_when_interrupted() {
    stopped_midway(Signal::SIGINT).await;
}

#[tokio::test]
async fn sha256sum_says_how_far_it_came_when_terminated() {
    stopped_midway(Signal::SIGTERM).await;
}

async fn stopped_midway(signal: Signal) {
    let scratch = Scratch::new();
    fs::write(scratch.path("a"), "a").unwrap();
    fs::write(scratch.path("b"), "b").unwrap();
    // A hole, so it takes no room, and hours to read.
    File::create(scratch.path("c")).unwrap().set_len(8 << 40).unwrap();
    let mut child: Child = sha256sum(scratch.path(".")).spawn().unwrap();
    let pid = child.id().unwrap() as i32;

    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for name in ["/a", "/b"] {
        let line = within(LIMIT, lines.next_line()).await.unwrap().unwrap();
        assert!(line.ends_with(name), "{line}");
    }
    let workers = children_of(pid);
    assert!(!workers.is_empty());
    kill(Pid::from_raw(pid), signal).unwrap();

    let output = within(LIMIT, child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(text(&output.stderr), "sha256sum: stopped after 2 of 3 files\n");
    assert_eq!(within(LIMIT, lines.next_line()).await.unwrap(), None);
    for worker in workers {
        assert!(!is_alive(worker), "worker {worker} is still there");
    }
}
