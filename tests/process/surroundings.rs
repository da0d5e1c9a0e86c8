//! What a process finds around it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use procession::{Process, ProcessBuilder, Resource, StartMethod};

use crate::checked;
use crate::frame::METHOD;
use crate::support::{Scratch, line_of, proc_self, until};

fn var(name: String) -> Option<String> {
    std::env::var(name).ok()
}

fn folder() -> String {
    std::env::current_dir().unwrap().to_str().unwrap().to_owned()
}

async fn in_one<R>(builder: ProcessBuilder, f: fn(ProcessBuilder) -> Process<R>) -> R
where
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    f(builder).await.unwrap()
}

#[test]
fn variables() {
    checked(async {
        let builder = || Process::builder().env("A", "1").env("B", "2").env("A", "3");
        let var_of = |name: &'static str| builder().spawn(var, name.into()).unwrap();
        assert_eq!(var_of("A").await.unwrap().as_deref(), Some("3"));
        assert_eq!(var_of("B").await.unwrap().as_deref(), Some("2"));
        assert_eq!(var_of("PATH").await.unwrap(), var("PATH".into()));
        let path = builder().env_remove("PATH").spawn(var, "PATH".into()).unwrap();
        assert_eq!(path.await.unwrap(), None);
        let path = builder().env_clear().spawn(var, "PATH".into()).unwrap();
        assert_eq!(path.await.unwrap(), None);
    });
}

#[test]
fn the_folder() {
    checked(async {
        let scratch = Scratch::new();
        let dir = fs::canonicalize(scratch.path(".")).unwrap();
        let process = Process::builder().current_dir(&dir).spawn(folder, ()).unwrap();
        assert_eq!(process.await.unwrap(), dir.to_str().unwrap());
        let error = Process::builder().current_dir("/not/there").spawn(folder, ()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("No such file or directory"), "{source}");
    });
}

#[test]
fn niceness_processors_and_limits() {
    checked(async {
        let stat = in_one(Process::builder().nice(19), |builder| {
            builder.spawn(proc_self, "stat".into()).unwrap()
        })
        .await;
        let niceness = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap();
        assert_eq!(niceness, "19");
        let ours = line_of(&proc_self("status".into()), "Cpus_allowed_list:");
        let first: usize = ours.split([',', '-']).next().unwrap().parse().unwrap();
        let process = Process::builder().cpu_affinity([first]);
        let status = process.spawn(proc_self, "status".into()).unwrap().await.unwrap();
        assert_eq!(line_of(&status, "Cpus_allowed_list:"), first.to_string());
        let process = Process::builder().rlimits([(Resource::OpenFiles, 64)]);
        let limits = process.spawn(proc_self, "limits".into()).unwrap().await.unwrap();
        assert!(line_of(&limits, "Max open files").starts_with("64 "), "{limits}");
        let process = Process::builder().no_new_privs();
        let status = process.spawn(proc_self, "status".into()).unwrap().await.unwrap();
        assert_eq!(line_of(&status, "NoNewPrivs:"), "1");
    });
}

#[test]
fn what_cannot_be_set_is_an_error_of_the_future() {
    checked(async {
        let mut process = Process::builder().cpu_affinity([1023]).spawn(|| (), ()).unwrap();
        let error = (&mut process).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("could not set cpu_affinity"), "{source}");
        assert_eq!(error.started(), Some(false));
        assert_eq!(process.exit().unwrap().code(), Some(1));
    });
}

#[test]
fn groups() {
    let group = || nix::unistd::getpgrp().as_raw();
    checked(async move {
        let process = Process::spawn(group, ()).unwrap();
        let pid = process.pid() as i32;
        assert_eq!(process.await.unwrap(), pid);
        let process = Process::builder().own_process_group(false).spawn(group, ()).unwrap();
        assert_eq!(process.await.unwrap(), group());
        // It is signalled all the same, and nobody else is.
        let builder = Process::builder().own_process_group(false);
        let process = builder.clone().spawn(std::thread::park, ()).unwrap();
        process.terminate();
        assert_eq!(process.join().await.signal(), Some(15));
        let process = builder.spawn(std::thread::park, ()).unwrap();
        process.kill();
        assert_eq!(process.join().await.signal(), Some(9));
    });
}

#[test]
fn the_name_is_in_the_list_of_processes() {
    checked(async {
        let process = Process::builder().name("thumbs").spawn(std::thread::park, ()).unwrap();
        // A copy of the fork server writes it there itself.
        let arg0 = || {
            let cmdline = fs::read_to_string(format!("/proc/{}/cmdline", process.pid())).unwrap();
            cmdline.split('\0').next().unwrap().to_owned()
        };
        until("it has its name", || arg0().ends_with(": procession worker thumbs")).await;
        assert!(format!("{process:?}").contains("thumbs"));
    });
}

#[test]
fn nonsense_is_refused() {
    checked(async {
        let refused = |builder: ProcessBuilder, text: &str| {
            let error = builder.spawn(|| (), ()).unwrap_err();
            assert!(error.is_setting() && error.to_string().contains(text), "{error}");
        };
        refused(Process::builder().nice(20), "nice");
        refused(Process::builder().cpu_affinity([]), "cpu_affinity");
        refused(Process::builder().env("", "x"), "env");
        refused(Process::builder().env("A=", "x"), "env");
        refused(Process::builder().env("A", "\0"), "env");
        refused(Process::builder().name("\0"), "name");
        refused(Process::builder().name("x".repeat(5000)), "name");
        refused(Process::builder().frame_limit(1), "frame_limit");
    });
}

#[test]
fn descriptors_are_few() {
    let open = || -> Vec<String> {
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter_map(|fd| fs::read_link(fd.path()).ok())
            .map(|target| target.to_str().unwrap().to_owned())
            .collect()
    };
    checked(async move {
        let _file = fs::File::open("/dev/zero").unwrap();
        let _other = Process::spawn(std::thread::park, ()).unwrap();
        let theirs = Process::spawn(open, ()).unwrap().await.unwrap();
        assert!(!theirs.contains(&"/dev/zero".to_owned()), "{theirs:?}");
        let sockets: BTreeSet<_> = theirs.iter().filter(|it| it.starts_with("socket:")).collect();
        // A copy has one that hears nobody, for each that its parent has.
        let most = if METHOD == StartMethod::Fork { 3 } else { 2 };
        assert!(sockets.len() <= most, "{theirs:?}");
    });
}

/// One that was not opened close-on-exec, as by a library in C, would keep the other
/// end of a pipe from seeing its end.
#[test]
fn no_file_of_its_parent() {
    fn is_open(number: i32) -> bool {
        // SAFETY: reads a flag.
        unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
    }
    fn opens(number: i32) -> (bool, bool) {
        let was_open = is_open(number);
        let own = fs::File::open("/dev/null").unwrap();
        // SAFETY: it was not open, or the test fails.
        let is_there = unsafe { libc::dup2(own.as_raw_fd(), number) } == number;
        let child = std::process::Command::new("readlink")
            .arg(format!("/proc/self/fd/{number}"))
            .output()
            .unwrap();
        (was_open, is_there && child.stdout == b"/dev/null\n")
    }
    checked(async {
        let (socket, _other) = UnixStream::pair().unwrap();
        // SAFETY: makes a descriptor, which is owned at once.
        let inheritable = unsafe {
            let number = libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD, 60);
            OwnedFd::from_raw_fd(number)
        };
        let number = inheritable.as_raw_fd();
        assert!(is_open(number));
        // What it opens itself is its own, and its children's.
        let process = Process::spawn(opens, number).unwrap();
        assert_eq!(process.await.unwrap(), (false, true));
        let pool = procession::Pool::builder().workers(1).build().unwrap();
        assert!(!pool.apply(is_open, number).await.unwrap());
        assert!(is_open(number));
    });
}
