//! What a process's function returns is what its future gives.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;
use procession::{Fd, Process, SharedBytes, TaskError};

use crate::checked;
use crate::tasks::{pid, square};

#[test]
fn a_function_runs_in_a_process_of_its_own() {
    checked(async {
        let process = Process::spawn(pid, ()).unwrap();
        let (theirs, ours) = (process.pid(), std::process::id());
        assert_ne!(theirs, ours);
        assert_eq!(process.await.unwrap(), theirs);
    });
}

#[test]
fn all_kinds_of_functions_and_arguments() {
    async fn later(n: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        n + 1
    }
    #[expect(clippy::too_many_arguments, reason = "as many as a task can have")]
    fn eight(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> u32 {
        [a, b, c, d, e, f, g, h].into_iter().map(u32::from).sum()
    }
    fn parse(text: String) -> Result<u64, String> {
        text.parse().map_err(|error: std::num::ParseIntError| error.to_string())
    }
    checked(async {
        assert_eq!(Process::spawn(square, 7).unwrap().await.unwrap(), 49);
        assert_eq!(Process::spawn(later, 7).unwrap().await.unwrap(), 8);
        assert_eq!(
            Process::spawn(|a: String, b: u8| format!("{a}{b}"), ("x".into(), 1))
                .unwrap()
                .await
                .unwrap(),
            "x1"
        );
        let sum = Process::spawn(eight, (1, 2, 3, 4, 5, 6, 7, 8)).unwrap().await.unwrap();
        assert_eq!(sum, 36);
        // Its own error is data.
        assert_eq!(Process::spawn(parse, "5".into()).unwrap().await.unwrap(), Ok(5));
        assert!(Process::spawn(parse, "x".into()).unwrap().await.unwrap().is_err());
        let map: BTreeMap<u8, Vec<Option<String>>> = [(1, vec![None, Some("a".into())])].into();
        let echo = |map: BTreeMap<u8, Vec<Option<String>>>| map;
        assert_eq!(Process::spawn(echo, map.clone()).unwrap().await.unwrap(), map);
    });
}

#[test]
fn long_arguments_and_results_travel() {
    checked(async {
        let text = "x".repeat(5 << 20);
        let process = Process::spawn(|text: String| text + "y", text.clone()).unwrap();
        assert_eq!(process.await.unwrap(), text + "y");
        let bytes = Bytes::from(vec![7; 5 << 20]);
        let process = Process::spawn(|bytes: Bytes| bytes, bytes.clone()).unwrap();
        assert_eq!(process.await.unwrap(), bytes);
    });
}

#[test]
fn shared_memory_travels() {
    checked(async {
        let shared = SharedBytes::copy_from_slice(&[5; 100_000]).unwrap();
        let process = Process::spawn(|shared: SharedBytes| shared, shared).unwrap();
        assert_eq!(&process.await.unwrap()[..], &[5; 100_000][..]);
    });
}

/// The other end sees its end when the process is gone: nobody has kept a copy here.
#[test]
fn descriptors_travel() {
    fn says(stream: Fd<UnixStream>, text: String) -> Fd<UnixStream> {
        (&*stream).write_all(text.as_bytes()).unwrap();
        stream
    }
    checked(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let process = Process::spawn(says, (theirs.into(), "from there".into())).unwrap();
        let back = process.await.unwrap();
        (&*back).write_all(b", and back").unwrap();
        drop(back);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from there, and back");
    });
}

/// More than go with one message.
#[test]
fn hundreds_of_descriptors_travel() {
    checked(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let each = || Fd::from(theirs.try_clone().unwrap());
        let all: Vec<Fd<UnixStream>> = std::iter::repeat_with(each).take(180).collect();
        drop(theirs);
        let process = Process::spawn(|all: Vec<Fd<UnixStream>>| all, all).unwrap();
        let back = process.await.unwrap();
        assert_eq!(back.len(), 180);
        for stream in &back {
            (&**stream).write_all(b".").unwrap();
        }
        drop(back);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, ".".repeat(180));
    });
}

/// Python's trap: a process that has a long result cannot end before somebody reads
/// it.
#[test]
fn a_long_result_is_not_waited_for() {
    checked(async {
        let mut process = Process::spawn(|| vec![1_u8; 3 << 20], ()).unwrap();
        assert_eq!(process.join().await.code(), Some(0));
        assert_eq!((&mut process).await.unwrap().len(), 3 << 20);
    });
}

#[test]
fn a_result_is_there_after_its_end_was_seen() {
    checked(async {
        let mut process = Process::spawn(square, 3).unwrap();
        while process.exit().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(!process.is_alive());
        assert_eq!(process.exit().unwrap().code(), Some(0));
        assert_eq!((&mut process).await.unwrap(), 9);
        assert_eq!(process.exit().unwrap().code(), Some(0));
        assert_eq!(process.join().await.code(), Some(0));
    });
}

#[test]
fn a_result_can_be_selected() {
    checked(async {
        let mut process = Process::spawn(square, 3).unwrap();
        let mut turns = 0;
        let result = loop {
            tokio::select! {
                result = &mut process => break result,
                () = tokio::time::sleep(Duration::from_micros(50)) => turns += 1,
            }
        };
        assert_eq!(result.unwrap(), 9, "after {turns} turns");
    });
}

#[test]
fn a_result_that_cannot_travel_is_an_error() {
    #[derive(serde::Deserialize)]
    struct Refuses;
    impl serde::Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("I stay here"))
        }
    }
    checked(async {
        let mut process = Process::spawn(|| Refuses, ()).unwrap();
        let error = (&mut process).await.map(drop).unwrap_err();
        assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
        assert!(error.to_string().contains("I stay here"), "{error}");
        assert_eq!(process.exit().unwrap().code(), Some(1));

        let mut process =
            Process::builder().frame_limit(64 << 10).spawn(|| vec![1_u8; 1 << 20], ()).unwrap();
        let error = (&mut process).await.unwrap_err();
        assert!(matches!(error, TaskError::TooLarge { .. }), "{error:?}");
        assert_eq!(process.exit().unwrap().code(), Some(1));
    });
}

#[test]
fn arguments_that_cannot_travel_start_nothing() {
    checked(async {
        let spawn = Process::builder().frame_limit(64 << 10);
        let error = spawn.spawn(|text: String| text.len(), "x".repeat(1 << 20)).unwrap_err();
        assert_eq!(error.to_string(), "the arguments cannot be sent");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("over the frame limit"), "{source}");
    });
}
