//! No worker and no grandchild outlives the process that has the pool, however
//! that one ends. The parents here are this test program, started once more to
//! play a part.

use std::env;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use procession::Pool;

use crate::support::{LIMIT, Scratch, alone, children_of, is_alive, note, notes};
use crate::tasks::*;

const PART: &str = "PROCESSION_TEST_PARENT";
const FOLDER: &str = "PROCESSION_TEST_FOLDER";

/// What the parent process does once its tasks run.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// Waits, to be killed.
    Wait,
    /// Becomes another program.
    Exec,
    Exit,
    Abort,
    Panic,
    /// Forgets the runtime, and returns.
    Forget,
    /// Has made the pool on a thread that has ended; then waits.
    ShortThread,
    /// Has a pool whose workers are still starting; then waits.
    Starting,
}

const ENDS: [End; 8] = [
    End::Wait,
    End::Exec,
    End::Exit,
    End::Abort,
    End::Panic,
    End::Forget,
    End::ShortThread,
    End::Starting,
];

/// How many processes `make_tasks` has noted when all is up.
const NOTED: usize = 6;

fn linger(path: String) {
    forever(path);
}

fn make_tasks(pids: &str) -> Pool {
    let pool = Pool::builder().workers(5).build().unwrap();
    pool.apply_async(spin, pids.to_owned()).detach();
    pool.apply_async(forever, pids.to_owned()).detach();
    pool.apply_async(stubborn, pids.to_owned()).detach();
    pool.apply_async(stopped, pids.to_owned()).detach();
    pool.apply_async(parent_of_sleep, pids.to_owned()).detach();
    pool
}

/// Not a test of its own: what the parent processes run.
#[test]
fn parent_process() {
    let Ok(part) = env::var(PART) else { return };
    let end = ENDS.into_iter().find(|end| format!("{end:?}") == part).unwrap();
    let folder = env::var(FOLDER).unwrap();
    let pids = format!("{folder}/pids");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = {
        let _inside = runtime.enter();
        match end {
            End::ShortThread => {
                let (pids, handle) = (pids.clone(), runtime.handle().clone());
                let thread = std::thread::spawn(move || {
                    let _inside = handle.enter();
                    make_tasks(&pids)
                });
                thread.join().unwrap()
            }
            End::Starting => {
                let builder = Pool::builder().workers(NOTED);
                builder.initializer(linger, pids.clone()).build().unwrap()
            }
            _ => make_tasks(&pids),
        }
    };
    while notes(&pids).len() < NOTED {
        std::thread::sleep(Duration::from_millis(1));
    }
    note(format!("{folder}/up"), "up");
    // The test looks around, then says when.
    while !std::path::Path::new(&format!("{folder}/go")).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    match end {
        End::Wait | End::ShortThread | End::Starting => loop {
            std::thread::park();
        },
        End::Exec => {
            use std::os::unix::process::CommandExt;
            panic!("{}", Command::new("sleep").arg("1000").exec());
        }
        End::Exit => std::process::exit(0),
        End::Abort => std::process::abort(),
        End::Panic => panic!("a parent's panic"),
        End::Forget => std::mem::forget((runtime, pool)),
    }
}

/// Starts this program again, to run one of its tests only.
fn play(test: &str, part: &str, folder: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env(FOLDER, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ends_without_orphans(end: End) {
    alone(|| {
        let scratch = Scratch::new();
        std::fs::create_dir_all(scratch.path("")).unwrap();
        let folder = scratch.path("");
        let folder = folder.trim_end_matches('/');
        let mut parent = play("parents::parent_process", &format!("{end:?}"), folder);
        let up = format!("{folder}/up");
        wait_until("the parent is up", || {
            assert!(parent.try_wait().unwrap().is_none(), "the parent has ended too early");
            !notes(&up).is_empty()
        });
        let pids: Vec<i32> =
            notes(format!("{folder}/pids")).iter().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), NOTED);
        let workers = children_of(parent.id() as i32);
        assert!(workers.len() >= 5, "{workers:?}");
        for &pid in &pids {
            assert!(is_alive(pid), "{pid} of {pids:?} is there while its parent is");
        }
        note(format!("{folder}/go"), "go");
        match end {
            End::Wait | End::ShortThread | End::Starting => {
                parent.kill().unwrap();
                parent.wait().unwrap();
            }
            End::Exec => {
                // It lives on, as another program.
                let comm = format!("/proc/{}/comm", parent.id());
                wait_until("the parent is another program", || {
                    std::fs::read_to_string(&comm).unwrap().trim() == "sleep"
                });
            }
            End::Exit | End::Abort | End::Panic | End::Forget => {
                parent.wait().unwrap();
            }
        }
        let all: Vec<i32> = pids.into_iter().chain(workers).collect();
        let start = Instant::now();
        while let Some(pid) = all.iter().copied().find(|&pid| is_alive(pid)) {
            if start.elapsed() > LIMIT {
                let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
                for &pid in &all {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                }
                panic!("{pid} outlives its parent: {line:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if end == End::Exec {
            parent.kill().unwrap();
            parent.wait().unwrap();
        }
    });
}

#[test]
fn nobody_outlives_a_parent_that_is_killed() {
    ends_without_orphans(End::Wait);
}

#[test]
fn nobody_outlives_a_parent_that_becomes_another_program() {
    ends_without_orphans(End::Exec);
}

#[test]
fn nobody_outlives_a_parent_that_exits() {
    ends_without_orphans(End::Exit);
}

#[test]
fn nobody_outlives_a_parent_that_aborts() {
    ends_without_orphans(End::Abort);
}

#[test]
fn nobody_outlives_a_parent_that_panics() {
    ends_without_orphans(End::Panic);
}

#[test]
fn nobody_outlives_a_parent_that_forgets_its_pool() {
    ends_without_orphans(End::Forget);
}

#[test]
fn workers_outlive_the_thread_that_made_the_pool_and_not_its_process() {
    ends_without_orphans(End::ShortThread);
}

#[test]
fn nobody_outlives_a_parent_that_is_killed_while_workers_start() {
    ends_without_orphans(End::Starting);
}

/// A parent that is killed at any moment of its pool's start.
#[test]
fn nobody_outlives_a_parent_that_is_killed_early() {
    alone(|| {
        let mut rng = Rng::new(23);
        for _ in 0..12 {
            let scratch = Scratch::new();
            let folder = scratch.path("");
            let folder = folder.trim_end_matches('/');
            let mut parent = play("parents::parent_process", "Wait", folder);
            let pid = parent.id() as i32;
            let wanted = rng.below(6) as usize;
            let mut seen = std::collections::BTreeSet::new();
            wait_until("it has workers", || {
                seen.extend(children_of(pid));
                seen.len() >= wanted
            });
            parent.kill().unwrap();
            seen.extend(children_of(pid));
            parent.wait().unwrap();
            // All that ever noted themselves, and all that were seen.
            seen.extend(notes(format!("{folder}/pids")).iter().map(|p| p.parse::<i32>().unwrap()));
            for pid in seen {
                wait_until("an orphan ends", || !is_alive(pid));
            }
        }
    });
}
