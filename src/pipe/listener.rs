//! Connections between processes that are strangers, by the name of a socket.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::UnixAddr;
use tokio::time::sleep;

use super::connection::Connection;
use super::peers::{Peers, Role};
use super::socket::Socket;
use super::timer::{Timer, nobody};
use crate::limits::{HANDSHAKES_MAX, WRITE_AGAIN_WAIT};
use crate::sys::fd::{self, Direction};

/// A named Unix socket that other processes connect to. Python's
/// `multiprocessing.connection.Listener`.
///
/// Unless [`Peers`] say otherwise, only processes of the same user are let in; others
/// are turned away and not told of. Dropping it removes the socket's file, if that is
/// still the one that it has made.
///
/// # Examples
///
/// ```
/// use procession::{Connection, Listener, connect};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("procession-doc-{}", std::process::id()));
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let mut listener = Listener::bind(&path)?;
/// let client = tokio::spawn(async move {
///     let mut server: Connection<u32, String> = connect(path).await.unwrap();
///     server.send(7).await.unwrap();
///     server.recv().await.unwrap()
/// });
/// let mut client_end: Connection<String, u32> = listener.accept().await?;
/// assert_eq!(client_end.recv().await?, Some(7));
/// client_end.send("seven".to_string()).await?;
/// assert_eq!(client.await?, Some("seven".to_string()));
/// # Ok(()) })
/// # }
/// ```
pub struct Listener {
    socket: Arc<Socket>,
    path: PathBuf,
    _file: Option<MadeFile>,
    peers: Arc<Peers>,
    /// Those who have to prove something, oldest first.
    shaking: VecDeque<Shaking>,
}

/// Somebody who has to prove something, and until when.
struct Shaking {
    socket: Arc<Socket>,
    hands: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    limit: Timer,
}

impl Shaking {
    fn new(peers: Arc<Peers>, socket: Arc<Socket>, role: Role) -> Self {
        let limit = Timer::after(peers.handshake_wait);
        let theirs = Arc::clone(&socket);
        let hands = Box::pin(async move { peers.shake_hands(&theirs, role).await });
        Shaking { socket, hands, limit }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arc<Socket>>> {
        if let Poll::Ready(shaken) = self.hands.as_mut().poll(cx) {
            return Poll::Ready(shaken.map(|()| Arc::clone(&self.socket)));
        }
        self.limit.poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Listener {
    /// Makes a socket with this name, for processes of the same user.
    ///
    /// A name that begins with a NUL is an abstract one, of Linux: it is no file, and
    /// gone with the listener, if that is killed, too.
    ///
    /// # Errors
    ///
    /// If there is such a file already, also one that was left by a process that was
    /// killed: `AddrInUse`.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Listener> {
        Listener::bind_with(path, Peers::same_user())
    }

    /// As [`bind`](Self::bind), for those that are named.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_with(path: impl AsRef<Path>, peers: Peers) -> io::Result<Listener> {
        if let Some(name) = abstract_name(path.as_ref()) {
            let address = SocketAddr::from_abstract_name(name)?;
            let listener = UnixListener::bind_addr(&address)?;
            return Listener::of(listener, path.as_ref().to_owned(), None, peers);
        }
        // Absolute, as the working folder may be another one when it is removed.
        let path = std::path::absolute(path)?;
        let listener = UnixListener::bind(&path)?;
        let file = MadeFile::new(path.clone())?;
        Listener::of(listener, path, Some(file), peers)
    }

    fn of(
        listener: UnixListener,
        path: PathBuf,
        file: Option<MadeFile>,
        peers: Peers,
    ) -> io::Result<Listener> {
        let socket = Socket::new(OwnedFd::from(listener))?;
        Ok(Listener { socket, path, _file: file, peers: Arc::new(peers), shaking: VecDeque::new() })
    }

    /// The name of the socket, for [`connect`]: absolute, unless it is an abstract one.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. A client that is slow to prove that it knows the key, or
    /// does not, keeps no other from being accepted.
    ///
    /// # Errors
    ///
    /// If the system cannot accept any, for want of descriptors for example. It may
    /// the next time.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost.
    pub async fn accept<S, R>(&mut self) -> io::Result<Connection<S, R>> {
        poll_fn(|cx| self.poll_accept(cx)).await.map(Connection::of)
    }

    /// As [`accept`](Self::accept), blocking the thread: for tasks that are not async.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn blocking_accept<S, R>(&mut self) -> io::Result<Connection<S, R>> {
        self.block_accept(None).map(Connection::of)
    }

    /// As [`blocking_accept`](Self::blocking_accept), and gives up after so long.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept), and [`TimedOut`](io::ErrorKind::TimedOut).
    pub fn blocking_accept_timeout<S, R>(
        &mut self,
        after: Duration,
    ) -> io::Result<Connection<S, R>> {
        self.block_accept(Instant::now().checked_add(after)).map(Connection::of)
    }

    fn block_accept(&mut self, deadline: Option<Instant>) -> io::Result<Arc<Socket>> {
        loop {
            if let Poll::Ready(accepted) = self.poll_accept(&mut Context::from_waker(nobody())) {
                return accepted;
            }
            let sockets = self.shaking.iter().map(|shaking| &shaking.socket);
            let limits = self.shaking.iter().map(|shaking| shaking.limit.at());
            block_on_any(sockets.chain([&self.socket]), limits.chain(deadline))?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arc<Socket>>> {
        loop {
            let listener = &self.socket;
            let accepted = listener.poll_io(cx, Direction::Read, || fd::accept(listener.as_fd()));
            let socket = match accepted {
                Poll::Ready(accepted) => Socket::new(accepted?)?,
                Poll::Pending => return self.poll_shaking(cx),
            };
            // Not one of ours: closed, and nobody's concern.
            if self.peers.check(&socket).is_err() {
                continue;
            }
            if !self.peers.has_key() {
                return Poll::Ready(Ok(socket));
            }
            if self.shaking.len() == HANDSHAKES_MAX {
                self.shaking.pop_front();
            }
            let peers = Arc::clone(&self.peers);
            self.shaking.push_back(Shaking::new(peers, socket, Role::Listener));
        }
    }

    /// Lets those go on who have to prove something.
    fn poll_shaking(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arc<Socket>>> {
        let mut at = 0;
        while at < self.shaking.len() {
            match self.shaking[at].poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(shaken) => {
                    self.shaking.remove(at);
                    if let Ok(socket) = shaken {
                        return Poll::Ready(Ok(socket));
                    }
                }
            }
        }
        Poll::Pending
    }
}

/// Blocks the thread until there is something to read from one of these, or the first of
/// the moments has come.
fn block_on_any<'a>(
    sockets: impl Iterator<Item = &'a Arc<Socket>>,
    moments: impl Iterator<Item = Instant>,
) -> io::Result<()> {
    let left = |moment: Instant| moment.saturating_duration_since(Instant::now());
    let fds: Vec<_> = sockets.map(|socket| socket.as_fd()).collect();
    fd::await_any_readable(&fds, moments.min().map(left)).map(drop)
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The name behind the NUL, if it is an abstract one.
fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_bytes().strip_prefix(b"\0")
}

/// A socket's file, removed when this is dropped by the process that made it.
struct MadeFile {
    path: PathBuf,
    /// Device and number.
    id: (u64, u64),
    process: u32,
}

impl MadeFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let id = MadeFile::id(&path)?;
        Ok(MadeFile { path, id, process: std::process::id() })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        let file = fs::symlink_metadata(path)?;
        Ok((file.dev(), file.ino()))
    }
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        let is_ours = self.process == std::process::id();
        if is_ours && MadeFile::id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Connects to a [`Listener`] of the same user. Python's
/// `multiprocessing.connection.Client`.
///
/// # Errors
///
/// If nobody listens there, or another user does.
///
/// # Cancel safety
///
/// Dropped, nothing is left of it but a connection that the listener sees end.
pub async fn connect<S, R>(path: impl AsRef<Path>) -> io::Result<Connection<S, R>> {
    connect_with(path, Peers::same_user()).await
}

/// As [`connect`], to a listener of those that are named.
///
/// # Errors
///
/// As [`connect`], and if the other end does not prove that it knows the key.
///
/// # Panics
///
/// In a runtime without a timer, if it has to wait.
pub async fn connect_with<S, R>(
    path: impl AsRef<Path>,
    peers: Peers,
) -> io::Result<Connection<S, R>> {
    let address = address_of(path.as_ref())?;
    let fd = loop {
        match try_connect(&address)? {
            Some(fd) => break fd,
            None => sleep(WRITE_AGAIN_WAIT).await,
        }
    };
    match connected(fd, peers)? {
        Ok(socket) => Ok(Connection::of(socket)),
        Err(mut shaking) => poll_fn(|cx| shaking.poll(cx)).await.map(Connection::of),
    }
}

/// As [`connect`], blocking the thread: for tasks that are not async.
///
/// # Errors
///
/// As [`connect`].
pub fn blocking_connect<S, R>(path: impl AsRef<Path>) -> io::Result<Connection<S, R>> {
    blocking_connect_with(path, Peers::same_user())
}

/// As [`connect_with`], blocking the thread: for tasks that are not async.
///
/// # Errors
///
/// As [`connect_with`].
pub fn blocking_connect_with<S, R>(
    path: impl AsRef<Path>,
    peers: Peers,
) -> io::Result<Connection<S, R>> {
    let address = address_of(path.as_ref())?;
    let fd = loop {
        match try_connect(&address)? {
            Some(fd) => break fd,
            None => thread::sleep(WRITE_AGAIN_WAIT),
        }
    };
    let mut shaking = match connected(fd, peers)? {
        Ok(socket) => return Ok(Connection::of(socket)),
        Err(shaking) => shaking,
    };
    loop {
        if let Poll::Ready(shaken) = shaking.poll(&mut Context::from_waker(nobody())) {
            return shaken.map(Connection::of);
        }
        block_on_any([&shaking.socket].into_iter(), [shaking.limit.at()].into_iter())?;
    }
}

fn address_of(path: &Path) -> io::Result<UnixAddr> {
    Ok(match abstract_name(path) {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(path)?,
    })
}

/// `None`: the listener has more to accept than the kernel keeps for it. Nobody says
/// when that is otherwise.
fn try_connect(address: &UnixAddr) -> io::Result<Option<OwnedFd>> {
    match fd::connect_to(address) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        connected => connected.map(Some),
    }
}

/// What has been connected, or is once both have proved that they know the key.
fn connected(fd: OwnedFd, peers: Peers) -> io::Result<Result<Arc<Socket>, Shaking>> {
    let socket = Socket::new(fd)?;
    peers.check(&socket)?;
    Ok(match peers.has_key() {
        false => Ok(socket),
        true => Err(Shaking::new(Arc::new(peers), socket, Role::Client)),
    })
}
