//! Descriptors: [messages](message) with some attached, [sockets](socket), [waiting](ready)
//! for either, and the [table] of this process. Here is what one does with a single one.

mod message;
mod ready;
mod socket;
mod table;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::pipe2;

pub(crate) use self::message::{
    Received, receive_into, receive_now, recv_with_fds, send_slices, send_with_fds,
    send_with_fds_now,
};
pub(crate) use self::ready::{
    Direction, await_any_readable, await_readable, await_ready, is_readable,
};
pub(crate) use self::socket::{accept, connect_to, end, own_uid, peer_pid, peer_uid, socket_pair};
pub(crate) use self::table::{
    clear_standard, clone_open, close_inherited, keep_for_this_thread, let_go_of_all_but,
    move_stdin_away, replace_stderr, replace_stdin, replace_stdout,
};

/// Makes reads and writes wait, or not.
pub(crate) fn set_waiting(fd: &OwnedFd, waits: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !waits);
    fcntl(fd, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// What is in a pipe, which stays there. Nothing, if this cannot be told.
pub(crate) fn peek_pipe(pipe: BorrowedFd<'_>) -> Vec<u8> {
    let look = || -> io::Result<Vec<u8>> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: takes two open pipes and two integers. Neither is waited for.
        let copied = unsafe {
            libc::tee(pipe.as_raw_fd(), write.as_raw_fd(), PIPE_BYTES_MAX, libc::SPLICE_F_NONBLOCK)
        };
        Errno::result(copied)?;
        drop(write);
        let mut bytes = Vec::new();
        File::from(read).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    look().unwrap_or_default()
}

/// Looked at in one go; a new pipe holds 64 KiB.
const PIPE_BYTES_MAX: usize = 1 << 20;

/// As many bytes as were announced. There is room at once for as many as usual, and for
/// more as they come.
///
/// # Errors
///
/// `UnexpectedEof` if there are fewer.
pub(crate) fn read_announced(socket: &UnixStream, len: usize) -> io::Result<Vec<u8>> {
    const USUAL_BYTES: usize = 16 << 10;
    let mut bytes = Vec::with_capacity(len.min(USUAL_BYTES));
    if socket.take(len as u64).read_to_end(&mut bytes)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Reads once into the spare room of `buffer`, `most` bytes of it, without
/// clearing that first. Returns 0 at the end of the stream, or if there is no
/// room.
pub(crate) fn read_into(
    fd: BorrowedFd<'_>,
    buffer: &mut BytesMut,
    most: usize,
) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    let len = room.len().min(most);
    let room = &mut room[..len];
    // SAFETY: the kernel writes at most `room.len()` bytes there.
    let mut read = || unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) };
    let n = loop {
        match Errno::result(read()) {
            // A signal handler of the task's ran.
            Err(Errno::EINTR) => {}
            result => break result? as usize,
        }
    };
    // SAFETY: the kernel has initialised the first `n` bytes of the room.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// Bytes that nobody can guess.
#[cfg(feature = "authkey")]
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    loop {
        // SAFETY: the kernel writes at most that many bytes there.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match Errno::result(got) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            // So few come all at once.
            Ok(_) => return Ok(bytes),
        }
    }
}

/// Makes reads and writes fail that would have to wait.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// How many descriptors this process may have, and so many may be on their way from
/// all processes of its user.
pub(crate) fn descriptors_max() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE)
        .map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Whether a write failed because so many are on their way.
pub(crate) fn is_too_many(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

/// Whether a write failed because nobody is left to read it. Which error that is depends on
/// whether something was unread when the reader went, and on whether it was just going.
pub(crate) fn has_no_reader(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotConnected)
}

/// Whether a write that failed like this may work a moment later.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        // The last: too many descriptors of this user are on their way.
        Some(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS)
    )
}
