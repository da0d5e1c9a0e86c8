//! A worker that follows a script from its first byte on, instead of the
//! crate: it takes the socket and the status page that the parent has left for
//! it, and then does what the test wants. Its parent's side is [`Cast`].
//!
//! Which worker of a pool plays the script is settled among them by files that
//! only one can create: the first few play, everyone after them is honest.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use procession::{Pool, PoolBuilder};

use crate::support::{Scratch, until};
use crate::wire::{self, HEADER, Page};

/// What a scripted worker does. It may return: then it waits for its end.
pub(crate) type Script = fn(&mut Actor, &str);

const SCRIPT: &str = "HOSTILE_SCRIPT";
const CLAIMS: &str = "HOSTILE_CLAIMS";

/// In a worker that was told to play a script, and whose turn it is, plays it
/// and never returns.
pub(crate) fn play_if_told() {
    let Ok(script) = std::env::var(SCRIPT) else { return };
    let claims = std::env::var(CLAIMS).expect("who plays a script knows where to say so");
    let Some(turn) = claim(&claims) else { return };
    let (name, arg) = script.split_once(':').unwrap_or((&script, ""));
    let script = crate::SCRIPTS
        .iter()
        .flat_map(|scripts| scripts.iter())
        .find_map(|(known, script)| (*known == name).then_some(script))
        .unwrap_or_else(|| panic!("no script {name}"));
    let mut actor = Actor::take_over(turn);
    script(&mut actor, arg);
    actor.rest()
}

/// Which of those who play this process is, if it is one. Leaves its number.
fn claim(claims: &str) -> Option<u64> {
    fs::read_dir(claims).expect("the test is not over").flatten().find_map(|place| {
        let place = place.path();
        let turn: u64 = place.to_str()?.strip_suffix(".free")?.rsplit('/').next()?.parse().ok()?;
        // Renaming is what only one can do.
        let taken = place.with_file_name(format!("{turn}.taken.{}", std::process::id()));
        fs::rename(place, taken).is_ok().then_some(turn)
    })
}

/// A frame from the parent.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) seq: u64,
    pub(crate) body: Vec<u8>,
}

/// A worker that plays a script.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) socket: UnixStream,
    pub(crate) page: Page,
    /// How many play before this one.
    pub(crate) turn: u64,
    /// What the parent said first, once it was read.
    version: u32,
    pub(crate) fingerprint: u64,
}

impl Actor {
    /// Receives what the parent has left at descriptor 0.
    fn take_over(turn: u64) -> Self {
        // Nothing here watches for the parent's end.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
        // SAFETY: the descriptor was made for this process, and nothing in it
        // reads standard input.
        let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(0) });
        // Away from 0, where it would be inherited.
        let moved = socket.try_clone().unwrap();
        std::mem::forget(socket);
        let mut bytes = [0; 12];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([i32; 5]);
        let message = recvmsg::<()>(
            moved.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .unwrap();
        let fds: Vec<i32> = message
            .cmsgs()
            .unwrap()
            .flat_map(|control| match control {
                ControlMessageOwned::ScmRights(fds) => fds,
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(bytes[..7], *b"process");
        // Who it is does not matter here.
        let birth = u32::from_le_bytes(bytes[8..].try_into().unwrap());
        let birth = (&moved).take(birth.into()).read_to_end(&mut Vec::new());
        birth.unwrap();
        // The page, the starter's pidfd and the leash, and sometimes an output.
        if let Some(&stdout) = fds.get(3) {
            // SAFETY: both descriptors are open; what was at 1 is not used.
            unsafe { nix::libc::dup2(stdout, 1) };
        }
        // SAFETY: it came with the message, and nobody else has seen it.
        let page = Page(File::from(unsafe { OwnedFd::from_raw_fd(fds[0]) }));
        // Else what follows writes elsewhere, and attacks nothing.
        assert_eq!(page.u32_at(wire::VERSION_AT), wire::LAYOUT_VERSION);
        assert_eq!(page.0.metadata().unwrap().len(), wire::PAGE_BYTES);
        Actor { socket: moved, page, turn, version: 0, fingerprint: 0 }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The parent may have had enough of us.
        let _ = self.socket.write_all(bytes);
    }

    /// Sends with descriptors, which are closed here.
    pub(crate) fn send_with(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) {
        let numbers: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let parts = [IoSlice::new(bytes)];
        let socket = self.socket.as_raw_fd();
        // The parent may have had enough of us.
        let _ = sendmsg::<()>(socket, &parts, rights, MsgFlags::empty(), None);
    }

    /// The next frame of the parent. Without one to come, this is the end.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut header = [0; HEADER];
        if self.socket.read_exact(&mut header).is_err() {
            self.rest();
        }
        let length = u32::from_le_bytes(header[..4].try_into().unwrap());
        let mut body = vec![0; length as usize];
        if self.socket.read_exact(&mut body).is_err() {
            self.rest();
        }
        let seq = u64::from_le_bytes(header[8..].try_into().unwrap());
        Heard { kind: header[4], flags: header[5], seq, body }
    }

    /// Learns what a hello must say.
    pub(crate) fn hear_setup(&mut self) -> Heard {
        let setup = self.hear();
        assert_eq!(setup.kind, wire::SETUP);
        let mut body = &setup.body[..];
        self.version = wire::take_varint(&mut body) as u32;
        self.fingerprint = wire::take_varint(&mut body);
        setup
    }

    /// The hello of an honest worker.
    pub(crate) fn hello(&self) -> Vec<u8> {
        wire::hello(self.version, self.fingerprint, std::process::id() as i32)
    }

    /// Does what an honest worker does before its first task.
    pub(crate) fn greet(&mut self) {
        self.hear_setup();
        let greeting = [self.hello(), wire::ready()].concat();
        self.send(&greeting);
    }

    /// Greets, and receives a task that is not the pool's goodbye.
    pub(crate) fn greet_and_take(&mut self) -> Heard {
        self.greet();
        self.take()
    }

    /// Receives a task.
    pub(crate) fn take(&mut self) -> Heard {
        let heard = self.hear();
        if heard.kind == wire::BYE {
            std::process::exit(0);
        }
        heard
    }

    /// Claims a task as an honest worker would.
    pub(crate) fn start(&self, seq: u64) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        self.page.write(Page::started_at(seq), &now.to_le_bytes());
        self.page.set_word(seq, wire::RUNNING);
    }

    /// Says in the page that a task is over. Before the answer, which is refused
    /// as long as the page says that the task runs.
    pub(crate) fn finish(&self, seq: u64) {
        self.page.set_word(seq, wire::FINISHED);
    }

    /// Waits until the parent has taken the answer to a task, which it never does
    /// if the task is not over.
    pub(crate) fn wait_until_taken(&self, seq: u64) {
        let is_taken = |(there, phase)| there != seq || phase == wire::EMPTY;
        while !is_taken(self.page.word(seq)) {
            std::thread::yield_now();
        }
    }

    /// Waits for the end and reads nothing.
    pub(crate) fn rest(&self) -> ! {
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        let _ = poll(
            &mut [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), gone)],
            PollTimeout::NONE,
        );
        loop {
            // The parent has closed the socket, or we have: it will kill us.
            std::thread::sleep(Duration::from_secs(1000));
        }
    }
}

/// A pool of which some workers play a script.
#[derive(Debug)]
pub(crate) struct Cast {
    claims: Scratch,
    script: String,
}

impl Cast {
    /// The first `villains` workers play; those after them are honest.
    pub(crate) fn new(script: &str, villains: usize) -> Self {
        let claims = Scratch::new();
        for n in 0..villains {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(claims.path(&format!("{n}.free")))
                .unwrap();
        }
        Cast { claims, script: script.to_owned() }
    }

    pub(crate) fn builder(&self) -> PoolBuilder {
        Pool::builder()
            .env(SCRIPT, &self.script)
            .env(CLAIMS, self.claims.path(""))
            .frame_limit(1 << 20)
            .grace_period(Duration::from_millis(100))
    }

    /// Processes that have played.
    pub(crate) fn villains(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = fs::read_dir(self.claims.path(""))
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.split_once(".taken.")?.1.parse().ok())
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Waits for the one that plays.
    pub(crate) async fn villain(&self) -> u32 {
        until("a worker plays the script", || !self.villains().is_empty()).await;
        self.villains()[0]
    }
}
