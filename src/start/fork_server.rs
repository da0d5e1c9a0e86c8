//! The parent's side of a fork server: starts it when it is needed, and has it make
//! workers. Called by starters, one order at a time. They rest while they wait for the
//! server, which may take long to load: this process may be copied meanwhile.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{env, fs, mem, process};

use nix::fcntl::OFlag;
use nix::unistd::{getpgrp, pipe2};

use crate::id::WorkerId;
use crate::start::fork_request::{await_message, receive, send};
use crate::start::identity::Birth;
use crate::start::order::{ANNOUNCEMENT_BYTES, Answer, Fork, Order, announced};
use crate::start::owner::{Event, Owner, new_pool_id};
use crate::start::spawn::{Ends, Role, SpawnSpec, Spawned, Standard, Way, spawn};
use crate::start::warden::{Stop, Warden};
use crate::sys::latest::Latest;
use crate::sys::page::Page;
use crate::sys::{crew, fd, wait};

/// As `ps` shows it.
const NAME: &str = "fork server";

/// A server, which the warden looks after from now on.
pub(super) struct Adopted {
    pub(super) owner: Arc<dyn Owner>,
    pub(super) worker: WorkerId,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) leash: UnixStream,
}

/// What is to be called in the server before it makes its first worker.
#[derive(Clone, Debug)]
pub(crate) struct Preload {
    pub(crate) function: u64,
    pub(crate) args: Vec<u8>,
}

/// A server that was started.
struct Server {
    /// Blocking.
    socket: UnixStream,
    record: Arc<Record>,
}

struct Record {
    id: u64,
    pid: i32,
    is_dead: AtomicBool,
}

const WORKER: WorkerId = WorkerId(0);

impl Owner for Record {
    fn pool_id(&self) -> u64 {
        self.id
    }

    fn handle_event(&self, event: Event) {
        if let Event::Died { .. } | Event::Overdue { .. } = event {
            self.is_dead.store(true, Ordering::Release);
        }
    }
}

#[derive(Default)]
struct State {
    /// The process that this is the state of. A fork of it has only the memory.
    process: u32,
    server: Option<Server>,
    preload: Option<Preload>,
}

static STATE: Latest<Mutex<State>> = Latest::new();

fn place() -> &'static Mutex<State> {
    static FIRST: Mutex<()> = Mutex::new(());
    loop {
        if let Some(place) = STATE.get() {
            return place;
        }
        let _first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        if STATE.get().is_none() {
            STATE.set(Mutex::default());
        }
    }
}

fn lock() -> MutexGuard<'static, State> {
    let place = place();
    // Whoever has it may wait for the server.
    let mut state = crew::rest(|| place.lock().unwrap_or_else(PoisonError::into_inner));
    let this = process::id();
    if state.process != this {
        // In a copy of the process that had the server, this closes a copy only.
        *state = State { process: this, ..State::default() };
    }
    state
}

/// This is a copy of the process that has the server, one of whose starters may have had
/// the lock.
pub(super) fn forget() {
    STATE.forget();
}

/// Notes what is to be preloaded.
///
/// # Errors
///
/// If there is a server already: it is given back what it was not asked to.
pub(crate) fn set_preload(preload: Preload) -> Result<(), Preload> {
    let mut state = lock();
    if state.alive().is_some() {
        return Err(preload);
    }
    state.preload = Some(preload);
    Ok(())
}

/// The server there is, by pid.
pub(crate) fn pid() -> Option<u32> {
    lock().alive().map(|server| server.record.pid as u32)
}

/// Ends the server there is. Its workers live on.
pub(crate) fn stop() {
    let server = lock().server.take();
    if let (Some(server), Ok(warden)) = (server, Warden::global()) {
        warden.signal(server.record.id, WORKER, Stop::Kill);
    }
}

impl State {
    fn alive(&mut self) -> Option<&Server> {
        if self.server.as_ref().is_some_and(|server| server.record.is_dead.load(Ordering::Acquire))
        {
            self.server = None;
        }
        self.server.as_ref()
    }

    fn server(
        &mut self,
        test_main: Option<&'static str>,
        adopt: &impl Fn(Adopted),
    ) -> io::Result<&Server> {
        if self.alive().is_none() {
            let server = Server::start(test_main, self.preload.is_some(), adopt)?;
            if let Some(Preload { function, args }) = self.preload.clone() {
                let preloaded = server.ask(&Order::Preload { function, args }, &[]);
                if let Err(error) = preloaded.and_then(|answer| answer.map_err(io::Error::other)) {
                    server.end();
                    return Err(error);
                }
            }
            self.server = Some(server);
        }
        Ok(self.server.as_ref().expect("there is one, or was made just now"))
    }
}

impl Server {
    fn start(
        test_main: Option<&'static str>,
        is_loaded: bool,
        adopt: &impl Fn(Adopted),
    ) -> io::Result<Server> {
        let spec = SpawnSpec {
            way: Way::Spawn,
            test_main,
            role: Role::ForkServer,
            own_group: false,
            stdin: Standard::Null,
            stdout: Standard::Inherit,
            stderr: Standard::Inherit,
            env: if is_loaded { vec![huge_pages()] } else { Vec::new() },
            env_clear: false,
            current_dir: None,
        };
        let birth = Birth::beside_children(NAME);
        let Spawned { pidfd, leash, ends } = spawn(&spec, &birth, |_| Ok(()))?;
        let Ends { pid, socket, .. } = ends;
        let record = Arc::new(Record { id: new_pool_id(), pid, is_dead: AtomicBool::new(false) });
        adopt(Adopted { owner: Arc::clone(&record) as _, worker: WORKER, pid, pidfd, leash });
        socket.set_nonblocking(false)?;
        Ok(Server { socket, record })
    }

    fn ask(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<Answer> {
        send(&self.socket, order, fds)?;
        await_message(&self.socket)?;
        Ok(receive::<Answer>(&self.socket)?.0)
    }

    fn end(self) {
        if let Ok(warden) = Warden::global() {
            warden.signal(self.record.id, WORKER, Stop::Kill);
        }
    }
}

/// Has a worker made that is to be `birth`, and its pidfd watched. `adopt` is given
/// the server, if there is a new one.
///
/// # Errors
///
/// Whatever kept it from being made; nothing is left of it.
pub(super) fn fork(
    spec: &SpawnSpec,
    birth: &Birth,
    watch: impl FnOnce(&OwnedFd) -> io::Result<()>,
    adopt: impl Fn(Adopted),
) -> io::Result<Spawned> {
    let mut state = lock();
    let mut making = Making::new(spec, birth, wait::pidfd_of_this_thread()?)?;
    let pid = match making.ask(state.server(spec.test_main, &adopt)?) {
        // It had died, and nobody had noticed. It has made nothing.
        Err(error) if is_gone(&error) => {
            state.server = None;
            making = Making::new(spec, birth, wait::pidfd_of_this_thread()?)?;
            making.ask(state.server(spec.test_main, &adopt)?)
        }
        asked => asked,
    };
    // The next order need not wait for what follows.
    drop(state);
    let pid = pid?;
    let pidfd = wait::pidfd_open(pid).and_then(|pidfd| watch(&pidfd).map(|()| pidfd));
    making.made(pid, pidfd.inspect_err(|_| wait::kill_and_reap(pid))?)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// A worker that is being made.
pub(super) struct Making {
    order: Order,
    page: Page,
    socket: UnixStream,
    leash: UnixStream,
    /// Our ends of its streams.
    streams: [Option<OwnedFd>; 3],
    /// What goes to the server, until it has.
    theirs: Vec<OwnedFd>,
}

impl Making {
    /// `starter`: of a thread that lives as long as this process.
    pub(super) fn new(spec: &SpawnSpec, birth: &Birth, starter: OwnedFd) -> io::Result<Making> {
        let (page, page_fd) = Page::create()?;
        let (socket, their_socket) = UnixStream::pair()?;
        let (leash, collar) = UnixStream::pair()?;
        let (stdin, our_stdin) = stream(spec.stdin, io::stdin().as_fd(), true)?;
        let (stdout, our_stdout) = stream(spec.stdout, io::stdout().as_fd(), false)?;
        let (stderr, our_stderr) = stream(spec.stderr, io::stderr().as_fd(), false)?;
        let order = Order::Fork(Box::new(Fork {
            birth: birth.clone(),
            once: spec.role != Role::Pool,
            independent: spec.role == Role::Once { independent: true },
            group: if spec.own_group { 0 } else { getpgrp().as_raw() },
            env: environment(spec),
            current_dir: current_dir(spec)?,
            streams: [stdin.is_some(), stdout.is_some(), stderr.is_some()],
        }));
        let fixed = [page_fd, starter, collar.into(), their_socket.into()];
        let streams = [stdin, stdout, stderr];
        let theirs = fixed.into_iter().chain(streams.into_iter().flatten()).collect();
        let streams = [our_stdin, our_stdout, our_stderr];
        Ok(Making { order, page, socket, leash, streams, theirs })
    }

    /// Its pid, once it is there.
    fn ask(&mut self, server: &Server) -> io::Result<i32> {
        let theirs = mem::take(&mut self.theirs);
        let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let answer = server.ask(&self.order, &fds);
        // Its end is the worker's alone now, or nobody's.
        drop(theirs);
        match answer {
            // It tells us, too. If not, it died before it was anything.
            Ok(Ok(pid)) => self.announcement().inspect_err(|_| {
                if pid > 0 {
                    wait::kill_and_reap(pid);
                }
            }),
            Ok(Err(reason)) => Err(io::Error::other(reason)),
            // The server may have died between making the worker and saying so.
            Err(error) => self.announcement().map_err(|_| error),
        }
    }

    fn announcement(&self) -> io::Result<i32> {
        let mut pid = [0; ANNOUNCEMENT_BYTES];
        await_message(&self.socket)?;
        (&self.socket).read_exact(&mut pid)?;
        announced(pid).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// In the worker: what it is to be, and the descriptors for that. It has no others
    /// from here on.
    pub(super) fn into_theirs(self) -> io::Result<(Fork, Vec<OwnedFd>)> {
        let Making { order, page, socket, leash, streams, theirs } = self;
        drop((page, socket, leash, streams));
        let Order::Fork(fork) = order else { unreachable!("as it was made") };
        let theirs = fd::clear_standard(theirs)?;
        fd::let_go_of_all_but(&theirs)?;
        Ok((*fork, theirs))
    }

    pub(super) fn made(self, pid: i32, pidfd: OwnedFd) -> io::Result<Spawned> {
        let Making { page, socket, leash, streams: [stdin, stdout, stderr], .. } = self;
        socket.set_nonblocking(true).inspect_err(|_| wait::kill_and_reap(pid))?;
        let ends = Ends { pid, socket, page, stdin, stdout, stderr };
        Ok(Spawned { pidfd, leash, ends })
    }
}

/// Has glibc ask for huge pages for its heap. Each copy takes a copy of the tables that
/// say where memory is: with 256 MiB in pages of 4 KiB that takes 8 ms, with these none
/// that can be measured. Workers do not see the variable.
fn huge_pages() -> (OsString, Option<OsString>) {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    let mut tunables = env::var_os(TUNABLES).unwrap_or_default();
    if !tunables.as_bytes().windows(7).any(|part| part == b"hugetlb") {
        if !tunables.is_empty() {
            tunables.push(":");
        }
        tunables.push("glibc.malloc.hugetlb=1");
    }
    (TUNABLES.into(), Some(tunables))
}

/// What to send of a stream, and what to keep.
fn stream(
    kind: Standard,
    ours: BorrowedFd<'_>,
    is_input: bool,
) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    Ok(match kind {
        Standard::Inherit => (fd::clone_open(ours)?, None),
        Standard::Null => (None, None),
        Standard::Piped => {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            if is_input { (Some(read), Some(write)) } else { (Some(write), Some(read)) }
        }
    })
}

/// Ours, which is not the server's, as it is changed.
fn environment(spec: &SpawnSpec) -> Vec<u8> {
    let ours: Vec<(OsString, OsString)> =
        if spec.env_clear { Vec::new() } else { env::vars_os().collect() };
    let mut env: Vec<(OsString, OsString)> = ours
        .into_iter()
        .filter(|(key, _)| spec.env.iter().all(|(changed, _)| changed != key))
        .collect();
    // The last setting of each counts.
    for (at, (key, value)) in spec.env.iter().enumerate() {
        let is_last = spec.env[at + 1..].iter().all(|(later, _)| later != key);
        if let (Some(value), true) = (value, is_last) {
            env.push((key.clone(), value.clone()));
        }
    }
    let mut block = Vec::new();
    for (key, value) in env {
        for part in [key.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            block.extend_from_slice(part);
        }
    }
    block
}

/// Ours, or what it is to be from there.
///
/// # Errors
///
/// If there is no such folder: the worker could only end.
fn current_dir(spec: &SpawnSpec) -> io::Result<Option<Vec<u8>>> {
    let ours = env::current_dir();
    match &spec.current_dir {
        Some(dir) => {
            if !fs::metadata(dir)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            let dir = ours.map_or_else(|_| dir.clone(), |ours| ours.join(dir));
            Ok(Some(dir.as_os_str().as_bytes().to_vec()))
        }
        // One that was removed is nowhere: the server's own then.
        None => Ok(ours.ok().map(|ours| ours.into_os_string().into_vec())),
    }
}
