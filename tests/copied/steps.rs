//! Whoever makes a copy of itself, and the copy, are killed at each of their system calls.

use futures::executor::block_on;
use procession::{Pool, Process, StartMethod, Stdio};
use tokio::io::AsyncReadExt;

use crate::blow::{Blow, Steps, Strike, sweep};
use crate::copies::copied;
use crate::support::{self, Scratch, children, note, noted, notes};
use crate::tasks::{pid, square};

/// Originals come from a fork server: what is spawned of a test binary has the harness's
/// thread. The server is there for good.
fn checked<F: Future<Output = ()>>(test: F) {
    support::for_good(|| {
        let process = Process::builder().start_method(StartMethod::ForkServer).spawn(|| (), ());
        process.unwrap().blocking_join();
    });
    support::checked(test);
}

fn copies_itself() -> u64 {
    block_on(copied().spawn(square, 3).unwrap()).unwrap()
}

/// Copies itself when it is told to, again and again.
fn makes_copies(scratch: String) {
    copies_itself();
    note(format!("{scratch}/there"), &pid().to_string());
    while notes(format!("{scratch}/gate")).is_empty() {
        std::thread::yield_now();
    }
    println!("{}", copies_itself());
}

#[test]
fn no_copy_outlives_its_original_that_is_killed_at_any_step() {
    checked(async {
        sweep(async |step| {
            let scratch = Scratch::new();
            let process = Process::builder().start_method(StartMethod::ForkServer);
            let process = process.stdout(Stdio::piped());
            let mut process = process.spawn(makes_copies, scratch.path(".")).unwrap();
            noted(&scratch.path("there")).await;
            let victim = process.pid() as i32;
            let strike = Strike::prepare(victim, step, Blow::Kill, Steps::few()).await;
            note(scratch.path("gate"), "open");
            // Ends when nobody has it any more, copies among them.
            let mut said = String::new();
            process.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
            let exit = process.join().await;
            assert!(exit.success() || exit.exitcode() == Some(-9), "{exit}");
            assert!(said.is_empty() || said == "9\n", "{said}");
            strike.finish().await
        })
        .await;
    });
}

/// Tells what becomes of one copy, and makes another.
fn survives_its_copy() -> (bool, bool) {
    let first = match copied().spawn(square, 3) {
        Ok(process) => match block_on(process) {
            Ok(answer) => answer == 9,
            Err(error) => {
                let exit = error.exit().unwrap_or_else(|| panic!("{error}"));
                assert_eq!(exit.exitcode(), Some(-9), "{error}");
                false
            }
        },
        Err(error) => panic!("{error}"),
    };
    (first, copies_itself() == 9 && children().is_empty())
}

#[test]
fn a_copy_is_killed_at_each_step_and_its_original_makes_another() {
    checked(async {
        sweep(async |step| {
            let pool = Pool::builder().workers(1).start_method(StartMethod::ForkServer);
            let pool = pool.build().unwrap();
            assert_eq!(pool.apply(copies_itself, ()).await.unwrap(), 9);
            let original = pool.apply(pid, ()).await.unwrap() as i32;
            let strike = Strike::prepare_for_copy(original, step, Steps::few()).await;
            let (first, second) = pool.apply(survives_its_copy, ()).await.unwrap();
            let struck = strike.finish().await;
            assert!(second && (first || struck), "at step {step}");
            pool.terminate().await;
            struck
        })
        .await;
    });
}
