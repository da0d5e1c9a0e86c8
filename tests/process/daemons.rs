//! What becomes of processes when their parent ends, by `exit` or by SIGKILL.

use procession::Process;
use procession::process::parent;

use crate::checked;
use crate::support::{Scratch, is_alive, note, noted, notes, until};

/// Notes its pid, waits for the gate, and notes that it is done.
fn gated(scratch: String) {
    note(format!("{scratch}/pid"), &std::process::id().to_string());
    while notes(format!("{scratch}/gate")).is_empty() {
        std::thread::yield_now();
    }
    let is_alive = parent().is_some_and(|parent| parent.is_alive());
    note(format!("{scratch}/done"), if is_alive { "parent lives" } else { "orphan" });
}

fn start(scratch: String, daemon: bool, detached: bool) {
    let process = Process::builder().daemon(daemon).spawn(gated, scratch.clone()).unwrap();
    while notes(format!("{scratch}/pid")).is_empty() {
        std::thread::yield_now();
    }
    match detached {
        true => process.detach(),
        // As if it were a variable of `main`, which is not dropped by `exit`.
        false => std::mem::forget(process),
    }
}

fn starts_and_exits(scratch: String, daemon: bool, detached: bool) {
    start(scratch, daemon, detached);
    std::process::exit(0);
}

fn starts_and_waits(scratch: String, daemon: bool, detached: bool) {
    start(scratch, daemon, detached);
    std::thread::park();
}

async fn child(scratch: &Scratch) -> i32 {
    let pid = scratch.path("pid");
    noted(&pid).await;
    notes(&pid)[0].parse().unwrap()
}

#[test]
fn a_program_waits_at_its_end_for_those_that_are_no_daemons() {
    checked(async {
        let scratch = Scratch::new();
        let args = (scratch.path("."), false, false);
        let outer = Process::spawn(starts_and_exits, args).unwrap();
        child(&scratch).await;
        assert!(outer.join_timeout(std::time::Duration::from_millis(30)).await.is_none());
        note(scratch.path("gate"), "open");
        assert!(outer.join().await.success());
        assert_eq!(notes(scratch.path("done")), ["parent lives"]);
    });
}

#[test]
fn returning_is_an_end_as_well() {
    checked(async {
        let scratch = Scratch::new();
        let outer = Process::spawn(start, (scratch.path("."), false, false)).unwrap();
        child(&scratch).await;
        note(scratch.path("gate"), "open");
        outer.await.unwrap();
        assert_eq!(notes(scratch.path("done")), ["parent lives"]);
    });
}

#[test]
fn daemons_end_with_the_program() {
    checked(async {
        for detached in [false, true] {
            let scratch = Scratch::new();
            let args = (scratch.path("."), true, detached);
            let outer = Process::spawn(starts_and_exits, args).unwrap();
            assert!(outer.join().await.success());
            let inner = child(&scratch).await;
            until("the daemon is gone", || !is_alive(inner)).await;
            assert!(notes(scratch.path("done")).is_empty());
        }
    });
}

#[test]
fn daemons_end_with_a_program_that_is_killed() {
    checked(async {
        for detached in [false, true] {
            let scratch = Scratch::new();
            let args = (scratch.path("."), true, detached);
            let outer = Process::spawn(starts_and_waits, args).unwrap();
            let inner = child(&scratch).await;
            outer.kill();
            outer.join().await;
            until("the daemon is gone", || !is_alive(inner)).await;
        }
    });
}

#[test]
fn those_that_are_no_daemons_live_on_when_the_program_is_killed() {
    checked(async {
        let scratch = Scratch::new();
        let outer = Process::spawn(starts_and_waits, (scratch.path("."), false, false)).unwrap();
        let inner = child(&scratch).await;
        outer.kill();
        outer.join().await;
        assert!(is_alive(inner));
        note(scratch.path("gate"), "open");
        noted(&scratch.path("done")).await;
        assert_eq!(notes(scratch.path("done")), ["orphan"]);
        until("it is gone", || !is_alive(inner)).await;
    });
}
