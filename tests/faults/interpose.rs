//! Stands between this program and the C library: functions of the same names,
//! which the linker prefers to the library's. Each counts its calls, and fails
//! or shortens those that a plan says. Called by everything in this binary, std
//! and tokio included, so it only uses atomics and the library itself.
//!
//! A worker is this program again and has the same functions. It gets its plan
//! by the environment, before `main`.

use std::env;
use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io::Write;
use std::mem;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};

use nix::libc::{
    self, c_char, c_int, c_long, c_uint, c_void, epoll_event, iovec, msghdr, off_t, off64_t, pid_t,
    pollfd, size_t, sockaddr, socklen_t, ssize_t,
};
use procession::PoolBuilder;

/// The length of a status page's mapping, by which it is known.
const PAGE_BYTES: usize = 86016 + (64 << 10) + (16 << 10);

macro_rules! calls {
    ($($call:ident)*) => {
        /// What can be made to fail, as narrow as the pool's own use of it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Call { $($call),* }

        const CALLS: usize = [$(Call::$call),*].len();
    };
}

calls! {
    // Making a worker.
    Memfd Truncate Seal Seals MapPage Socketpair SendMessage Nonblock OpenNull Pipe Duplicate Spawn
    PidfdOpen WatchDeath RegisterSocket
    // Serving it.
    SocketRead SocketSend SocketWrite WatchWait RuntimeWait Wake Woken WaitId Signal Kill FutexWait Poll
    // Making the warden, and threads of a worker.
    EventFd EpollCreate Thread
    // A worker's boot.
    SocketName SocketOption ProcessControl ReplaceDescriptor ReceiveMessage SetPriority SetAffinity
    SetLimit OpenStatm
}

/// What happens to the calls that are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// They fail with this error.
    Errno(i32),
    /// They begin only when the plan ends.
    Held,
    /// Every second call that can wait is interrupted.
    Interrupted,
    /// Every second wait for a futex ends for no reason.
    Spurious,
    /// Writes to sockets take one byte, or some of many.
    ShortWrites,
}

/// Which calls fail: those of one kind, from the `from`-th on, `times` times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) call: Call,
    pub(crate) from: u32,
    pub(crate) times: u32,
    pub(crate) fault: Fault,
}

impl Plan {
    pub(crate) fn nth(call: Call, nth: u32, errno: i32) -> Plan {
        Plan { call, from: nth, times: 1, fault: Fault::Errno(errno) }
    }

    pub(crate) fn from_nth(call: Call, from: u32, times: u32, errno: i32) -> Plan {
        Plan { call, from, times, fault: Fault::Errno(errno) }
    }

    /// A start that hangs until the plan ends, as one does whose program lies on
    /// a disk that does not answer.
    pub(crate) fn hold_spawn(nth: u32, times: u32) -> Plan {
        Plan { call: Call::Spawn, from: nth, times, fault: Fault::Held }
    }

    /// For faults that are no matter of one call.
    pub(crate) fn all(fault: Fault) -> Plan {
        Plan { call: Call::Spawn, from: 0, times: u32::MAX, fault }
    }

    fn encode(self) -> String {
        let (kind, errno) = match self.fault {
            Fault::Errno(errno) => (ERRNO, errno),
            Fault::Held => (HELD, 0),
            Fault::Interrupted => (INTERRUPTED, 0),
            Fault::Spurious => (SPURIOUS, 0),
            Fault::ShortWrites => (SHORT_WRITES, 0),
        };
        format!("{kind} {errno} {} {} {}", self.call as u32, self.from, self.times)
    }
}

const OFF: u32 = 0;
const ERRNO: u32 = 1;
const INTERRUPTED: u32 = 2;
const SPURIOUS: u32 = 3;
const SHORT_WRITES: u32 = 4;
const HELD: u32 = 5;

static KIND: AtomicU32 = AtomicU32::new(OFF);
static ERROR: AtomicI32 = AtomicI32::new(0);
static CALL: AtomicU32 = AtomicU32::new(0);
static FROM: AtomicU32 = AtomicU32::new(0);
static TIMES: AtomicU32 = AtomicU32::new(0);
/// Calls so far, and those that the plan has met.
static COUNTS: [AtomicU32; CALLS] = [const { AtomicU32::new(0) }; CALLS];
static HITS: [AtomicU32; CALLS] = [const { AtomicU32::new(0) }; CALLS];
/// Where a worker notes its hits.
static REPORT: AtomicUsize = AtomicUsize::new(0);

fn set(numbers: [u32; 5]) {
    let [kind, errno, call, from, times] = numbers;
    KIND.store(OFF, SeqCst);
    HITS.iter().for_each(|hits| hits.store(0, SeqCst));
    COUNTS.iter().for_each(|count| count.store(0, SeqCst));
    ERROR.store(errno as i32, SeqCst);
    CALL.store(call, SeqCst);
    FROM.store(from, SeqCst);
    TIMES.store(times, SeqCst);
    KIND.store(kind, SeqCst);
}

fn parse(plan: &str) -> [u32; 5] {
    let numbers: Vec<u32> = plan.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

/// Carries the plan out from now on. Counting begins anew.
pub(crate) fn arm(plan: Plan) {
    set(parse(&plan.encode()));
}

pub(crate) fn disarm() {
    KIND.store(OFF, SeqCst);
}

/// Forgets what the last plan has met.
pub(crate) fn clear() {
    set([OFF; 5]);
}

/// How many such calls this process has made since the last plan, or ever.
#[allow(dead_code, reason = "used by tests/cost, which has this file too")]
pub(crate) fn made(call: Call) -> u32 {
    COUNTS[call as usize].load(SeqCst)
}

/// How many calls a plan has met.
#[derive(Debug)]
pub(crate) struct Hits([u32; CALLS]);

impl Hits {
    /// Of the plan in force, or the last one.
    pub(crate) fn now() -> Self {
        Hits(std::array::from_fn(|call| HITS[call].load(SeqCst)))
    }

    pub(crate) fn of(&self, call: Call) -> u32 {
        self.0[call as usize]
    }

    pub(crate) fn total(&self) -> u32 {
        self.0.iter().sum()
    }
}

// Workers -------------------------------------------------------------------

const PLAN: &str = "PROCESSION_TEST_FAULT";
const WHO: &str = "PROCESSION_TEST_FAULT_WHO";
const FOLDER: &str = "PROCESSION_TEST_FAULT_FOLDER";

/// Whose plan it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    FirstWorker,
    AllWorkers,
}

/// Lets workers of a pool carry out a plan. They note in `folder` what it met.
pub(crate) fn arm_workers(builder: PoolBuilder, who: Who, plan: Plan, folder: &str) -> PoolBuilder {
    // Whoever can remove the ticket is the first.
    std::fs::write(format!("{folder}-ticket"), "").unwrap();
    builder.env(PLAN, plan.encode()).env(FOLDER, folder).env(WHO, format!("{who:?}"))
}

/// How many calls workers with that folder have met. For faults that are no
/// matter of one call, only the first of each kind and worker counts.
pub(crate) fn hits_in_workers(folder: &str) -> u32 {
    notes_of_workers(folder).len() as u32
}

/// Whether workers with that folder have met such a call.
pub(crate) fn have_workers_met(folder: &str, call: Call) -> bool {
    notes_of_workers(folder).contains(&(call as u8))
}

fn notes_of_workers(folder: &str) -> Vec<u8> {
    std::fs::read(format!("{folder}-hits")).unwrap_or_default()
}

extern "C" fn take_plan() {
    let (Ok(plan), Ok(who), Ok(folder)) = (env::var(PLAN), env::var(WHO), env::var(FOLDER)) else {
        return;
    };
    if who == "FirstWorker" && std::fs::remove_file(format!("{folder}-ticket")).is_err() {
        return;
    }
    let report = CString::new(format!("{folder}-hits")).unwrap();
    REPORT.store(report.into_raw() as usize, SeqCst);
    set(parse(&plan));
}

// SAFETY: the loader calls what is in this section, with arguments that a C
// function may ignore.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = take_plan;

fn note_hit(call: Call) {
    let first = HITS[call as usize].fetch_add(1, SeqCst) == 0;
    let report = REPORT.load(SeqCst) as *const c_char;
    if report.is_null() || (KIND.load(SeqCst) != ERRNO && !first) {
        return;
    }
    // SAFETY: it was a C string when it was stored, and is never freed.
    let path = unsafe { CStr::from_ptr(report) }.to_str().unwrap();
    let mut report = OpenOptions::new().append(true).create(true).open(path).unwrap();
    report.write_all(&[call as u8]).unwrap();
}

// Deciding ------------------------------------------------------------------

/// Counts a call. Whether it is to fail, and `errno` is set to that.
fn fails(call: Call) -> bool {
    next_fails(call, false)
}

/// The same for one that can be interrupted.
fn fails_or_is_interrupted(call: Call) -> bool {
    next_fails(call, true)
}

fn next_fails(call: Call, can_wait: bool) -> bool {
    let number = COUNTS[call as usize].fetch_add(1, SeqCst) + 1;
    let from = FROM.load(SeqCst);
    let errno = match KIND.load(SeqCst) {
        kind @ (ERRNO | HELD) if CALL.load(SeqCst) == call as u32 => {
            let meant = number >= from && number - from < TIMES.load(SeqCst);
            if meant && kind == HELD {
                note_hit(call);
                hold();
            }
            (meant && kind == ERRNO).then(|| ERROR.load(SeqCst))
        }
        INTERRUPTED => (can_wait && number % 2 == 1).then_some(libc::EINTR),
        _ => None,
    };
    if let Some(errno) = errno {
        note_hit(call);
        set_errno(errno);
    }
    errno.is_some()
}

fn hold() {
    while KIND.load(SeqCst) == HELD {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Whether a wait for a futex is to end for no reason.
fn is_spurious() -> bool {
    let number = COUNTS[Call::FutexWait as usize].load(SeqCst);
    let meant = KIND.load(SeqCst) == SPURIOUS && number % 2 == 1;
    if meant {
        note_hit(Call::FutexWait);
    }
    meant
}

/// How much of a write is taken.
fn taken(call: Call, len: usize) -> usize {
    if KIND.load(SeqCst) != SHORT_WRITES || len < 2 {
        return len;
    }
    note_hit(call);
    if len < 1000 { 1 } else { 777 }
}

fn set_errno(errno: c_int) {
    // SAFETY: the address is that of this thread's own variable.
    unsafe { *libc::__errno_location() = errno };
}

/// Runs `look` without a trace in `errno`.
fn quietly<T>(look: impl FnOnce() -> T) -> T {
    // SAFETY: the address is that of this thread's own variable.
    let before = unsafe { *libc::__errno_location() };
    let seen = look();
    set_errno(before);
    seen
}

fn is_socket(fd: c_int) -> bool {
    quietly(|| {
        // SAFETY: zeroes are a valid stat for the kernel to overwrite.
        let mut stat: libc::stat = unsafe { mem::zeroed() };
        // SAFETY: `stat` is ours to write.
        let known = unsafe { libc::fstat(fd, &mut stat) } == 0;
        known && stat.st_mode & libc::S_IFMT == libc::S_IFSOCK
    })
}

/// Whether this is the warden's thread, or one that starts workers for it.
fn on_warden() -> bool {
    quietly(|| {
        let mut name = [0_u8; 16];
        // SAFETY: the kernel writes at most 16 bytes.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        name.starts_with(b"procession-ward") || name.starts_with(b"procession-star")
    })
}

/// The eventfd by which the warden is woken, known by being read there.
static WARDENS_EVENTFD: AtomicI32 = AtomicI32::new(-1);

// The library's functions ---------------------------------------------------

/// The library's own function, found at the first call. The name ends with a
/// zero.
fn library<F: Copy>(cache: &AtomicUsize, name: &str) -> F {
    let mut address = cache.load(SeqCst);
    if address == 0 {
        assert!(name.ends_with('\0'));
        // SAFETY: the name is a C string.
        address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) } as usize;
        assert_ne!(address, 0, "the C library has no {name}");
        cache.store(address, SeqCst);
    }
    assert_eq!(mem::size_of::<F>(), mem::size_of::<usize>());
    // SAFETY: whoever names a function states its type.
    unsafe { mem::transmute_copy(&address) }
}

/// Defines functions that first do what is in their body, which may return,
/// and then call the library's.
macro_rules! interpose {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty { $($before:tt)* })*) => { $(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            static LIBRARY: AtomicUsize = AtomicUsize::new(0);
            $($before)*
            let function: unsafe extern "C" fn($($type),*) -> $result =
                library(&LIBRARY, concat!(stringify!($name), "\0"));
            // SAFETY: the caller's own arguments, or less of its buffer.
            unsafe { function($($arg),*) }
        }
    )* };
}

// Variadic ones have as many arguments here as any caller gives.
interpose! {
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
        if fails(Call::Memfd) { return -1; }
    }
    fn ftruncate64(fd: c_int, len: off64_t) -> c_int {
        if fails(Call::Truncate) { return -1; }
    }
    fn fcntl(fd: c_int, command: c_int, arg: c_long) -> c_int {
        let call = match command {
            libc::F_ADD_SEALS => Some(Call::Seal),
            libc::F_GET_SEALS => Some(Call::Seals),
            libc::F_DUPFD_CLOEXEC => Some(Call::Duplicate),
            _ => None,
        };
        if call.is_some_and(fails) { return -1; }
    }
    fn mmap(
        at: *mut c_void, len: size_t, access: c_int, flags: c_int, fd: c_int, offset: off_t
    ) -> *mut c_void {
        if len == PAGE_BYTES && fd >= 0 && fails(Call::MapPage) { return libc::MAP_FAILED; }
    }
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut c_int) -> c_int {
        if fails(Call::Socketpair) { return -1; }
    }
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        // SAFETY: the caller's message.
        let what = unsafe { &*message };
        let call = if what.msg_controllen > 0 { Call::SendMessage } else { Call::SocketSend };
        if fails_or_is_interrupted(call) { return -1; }
        // SAFETY: the caller's message.
        let short = unsafe { shortened(call, what) };
        let message = short.as_ref().map_or(message, |(message, _)| message);
    }
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        // Whoever has room for many descriptors expects none in particular: once
        // it is up, both ends read like that.
        // SAFETY: the caller's message.
        let room = unsafe { &*message }.msg_controllen;
        let call = if room > 1000 { Call::SocketRead } else { Call::ReceiveMessage };
        if fails_or_is_interrupted(call) { return -1; }
    }
    fn ioctl(fd: c_int, request: libc::c_ulong, arg: c_long) -> c_int {
        if request == libc::FIONBIO && fails(Call::Nonblock) { return -1; }
    }
    fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        // SAFETY: a path is a C string.
        let call = match unsafe { CStr::from_ptr(path) }.to_bytes() {
            b"/dev/null" => Some(Call::OpenNull),
            b"/proc/self/statm" => Some(Call::OpenStatm),
            _ => None,
        };
        if call.is_some_and(fails) { return -1; }
    }
    fn pipe2(fds: *mut c_int, flags: c_int) -> c_int {
        if fails(Call::Pipe) { return -1; }
    }
    fn posix_spawnp(
        pid: *mut pid_t,
        path: *const c_char,
        actions: *const libc::posix_spawn_file_actions_t,
        attributes: *const libc::posix_spawnattr_t,
        argv: *const *mut c_char,
        env: *const *mut c_char
    ) -> c_int {
        // Unlike the others it returns the error.
        if fails(Call::Spawn) { return ERROR.load(SeqCst); }
    }
    fn epoll_ctl(epoll: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        let call = if on_warden() { Call::WatchDeath } else { Call::RegisterSocket };
        if op == libc::EPOLL_CTL_ADD && fails(call) { return -1; }
    }
    fn epoll_wait(
        epoll: c_int, events: *mut epoll_event, most: c_int, timeout: c_int
    ) -> c_int {
        let call = if on_warden() { Call::WatchWait } else { Call::RuntimeWait };
        if fails_or_is_interrupted(call) { return -1; }
    }
    fn read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t {
        if len == 8 && on_warden() {
            WARDENS_EVENTFD.store(fd, SeqCst);
            if fails_or_is_interrupted(Call::Woken) { return -1; }
        } else if is_socket(fd) && fails_or_is_interrupted(Call::SocketRead) { return -1; }
    }
    fn recv(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        if fails_or_is_interrupted(Call::SocketRead) { return -1; }
    }
    fn write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t {
        let mut len = len;
        if fd == WARDENS_EVENTFD.load(SeqCst) {
            if fails_or_is_interrupted(Call::Wake) { return -1; }
        } else if is_socket(fd) {
            if fails_or_is_interrupted(Call::SocketWrite) { return -1; }
            len = taken(Call::SocketWrite, len);
        }
    }
    fn send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        if fails_or_is_interrupted(Call::SocketWrite) { return -1; }
        let len = taken(Call::SocketWrite, len);
    }
    fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
        if is_socket(fd) && fails_or_is_interrupted(Call::SocketWrite) { return -1; }
        // SAFETY: the caller's parts.
        let (first, count) = match unsafe { (is_socket(fd), shorter_part(Call::SocketWrite, parts, count as usize)) } {
            (true, Some(part)) => (Some(part), 1),
            _ => (None, count),
        };
        let parts = first.as_ref().map_or(parts, |part| part);
    }
    fn waitid(
        kind: libc::idtype_t, id: libc::id_t, info: *mut libc::siginfo_t, options: c_int
    ) -> c_int {
        if on_warden() && fails_or_is_interrupted(Call::WaitId) { return -1; }
    }
    fn kill(pid: pid_t, signal: c_int) -> c_int {
        if fails(Call::Kill) { return -1; }
    }
    fn killpg(group: pid_t, signal: c_int) -> c_int {
        if fails(Call::Kill) { return -1; }
    }
    fn poll(fds: *mut pollfd, count: libc::nfds_t, timeout: c_int) -> c_int {
        if timeout != 0 && fails_or_is_interrupted(Call::Poll) { return -1; }
    }
    fn eventfd(value: c_uint, flags: c_int) -> c_int {
        if fails(Call::EventFd) { return -1; }
    }
    fn epoll_create1(flags: c_int) -> c_int {
        if fails(Call::EpollCreate) { return -1; }
    }
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        main: extern "C" fn(*mut c_void) -> *mut c_void,
        arg: *mut c_void
    ) -> c_int {
        if fails(Call::Thread) { return ERROR.load(SeqCst); }
    }
    fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
        if fails(Call::SocketName) { return -1; }
    }
    fn getsockopt(
        fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t
    ) -> c_int {
        if name == libc::SO_PEERCRED && fails(Call::SocketOption) { return -1; }
    }
    fn prctl(option: c_int, a: c_long, b: c_long, c: c_long, d: c_long) -> c_int {
        if option == libc::PR_SET_PDEATHSIG && fails(Call::ProcessControl) { return -1; }
    }
    fn dup2(from: c_int, to: c_int) -> c_int {
        if fails(Call::ReplaceDescriptor) { return -1; }
    }
    fn setpriority(which: c_uint, who: libc::id_t, priority: c_int) -> c_int {
        if fails(Call::SetPriority) { return -1; }
    }
    fn sched_setaffinity(pid: pid_t, len: size_t, set: *const libc::cpu_set_t) -> c_int {
        if fails(Call::SetAffinity) { return -1; }
    }
    fn setrlimit(resource: c_uint, limit: *const libc::rlimit) -> c_int {
        if fails(Call::SetLimit) { return -1; }
    }
    fn syscall(
        number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long
    ) -> c_long {
        let call = match number {
            libc::SYS_memfd_create => Some(Call::Memfd),
            libc::SYS_pidfd_open => Some(Call::PidfdOpen),
            libc::SYS_pidfd_send_signal => Some(Call::Signal),
            _ => None,
        };
        if call.is_some_and(fails) { return -1; }
        if number == libc::SYS_futex && is_wait(b) {
            if fails_or_is_interrupted(Call::FutexWait) { return -1; }
            if is_spurious() { return 0; }
        }
    }
}

fn is_wait(futex_op: c_long) -> bool {
    const FLAGS: c_int = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    matches!(futex_op as c_int & !FLAGS, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET)
}

/// The first part, cut, if the plan says so.
///
/// # Safety
///
/// The parts must be as a caller of writev gives them.
unsafe fn shorter_part(call: Call, parts: *const iovec, count: usize) -> Option<iovec> {
    // SAFETY: as promised.
    let part = (0..count).map(|n| unsafe { *parts.add(n) }).find(|part| part.iov_len > 0)?;
    let len = taken(call, part.iov_len);
    (len < part.iov_len).then_some(iovec { iov_len: len, ..part })
}

/// The message with less of its bytes, if the plan says so, and the part that
/// it refers to.
///
/// # Safety
///
/// The message must be as a caller of sendmsg gives it.
unsafe fn shortened(call: Call, message: &msghdr) -> Option<(msghdr, Box<iovec>)> {
    // SAFETY: as promised.
    let mut part = Box::new(unsafe { shorter_part(call, message.msg_iov, message.msg_iovlen) }?);
    Some((msghdr { msg_iov: &mut *part, msg_iovlen: 1, ..*message }, part))
}
