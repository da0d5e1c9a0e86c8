//! Messages over a socket, with the descriptors that are attached to them. What is
//! received is owned at once, so that no error path leaks it.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

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

/// Sends once, without waiting for room. A socket that nobody reads any more is an
/// error, and no SIGPIPE: that ends programs that have it as the system has it.
pub(crate) fn send_slices(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(socket.as_raw_fd(), slices, &[], flags, None)?)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

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
    fn end_of_file_is_no_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert_eq!(recv_with_fds(theirs.as_fd(), &mut [0; 8], 2).unwrap().0, 0);
    }
}
