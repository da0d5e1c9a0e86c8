//! Descriptors that go from one process to another: sent from where they are held,
//! received as what nobody has looked at yet. Called by both ends, and by `fd` for
//! the types that users give them.
//!
//! Nothing is asked of a descriptor that came but what the kernel answers by
//! itself: whether it is a socket, of which kind, and whether it is sealed memory.
//! Any other question may be one to a file system that does not answer. Closing one
//! may take as long as whoever made it likes, so what nobody has taken is closed by
//! a thread of its own.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::libc;

use crate::attached::{Attached, Open, Passed, Shared};
use crate::limits::FRAME_ATTACHED_MAX;
use crate::sys::{crew, fd, memfd};

/// On its way out: whatever holds it, wherever that is.
struct Held(Arc<dyn AsFd + Send + Sync>);

// `AsFd` only lends a number.
impl UnwindSafe for Held {}
impl RefUnwindSafe for Held {}

impl Open for Held {
    fn to_memory(&self) -> Option<Shared> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.as_fd().as_raw_fd()).finish()
    }
}

/// What `holder` has, so that it can go beside a payload. It is not duplicated:
/// whoever has the payload keeps the holder alive.
pub(crate) fn held(holder: Arc<dyn AsFd + Send + Sync>) -> Passed {
    Passed::new(Held(holder))
}

/// Just come in, until somebody takes it.
#[derive(Debug)]
struct Came(Mutex<Option<(OwnedFd, Option<Counted>)>>);

impl Came {
    fn take(&self) -> Option<(OwnedFd, Option<Counted>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Open for Came {
    fn to_memory(&self) -> Option<Shared> {
        let (fd, counted) = self.take()?;
        match memfd::of(fd, counted) {
            Ok(memory) => Some(memory),
            Err((fd, counted)) => {
                close_elsewhere(fd, counted);
                None
            }
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Came {
    fn drop(&mut self) {
        if let Some((fd, counted)) = self.take() {
            close_elsewhere(fd, counted);
        }
    }
}

/// Takes what came, once.
pub(crate) fn take(passed: &Passed) -> Option<OwnedFd> {
    passed.open().downcast_ref::<Came>()?.take().map(|(fd, _counted)| fd)
}

/// Closes what was taken and is not what it should be.
pub(crate) fn discard(fd: OwnedFd) {
    close_elsewhere(fd, None);
}

/// How many descriptors of one peer have come, and are neither taken nor closed.
#[derive(Debug)]
pub(crate) struct Untaken {
    /// How many may be kept.
    most: usize,
    state: Mutex<UntakenState>,
}

#[derive(Debug, Default)]
struct UntakenState {
    kept: usize,
    /// Came on top, and are about to be closed.
    excess: usize,
    /// Who waits for there to be fewer.
    waker: Option<Waker>,
}

/// Whether there is room for so many descriptors more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Enough,
    /// Some would have to be closed.
    Scarce,
    /// Too many are being closed already.
    Nowhere,
}

impl Untaken {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Untaken { most, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, UntakenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(self: &Arc<Self>) -> Counted {
        let mut state = self.state();
        let is_excess = state.kept == self.most;
        *(if is_excess { &mut state.excess } else { &mut state.kept }) += 1;
        Counted { untaken: Arc::clone(self), is_excess }
    }

    /// How many are kept.
    pub(crate) fn kept(&self) -> usize {
        self.state().kept
    }

    /// Whether there is room for `count` more.
    pub(crate) fn room(&self, count: usize) -> Room {
        self.state().room(count, self.most)
    }

    /// As [`room`](Self::room). If there is not enough, `waker` is woken as soon as
    /// there is more.
    pub(crate) fn room_or_wait(&self, count: usize, waker: &Waker) -> Room {
        // Cloned before and dropped after: wakers are not ours.
        let mut waker = Some(waker.clone());
        let mut state = self.state();
        let room = state.room(count, self.most);
        if room != Room::Enough {
            mem::swap(&mut state.waker, &mut waker);
        }
        drop(state);
        room
    }
}

impl UntakenState {
    fn room(&self, count: usize, most: usize) -> Room {
        if most.saturating_sub(self.excess) < count {
            Room::Nowhere
        } else if most - self.kept < count {
            Room::Scarce
        } else {
            Room::Enough
        }
    }
}

/// One that has been counted, for as long as this is there.
#[derive(Debug)]
pub(super) struct Counted {
    untaken: Arc<Untaken>,
    is_excess: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.untaken.state();
        *(if self.is_excess { &mut state.excess } else { &mut state.kept }) -= 1;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Sends bytes, with a part of what is attached to the first of them, of all memory and
/// then the rest, as [`fd::send_with_fds`] does.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    attached: &[Attached],
    part: Range<usize>,
) -> io::Result<usize> {
    fd::send_with_fds(socket, slices, &fds(attached)[part])
}

/// As [`send`], without waiting, however the socket is set.
pub(crate) fn send_now(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    attached: &[Attached],
    part: Range<usize>,
) -> io::Result<usize> {
    fd::send_with_fds_now(socket, slices, &fds(attached)[part])
}

/// All that is attached as one descriptor, which more of it than one message takes can
/// go by: a socket in which it waits, and whose other end nobody has.
pub(crate) fn pack(attached: &[Attached]) -> io::Result<OwnedFd> {
    let (to, parcel) = UnixStream::pair()?;
    for part in fds(attached).chunks(FRAME_ATTACHED_MAX) {
        fd::send_with_fds_now(to.as_fd(), &[IoSlice::new(b"+")], part)?;
    }
    Ok(parcel.into())
}

/// What came [packed](pack), but not more than so much. If this process had no room for
/// more, the second value is true.
pub(crate) fn unpack(parcel: &Passed, most: usize) -> io::Result<(Vec<Passed>, bool)> {
    let mut came = Vec::new();
    let Some(parcel) = take(parcel) else { return Ok((came, false)) };
    let is_parcel = socket(parcel.as_fd())?.is_some_and(|socket| {
        socket.family == libc::AF_UNIX && socket.kind == libc::SOCK_STREAM && !socket.listens
    });
    let mut is_short = false;
    while is_parcel && !is_short && came.len() < most {
        let mut room = BytesMut::with_capacity(1);
        match fd::receive_now(parcel.as_fd(), &mut room, 1) {
            Ok(received) if received.len > 0 => {
                is_short = received.cut_short;
                came.extend(receive(received.fds, None).0);
            }
            // All that is to come has come before its item.
            _ => break,
        }
    }
    discard(parcel);
    came.truncate(most);
    Ok((came, is_short))
}

fn fds(attached: &[Attached]) -> Vec<BorrowedFd<'_>> {
    let memory = attached.iter().filter_map(Attached::memory).map(memfd::descriptor);
    let others = attached.iter().filter_map(Attached::descriptor).map(|passed| {
        let held = passed.open().downcast_ref::<Held>();
        held.expect("what came is not sent on as it is").0.as_fd()
    });
    memory.chain(others).collect()
}

/// Takes in what somebody has sent. What is more than there is room for is
/// closed, and the second value is true.
pub(crate) fn receive(fds: Vec<OwnedFd>, untaken: Option<&Arc<Untaken>>) -> (Vec<Passed>, bool) {
    let mut is_short = false;
    let came = fds.into_iter().filter_map(|fd| {
        let counted = untaken.map(Untaken::count);
        if counted.as_ref().is_some_and(|counted| counted.is_excess) {
            is_short = true;
            close_elsewhere(fd, counted);
            return None;
        }
        Some(Passed::new(Came(Mutex::new(Some((fd, counted))))))
    });
    (came.collect(), is_short)
}

/// What nobody has closed yet.
static UNWANTED: Mutex<Unwanted> =
    Mutex::new(Unwanted { fds: VecDeque::new(), free: 0, process: 0 });

struct Unwanted {
    fds: VecDeque<(OwnedFd, Option<Counted>)>,
    /// Threads that are there and not in the middle of closing one.
    free: usize,
    /// Whose threads these are: a copy of a process has none of them.
    process: u32,
}

/// Closes a descriptor of any kind. That may take as long as whoever made it
/// likes: a socket may linger, a file system may not answer. So it is done by a
/// thread that does nothing else, and none waits for another.
fn close_elsewhere(fd: OwnedFd, counted: Option<Counted>) {
    let mut unwanted = unwanted();
    unwanted.fds.push_back((fd, counted));
    unwanted.find_a_thread();
}

fn unwanted() -> MutexGuard<'static, Unwanted> {
    UNWANTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a copy of the process that was to close them, they are not there.
pub(crate) fn forget_unwanted() {
    mem::forget(mem::take(&mut unwanted().fds));
}

impl Unwanted {
    /// Makes sure that a thread sees to the next.
    fn find_a_thread(&mut self) {
        let process = std::process::id();
        if self.process != process {
            (self.process, self.free) = (process, 0);
        }
        if self.free == 0 && !self.fds.is_empty() {
            // Without a thread they stay open until there is one for the next, which
            // is better than to wait here.
            self.free += usize::from(crew::spawn("procession-close", close_all).is_ok());
        }
    }
}

/// Closes one after the other. Whenever one may take long, another thread sees to
/// those behind it.
fn close_all() {
    let mut list = unwanted();
    loop {
        list.free -= 1;
        let Some((next, counted)) = list.fds.pop_front() else { return };
        list.find_a_thread();
        drop(list);
        crew::rest(|| drop(next));
        drop(counted);
        list = unwanted();
        list.free += 1;
    }
}

/// What kind of socket it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Socket {
    /// `AF_…`
    pub(crate) family: i32,
    /// `SOCK_…`
    pub(crate) kind: i32,
    pub(crate) protocol: i32,
    pub(crate) listens: bool,
}

/// What kind of socket it is, if it is one.
pub(crate) fn socket(fd: BorrowedFd<'_>) -> io::Result<Option<Socket>> {
    let option = |name| socket_option(fd.as_raw_fd(), name);
    let kind = match option(libc::SO_TYPE) {
        Ok(kind) => kind,
        // The first: only a path, of which nothing can be asked.
        Err(Errno::EBADF | Errno::ENOTSOCK) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Some(Socket {
        family: option(libc::SO_DOMAIN)?,
        kind,
        protocol: option(libc::SO_PROTOCOL)?,
        listens: option(libc::SO_ACCEPTCONN)? != 0,
    }))
}

fn socket_option(fd: RawFd, name: libc::c_int) -> Result<i32, Errno> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has so many.
    let got =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut len) };
    Errno::result(got)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_was_received_is_taken_once() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (came, is_short) = receive(vec![theirs.into()], None);
        assert!(!is_short);
        let taken = take(&came[0]).unwrap();
        assert!(take(&came[0]).is_none() && came[0].to_memory().is_none());
        drop(came);
        drop(taken);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn what_nobody_takes_is_closed_elsewhere() {
        let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let (came, _) = receive(theirs.into_iter().map(OwnedFd::from).collect(), None);
        drop(came);
        for mut ours in ours {
            assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn no_more_are_kept_than_there_may_be() {
        struct Bell(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Bell {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let open = |count| (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let untaken = Untaken::new(3);
        let (first, is_short) = receive(open(2), Some(&untaken));
        assert!(first.len() == 2 && !is_short);
        let (second, is_short) = receive(open(2), Some(&untaken));
        assert!(second.len() == 1 && is_short);
        let bell = Arc::new(Bell(0.into()));
        let waker = Arc::clone(&bell).into();
        assert_eq!(untaken.room_or_wait(1, &waker), Room::Scarce);
        let taken = take(&first[0]).unwrap();
        // Or one that was too much has been closed meanwhile, by a thread that is about to
        // tell.
        let deadline = Instant::now() + Duration::from_secs(60);
        while bell.0.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "nobody is told");
            std::thread::yield_now();
        }
        assert_eq!(untaken.room_or_wait(1, &waker), Room::Enough);
        assert_ne!(untaken.room_or_wait(2, &waker), Room::Enough);
        drop((first, second, taken));
        let deadline = Instant::now() + Duration::from_secs(60);
        while untaken.room_or_wait(3, &waker) != Room::Enough {
            assert!(Instant::now() < deadline, "they are not closed");
            std::thread::yield_now();
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri sends no descriptors")]
    fn what_is_packed_comes_out_as_it_was() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Arc::new(ours);
        for count in [1, 128, 129, 600] {
            let attached = vec![Attached::Descriptor(held(ours.clone())); count];
            let parcel = || receive(vec![pack(&attached).unwrap()], None).0.remove(0);
            for most in [count, count - 1, 2000] {
                let (came, is_short) = unpack(&parcel(), most).unwrap();
                assert_eq!((came.len(), is_short), (count.min(most), false));
            }
            drop(parcel());
        }
        // Nobody has it any more.
        drop(ours);
        assert_eq!((&theirs).read(&mut [0]).unwrap(), 0);
        // What is no parcel has nothing in it, and makes nobody wait.
        let (empty, _other) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        for other in [empty.into(), file.into()] {
            let came = receive(vec![other], None).0.remove(0);
            assert!(unpack(&came, 9).unwrap().0.is_empty());
            assert!(unpack(&came, 9).unwrap().0.is_empty(), "it was taken");
        }
    }

    #[test]
    fn sockets_are_told_apart() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(socket(file.as_fd()).unwrap(), None);
        let (stream, _other) = UnixStream::pair().unwrap();
        let of = |family, kind, protocol, listens| Socket { family, kind, protocol, listens };
        let expected = of(libc::AF_UNIX, libc::SOCK_STREAM, 0, false);
        assert_eq!(socket(stream.as_fd()).unwrap(), Some(expected));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let expected = of(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP, true);
        assert_eq!(socket(tcp.as_fd()).unwrap(), Some(expected));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let expected = of(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP, false);
        assert_eq!(socket(udp.as_fd()).unwrap(), Some(expected));
        let path = std::env::temp_dir().join(format!("procession-kind-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(socket(unix.as_fd()).unwrap().unwrap().listens);
    }

    #[test]
    fn one_that_takes_long_to_close_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &stream, &[0; 1 << 16]).is_ok() {}
        stream.set_nonblocking(false).unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 600 };
        // SAFETY: the option is a `linger`, and lives for the call.
        unsafe {
            let (value, len) = ((&raw const linger).cast(), size_of_val(&linger) as u32);
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, len);
        }
        let began = Instant::now();
        drop(receive(vec![stream.into()], None));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(receive(vec![theirs.into()], None));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        assert!(began.elapsed() < Duration::from_secs(300));
        // A reset ends the lingering.
        drop(peer);
    }
}
