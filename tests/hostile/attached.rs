//! Workers that attach to their frames what they may not: memory that could still
//! change, that is not there, or that is none at all, more of it than they say, or
//! less. And workers that lie about it, or try to change it afterwards.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use procession::{Pool, SharedBytes, TaskError};

use crate::attack::echo;
use crate::scripted::{Cast, Script};
use crate::support::{checked, until};
use crate::trial::{assert_protocol, trial};
use crate::wire::{self, done, item, varint};

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    ("attached", |actor, what| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        actor.finish(task.seq);
        let (announced, fds) = attachments(what);
        let mut answer = match what {
            "on a failure" => wire::failed(1, wire::UNKNOWN_FUNCTION, &[]),
            "on a skip" => wire::skipped(1),
            "on an item" => item(1, &[7]),
            _ => done(1, 1, &[7]),
        };
        answer[6..8].copy_from_slice(&announced.to_le_bytes());
        actor.send_with(&answer, fds);
    }),
    // What belongs to one answer, in more than one message.
    ("attached-in-parts", |actor, how| {
        let task = actor.greet_and_take();
        actor.start(task.seq);
        actor.finish(task.seq);
        let part = |kind, flags, seq, count: u8, body: &[u8]| {
            let mut part = wire::frame(kind, flags, seq, body);
            part[6] = count;
            part
        };
        let whole = part(wire::DONE, wire::MORE, task.seq, 128, &[]);
        let memory = |count: u8| (0..count).map(|_| sealed(1, ALL).into()).collect::<Vec<_>>();
        let mut answer = done(task.seq, 1, &[7]);
        answer[6] = 2;
        let other = match how {
            "of another answer" => part(wire::DONE, wire::MORE, task.seq + 1, 128, &[]),
            "of another kind" => part(wire::ITEM, wire::MORE, task.seq, 128, &[]),
            "with a body" => part(wire::DONE, wire::MORE, task.seq, 128, &[7]),
            "too few" => part(wire::DONE, wire::MORE, task.seq, 127, &[]),
            "none" => part(wire::DONE, wire::MORE, task.seq, 0, &[]),
            "of a skip" => part(wire::SKIPPED, wire::MORE, task.seq, 0, &[]),
            "before a skip" => wire::skipped(task.seq),
            _ => whole.clone(),
        };
        actor.send_with(&whole, memory(128));
        match how {
            "fewer than it said" => actor.send_with(&whole, memory(127)),
            "more than it said" => actor.send_with(&whole, memory(129)),
            "no memory" => {
                let files = (0..128).map(|_| File::open("/").unwrap().into());
                actor.send_with(&whole, files.collect());
            }
            "without end" => (0..100).for_each(|_| actor.send_with(&whole, memory(128))),
            "and died" => std::process::abort(),
            _ => actor.send_with(&other, memory(other[6])),
        }
        actor.send_with(&answer, memory(2));
    }),
    ("attached-to-nothing", |actor, _| {
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            let answer = done(task.seq, 1, &task.body[20..]);
            actor.send_with(&answer[..1], vec![sealed(1, ALL).into()]);
            actor.send(&answer[1..]);
        }
    }),
    ("attached-and-changed", |actor, _| {
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            let file = sealed(LEN, ALL);
            let mut answer = done(task.seq, 1, &named(LEN, 0));
            answer[6] = 1;
            // Before the answer, or the page would contradict it.
            actor.finish(task.seq);
            actor.send_with(&answer, vec![file.try_clone().unwrap().into()]);
            // On its way, and when it has arrived.
            change(&file);
            actor.wait_until_taken(task.seq);
            change(&file);
        }
    }),
    ("attached-and-named", |actor, how| {
        actor.greet();
        loop {
            let task = actor.take();
            actor.start(task.seq);
            actor.finish(task.seq);
            let payload = match how {
                "the second of one" => named(LEN, 1),
                "the last there can be" => named(LEN, usize::MAX),
                "longer" => named(LEN + 1, 0),
                "shorter" => named(LEN - 1, 0),
                "endless" => named(usize::MAX, 0),
                "cut short" => varint(LEN as u64),
                "and more" => [named(LEN, 0), vec![0]].concat(),
                "as bytes" => [varint(3), vec![1, 2, 3]].concat(),
                _ => unreachable!("no name {how}"),
            };
            let mut answer = done(task.seq, 1, &payload);
            answer[6] = 1;
            actor.send_with(&answer, vec![sealed(LEN, ALL).into()]);
        }
    }),
];

const LEN: usize = 100_000;

const ALL: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

/// How a value names what is attached.
fn named(len: usize, index: usize) -> Vec<u8> {
    [varint(len as u64), varint(index as u64)].concat()
}

fn memory() -> File {
    let name: &CStr = c"procession-shared";
    memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap().into()
}

fn sealed(len: usize, seals: SealFlag) -> File {
    let file = memory();
    file.write_all_at(&vec![7; len], 0).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

/// How many descriptors a frame announces, and which come with it.
fn attachments(what: &str) -> (u16, Vec<OwnedFd>) {
    let many = |count| (0..count).map(|_| sealed(1, ALL).into()).collect();
    let one = |fd: OwnedFd| (1, vec![fd]);
    match what {
        "unsealed" => one(sealed(LEN, SealFlag::empty()).into()),
        "still writable" => one(sealed(LEN, ALL - SealFlag::F_SEAL_WRITE).into()),
        "still shrinking" => one(sealed(LEN, ALL - SealFlag::F_SEAL_SHRINK).into()),
        "still growing" => one(sealed(LEN, ALL - SealFlag::F_SEAL_GROW).into()),
        "with holes" => {
            let file = memory();
            file.set_len(LEN as u64).unwrap();
            file.write_all_at(&[7], 0).unwrap();
            fcntl(&file, FcntlArg::F_ADD_SEALS(ALL)).unwrap();
            one(file.into())
        }
        "empty" => one(sealed(0, ALL).into()),
        "a file" => one(File::open("/proc/self/exe").unwrap().into()),
        "a device" => one(File::open("/dev/zero").unwrap().into()),
        "a folder" => one(File::open("/").unwrap().into()),
        "a socket" => one(UnixStream::pair().unwrap().0.into()),
        "one that lingers" => one(lingering().into()),
        "one bad of two" => (2, vec![sealed(1, ALL).into(), File::open("/").unwrap().into()]),
        "too long" => one(sealed(4 << 20, ALL).into()),
        "too long together" => (3, (0..3).map(|_| sealed(1 << 20, ALL).into()).collect()),
        "one more" => (1, many(2)),
        "one less" => (2, many(1)),
        "none" => (1, vec![]),
        "too many" => (129, many(129)),
        "as many as there can be" => (u16::MAX, many(1)),
        "on a failure" | "on a skip" | "on an item" => (1, many(1)),
        _ => unreachable!("nothing to attach {what}"),
    }
}

/// A connection whose last descriptor takes ten minutes to be closed, unless the
/// other end breaks: its bytes have to be read first.
fn lingering() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::mem::forget((listener.accept().unwrap(), listener));
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 1 << 16]).is_ok() {}
    stream.set_nonblocking(false).unwrap();
    let linger = libc::linger { l_onoff: 1, l_linger: 600 };
    // SAFETY: the option is a `linger`, and lives for the call.
    unsafe {
        let (value, length) = (std::ptr::from_ref(&linger).cast(), size_of_val(&linger) as u32);
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, length);
    }
    stream
}

/// Tries everything that could change memory that was given away.
fn change(file: &File) {
    assert!(file.set_len(0).is_err());
    assert!(file.set_len(1 << 30).is_err());
    assert!(file.write_at(&[8], 0).is_err());
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert!(fallocate(file, hole, 0, 4096).is_err());
    assert!(fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).is_err());
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    assert!(again.write_at(&[8], 0).is_err());
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, placed by the kernel, if there is one.
    let mapped = unsafe {
        libc::mmap(std::ptr::null_mut(), LEN, access, libc::MAP_SHARED, again.as_raw_fd(), 0)
    };
    assert_eq!(mapped, libc::MAP_FAILED);
}

#[test]
fn attachments_that_are_refused() {
    let not_sealed = "a descriptor is not one of sealed memory";
    let missing = "descriptors that it announced did not come";
    let cases = [
        ("unsealed", not_sealed),
        ("still writable", not_sealed),
        ("still shrinking", not_sealed),
        ("still growing", not_sealed),
        ("with holes", not_sealed),
        ("empty", not_sealed),
        ("a file", not_sealed),
        ("a device", not_sealed),
        ("a folder", not_sealed),
        ("a socket", not_sealed),
        ("one that lingers", not_sealed),
        ("one bad of two", not_sealed),
        ("too long", "is over the limit of"),
        ("too long together", "is over the limit of"),
        ("one more", "descriptors came that it did not announce"),
        ("one less", missing),
        ("none", missing),
        ("too many", "129 descriptors are over the frame's limit of 128"),
        ("as many as there can be", "510 descriptors are over the frame's limit of 128"),
        ("on a failure", "1 descriptors are over the frame's limit of 0"),
        ("on a skip", "1 descriptors are over the frame's limit of 0"),
        ("on an item", "the worker's answer does not fit the call"),
    ];
    for (what, sentence) in cases {
        checked(async {
            assert_protocol(&trial(&format!("attached:{what}")).await, sentence);
        });
    }
}

#[test]
fn what_comes_in_parts_that_are_none() {
    let scattered = "its descriptors came otherwise than they may";
    let cases = [
        ("of another answer", scattered),
        ("of another kind", scattered),
        ("with a body", scattered),
        ("too few", scattered),
        ("none", scattered),
        ("of a skip", scattered),
        ("before a skip", scattered),
        ("fewer than it said", "descriptors that it announced did not come"),
        ("more than it said", "descriptors came that it did not announce"),
        ("no memory", "a descriptor is not one of sealed memory"),
        ("without end", "1152 descriptors are over the frame's limit of 1088"),
    ];
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    for (how, sentence) in cases {
        checked(async {
            let before = descriptors();
            assert_protocol(&trial(&format!("attached-in-parts:{how}")).await, sentence);
            until("they are closed", || descriptors() <= before).await;
        });
    }
    checked(async {
        let cast = Cast::new("attached-in-parts:and died", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        let before = descriptors();
        let error = pool.apply(echo, 1).await.unwrap_err();
        assert!(error.is_worker_lost(), "{error:?}");
        assert_eq!(pool.apply(echo, 2).await.unwrap(), 2);
        until("they are closed", || descriptors() <= before).await;
        pool.terminate().await;
    });
}

#[test]
fn an_answer_to_which_something_is_attached_for_no_reason() {
    checked(async {
        let cast = Cast::new("attached-to-nothing", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        match pool.apply(echo, 300).await {
            // Both may have come before the first was looked at.
            Ok(answer) => assert_eq!(answer, 300),
            Err(error) => assert_protocol(&error, "that it did not announce"),
        }
        assert_eq!(pool.apply(echo, 301).await.unwrap(), 301);
        assert_eq!(pool.stats().workers_started, 2);
        pool.terminate().await;
    });
}

fn made() -> SharedBytes {
    unreachable!("the worker has a script")
}

#[test]
fn what_was_sent_stays_as_it_is() {
    checked(async {
        let cast = Cast::new("attached-and-changed", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        let mut sent = Vec::new();
        for _ in 0..4 {
            // The worker is through with those before: it has tried to change them.
            sent.push(pool.apply(made, ()).await.unwrap());
            for bytes in &sent {
                assert!(bytes[..] == vec![7; LEN]);
            }
        }
        assert_eq!(pool.stats().workers_started, 1, "it could change nothing");
        pool.terminate().await;
    });
}

async fn refusal(pool: &Pool) -> String {
    let error = pool.apply(made, ()).await.unwrap_err();
    assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
    error.to_string()
}

#[test]
fn names_of_what_is_not_there() {
    let cases = [
        ("the second of one", "memory that is not attached"),
        ("the last there can be", "memory that is not attached"),
        ("longer", "another length"),
        ("shorter", "another length"),
        ("endless", "another length"),
        ("cut short", "it ends in the middle of a value"),
        ("and more", "1 byte is left over"),
        ("as bytes", "memory that is not attached"),
    ];
    for (how, sentence) in cases {
        checked(async {
            let cast = Cast::new(&format!("attached-and-named:{how}"), 1);
            let pool = cast.builder().workers(1).build().unwrap();
            for _ in 0..3 {
                let text = refusal(&pool).await;
                assert!(text.contains(sentence), "{how}: {text}");
            }
            // To those who expect something else it is something else.
            if how == "the second of one" {
                let len = pool.apply(|| -> (u32, u32) { unreachable!() }, ()).await.unwrap();
                assert_eq!(len, (LEN as u32, 1));
            }
            assert_eq!(pool.stats().workers_started, 1);
            pool.terminate().await;
        });
    }
}
