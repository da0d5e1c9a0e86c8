//! A process that was taken over, or whose memory was damaged: whatever it writes to
//! its socket costs it its own life, and nobody else anything.

use std::fs::File;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::sockopt::SockType;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg};
use procession::{Process, Stdio, TaskError};

use crate::checked;
use crate::support::{Scratch, note, noted};
use crate::tasks::square;

/// This process's end of its socket.
fn socket() -> ManuallyDrop<UnixStream> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers = fds.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse::<i32>().ok()?;
        // SAFETY: it is open, and stays so.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        // A copy of its parent has one that hears nobody, under many numbers.
        let is_stream = || getsockopt(&fd, SockType) == Ok(nix::sys::socket::SockType::Stream);
        (target.to_str()?.starts_with("socket:") && is_stream()).then_some(number)
    });
    // The lifeline has a table of its own where the kernel can do that; the leash is
    // not readable and would kill this process.
    let number = numbers.min().expect("it has a socket");
    // SAFETY: it stays open, as this is not dropped.
    ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(number) })
}

fn frame(kind: u8, flags: u8, seq: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend([kind, flags, 0, 0]);
    frame.extend(seq.to_le_bytes());
    frame.extend(body);
    frame
}

fn writes(bytes: Vec<u8>) -> u64 {
    socket().write_all(&bytes).unwrap();
    std::thread::park();
    0
}

const HELLO: u8 = 16;
const DONE: u8 = 19;

async fn is_condemned(bytes: Vec<u8>) {
    let process = Process::builder().stderr(Stdio::null()).spawn(writes, bytes.clone()).unwrap();
    let other = Process::spawn(square, 3).unwrap();
    let exited = process.exited();
    match process.await {
        Err(TaskError::Protocol(_)) => {}
        answer => panic!("{answer:?} after {:?}", &bytes[..bytes.len().min(40)]),
    }
    assert_eq!(exited.await.signal(), Some(9), "it is killed for it");
    assert_eq!(other.await.unwrap(), 9);
}

#[test]
fn what_is_no_frame_ends_it() {
    checked(async {
        is_condemned(vec![0xff; 100]).await;
        is_condemned(b"GET / HTTP/1.1\r\n\r\n".to_vec()).await;
        is_condemned(frame(250, 0, 1, b"")).await;
        // Longer than anything may be.
        let mut long = frame(DONE, 0, 1, b"");
        long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        is_condemned(long).await;
    });
}

#[test]
fn what_is_not_due_ends_it() {
    checked(async {
        is_condemned(frame(HELLO, 0, 0, b"")).await;
        for kind in 0..=40 {
            // For another task than the only one.
            is_condemned(frame(kind, 0, 2, &[0; 12])).await;
        }
    });
}

#[test]
fn an_answer_that_does_not_fit_is_an_error() {
    checked(async {
        // Of no calls, and of two.
        for answered in [0_u32, 2] {
            let body = [&[0; 8][..], &answered.to_le_bytes(), &[5]].concat();
            is_condemned(frame(DONE, 0, 1, &body)).await;
        }
        // The first counts, if it is the only one.
        let body = [&[0; 8][..], &1_u32.to_le_bytes(), &[5]].concat();
        let one = frame(DONE, 0, 1, &body);
        is_condemned([&one[..], &one[..]].concat()).await;
        // It need not be what the function returns.
        let body = [&[0; 8][..], &1_u32.to_le_bytes(), b"not a number"].concat();
        let forge = |bytes: Vec<u8>| -> u64 {
            socket().write_all(&bytes).unwrap();
            std::process::exit(0)
        };
        let error = Process::spawn(forge, frame(DONE, 0, 1, &body)).unwrap().await.unwrap_err();
        assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
    });
}

#[test]
fn descriptors_that_nobody_announced_end_it() {
    fn sends() {
        let file = File::open("/dev/null").unwrap();
        let fds = [file.as_fd().as_raw_fd(); 3];
        let bytes = frame(DONE, 0, 1, &[0; 12]);
        let rights = [ControlMessage::ScmRights(&fds)];
        let slices = [std::io::IoSlice::new(&bytes)];
        let socket = socket();
        sendmsg::<()>(socket.as_raw_fd(), &slices, &rights, MsgFlags::empty(), None).unwrap();
        std::thread::park();
    }
    checked(async {
        let error = Process::spawn(sends, ()).unwrap().await.unwrap_err();
        assert!(matches!(error, TaskError::Protocol(_)), "{error:?}");
    });
}

#[test]
fn a_flood_ends_it() {
    fn floods() {
        let item = frame(DONE, 0, 3, &[0; 1000]).repeat(100);
        while socket().write_all(&item).is_ok() {}
        std::thread::park();
    }
    checked(async {
        let error = Process::spawn(floods, ()).unwrap().await.unwrap_err();
        assert!(matches!(error, TaskError::Protocol(_)), "{error:?}");
    });
}

/// It is not killed for that: it may have something else to do.
#[test]
fn one_that_hangs_up_runs_on_and_has_no_answer() {
    fn hangs_up(path: String) -> u8 {
        socket().shutdown(std::net::Shutdown::Write).unwrap();
        note(path, "still here");
        5
    }
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("note");
        let process = Process::builder().stderr(Stdio::null());
        let error = process.spawn(hangs_up, path.clone()).unwrap().await.unwrap_err();
        assert!(error.is_worker_lost(), "{error:?}");
        noted(&path).await;
    });
}
