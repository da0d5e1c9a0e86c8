//! Where there is not enough of something, a start fails and leaves nothing.

use procession::{Process, Resource, SpawnError, StartMethod};

use crate::checked;
use crate::frame::METHOD;
use crate::support::children;
use crate::tasks::square;

/// Starts processes until there are no descriptors, with `left` of them to begin with.
async fn starts_until_there_are_none(left: u64) -> (usize, usize) {
    let start = || Process::builder().start_method(METHOD).spawn(square, 3);
    // What stays is there before: threads, and the server.
    start().unwrap().await.unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (open(), children());
    nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_NOFILE,
        before.0 as u64 + left,
        1 << 12,
    )
    .unwrap();
    let mut processes = Vec::new();
    let error: SpawnError = loop {
        match start() {
            Ok(process) => processes.push(process),
            Err(error) => break error,
        }
    };
    let source = std::error::Error::source(&error).map(|source| source.to_string());
    assert!(source.is_some_and(|source| source.contains("os error 24")), "{error:?}");
    let (mut done, mut lost) = (0, 0);
    for process in processes {
        match process.await {
            Ok(answer) => done += usize::from(answer == 9),
            Err(_) => lost += 1,
        }
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 1 << 10, 1 << 12)
        .unwrap();
    crate::support::until("all is as before", || open() <= before.0 && children() == before.1)
        .await;
    assert_eq!(start().unwrap().await.unwrap(), 9);
    (done, lost)
}

#[test]
fn of_descriptors() {
    checked(async {
        for left in [0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 20] {
            // A copy can be copied again, as it has one thread; a test has two.
            let method = if METHOD == StartMethod::Fork { METHOD } else { StartMethod::Spawn };
            let process = Process::builder().start_method(method);
            let process = process.rlimits([(Resource::OpenFiles, 1 << 12)]);
            let process = process.spawn(starts_until_there_are_none, left).unwrap();
            let (done, lost) = process.await.unwrap_or_else(|error| panic!("{left}: {error}"));
            assert_eq!(lost, 0, "of {done} with {left} descriptors");
        }
    });
}
