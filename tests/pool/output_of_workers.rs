//! What tasks print: inherited, dropped, or captured line by line.

use std::io::Write;

use procession::{Pool, Stdio, TaskError};

use crate::records::{heard, listen};
use crate::support::{checked, until};
use crate::tasks::{pid, square};

/// Printed without a test harness in between.
fn say(out: String, err: String) {
    std::io::stdout().write_all(out.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
    std::io::stderr().write_all(err.as_bytes()).unwrap();
}

fn say_and_die(err: String) {
    say(String::new(), err);
    std::process::exit(1);
}

#[test]
fn piped_lines_are_events_in_their_workers_span() {
    checked(async {
        listen();
        let pool = Pool::builder()
            .name("talks")
            .workers(1)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .build()
            .unwrap();
        let worker = pool.apply(pid, ()).await.unwrap();
        let lines = ("one\ntwo\n\nthree ".to_owned(), "four\nfi".to_owned());
        pool.apply(say, lines).await.unwrap();
        pool.apply(say, ("and a half\n".to_owned(), "ve\n".to_owned())).await.unwrap();
        let of = |stream: &str| -> Vec<String> {
            let records = heard("procession::output");
            let mine = records.iter().filter(|record| record.fields.get("stream") == Some(stream));
            mine.map(|record| record.message().to_owned()).collect()
        };
        until("all lines came", || of("stdout").len() == 3 && of("stderr").len() == 2).await;
        assert_eq!(of("stdout"), ["one", "two", "three and a half"]);
        assert_eq!(of("stderr"), ["four", "five"]);
        for record in heard("procession::output") {
            assert_eq!(record.level, tracing::Level::INFO);
            let (name, fields) = &record.spans[0];
            assert_eq!(*name, "worker");
            assert_eq!(fields.get("pool"), Some("talks"));
            assert_eq!(fields.get("pid"), Some(&*worker.to_string()));
        }
    });
}

#[test]
fn the_last_of_stderr_is_in_the_error() {
    checked(async {
        let pool = Pool::builder().workers(1).stderr(Stdio::piped()).build().unwrap();
        let error = pool.apply(say_and_die, "first\nlast words\n".into()).await.unwrap_err();
        let TaskError::WorkerLost { stderr, .. } = &error else { panic!("{error:?}") };
        assert_eq!(stderr, "first\nlast words\n");
        assert!(error.to_string().ends_with("; its last output: first\nlast words"), "{error}");

        let long: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        let error = pool.apply(say_and_die, long.clone()).await.unwrap_err();
        let TaskError::WorkerLost { stderr, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*stderr, long[long.len() - 4096..]);

        // Each worker has its own.
        let error = pool.apply(say_and_die, String::new()).await.unwrap_err();
        let TaskError::WorkerLost { stderr, .. } = &error else { panic!("{error:?}") };
        assert_eq!(stderr, "");
    });
}

#[test]
fn output_that_is_not_piped_is_not_in_the_error() {
    checked(async {
        let pool = Pool::builder().workers(1).stderr(Stdio::null()).build().unwrap();
        let error = pool.apply(say_and_die, "nobody hears\n".into()).await.unwrap_err();
        let TaskError::WorkerLost { stderr, .. } = &error else { panic!("{error:?}") };
        assert_eq!(stderr, "");
        assert!(!error.to_string().contains("last output"), "{error}");
    });
}

/// More than any pipe or line holds, and nothing that is text.
#[test]
fn a_flood_of_output_stops_nobody() {
    fn flood(bytes: usize) -> usize {
        let mut out = std::io::stdout().lock();
        let mut err = std::io::stderr().lock();
        for _ in 0..bytes >> 12 {
            out.write_all(&[0xff; 4096]).unwrap();
            err.write_all(&[b'x'; 4096]).unwrap();
        }
        out.flush().unwrap();
        bytes
    }
    checked(async {
        let pool = Pool::builder()
            .workers(2)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .build()
            .unwrap();
        assert_eq!(pool.map(flood, [1 << 20; 3]).await.unwrap(), [1 << 20; 3]);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn null_takes_everything() {
    checked(async {
        let pool =
            Pool::builder().workers(1).stdout(Stdio::null()).stderr(Stdio::null()).build().unwrap();
        let text = "x".repeat(1 << 20);
        pool.apply(say, (text.clone(), text)).await.unwrap();
    });
}
