//! Messages with more descriptors than go with one `sendmsg`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use procession::{
    Connection, Fd, Process, RecvError, SendErrorKind, Sender, SharedBytes, channel, pipe,
};
use serde::{Deserialize, Serialize};

use crate::support::{LIMIT, checked, for_good, until, within};

#[derive(Debug, Serialize, Deserialize)]
struct Many {
    name: String,
    streams: Vec<Fd<UnixStream>>,
    memory: Vec<SharedBytes>,
}

/// Streams that say their numbers, and memory that holds them.
fn many(streams: usize, memory: usize) -> Many {
    let stream = |n: usize| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(n.to_string().as_bytes()).unwrap();
        theirs.into()
    };
    let bytes = |n: usize| SharedBytes::copy_from_slice(n.to_string().as_bytes()).unwrap();
    Many {
        name: format!("{streams} and {memory}"),
        streams: (0..streams).map(stream).collect(),
        memory: (0..memory).map(bytes).collect(),
    }
}

fn check(many: &Many, streams: usize, memory: usize) {
    assert_eq!(many.name, format!("{streams} and {memory}"));
    assert_eq!((many.streams.len(), many.memory.len()), (streams, memory));
    for (n, stream) in many.streams.iter().enumerate() {
        let mut text = String::new();
        (&**stream).read_to_string(&mut text).unwrap();
        assert_eq!(text, n.to_string());
    }
    for (n, bytes) in many.memory.iter().enumerate() {
        assert_eq!(bytes[..], *n.to_string().as_bytes());
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn echo(mut end: Connection<Many>) {
    while let Some(many) = end.blocking_recv().unwrap() {
        end.blocking_send(many).unwrap();
    }
}

#[test]
fn they_come_there_and_back() {
    warm_up();
    checked(async {
        let (mut ours, theirs) = pipe::<Many>().unwrap();
        let echoing = Process::spawn(echo, theirs).unwrap();
        let before = descriptors();
        for (streams, memory) in [(0, 1), (128, 0), (129, 0), (300, 0), (1, 200), (200, 150)] {
            ours.send(many(streams, memory)).await.unwrap();
            check(&ours.recv().await.unwrap().unwrap(), streams, memory);
        }
        until("none is left", || descriptors() <= before).await;
        drop(ours);
        echoing.await.unwrap();
    });
}

/// As much as there is room for at once; the rest when it is flushed.
#[test]
fn part_of_a_message_that_was_tried_to_be_sent_leaves_later() {
    checked(async {
        let (mut to, mut from) = channel::<Many>().unwrap();
        // One whose bytes alone are more than the socket takes.
        let long = || Many { name: "x".repeat(1 << 20), ..many(300, 0) };
        to.try_send(long()).unwrap();
        assert!(to.try_send(many(1, 0)).unwrap_err().is_full());
        let flushing = tokio::spawn(async move { to.flush().await });
        let came = from.recv().await.unwrap().unwrap();
        assert_eq!((came.name.len(), came.streams.len()), (1 << 20, 300));
        flushing.await.unwrap().unwrap();
        assert!(from.recv().await.unwrap().is_none());
    });
}

#[test]
fn one_more_than_may_be_is_an_error_that_names_the_limit() {
    checked(async {
        let (mut to, mut from) = channel::<Vec<Fd<UnixStream>>>().unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let theirs = Fd::new(theirs);
        let error = to.send(vec![theirs.clone(); 1025]).await.unwrap_err();
        assert!(matches!(error.kind(), SendErrorKind::Encode(_)), "{error:?}");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(text.contains("more than the 1024 descriptors"), "{text}");
        assert_eq!(error.into_inner().unwrap().len(), 1025);
        // Nothing of it has left.
        to.send(vec![theirs]).await.unwrap();
        assert_eq!(from.recv().await.unwrap().unwrap().len(), 1);
    });
}

/// Sends for ever.
fn send_on(mut to: Sender<Vec<Fd<UnixStream>>>, stream: Fd<UnixStream>) {
    while to.blocking_send(vec![stream.clone(); 300]).is_ok() {}
}

/// The first process of a program leaves the means to have others.
fn warm_up() {
    for_good(|| {
        Process::spawn(|| (), ()).unwrap().blocking_join();
    });
}

#[test]
fn a_sender_that_is_killed_leaves_whole_messages_and_no_descriptor() {
    warm_up();
    checked(async {
        let mut cut_off = 0;
        for round in 0..30_u64 {
            let (to, mut from) = channel().unwrap();
            let (ours, theirs) = UnixStream::pair().unwrap();
            let sender = Process::spawn(send_on, (to, Fd::new(theirs))).unwrap();
            let mut count = 0;
            loop {
                match within(LIMIT, from.recv()).await {
                    Ok(Some(streams)) => assert_eq!(streams.len(), 300),
                    Ok(None) => break,
                    Err(RecvError::CutOff) => cut_off += 1,
                    Err(error) => panic!("{error:?}"),
                }
                count += 1;
                if count == 3 {
                    tokio::time::sleep(Duration::from_micros(round * 37 % 500)).await;
                    sender.kill();
                }
            }
            assert!(count >= 3);
            drop(sender);
            // The receiver is still there, and holds nothing.
            ours.set_nonblocking(true).unwrap();
            let ours = tokio::net::UnixStream::from_std(ours).unwrap();
            within(LIMIT, ours.readable()).await.unwrap();
            assert_eq!(ours.try_read(&mut [0]).unwrap(), 0, "{round}: somebody has it");
            drop(from);
        }
        println!("{cut_off} of 30 were cut off");
    });
}
