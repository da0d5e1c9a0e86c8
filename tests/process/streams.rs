//! Standard input, output and error.

use std::io::{Read, Write};

use procession::{Process, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::checked;

fn upper_case() -> usize {
    let mut lines = 0;
    for line in std::io::stdin().lines() {
        println!("{}", line.unwrap().to_uppercase());
        lines += 1;
    }
    lines
}

#[test]
fn pipes_are_streams() {
    checked(async {
        let process = Process::builder().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn(upper_case, ()).unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        for word in ["one", "two", "three"] {
            stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), word.to_uppercase());
        }
        drop(stdin);
        assert_eq!(lines.next_line().await.unwrap(), None);
        assert_eq!(process.await.unwrap(), 3);
    });
}

#[test]
fn much_goes_through_a_pipe() {
    fn echo() {
        std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap();
    }
    checked(async {
        let process = Process::builder().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn(echo, ()).unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut stdin = process.stdin.take().unwrap();
        let mut stdout = process.stdout.take().unwrap();
        let write = async {
            stdin.write_all(&bytes).await.unwrap();
            drop(stdin);
        };
        let mut echoed = Vec::new();
        let (_, read) = tokio::join!(write, stdout.read_to_end(&mut echoed));
        read.unwrap();
        assert!(echoed == bytes);
        process.await.unwrap();
    });
}

#[test]
fn input_is_empty_unless_asked_for() {
    checked(async {
        let read = || std::io::read_to_string(std::io::stdin()).unwrap();
        let mut process = Process::spawn(read, ()).unwrap();
        assert!(process.stdin.is_none() && process.stdout.is_none() && process.stderr.is_none());
        assert_eq!((&mut process).await.unwrap(), "");
    });
}

#[test]
fn output_and_error_are_two() {
    fn prints() {
        println!("out");
        eprintln!("err");
        // Not flushed by the function.
        print!("last");
    }
    checked(async {
        let process = Process::builder().stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = process.spawn(prints, ()).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        process.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
        process.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
        assert_eq!((&out[..], &err[..]), ("out\nlast", "err\n"));
        process.await.unwrap();
        let process = Process::builder().stdout(Stdio::null()).stderr(Stdio::null());
        process.spawn(prints, ()).unwrap().await.unwrap();
    });
}

/// CPython's `test_error_on_stdio_flush`: what cannot be flushed is no failure.
#[test]
fn nobody_reads_what_is_printed() {
    fn prints_late() -> u8 {
        // Until the other end is closed.
        let mut byte = [0];
        std::io::stdin().read_exact(&mut byte).unwrap_err();
        print!("nobody hears this");
        3
    }
    checked(async {
        let process = Process::builder().stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.spawn(prints_late, ()).unwrap();
        process.stdout = None;
        process.stdin = None;
        assert_eq!((&mut process).await.unwrap(), 3);
        assert_eq!(process.exit().unwrap().code(), Some(0));
    });
}

#[test]
fn an_input_that_nobody_has_taken_ends_when_the_process_is_awaited() {
    fn length() -> u64 {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap()
    }
    checked(async {
        let mut process = Process::builder().stdin(Stdio::piped()).spawn(length, ()).unwrap();
        process.stdin.as_mut().unwrap().write_all(b"word").await.unwrap();
        assert_eq!(process.await.unwrap(), 4);
    });
}

#[test]
fn a_process_that_has_ended_does_not_take_input() {
    checked(async {
        let mut process = Process::builder().stdin(Stdio::piped()).spawn(|| (), ()).unwrap();
        process.join().await;
        let error = process.stdin.as_mut().unwrap().write_all(b"late").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    });
}

/// Each writes a line in turn, when it is given the token.
#[test]
fn children_write_to_one_inherited_output_in_turn() {
    fn waits_and_writes(n: u32, path: String) {
        let mut token = [0];
        std::io::stdin().read_exact(&mut token).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "hello world {n}").unwrap();
    }
    checked(async {
        let scratch = crate::support::Scratch::new();
        let path = scratch.path("file");
        std::fs::write(&path, "").unwrap();
        let mut processes: Vec<_> = (0..10)
            .map(|n| {
                let process = Process::builder().stdin(Stdio::piped());
                process.spawn(waits_and_writes, (n, path.clone())).unwrap()
            })
            .collect();
        for process in &mut processes {
            process.stdin.take().unwrap().write_all(b"!").await.unwrap();
            process.await.unwrap();
        }
        let lines: Vec<String> = (0..10).map(|n| format!("hello world {n}\n")).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines.concat());
    });
}
