//! A worker's first steps: is this process one, and if so, take over what the
//! parent has left for it. Called by `init` as early as the program allows.
//! Never answers the parent: an error here is seen as the worker's end.

use std::env;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::process;

use crate::start::fork_host::{self, Hooks};
use crate::start::identity::{self, Birth};
use crate::start::message::{self, Flags};
use crate::start::{StartMethod, method};
use crate::sys::page::Page;
use crate::sys::{fd, signal};

/// What a worker holds of its parent.
#[derive(Debug)]
pub(crate) struct Boot {
    /// Blocking.
    pub(crate) socket: UnixStream,
    pub(crate) page: Page,
    /// `None` for one that may outlive its parent.
    pub(crate) ties: Option<Ties>,
    /// It is to run one task, and to end.
    pub(crate) once: bool,
    /// By a fork, the calling thread has frames of another process, to which nobody
    /// returns.
    pub(crate) method: StartMethod,
}

/// By what a worker knows that its parent is there.
#[derive(Debug)]
pub(crate) struct Ties {
    /// A pidfd of the thread that started it, or of that one's process. Tells
    /// even if the parent has made a copy of itself, which has its sockets.
    pub(crate) starter: OwnedFd,
    /// Hangs up when nobody has the other end any more. Already the kernel sends
    /// SIGKILL to the worker's group then, whatever that does; as long as it is
    /// open in this process.
    pub(crate) leash: OwnedFd,
}

/// Makes this process a worker if it was started as one. Afterwards standard
/// input and output are the parent's choice, no other file is the parent's, and
/// signals are those of a fresh process. `None`: go on as the program.
///
/// Does not return if this is a worker whose parent has died meanwhile. If this is a
/// fork server, returns in each of its workers, and never in itself.
pub(crate) fn boot(hooks: Hooks) -> io::Result<Option<Boot>> {
    if !is_marked() {
        return Ok(None);
    }
    let Some(parent) = fd::peer_pid(io::stdin().as_fd())? else {
        return Ok(None);
    };
    // First of all, so that the parent's death is not missed from here on.
    signal::continue_on_parent_death()?;
    let is_orphan = parent != parent_id() as i32;
    let mut socket = UnixStream::from(fd::move_stdin_away()?);
    // The message was there before this process was, if it is for this process.
    if is_orphan && !fd::is_readable(socket.as_fd()) {
        process::exit(1);
    }
    let Message { flags, birth, page, ties, stdout, stdin } = receive_message(&mut socket)?;
    if is_orphan && !flags.independent {
        // We were handed to another parent: ours is dead. Nobody wants this
        // worker, and even less a second copy of the program.
        process::exit(1);
    }
    fd::close_inherited(parent);
    if flags.fork_server {
        drop(page);
        prepare(&ties, birth, stdin, stdout)?;
        signal::unblock_all()?;
        return fork_host::serve(socket, ties, hooks).map(Some);
    }
    let ties = if flags.independent { None } else { Some(ties) };
    let (once, method) = (flags.once, StartMethod::Spawn);
    settle(Settled { socket, page, ties, birth, once, method, stdin, stdout }).map(Some)
}

/// What a worker was given, however it came to be.
pub(super) struct Settled {
    pub(super) socket: UnixStream,
    pub(super) page: OwnedFd,
    pub(super) ties: Option<Ties>,
    pub(super) birth: Birth,
    pub(super) once: bool,
    pub(super) method: StartMethod,
    /// `None` to leave what there is.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
}

pub(super) fn settle(settled: Settled) -> io::Result<Boot> {
    let Settled { socket, page, ties, birth, once, method, stdin, stdout } = settled;
    // A server has done that for its copies.
    if method != StartMethod::ForkServer {
        signal::reset_dispositions();
    }
    prepare(ties.as_ref(), birth, stdin, stdout)?;
    signal::unblock_all()?;
    method::note_own(method);
    Ok(Boot { socket, page: Page::open(page)?, ties, once, method })
}

fn prepare<'a>(
    ties: impl Into<Option<&'a Ties>>,
    birth: Birth,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
) -> io::Result<()> {
    if let Some(ties) = ties.into() {
        signal::kill_group_on_hang_up(ties.leash.as_fd())?;
    }
    if let Some(stdin) = stdin {
        fd::replace_stdin(stdin)?;
    }
    if let Some(stdout) = stdout {
        fd::replace_stdout(stdout)?;
    }
    identity::set_birth(birth);
    Ok(())
}

/// Whether this process was started to be a worker, whatever became of that.
pub(crate) fn is_marked() -> bool {
    let mark = message::ARG0_MARK.as_bytes();
    env::args_os()
        .next()
        .is_some_and(|arg0| arg0.as_bytes().windows(mark.len()).any(|part| part == mark))
}

struct Message {
    flags: Flags,
    birth: Birth,
    page: OwnedFd,
    ties: Ties,
    stdout: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
}

fn receive_message(socket: &mut UnixStream) -> io::Result<Message> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not the boot message of a worker");
    let mut header = [0; message::HEADER_BYTES];
    // The descriptors come with the first byte.
    let (len, fds) = fd::recv_with_fds(socket.as_fd(), &mut header, message::FDS_MAX)?;
    socket.read_exact(&mut header[len..])?;
    let (flags, len) = message::decode_header(&header).ok_or_else(invalid)?;
    let body = fd::read_announced(socket, len)?;
    let birth = message::decode_birth(&body).ok_or_else(invalid)?;
    let mut fds = fds.into_iter();
    let mut next =
        |is_there: bool| if is_there { fds.next().ok_or_else(invalid).map(Some) } else { Ok(None) };
    let [page, starter, leash] = [next(true)?, next(true)?, next(true)?];
    let (stdout, stdin) = (next(flags.has_stdout)?, next(flags.has_stdin)?);
    match (page, starter, leash, fds.next()) {
        (Some(page), Some(starter), Some(leash), None) => {
            let ties = Ties { starter, leash };
            Ok(Message { flags, birth, page, ties, stdout, stdin })
        }
        _ => Err(invalid()),
    }
}
