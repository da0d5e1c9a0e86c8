//! This process's table of descriptors: the standard ones, those that it has from its
//! parent, and those that a copy has from its original.

use std::fs::{self, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, getsockname, socket,
};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Gives the calling thread a table of descriptors for itself, with none but `kept` in it:
/// whatever other threads do to theirs, these stay. Each is there twice then, and those of
/// the other table are the other threads'. Allocates nothing.
///
/// # Errors
///
/// Fails before Linux 5.9. The table is shared as before then.
pub(crate) fn keep_for_this_thread(kept: &mut [RawFd]) -> io::Result<()> {
    kept.sort_unstable();
    let mut next = 0;
    for end in kept.iter().map(|kept| *kept as libc::c_uint).chain([libc::c_uint::MAX]) {
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
    Ok(())
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

/// Makes `fd` the standard error.
pub(crate) fn replace_stderr(fd: OwnedFd) -> io::Result<()> {
    dup2_stderr(fd)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_thread_keeps_its_descriptors_whatever_others_close() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (other, other_end) = UnixStream::pair().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (closed, is_closed) = std::sync::mpsc::channel::<()>();
        let number = theirs.as_raw_fd();
        let thread = std::thread::spawn(move || {
            let kept = OwnedFd::from(theirs);
            keep_for_this_thread(&mut [number]).unwrap();
            // SAFETY: the same number in the table that is left.
            let left = unsafe { OwnedFd::from_raw_fd(number) };
            // SAFETY: reads a flag.
            let is_open = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1;
            ready.send((left, (0..1000).filter(is_open).collect::<Vec<_>>())).unwrap();
            is_closed.recv().unwrap_err();
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
}
