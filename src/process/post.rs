//! The post: a thread that reads and writes the sockets of all processes. So what a
//! process answers arrives whether anybody waits for it or not, and a process that
//! has a long answer can always end. It needs no runtime, and neither do those who
//! wait.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use std::{process, thread};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::line::{Line, Wants};
use crate::proto::draft::Payload;
use crate::sys::latest::Latest;
use crate::sys::{crew, signal};

static GLOBAL: Latest<Post> = Latest::new();

/// The way to reach the thread.
#[derive(Debug)]
pub(super) struct Post {
    /// The process that has the thread. A fork of it has only our memory.
    process: u32,
    /// Unbounded, but each entry stands for a process, of which there are at most
    /// two.
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

enum Command {
    Serve(Box<Line>, Wants),
    /// It is over with this process.
    Bury(u64),
}

impl Post {
    /// The post of this process, set up by the first call.
    ///
    /// # Errors
    ///
    /// Fails if the thread cannot be made, and in a fork of the process that made
    /// it.
    pub(super) fn global() -> io::Result<&'static Post> {
        static FIRST: Mutex<()> = Mutex::new(());
        if GLOBAL.get().is_none() {
            let _first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
            if GLOBAL.get().is_none() {
                GLOBAL.set(Post::new()?);
            }
        }
        let post = GLOBAL.get().expect("set just now, or before");
        if post.process == process::id() {
            Ok(post)
        } else {
            Err(io::Error::other("a forked process cannot use its parent's processes"))
        }
    }

    /// This is a copy of the process that has the thread, and may have one of its own.
    pub(super) fn forget() {
        GLOBAL.forget();
    }

    fn new() -> io::Result<Post> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (commands, received) = mpsc::channel();
        let office =
            Office { commands: received, wake: Arc::clone(&wake), epoll, lines: HashMap::new() };
        signal::with_signals_blocked(|| crew::spawn("procession-post", move || office.run()))??;
        Ok(Post { process: process::id(), commands, wake })
    }

    /// Has a process run its task. What its socket takes is sent right here, so that
    /// it need not wait for the thread.
    pub(super) fn serve(&self, mut line: Line, function: u64, args: &Payload) {
        line.run(function, args);
        let wants = line.write();
        self.send(Command::Serve(Box::new(line), wants));
    }

    /// Takes note that it is over with a process, by its life's id.
    pub(super) fn bury(&self, id: u64) {
        self.send(Command::Bury(id));
    }

    fn send(&self, command: Command) {
        // The thread never ends, so somebody receives.
        let _ = self.commands.send(command);
        // Any other failure is that 2^64 wake-ups are pending: it will wake.
        while self.wake.write(1) == Err(Errno::EINTR) {}
    }
}

/// The token of the eventfd; lives count up from one.
const WAKE: u64 = 0;

/// Between two looks while there is no way to be told.
const BLIND_LOOK_EVERY: Duration = Duration::from_millis(10);

/// The thread's own state.
struct Office {
    commands: mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    /// By their lives' ids.
    lines: HashMap<u64, (Box<Line>, Wants)>,
}

impl Office {
    fn run(mut self) -> ! {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match crew::rest(|| self.epoll.wait(&mut events, EpollTimeout::NONE)) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                // A sandbox, or somebody has closed our descriptor. Processes hang
                // without this thread; so it looks after everything unasked.
                Err(_) => {
                    thread::sleep(BLIND_LOOK_EVERY);
                    let ids: Vec<u64> = self.lines.keys().copied().collect();
                    ids.into_iter().for_each(|id| self.look_after(id));
                    0
                }
            };
            for event in &events[..ready] {
                match event.data() {
                    // Before the commands are taken: one that comes later wakes us
                    // again. An empty counter is no news.
                    WAKE => drop(self.wake.read()),
                    id => self.look_after(id),
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Serve(line, wants) => self.serve(line, wants),
                    Command::Bury(id) => self.bury(id),
                }
            }
        }
    }

    fn serve(&mut self, mut line: Box<Line>, wants: Wants) {
        let id = line.life.id();
        match self.epoll.add(&line.socket, EpollEvent::new(flags(wants), id)) {
            Ok(()) => drop(self.lines.insert(id, (line, wants))),
            Err(errno) => {
                line.handle_unserved(errno.into());
                self.lines.insert(id, (line, Wants { read: false, write: false }));
            }
        }
        // If it has ended already, we were told before we knew it.
        self.bury(id);
    }

    /// Reads and writes what can be read and written.
    fn look_after(&mut self, id: u64) {
        let Some((line, known)) = self.lines.get_mut(&id) else { return };
        let Some(wants) = guarded(|| line.work()).filter(|wants| wants != known) else { return };
        *known = wants;
        // A socket that is at its end is readable for ever.
        let _ = if wants.read || wants.write {
            self.epoll.modify(&line.socket, &mut EpollEvent::new(flags(wants), id))
        } else {
            self.epoll.delete(&line.socket)
        };
    }

    fn bury(&mut self, id: u64) {
        let Some((line, wants)) = self.lines.remove(&id) else { return };
        if !line.is_over() {
            self.lines.insert(id, (line, wants));
            return;
        }
        // Closing it would not do: in a program that forks, the other process has a
        // copy, and we would be woken for ever. It may be out already.
        let _ = self.epoll.delete(&line.socket);
        guarded(|| line.end());
    }
}

fn flags(wants: Wants) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, wants.read);
    flags.set(EpollFlags::EPOLLOUT, wants.write);
    flags
}

/// Arguments may be memory of the user's own, with code to free it. Its panic, of
/// which the hook has told, is not to be the end of other processes' post.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(payload) => {
            // Dropping it could panic again.
            mem::forget(payload);
            None
        }
    }
}
