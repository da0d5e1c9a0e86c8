//! Descriptors: sent in messages, and the standard ones of a worker. Called by
//! `start` and by the transport. What is received is owned at once, so that no
//! error path leaks it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockname, getsockopt, sendmsg, shutdown, socket,
};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2};

/// Sends bytes, with descriptors attached to the first of them. Returns how
/// many bytes were taken; the descriptors went with the first.
///
/// Where the socket does not wait, it fails like [`send_slices`].
pub(crate) fn send_with_fds(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send_flagged(socket, slices, fds, MsgFlags::MSG_NOSIGNAL)
}

/// As [`send_with_fds`], without waiting, however the socket is set.
pub(crate) fn send_with_fds_now(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send_flagged(socket, slices, fds, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
}

fn send_flagged(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        let sent = sendmsg::<()>(socket.as_raw_fd(), slices, control, flags, None);
        match sent {
            Err(Errno::EINTR) => continue,
            sent => return Ok(sent?),
        }
    }
}

/// Receives bytes and at most `fds_max` descriptors, close-on-exec. No bytes
/// means end of file.
///
/// # Errors
///
/// `InvalidData` if more descriptors came; all of them are closed.
pub(crate) fn recv_with_fds(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    fds_max: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let fds_bytes = (fds_max * mem::size_of::<RawFd>()) as libc::c_uint;
    // SAFETY: computes a size.
    let space = unsafe { libc::CMSG_SPACE(fds_bytes) } as usize;
    // Of u64, because the kernel's headers in it must be aligned.
    let mut control = vec![MaybeUninit::uninit(); space.div_ceil(mem::size_of::<u64>())];
    // The length without padding: in the padding there is room for one more.
    // SAFETY: computes a size.
    let control_len = unsafe { libc::CMSG_LEN(fds_bytes) } as usize;
    // SAFETY: a slice of bytes is also one of bytes that may be uninitialised,
    // and the kernel only initialises them.
    let room = unsafe { &mut *(&raw mut *buf as *mut [MaybeUninit<u8>]) };
    let Received { len, fds, cut_short } = receive(socket, room, &mut control, control_len, 0)?;
    if cut_short {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
    }
    Ok((len, fds))
}

/// Reads once into the spare room of `buffer`, `most` bytes of it, as
/// [`read_into`] does, and takes what descriptors were attached to the bytes,
/// close-on-exec.
///
/// A read ends behind bytes that had some attached.
pub(crate) fn receive_into(
    socket: BorrowedFd<'_>,
    buffer: &mut BytesMut,
    most: usize,
) -> io::Result<Received> {
    receive_flagged(socket, buffer, most, 0)
}

/// As [`receive_into`], without waiting, however the socket is set.
pub(crate) fn receive_now(
    socket: BorrowedFd<'_>,
    buffer: &mut BytesMut,
    most: usize,
) -> io::Result<Received> {
    receive_flagged(socket, buffer, most, libc::MSG_DONTWAIT)
}

fn receive_flagged(
    socket: BorrowedFd<'_>,
    buffer: &mut BytesMut,
    most: usize,
    flags: libc::c_int,
) -> io::Result<Received> {
    let room = buffer.spare_capacity_mut();
    let len = room.len().min(most);
    let mut control = [MaybeUninit::uninit(); CONTROL_WORDS];
    let control_len = mem::size_of_val(&control);
    let received = receive(socket, &mut room[..len], &mut control, control_len, flags)?;
    // SAFETY: the kernel has initialised that much of the room.
    unsafe { buffer.set_len(buffer.len() + received.len) };
    Ok(received)
}

/// What came at once.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes. None means end of file.
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
    /// There was no room for more descriptors, in the buffer for them or in
    /// this process. Those are closed.
    pub(crate) cut_short: bool,
}

/// Most descriptors that the kernel attaches to one message (`SCM_MAX_FD`).
const MESSAGE_FDS_MAX: usize = 253;

/// With room for that many, and the header before them.
const CONTROL_WORDS: usize = 2 + MESSAGE_FDS_MAX.div_ceil(2);

/// Receives into `room`, and descriptors by way of the first `control_len`
/// bytes of `control`.
fn receive(
    socket: BorrowedFd<'_>,
    room: &mut [MaybeUninit<u8>],
    control: &mut [MaybeUninit<u64>],
    control_len: usize,
    flags: libc::c_int,
) -> io::Result<Received> {
    assert!(control_len <= mem::size_of_val(control));
    let mut iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: zeroes are a valid msghdr: no name, no buffers.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control_len as _;
    let len = loop {
        // SAFETY: every pointer in `message` is to a live buffer of the
        // stated length, of which the kernel reads nothing.
        let got = unsafe {
            libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC | flags)
        };
        match Errno::result(got) {
            // A signal handler of the task's ran.
            Err(Errno::EINTR) => continue,
            got => break got? as usize,
        }
    };
    let fds = take_fds(&message);
    // Looked at after `fds` owns what came: nix refuses a truncated message
    // as a whole and leaks its descriptors, the reason for doing this by hand.
    Ok(Received { len, fds, cut_short: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg has filled in the control buffer and its length, and
    // the CMSG macros stay within it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                #[allow(clippy::unnecessary_cast, reason = "it is 32 bits with musl")]
                let bytes = control.cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for n in 0..bytes / mem::size_of::<RawFd>() {
                    // The descriptor is new in this process, and nobody else
                    // has seen it.
                    fds.push(OwnedFd::from_raw_fd(data.add(n).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

/// The process that made this Unix socket pair, as the kernel noted it; `None`
/// if the descriptor is no Unix socket.
pub(crate) fn peer_pid(socket: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    // Other families answer the question too, with zero.
    match getsockname::<UnixAddr>(socket.as_raw_fd()) {
        // The last is nix's own word for another family.
        Err(Errno::EBADF | Errno::ENOTSOCK | Errno::EINVAL) => Ok(None),
        known => {
            known?;
            Ok(Some(getsockopt(&socket, PeerCredentials)?.pid()))
        }
    }
}

/// Gives the calling thread a table of descriptors for itself, with none but
/// `kept` in it: whatever other threads do to theirs, these stay. Returns the
/// same descriptors in the table that it leaves to the other threads, one of
/// which is to drop them.
///
/// # Errors
///
/// Fails before Linux 5.9. The table is shared as before then.
pub(crate) fn keep_for_this_thread(kept: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    let mut numbers: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    numbers.sort_unstable();
    let mut next = 0;
    for end in numbers.into_iter().chain([libc::c_uint::MAX]) {
        if next < end {
            let (first, last) = (next, end - 1);
            // SAFETY: the first call makes the table this thread's own, so that
            // nobody's descriptors are closed.
            Errno::result(unsafe {
                libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE)
            })?;
        }
        next = end.saturating_add(1);
    }
    // SAFETY: each number stands for two descriptors now, one in each table;
    // these are the others.
    Ok(kept.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) }).collect())
}

/// Closes what this process has inherited from `parent`, which has it open, beside
/// the standard streams: files that something there has not opened close-on-exec. Not
/// what was opened here, whatever number that has. Where the kernel does not tell
/// the two apart, as in many containers, only pipes and sockets are closed, each of
/// which has a name of its own.
pub(crate) fn close_inherited(parent: i32) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Not while the folder is read.
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        if is_inherited(number, parent) {
            // SAFETY: nothing in this program has opened it, so nothing owns it.
            unsafe { libc::close(number) };
        }
    }
}

/// Whether it is open in `parent`, too, under the same number, and would have come
/// from there.
fn is_inherited(number: RawFd, parent: i32) -> bool {
    /// `KCMP_FILE` of kcmp(2).
    const SAME_FILE: libc::c_int = 0;
    // SAFETY: reads a flag.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 || flags & libc::FD_CLOEXEC != 0 {
        return false;
    }
    // SAFETY: takes integers and touches no memory of ours.
    let compared =
        unsafe { libc::syscall(libc::SYS_kcmp, libc::getpid(), parent, SAME_FILE, number, number) };
    compared == 0 || compared == -1 && has_unique_name_of(number, parent)
}

/// Whether it is a pipe or a socket, and the one that `parent` has there.
fn has_unique_name_of(number: RawFd, parent: i32) -> bool {
    let name = |process: &str| fs::read_link(format!("/proc/{process}/fd/{number}"));
    let (Ok(ours), Ok(theirs)) = (name("self"), name(&parent.to_string())) else { return false };
    let ours = ours.as_os_str().as_encoded_bytes();
    ours == theirs.as_os_str().as_encoded_bytes()
        && (ours.starts_with(b"pipe:[") || ours.starts_with(b"socket:["))
}

/// Moves what is at descriptor 0 to one that programs do not inherit, and
/// leaves `/dev/null` at 0.
pub(crate) fn move_stdin_away() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    // Not below 3, where it would become another standard stream.
    let moved = fcntl(stdin.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel made this descriptor just now, and nobody else has
    // seen it.
    let moved = unsafe { OwnedFd::from_raw_fd(moved) };
    dup2_stdin(OpenOptions::new().read(true).write(true).open("/dev/null")?)?;
    Ok(moved)
}

/// To be called in a copy of this process: lets go of all that a worker would not have
/// that was executed, but of `kept`. So whoever waits for the other ends of
/// pipes and sockets to be closed waits for nobody but the original.
///
/// Under each number there is something then that talks to nobody: a `static` may still
/// know it, such as that of a log or of a connection, and is not to meet what is opened
/// later. What is meant to be inherited is not Rust's, and just closed.
pub(crate) fn let_go_of_all_but(kept: &[OwnedFd]) -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2 && kept.iter().all(|fd| fd.as_raw_fd() != *number))
        .collect();
    let mut known = Vec::new();
    for number in numbers {
        // SAFETY: a number may stand for nothing, which is an error then. The folder that
        // was read is closed by now.
        match unsafe { libc::fcntl(number, libc::F_GETFD) } {
            -1 => {}
            flags if flags & libc::FD_CLOEXEC == 0 => close(number),
            _ => known.push((number, Kind::of(number))),
        }
    }
    // One after the other, as there may be room for no more.
    for kind in [Kind::File, Kind::UnixSocket, Kind::Other] {
        let inert = match kind {
            Kind::File => OpenOptions::new().read(true).write(true).open("/dev/null")?.into(),
            Kind::UnixSocket => mirror()?,
            // Neither read nor written, whoever opens it anew.
            Kind::Other => {
                OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/")?.into()
            }
        };
        for (number, _) in known.iter().filter(|(_, known)| *known == kind) {
            // SAFETY: whoever owns the number has an open descriptor as before. It is in
            // frames of the original that nobody returns to, or in a static.
            if unsafe { libc::dup3(OwnedFd::as_raw_fd(&inert), *number, libc::O_CLOEXEC) } == -1 {
                // It is beyond the limit, and nothing will be opened there.
                close(*number);
            }
        }
    }
    Ok(())
}

/// What belongs to nobody in this process, or to somebody who will find nothing there.
fn close(number: RawFd) {
    // SAFETY: as above.
    unsafe { libc::close(number) };
}

/// What there is to be instead of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    UnixSocket,
    /// Memory among it, as of a queue, which others would take for written to.
    Other,
}

impl Kind {
    fn of(number: RawFd) -> Kind {
        // SAFETY: `stat` writes to a variable of ours, for which zeroes are valid.
        let mut stat: libc::stat = unsafe { mem::zeroed() };
        // SAFETY: as above.
        if unsafe { libc::fstat(number, &mut stat) } != 0 {
            return Kind::Other;
        }
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG if stat.st_nlink > 0 => Kind::File,
            libc::S_IFCHR => Kind::File,
            // Other families answer as well, with another name.
            libc::S_IFSOCK if getsockname::<UnixAddr>(number).is_ok() => Kind::UnixSocket,
            _ => Kind::Other,
        }
    }
}

/// Has descriptors that have the numbers of standard streams, as those were closed, moved
/// away, and opens the streams.
pub(crate) fn clear_standard(fds: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let moved: io::Result<Vec<OwnedFd>> = fds
        .into_iter()
        // The copy is not below 3.
        .map(|fd| if fd.as_raw_fd() > 2 { Ok(fd) } else { fd.try_clone() })
        .collect();
    loop {
        let null = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/null")?);
        if null.as_raw_fd() > 2 {
            return moved;
        }
        // It is the stream from now on.
        let _ = null.into_raw_fd();
    }
}

/// A socket that hears nobody but itself. It does for the pair in which tokio is told
/// of signals, and that each runtime wants to watch.
fn mirror() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let mirror = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // Without a name, the kernel finds one.
    bind(mirror.as_raw_fd(), &UnixAddr::new_unnamed())?;
    connect(mirror.as_raw_fd(), &getsockname::<UnixAddr>(mirror.as_raw_fd())?)?;
    Ok(mirror)
}

/// Another descriptor of a standard stream; `None` if the program has closed that. What it
/// has opened since, and happens to have that number, is none: another program would not
/// inherit it either.
pub(crate) fn clone_open(stream: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match fcntl(stream, FcntlArg::F_GETFD) {
        Ok(flags) if flags & libc::FD_CLOEXEC == 0 => stream.try_clone_to_owned().map(Some),
        Ok(_) | Err(Errno::EBADF) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes `fd` the standard input.
pub(crate) fn replace_stdin(fd: OwnedFd) -> io::Result<()> {
    dup2_stdin(fd)?;
    Ok(())
}

/// Makes `fd` the standard output.
pub(crate) fn replace_stdout(fd: OwnedFd) -> io::Result<()> {
    dup2_stdout(fd)?;
    Ok(())
}

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

/// Makes `fd` the standard error.
pub(crate) fn replace_stderr(fd: OwnedFd) -> io::Result<()> {
    dup2_stderr(fd)?;
    Ok(())
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

/// Whether a read would not wait, or nobody can tell.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

/// Sends once, without waiting for room. A socket that nobody reads any more is an
/// error, and no SIGPIPE: that ends programs that have it as the system has it.
pub(crate) fn send_slices(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(socket.as_raw_fd(), slices, &[], flags, None)?)
}

/// Waits until there is something to read, or nobody to write it, but not for
/// longer than `most`. Returns whether it did not take that long.
pub(crate) fn await_readable(fd: BorrowedFd<'_>, most: Duration) -> io::Result<bool> {
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], most) {
        // A signal handler of the task's ran. Waiting less is no harm.
        Err(Errno::EINTR) => Ok(false),
        count => Ok(count? > 0),
    }
}

/// What one waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Waits until a read or a write would not wait, or fails, but not for longer than
/// `most`.
pub(crate) fn await_ready(
    fd: BorrowedFd<'_>,
    direction: Direction,
    most: Option<Duration>,
) -> io::Result<()> {
    let flags = match direction {
        Direction::Read => PollFlags::POLLIN,
        Direction::Write => PollFlags::POLLOUT,
    };
    match poll(&mut [PollFd::new(fd, flags)], poll_timeout(most)) {
        Err(Errno::EINTR) => Ok(()),
        done => Ok(done.map(|_| ())?),
    }
}

/// Waits until one of these can be read, but not for longer than `most`, or less if a
/// signal comes. Returns which can, by their places.
pub(crate) fn await_any_readable(
    fds: &[BorrowedFd<'_>],
    most: Option<Duration>,
) -> io::Result<Vec<usize>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, poll_timeout(most)) {
        Err(Errno::EINTR) => Ok(Vec::new()),
        done => {
            done?;
            let is_ready = |(_, polled): &(usize, &PollFd<'_>)| polled.any() != Some(false);
            Ok(polled.iter().enumerate().filter(is_ready).map(|(at, _)| at).collect())
        }
    }
}

/// Rounded up: whoever waits for less than a millisecond would not wait.
fn poll_timeout(most: Option<Duration>) -> PollTimeout {
    most.map_or(PollTimeout::NONE, |most| {
        let rounded = most.saturating_add(Duration::from_micros(999));
        PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX)
    })
}

/// Takes a connection that somebody has made, close-on-exec. It does not wait.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    loop {
        match accept4(listener.as_raw_fd(), flags) {
            // Whoever it was is gone, or a signal came.
            Err(Errno::ECONNABORTED | Errno::EINTR) => {}
            // SAFETY: the kernel made this descriptor just now, and nobody else has
            // seen it.
            accepted => return Ok(unsafe { OwnedFd::from_raw_fd(accepted?) }),
        }
    }
}

/// Connects to a named socket, and does not wait: where it would have to, it fails.
/// What it returns does not wait, either.
pub(crate) fn connect_to(address: &UnixAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// The user whose process has connected, or has begun to listen.
pub(crate) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&socket, PeerCredentials)?.uid())
}

/// The user that this process acts as.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: returns a number, and cannot fail.
    unsafe { libc::geteuid() }
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

/// Two connected sockets.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    Ok((one.into(), other.into()))
}

/// Makes reads and writes fail that would have to wait.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Ends one direction of a socket, for all that have it.
pub(crate) fn end(socket: BorrowedFd<'_>, direction: Direction) {
    let how = match direction {
        Direction::Read => Shutdown::Read,
        Direction::Write => Shutdown::Write,
    };
    // If it fails the other end is gone.
    let _ = shutdown(socket.as_raw_fd(), how);
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

/// Whether a write that failed like this may work a moment later.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        // The last: too many descriptors of this user are on their way.
        Some(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS)
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process;

    use nix::fcntl::FdFlag;

    use super::*;

    #[test]
    fn a_descriptor_travels_with_its_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut kept, sent) = UnixStream::pair().unwrap();
        assert_eq!(
            send_with_fds(ours.as_fd(), &[IoSlice::new(b"take")], &[sent.as_fd()]).unwrap(),
            4
        );
        drop(sent);
        let mut buf = [0; 16];
        let (len, mut fds) = recv_with_fds(theirs.as_fd(), &mut buf, 1).unwrap();
        assert_eq!(&buf[..len], b"take");
        let received = fds.pop().unwrap();
        assert!(fds.is_empty());
        let flags = fcntl(received.as_fd(), FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
        UnixStream::from(received).write_all(b"hello").unwrap();
        let mut text = String::new();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        for fds_max in [0, 1, 2, 3] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (mut kept, sent) = UnixStream::pair().unwrap();
            let one = [IoSlice::new(b"x")];
            send_with_fds(ours.as_fd(), &one, &vec![sent.as_fd(); fds_max + 1]).unwrap();
            drop(sent);
            let error = recv_with_fds(theirs.as_fd(), &mut [0; 8], fds_max).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(kept.read(&mut [0]).unwrap(), 0, "end of file: no copy is left");
        }
    }

    #[test]
    fn a_thread_keeps_its_descriptors_whatever_others_close() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (other, other_end) = UnixStream::pair().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (closed, is_closed) = std::sync::mpsc::channel::<()>();
        let number = theirs.as_raw_fd();
        let thread = std::thread::spawn(move || {
            let kept = [OwnedFd::from(theirs)];
            let left = keep_for_this_thread(&kept).unwrap();
            // SAFETY: reads a flag.
            let is_open = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
            ready.send((left, (0..1000).filter(is_open).collect::<Vec<_>>())).unwrap();
            is_closed.recv().unwrap_err();
            let [kept] = kept;
            UnixStream::from(kept).write_all(b"here").unwrap();
        });
        let (left, open) = is_ready.recv().unwrap();
        assert_eq!(open, [number]);
        drop(left);
        drop(other_end);
        assert_eq!((&other).read(&mut [0]).unwrap(), 0, "no copy is left of what it has not kept");
        drop(closed);
        thread.join().unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }

    #[test]
    fn end_of_file_is_no_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert_eq!(recv_with_fds(theirs.as_fd(), &mut [0; 8], 2).unwrap().0, 0);
    }

    #[test]
    fn the_peer_is_known_for_unix_sockets_only() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer_pid(ours.as_fd()).unwrap(), Some(process::id() as i32));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(peer_pid(tcp.as_fd()).unwrap(), None);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(peer_pid(file.as_fd()).unwrap(), None);
    }
}
