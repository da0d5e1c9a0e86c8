//! What is said between a process and its fork server: orders with descriptors, and
//! an answer to each. Written by `fork_server`, read by `fork_host`, and the answers
//! the other way. Both are one program, and neither has any reason to lie.
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

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::proto::codec;
use crate::start::identity::Birth;
use crate::sys::fd;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Call this function with these arguments, before the first fork.
    Preload {
        function: u64,
        args: Vec<u8>,
    },
    Fork(Box<Fork>),
}

/// A worker to be made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fork {
    pub(super) birth: Birth,
    pub(super) once: bool,
    pub(super) independent: bool,
    /// The group to be in; 0 for one of its own.
    pub(super) group: i32,
    /// All it is to have.
    pub(super) env: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) current_dir: Option<Vec<u8>>,
    /// For which of input, output and error there is a descriptor.
    pub(super) streams: [bool; 3],
}

/// The descriptors that each fork comes with, before those of its streams.
pub(super) const FIXED_FDS: usize = 4;
pub(super) const FDS_MAX: usize = FIXED_FDS + 3;

/// A pid, or why there is none. Of a preload: zero.
pub(super) type Answer = Result<i32, String>;

/// Once it is there, a worker writes its pid to its own socket, before it does anything
/// that takes time. So it is known even if the server was killed before it could answer.
pub(super) const ANNOUNCEMENT_BYTES: usize = size_of::<i32>();

const LENGTH_BYTES: usize = size_of::<u32>();

pub(super) fn send<T: Serialize>(
    mut socket: &UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut bytes = vec![0; LENGTH_BYTES];
    codec::encode_into(message, &mut bytes, u32::MAX as usize)
        .map_err(|failure| io::Error::new(io::ErrorKind::InvalidInput, format!("{failure}")))?;
    let len = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
    let sent = fd::send_with_fds(socket.as_fd(), &[IoSlice::new(&bytes)], fds)?;
    socket.write_all(&bytes[sent..])
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
    let mut bytes = Vec::new();
    let len = u32::from_le_bytes(length);
    if socket.take(len.into()).read_to_end(&mut bytes)? < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match codec::decode(&bytes) {
        Ok(message) => Ok((message, fds)),
        Err(failure) => Err(io::Error::new(io::ErrorKind::InvalidData, failure.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
