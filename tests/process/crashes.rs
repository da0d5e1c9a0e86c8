//! What a process that does not return leaves its parent: the same as a pool's call.

use procession::{Process, Stdio, TaskError};
use tokio::io::AsyncReadExt;

use crate::checked;
use crate::tasks::exit_with;

fn panics(text: String) {
    panic!("no {text} today");
}

fn dies(signal: i32) {
    eprintln!("these are my last words");
    // The first SIGSEGV is for std, which looks whether the stack has overflowed.
    for _ in 0..2 {
        nix::sys::signal::raise(signal.try_into().unwrap()).unwrap();
    }
}

#[test]
fn a_panic_has_message_place_and_stack() {
    checked(async {
        let mut process = Process::builder()
            .name("sad")
            .stderr(Stdio::piped())
            .spawn(panics, "bread".into())
            .unwrap();
        let error = (&mut process).await.unwrap_err();
        let TaskError::Panicked(panic) = &error else { panic!("{error:?}") };
        assert_eq!(panic.message(), "no bread today");
        assert!(panic.location().unwrap().contains("crashes.rs:"), "{panic:?}");
        assert!(!panic.backtrace().is_empty());
        let task = panic.task().unwrap();
        assert_eq!(task.label(), Some("sad"));
        assert!(task.name().ends_with("crashes::panics"), "{task}");
        assert_eq!(process.exit().unwrap().code(), Some(1), "as Python's");
        // And on stderr, as the program's own panics.
        let mut printed = String::new();
        process.stderr.take().unwrap().read_to_string(&mut printed).await.unwrap();
        assert!(printed.contains("no bread today"), "{printed}");
    });
}

#[test]
fn an_exit_code_is_the_processes_own() {
    checked(async {
        for code in [0, 1, 2, 3, 42, 255] {
            let mut process = Process::spawn(exit_with, code).unwrap();
            let error = (&mut process).await.unwrap_err();
            assert!(error.is_worker_lost(), "it did not return: {error:?}");
            assert_eq!(error.exit().unwrap().code(), Some(code));
            assert_eq!(process.exit().unwrap().exitcode(), Some(code));
            let said = format!("(pid {}) exited with code {code} while it ran", process.pid());
            assert!(error.to_string().contains(&said), "{error}");
        }
    });
}

#[test]
fn a_crash_has_its_signal_and_last_words() {
    checked(async {
        for signal in [6, 9, 11, 15] {
            let limits = [(procession::Resource::CoreFile, 0)];
            let process = Process::builder().rlimits(limits).stderr(Stdio::piped());
            let mut process = process.spawn(dies, signal).unwrap();
            let error = (&mut process).await.unwrap_err();
            let TaskError::WorkerLost { exit, pid, stderr, task, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(exit.signal(), Some(signal));
            assert_eq!(*pid, process.pid());
            assert_eq!(stderr, "these are my last words\n");
            assert_eq!(task.label(), Some(process.name()));
            assert_eq!(process.exit().unwrap().exitcode(), Some(-signal));
            // They can be read all the same.
            let mut printed = String::new();
            process.stderr.take().unwrap().read_to_string(&mut printed).await.unwrap();
            assert_eq!(printed, "these are my last words\n");
        }
    });
}

#[test]
fn last_words_that_were_read_are_last_words() {
    checked(async {
        let mut process = Process::builder().stderr(Stdio::piped()).spawn(dies, 9).unwrap();
        let mut printed = [0; 5];
        process.stderr.as_mut().unwrap().read_exact(&mut printed).await.unwrap();
        let error = process.await.unwrap_err();
        assert!(error.to_string().ends_with("its last output: these are my last words"), "{error}");
    });
}

/// What is read just now is neither in the pipe nor yet with its reader.
#[test]
fn last_words_are_whole_while_they_are_read() {
    checked(async {
        for _ in 0..200 {
            let mut process = Process::builder().stderr(Stdio::piped()).spawn(dies, 9).unwrap();
            let mut stderr = process.stderr.take().unwrap();
            let reader = tokio::spawn(async move {
                let mut printed = [0; 1];
                while stderr.read(&mut printed).await.unwrap() > 0 {}
                stderr
            });
            let error = process.await.unwrap_err();
            assert!(
                error.to_string().ends_with("its last output: these are my last words"),
                "{error}"
            );
            drop(reader.await.unwrap());
        }
    });
}

/// Whoever reads to the end lets go of the pipe then, as a task that logs what comes.
#[test]
fn last_words_stay_when_their_reader_is_gone() {
    checked(async {
        for reads in [true, false] {
            let mut process = Process::builder().stderr(Stdio::piped()).spawn(dies, 9).unwrap();
            let mut stderr = process.stderr.take().unwrap();
            if reads {
                let mut printed = String::new();
                stderr.read_to_string(&mut printed).await.unwrap();
                assert_eq!(printed, "these are my last words\n");
            } else {
                process.join().await;
            }
            drop(stderr);
            let error = process.await.unwrap_err();
            let TaskError::WorkerLost { stderr, .. } = &error else { panic!("{error:?}") };
            assert_eq!(stderr, "these are my last words\n");
        }
    });
}

/// The pipe is closed when its reader is gone, so that nobody waits for one.
#[test]
fn a_process_whose_output_nobody_reads_any_more_hears_of_it() {
    fn writes_on() -> bool {
        let line = [b'x'; 4096];
        loop {
            if let Err(error) = std::io::Write::write_all(&mut std::io::stderr(), &line) {
                return error.kind() == std::io::ErrorKind::BrokenPipe;
            }
        }
    }
    checked(async {
        let mut process = Process::builder().stderr(Stdio::piped()).spawn(writes_on, ()).unwrap();
        process.stderr.as_mut().unwrap().read_exact(&mut [0; 5]).await.unwrap();
        drop(process.stderr.take());
        assert!(process.await.unwrap());
    });
}

#[test]
fn a_stack_overflow_is_a_signal() {
    fn deeper(n: u64) -> u64 {
        let kept = std::hint::black_box([n; 64]);
        if n == 0 { 0 } else { deeper(n - 1) + kept[3] }
    }
    checked(async {
        let limits = [(procession::Resource::CoreFile, 0)];
        let process = Process::builder().rlimits(limits).stderr(Stdio::piped());
        let error = process.spawn(deeper, u64::MAX).unwrap().await.unwrap_err();
        assert_eq!(error.exit().unwrap().signal(), Some(6), "{error}");
        assert!(error.to_string().contains("overflowed its stack"), "{error}");
    });
}

/// A panic that the function itself catches is none.
#[test]
fn what_is_caught_within_is_not_told() {
    fn catches() -> bool {
        std::panic::catch_unwind(|| panic!("not so bad")).is_err()
    }
    checked(async {
        let process = Process::builder().stderr(Stdio::null()).spawn(catches, ()).unwrap();
        assert!(process.await.unwrap());
    });
}
