//! What the hostile tasks do, inside their workers.

use std::fs;
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

pub(crate) fn echo(n: u32) -> u32 {
    n
}

/// Works until it is asked to end.
pub(crate) fn work_until_told() {
    while !procession::worker::is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Numbers of the worker's own socket, found as any code in it could.
fn sockets() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let is_socket = |path: &std::path::Path| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    entries
        .filter(|entry| is_socket(&entry.path()))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        // Standard streams may be sockets of the test runner's.
        .filter(|&fd| fd > 2)
        .collect()
}

/// Another descriptor of the worker's socket.
pub(crate) fn socket() -> UnixStream {
    let fd = *sockets().first().expect("a worker has a socket");
    // SAFETY: the worker's loop owns it and outlives this call; only a
    // duplicate is kept.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().unwrap().into()
}

fn wait_for_the_end() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

pub(crate) fn send(bytes: Vec<u8>) {
    socket().write_all(&bytes).unwrap();
    wait_for_the_end()
}

pub(crate) fn send_slowly(bytes: Vec<u8>) {
    let mut socket = socket();
    for byte in bytes {
        socket.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    wait_for_the_end()
}

pub(crate) fn shut_down_writing() {
    socket().shutdown(std::net::Shutdown::Write).unwrap();
    wait_for_the_end()
}

pub(crate) fn send_descriptors() {
    let socket = socket();
    let file = fs::File::open("/dev/null").unwrap();
    let fds = [file.as_raw_fd(); 16];
    for _ in 0..100 {
        let message = [IoSlice::new(&[0xfe; 16])];
        let rights = [ControlMessage::ScmRights(&fds)];
        let _ = sendmsg::<()>(socket.as_raw_fd(), &message, &rights, MsgFlags::empty(), None);
    }
    wait_for_the_end()
}

/// Where the worker has its status page, and how long it is.
pub(crate) fn page_in_memory() -> (u64, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let page = maps.lines().find(|line| line.contains("memfd:procession")).expect("a page");
    let range = page.split(' ').next().unwrap();
    let (from, to) = range.split_once('-').unwrap();
    let from = u64::from_str_radix(from, 16).unwrap();
    let to = u64::from_str_radix(to, 16).unwrap();
    (from, (to - from) as usize)
}

/// Fills the whole status page with one byte.
pub(crate) fn scribble(byte: u8) {
    let (from, length) = page_in_memory();
    let memory = fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(&vec![byte; length], from).unwrap();
    // Something that only a worker with a sound page could send.
    let mut body = vec![0; 12];
    body[8] = 1;
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend([19, 0, 0, 0]);
    frame.extend(1u64.to_le_bytes());
    frame.extend(body);
    socket().write_all(&frame).unwrap();
    wait_for_the_end()
}

/// Sends many more items than it may, past the library.
pub(crate) fn flood() -> impl Iterator<Item = u8> {
    let mut socket = socket();
    let mut frame = 1u32.to_le_bytes().to_vec();
    frame.extend([22, 0, 0, 0]);
    frame.extend(1u64.to_le_bytes());
    frame.push(7);
    for _ in 0..100 {
        socket.write_all(&frame).unwrap();
    }
    std::iter::from_fn(|| wait_for_the_end())
}
