//! What is said between a process and its fork server, over their socket. Called by
//! `fork_server` and `fork_host`.
//!
//! ```text
//!  u32 le   Order, or Answer           with the first byte of a Fork
//! ┌────────┬─────────────────────       status page, pidfd of the starter,
//! │ length │ so many bytes              the worker's ends of leash and socket,
//! └────────┴─────────────────────       and its standard streams, if it has them
//! ```

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::start::order::{self, FDS_MAX, LENGTH_BYTES};
use crate::sys::crew;
use crate::sys::fd::{self, Direction};

pub(super) fn send<T: Serialize>(
    mut socket: &UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = order::encode(message)
        .map_err(|failure| io::Error::new(io::ErrorKind::InvalidInput, format!("{failure}")))?;
    // What there is no room for is sent while this thread rests: whoever is to read it may
    // have to start first.
    let sent = fd::send_with_fds_now(socket.as_fd(), &[IoSlice::new(&bytes)], fds)?;
    crew::rest(|| socket.write_all(&bytes[sent..]))
}

/// Rests until there is something to receive, or nobody to send it.
pub(super) fn await_message(socket: &UnixStream) -> io::Result<()> {
    crew::rest(|| {
        while !fd::is_readable(socket.as_fd()) {
            // It may be a signal that ends this.
            fd::await_ready(socket.as_fd(), Direction::Read, None)?;
        }
        Ok(())
    })
}

/// # Errors
///
/// `UnexpectedEof` if the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(
    mut socket: &UnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; LENGTH_BYTES];
    let (read, fds) = fd::recv_with_fds(socket.as_fd(), &mut length, FDS_MAX)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    socket.read_exact(&mut length[read..])?;
    let bytes = fd::read_announced(socket, u32::from_le_bytes(length) as usize)?;
    match order::decode(&bytes) {
        Ok(message) => Ok((message, fds)),
        Err(failure) => Err(io::Error::new(io::ErrorKind::InvalidData, failure.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::order::{Answer, Order};

    #[test]
    fn orders_and_answers_travel() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (kept, sent) = UnixStream::pair().unwrap();
        let order = Order::Preload { function: 7, args: vec![1; 1000] };
        send(&ours, &order, &[sent.as_fd()]).unwrap();
        let (heard, fds) = receive::<Order>(&theirs).unwrap();
        assert!(matches!(heard, Order::Preload { function: 7, args } if args == [1; 1000]));
        assert_eq!(fds.len(), 1);
        drop((kept, fds));
        send(&theirs, &Answer::Err("no".into()), &[]).unwrap();
        assert_eq!(receive::<Answer>(&ours).unwrap().0, Err("no".into()));
        drop(theirs);
        let error = receive::<Answer>(&ours).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
