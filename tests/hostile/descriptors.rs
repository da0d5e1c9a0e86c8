//! Workers that abuse their socket and their output: descriptors that nobody
//! asked for, urgent bytes, output without end.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use procession::{Pool, Stdio, TaskError};

use crate::attack::echo;
use crate::scripted::{Actor, Cast, Heard, Script};
use crate::support::{checked, is_alive, noted, notes, until};
use crate::trial::{Peak, assert_protocol};
use crate::wire::done;

pub(crate) const SCRIPTS: &[(&str, Script)] = &[
    // Every byte of an answer brings as many descriptors as a message can have.
    ("descriptors", |actor, _| {
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let mut fds: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        // The socket itself among them, and the page.
        fds.extend([actor.socket.as_raw_fd(), actor.page.0.as_raw_fd()]);
        actor.greet();
        loop {
            for byte in serve(actor) {
                let byte = [byte];
                let message = [std::io::IoSlice::new(&byte)];
                let rights = [ControlMessage::ScmRights(&fds)];
                let socket = actor.socket.as_raw_fd();
                // The parent may have had enough of us.
                let _ = sendmsg::<()>(socket, &message, &rights, MsgFlags::MSG_NOSIGNAL, None);
            }
        }
    }),
    ("urgent", |actor, _| {
        actor.greet();
        for n in 0_u8.. {
            let answer = serve(actor);
            let (now, later) = answer.split_at(usize::from(n) % answer.len());
            actor.send(now);
            for _ in 0..10 {
                let _ = send(actor.socket.as_raw_fd(), &[n], MsgFlags::MSG_OOB);
            }
            actor.send(later);
        }
    }),
];

fn serve(actor: &mut Actor) -> Vec<u8> {
    let Heard { seq, body, .. } = actor.take();
    actor.start(seq);
    actor.finish(seq);
    done(seq, 1, &body[20..])
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn descriptors_that_nobody_asked_for_do_not_stay() {
    checked(async {
        let villains = 5;
        let cast = Cast::new("descriptors", villains);
        let pool = cast.builder().workers(1).build().unwrap();
        pool.ready().await.unwrap();
        let before = descriptors();
        for n in 0..villains as u32 {
            let error = pool.apply(echo, n).await.unwrap_err();
            assert_protocol(&error, "descriptors came that it did not announce");
            pool.ready().await.unwrap();
            until("they are closed", || descriptors() <= before).await;
        }
        assert_eq!(pool.apply(echo, 7).await.unwrap(), 7);
        pool.terminate().await;
    });
}

/// They are not part of the stream, or they are garbage in it.
#[test]
fn urgent_bytes() {
    checked(async {
        let cast = Cast::new("urgent", 1);
        let pool = cast.builder().workers(1).build().unwrap();
        for n in 0..100 {
            match pool.apply(echo, n).await {
                Ok(answer) => assert_eq!(answer, n),
                Err(error) => assert!(matches!(error, TaskError::Protocol(_)), "{error:?}"),
            }
        }
        pool.terminate().await;
    });
}

/// Prints such text until it is asked to end, and then ends badly.
fn print(to: i32, text: Vec<u8>, megabytes: usize) {
    let block = text.repeat((64 << 10) / text.len());
    for _ in 0..megabytes * 16 {
        let mut rest = &block[..];
        while !rest.is_empty() {
            // SAFETY: writes from a live buffer of that length.
            let n = unsafe { libc::write(to, rest.as_ptr().cast(), rest.len()) };
            assert!(n > 0);
            rest = &rest[n as usize..];
        }
    }
    std::process::abort()
}

#[test]
fn output_without_end_is_read_and_forgotten() {
    checked(async {
        let texts: [&[u8]; 5] = [b"x", b"\n", b"\xff\xfe", b"\x1b[31m\0\r", b"a line\n"];
        for to in [1, 2] {
            let peak = Peak::new();
            let options = Pool::builder().stdout(Stdio::piped()).stderr(Stdio::piped());
            let pool = options.workers(2).build().unwrap();
            for text in texts {
                let printing = pool.apply_async(print, (to, text.to_vec(), 2));
                // The other worker is served meanwhile.
                for n in 0..20 {
                    assert_eq!(pool.apply(echo, n).await.unwrap(), n);
                }
                let error = printing.await.unwrap_err();
                let TaskError::WorkerLost { stderr, .. } = error else { panic!("{error:?}") };
                // 4 KiB, in which each byte may have been no text.
                assert!(stderr.len() <= 3 * (4 << 10), "{}", stderr.len());
                assert_eq!(stderr.is_empty(), to == 1, "{stderr:?}");
            }
            pool.terminate().await;
            peak.assert_below(32 << 20);
        }
    });
}

/// Prints from outside of the group, until nobody reads.
fn leave_a_talker(told: String) {
    // SAFETY: the child does nothing but system calls.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::setsid();
            while libc::write(2, b"still here\n".as_ptr().cast(), 11) == 11 {}
            libc::_exit(0);
        }
    }
    crate::grandchildren::tell_of(child, &told);
    std::process::abort()
}

#[test]
fn whoever_holds_the_output_of_a_dead_worker_is_not_listened_to() {
    checked(async {
        let scratch = crate::support::Scratch::new();
        let told = scratch.path("told");
        let pool = Pool::builder().stderr(Stdio::piped()).workers(1).build().unwrap();
        let error = pool.apply(leave_a_talker, told.clone()).await.unwrap_err();
        assert!(matches!(error, TaskError::WorkerLost { .. }), "{error:?}");
        noted(&told).await;
        let talker = notes(&told)[0].parse().unwrap();
        until("nobody reads", || !is_alive(talker)).await;
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
    });
}

fn close_and_shrink(_: ()) -> u32 {
    for fd in [0, 1, 2] {
        // SAFETY: nothing of Rust's owns the standard streams.
        unsafe {
            libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
            libc::fcntl(fd, libc::F_SETPIPE_SZ, 4096);
            libc::close(fd);
        }
    }
    std::process::id()
}

#[test]
fn a_worker_without_standard_streams_works_on() {
    checked(async {
        let options = Pool::builder().stdout(Stdio::piped()).stderr(Stdio::piped());
        let pool = options.workers(1).build().unwrap();
        let pid = pool.apply(close_and_shrink, ()).await.unwrap();
        for n in 0..20 {
            assert_eq!(pool.apply(echo, n).await.unwrap(), n);
        }
        assert_eq!(pool.workers()[0].pid, Some(pid));
        assert!(std::io::stderr().write(b"").is_ok());
        pool.terminate().await;
    });
}

/// As many bytes as the kernel lets a socket have.
fn fill_the_socket(_: ()) {
    let socket = crate::attack::socket();
    let most: libc::c_int = 1 << 30;
    // SAFETY: the option is an int, and lives for the call.
    unsafe {
        let value = std::ptr::from_ref(&most).cast();
        let (fd, length) = (socket.as_raw_fd(), size_of_val(&most) as u32);
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, value, length);
    }
    // A frame that is as long as one may be, and never whole.
    let start = crate::wire::frame_of_length(1 << 20, crate::wire::DONE, 0, 1, &[0; 1 << 19]);
    let _ = (&socket).write_all(&start);
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

#[test]
fn half_a_frame_that_is_never_completed() {
    checked(async {
        let peak = Peak::new();
        let options = Pool::builder().frame_limit(1 << 20).grace_period(Duration::ZERO);
        let pool = options.workers(1).build().unwrap();
        let timeout = Duration::from_millis(100);
        let error = pool.apply(fill_the_socket, ()).timeout(timeout).await.unwrap_err();
        assert!(matches!(error, TaskError::TimedOut { exit: Some(_), .. }), "{error:?}");
        assert_eq!(pool.apply(echo, 1).await.unwrap(), 1);
        pool.terminate().await;
        peak.assert_below(16 << 20);
    });
}
