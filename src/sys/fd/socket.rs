//! Sockets: how they come to be, who is at the other end, and how they end.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, accept4, connect, getsockname,
    getsockopt, shutdown, socket,
};

use super::Direction;

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

/// Two connected sockets.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = UnixStream::pair()?;
    Ok((one.into(), other.into()))
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process;

    use super::*;

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
