//! An end whose other end is not ours: bytes that are no message.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use procession::{Connection, Fd, Listener, RecvError, pipe};

use crate::support::{Scratch, checked, checked_current_thread, until};

const ITEM: u8 = 22;

fn header(len: u32, kind: u8, flags: u8, memory: u8, descriptors: u8) -> Vec<u8> {
    let mut header = len.to_le_bytes().to_vec();
    header.extend([kind, flags, memory, descriptors]);
    header.extend([0; 8]);
    header
}

/// An end, and a bare socket at the other.
async fn end(scratch: &Scratch) -> (Connection<Vec<u8>>, UnixStream) {
    let path = scratch.path("socket");
    let mut listener = Listener::bind(&path).unwrap();
    let theirs = UnixStream::connect(&path).unwrap();
    (listener.accept().await.unwrap(), theirs)
}

fn send_with(socket: &UnixStream, bytes: &[u8], count: usize) {
    let files: Vec<_> = (0..count).map(|_| File::open("/dev/null").unwrap()).collect();
    let numbers: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let slices = [IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &slices, &rights, MsgFlags::empty(), None).unwrap();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn bytes_that_are_no_message() {
    checked(async {
        let whole = [header(3, ITEM, 0, 0, 0), vec![2, 7, 7]].concat();
        let cases: [(&str, Vec<u8>, usize, &str); 10] = [
            ("garbage", vec![0xee; 1000], 0, "unknown frame kind 238"),
            ("zeroes", vec![0; 100], 0, "unknown frame kind 0"),
            ("another kind", header(0, 19, 0, 0, 0), 0, "a frame that is none"),
            ("other flags", header(0, ITEM, 2, 0, 0), 0, "a frame that is none"),
            ("4 GiB", header(u32::MAX, ITEM, 0, 0, 0), 0, "over the limit"),
            ("unannounced", whole.clone(), 1, "did not announce"),
            ("missing", header(0, ITEM, 0, 0, 1), 0, "did not come"),
            ("too many", header(0, ITEM, 0, 255, 255), 0, "over the frame's limit"),
            ("no memory", header(0, ITEM, 0, 1, 0), 1, "not one of sealed memory"),
            ("more than said", header(0, ITEM, 0, 0, 1), 3, "did not announce"),
        ];
        for (what, bytes, fds, sentence) in cases {
            let scratch = Scratch::new();
            let (mut ours, theirs) = end(&scratch).await;
            (&theirs).write_all(&whole).unwrap();
            assert_eq!(ours.recv().await.unwrap(), Some(vec![7, 7]), "{what}");
            let before = descriptors();
            send_with(&theirs, &bytes, fds);
            let error = ours.recv().await.unwrap_err();
            assert!(matches!(error, RecvError::Malformed(_)), "{what}: {error:?}");
            assert!(error.to_string().contains(sentence), "{what}: {error}");
            (&theirs).write_all(&whole).unwrap();
            assert_eq!(ours.recv().await.unwrap(), None, "{what}: that was the end");
            drop(ours);
            until("they are closed", || descriptors() < before).await;
        }
    });
}

const MORE: u8 = 0x80;

/// Descriptors that come before the message that they belong to.
#[test]
fn parts_of_what_is_no_message() {
    checked(async {
        let part = header(0, ITEM, MORE, 0, 128);
        let cases: [(&str, Vec<u8>, usize, &str); 6] = [
            ("another kind", header(0, 19, 0, 0, 1), 1, "otherwise than they may"),
            ("too few", header(0, ITEM, MORE, 0, 5), 5, "otherwise than they may"),
            ("a body", [header(1, ITEM, MORE, 0, 128), vec![0]].concat(), 128, "otherwise"),
            ("other flags", header(0, ITEM, MORE | 1, 0, 128), 128, "otherwise"),
            ("fewer than said", part.clone(), 127, "did not come"),
            ("more than said", part.clone(), 129, "did not announce"),
        ];
        for (what, bytes, fds, sentence) in cases {
            let scratch = Scratch::new();
            let (mut ours, theirs) = end(&scratch).await;
            let before = descriptors();
            send_with(&theirs, &part, 128);
            send_with(&theirs, &bytes, fds);
            let error = ours.recv().await.unwrap_err();
            assert!(matches!(error, RecvError::Malformed(_)), "{what}: {error:?}");
            assert!(error.to_string().contains(sentence), "{what}: {error}");
            drop(ours);
            until("they are closed", || descriptors() < before).await;
        }
        // Without end.
        let scratch = Scratch::new();
        let (mut ours, theirs) = end(&scratch).await;
        let before = descriptors();
        for _ in 0..9 {
            send_with(&theirs, &part, 128);
        }
        let error = ours.recv().await.unwrap_err();
        assert!(error.to_string().contains("1152 descriptors are over"), "{error}");
        drop(ours);
        until("they are closed", || descriptors() < before).await;
    });
}

/// The sender is gone between two messages of one value.
#[test]
fn part_of_many_descriptors_and_then_the_end() {
    checked(async {
        let part = header(0, ITEM, MORE, 0, 128);
        for cut in [1, 15, 16, 17, 32] {
            let scratch = Scratch::new();
            let (mut ours, theirs) = end(&scratch).await;
            let before = descriptors();
            send_with(&theirs, &part[..cut.min(16)], 128);
            if cut > 16 {
                send_with(&theirs, &part[..cut - 16], 128);
            }
            drop(theirs);
            assert!(matches!(ours.recv().await, Err(RecvError::CutOff)), "{cut}");
            // Here too, while the end is still there.
            until("they are closed", || descriptors() < before).await;
            assert_eq!(ours.recv().await.unwrap(), None);
        }
    });
}

#[test]
fn values_that_are_none() {
    checked(async {
        let scratch = Scratch::new();
        let (mut ours, theirs) = end(&scratch).await;
        for body in [&[][..], &[9, 1], &[1, 2, 3], &[0xff; 40]] {
            (&theirs).write_all(&header(body.len() as u32, ITEM, 0, 0, 0)).unwrap();
            (&theirs).write_all(body).unwrap();
            let error = ours.recv().await.unwrap_err();
            assert!(matches!(error, RecvError::Decode(_)), "{error:?}");
        }
        (&theirs).write_all(&[header(2, ITEM, 0, 0, 0), vec![1, 9]].concat()).unwrap();
        assert_eq!(ours.recv().await.unwrap(), Some(vec![9]));
    });
}

/// Cut anywhere, by the end of the other side.
#[test]
fn part_of_a_message_and_then_the_end() {
    checked(async {
        let whole = [header(3, ITEM, 0, 0, 0), vec![2, 7, 7]].concat();
        for len in 0..=whole.len() {
            let scratch = Scratch::new();
            let (mut ours, theirs) = end(&scratch).await;
            (&theirs).write_all(&whole[..len]).unwrap();
            drop(theirs);
            let first = ours.recv().await;
            match len {
                0 => assert_eq!(first.unwrap(), None),
                _ if len == whole.len() => assert_eq!(first.unwrap(), Some(vec![7, 7])),
                _ => assert!(matches!(first, Err(RecvError::CutOff)), "{len}: {first:?}"),
            }
            assert_eq!(ours.recv().await.unwrap(), None);
        }
    });
}

/// A length takes no memory before the bytes are there.
#[test]
fn a_long_message_that_never_comes() {
    checked(async {
        let scratch = Scratch::new();
        let (mut ours, theirs) = end(&scratch).await;
        (&theirs).write_all(&header(200 << 20, ITEM, 0, 0, 0)).unwrap();
        let memory = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmData:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = memory();
        let wait = std::time::Duration::from_millis(20);
        assert!(ours.recv_timeout(wait).await.unwrap_err().is_timeout());
        assert!(memory() < before + (100 << 10), "KiB");
        drop(theirs);
        assert!(matches!(ours.recv().await, Err(RecvError::CutOff)));
    });
}

/// The other end reads, and is no receiver: it takes what it gets.
#[test]
fn what_we_send_is_what_the_protocol_says() {
    checked(async {
        let scratch = Scratch::new();
        let (mut ours, mut theirs) = end(&scratch).await;
        ours.send(vec![7, 7]).await.unwrap();
        let mut bytes = [0; 19];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..], [header(3, ITEM, 0, 0, 0), vec![2, 7, 7]].concat());
        drop(OwnedFd::from(theirs));
        assert!(ours.send(vec![]).await.unwrap_err().is_closed());
    });
}

/// Whoever has sent an end may have kept a copy of it, and set it to wait, which
/// holds for both.
#[test]
fn an_end_that_somebody_has_set_to_wait() {
    checked_current_thread(async {
        let before = sockets();
        let (mut a, mut b) = pipe::<Fd<OwnedFd>>().unwrap();
        for number in sockets().difference(&before) {
            // SAFETY: clears a flag of a descriptor that is open.
            assert_eq!(unsafe { nix::libc::fcntl(*number, nix::libc::F_SETFL, 0) }, 0);
        }
        let moment = Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, a.recv()).await.is_err());
        assert!(a.recv_timeout(moment).await.unwrap_err().is_timeout());
        assert!(a.try_recv().unwrap_err().is_empty());
        let file = || Fd::from(OwnedFd::from(File::open("/dev/null").unwrap()));
        let mut count = 0;
        while b.send_timeout(file(), moment).await.is_ok() {
            count += 1;
        }
        for _ in 0..count {
            a.recv().await.unwrap().unwrap();
        }
        assert!(a.try_recv().unwrap_err().is_empty());
    });
}

fn sockets() -> BTreeSet<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let is_socket = |path: &Path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_str().unwrap().starts_with("socket:"))
    };
    entries
        .filter(|entry| is_socket(&entry.path()))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .collect()
}
