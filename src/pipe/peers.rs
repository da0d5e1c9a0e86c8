//! Who may be at the other end of a named socket.

use std::fmt;
use std::io;
use std::time::Duration;

use super::socket::Socket;
use crate::limits::HANDSHAKE_WAIT;
use crate::sys::fd;

/// Who may connect to a [`Listener`](crate::Listener), and to whose listener
/// [`connect`](crate::connect) may. Default: processes of the same user.
///
/// The kernel says whose process it is; nobody can pretend. For anything wider than
/// the same user there should be a key (feature `authkey`).
#[derive(Clone)]
pub struct Peers {
    /// Beside our own.
    uids: Vec<u32>,
    anybody: bool,
    #[cfg(feature = "authkey")]
    key: Option<std::sync::Arc<[u8]>>,
    pub(super) handshake_wait: Duration,
}

impl Default for Peers {
    fn default() -> Self {
        Peers::same_user()
    }
}

impl Peers {
    /// Processes of the user that this one runs as.
    pub fn same_user() -> Self {
        Peers {
            uids: Vec::new(),
            anybody: false,
            #[cfg(feature = "authkey")]
            key: None,
            handshake_wait: HANDSHAKE_WAIT,
        }
    }

    /// And those of another user, by number.
    pub fn allow_uid(mut self, uid: u32) -> Self {
        self.uids.push(uid);
        self
    }

    /// Processes of any user that can open the socket, if they know the key. Both ends
    /// prove that they do, by HMAC-SHA256 of numbers that each has made up, so that
    /// the key itself is never sent. What is said after that is not encrypted, which
    /// within one machine it need not be.
    #[cfg(feature = "authkey")]
    pub fn anybody_with_key(key: impl AsRef<[u8]>) -> Self {
        Peers { anybody: true, ..Peers::same_user() }.with_key(key)
    }

    /// Only those that also know the key, see
    /// [`anybody_with_key`](Self::anybody_with_key).
    #[cfg(feature = "authkey")]
    pub fn with_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().into());
        self
    }

    /// How long it may take the other end to prove that it knows the key. Default:
    /// 5 s. Others are accepted meanwhile.
    pub fn handshake_timeout(mut self, most: Duration) -> Self {
        self.handshake_wait = most;
        self
    }

    /// Whether this is one of their users.
    pub(super) fn check(&self, socket: &Socket) -> io::Result<()> {
        let uid = fd::peer_uid(socket.as_fd())?;
        if self.anybody || uid == fd::own_uid() || self.uids.contains(&uid) {
            return Ok(());
        }
        let refusal = format!("the other end is a process of user {uid}, which is not allowed");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal))
    }

    /// Whether there is anything to prove.
    pub(super) fn has_key(&self) -> bool {
        #[cfg(feature = "authkey")]
        return self.key.is_some();
        #[cfg(not(feature = "authkey"))]
        false
    }

    /// Proves that we know the key, and has the other end prove it.
    pub(super) async fn shake_hands(&self, socket: &Socket, role: Role) -> io::Result<()> {
        #[cfg(feature = "authkey")]
        if let Some(key) = &self.key {
            return handshake::run(key, socket, role).await;
        }
        let _ = (socket, role);
        Ok(())
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut peers = f.debug_struct("Peers");
        peers.field("uids", &self.uids).field("anybody", &self.anybody);
        peers.field("has_key", &self.has_key()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Listener,
    Client,
}

/// ```text
/// listener                                        client
///   │── magic, number ──────────────────────────────▶│
///   │◀── number, HMAC(key, "client", both numbers) ──│
///   │── HMAC(key, "listener", both numbers) ────────▶│
/// ```
///
/// Whoever is shown something wrong closes the connection. Neither proof is of any use
/// as the other, nor in another conversation.
#[cfg(feature = "authkey")]
mod handshake {
    use std::future::poll_fn;

    use hmac::{Hmac, Mac};
    use sha2::Sha256;

    use super::*;
    use crate::sys::fd::Direction;

    const MAGIC: &[u8; 8] = b"prcsn\xff\x00\x01";

    pub(super) async fn run(key: &[u8], socket: &Socket, role: Role) -> io::Result<()> {
        let ours = fd::random()?;
        let mut theirs = [0; 32];
        let mut shown = [0; 32];
        match role {
            Role::Listener => {
                write(socket, &[&MAGIC[..], &ours].concat()).await?;
                read(socket, &mut theirs).await?;
                read(socket, &mut shown).await?;
                let expected = proof_of(key, Role::Client, &ours, &theirs);
                expected.verify_slice(&shown).map_err(|_| wrong())?;
                let own = proof_of(key, Role::Listener, &ours, &theirs);
                write(socket, &own.finalize().into_bytes()).await
            }
            Role::Client => {
                let mut magic = [0; MAGIC.len()];
                read(socket, &mut magic).await?;
                if magic != *MAGIC {
                    return Err(wrong());
                }
                read(socket, &mut theirs).await?;
                let own = proof_of(key, Role::Client, &theirs, &ours).finalize().into_bytes();
                write(socket, &[&ours[..], &own].concat()).await?;
                read(socket, &mut shown).await?;
                let expected = proof_of(key, Role::Listener, &theirs, &ours);
                expected.verify_slice(&shown).map_err(|_| wrong())
            }
        }
    }

    /// What proves that one of both knows the key.
    fn proof_of(key: &[u8], who: Role, listeners: &[u8], clients: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(key).expect("a key may be of any length");
        mac.update(match who {
            Role::Listener => b"listener",
            Role::Client => b"client  ",
        });
        mac.update(listeners);
        mac.update(clients);
        mac
    }

    fn wrong() -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, "the other end does not know the key")
    }

    async fn read(socket: &Socket, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let read = poll_fn(|cx| {
                socket.poll_io(cx, Direction::Read, || fd::recv_with_fds(socket.as_fd(), rest, 0))
            });
            match read.await?.0 {
                // Most likely it was not content with us.
                0 => return Err(wrong()),
                n => filled += n,
            }
        }
        Ok(())
    }

    async fn write(socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let send = || fd::send_slices(socket.as_fd(), &[io::IoSlice::new(bytes)]);
            let sent = poll_fn(|cx| socket.poll_io(cx, Direction::Write, send)).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }
}
