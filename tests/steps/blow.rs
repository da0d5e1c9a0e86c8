//! Strikes a process at one of its steps: the entry to or the return from a
//! system call, in any of its threads, as ptrace(2) tells them. The tracer is a
//! thread of the test: it is the worker's parent process too, so that nothing
//! changes for the pool, which waits for the same child.

use std::collections::HashMap;
use std::fs;
use std::mem;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::support::is_alive;

/// What is done to the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Blow {
    Kill,
    Terminate,
    /// Stops it, and continues it once it has stopped.
    Pause,
    /// Stops it.
    Hold,
}

/// Those that a worker does not survive.
pub(crate) const DEADLY: [Blow; 2] = [Blow::Kill, Blow::Terminate];
pub(crate) const ALL: [Blow; 3] = [Blow::Kill, Blow::Terminate, Blow::Pause];

impl Blow {
    fn signal(self) -> Signal {
        match self {
            Blow::Kill => Signal::SIGKILL,
            Blow::Terminate => Signal::SIGTERM,
            Blow::Pause | Blow::Hold => Signal::SIGSTOP,
        }
    }

    /// The number of the signal that ends the process.
    pub(crate) fn number(self) -> i32 {
        self.signal() as i32
    }

    pub(crate) fn is_deadly(self) -> bool {
        matches!(self, Blow::Kill | Blow::Terminate)
    }
}

/// Which steps count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Steps {
    /// Entries and returns.
    All,
    /// Entries, and of the same call again and again the first. A program's
    /// start has hundreds that make no difference.
    Distinct,
}

impl Steps {
    /// `Distinct`, unless the environment asks for all.
    pub(crate) fn few() -> Self {
        match std::env::var("PROCESSION_SWEEP").as_deref() {
            Ok("full") => Steps::All,
            _ => Steps::Distinct,
        }
    }
}

/// A blow that has been prepared.
pub(crate) struct Strike {
    pid: i32,
    state: Arc<AtomicU8>,
    thread: JoinHandle<()>,
}

const PREPARED: u8 = 0;
const STRUCK: u8 = 1;
const LET_GO: u8 = 2;

/// Whether the blow is ours to strike, or to let be.
fn decide(state: &AtomicU8, decision: u8) -> bool {
    state.compare_exchange(PREPARED, decision, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl Strike {
    /// Takes hold of a process, and of all threads that it has or will have. Its
    /// steps count from here on; at the one with number `step`, `blow` falls.
    pub(crate) async fn prepare(pid: i32, step: usize, blow: Blow, steps: Steps) -> Strike {
        let state = Arc::new(AtomicU8::new(PREPARED));
        let (ready, prepared) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            // When this thread has ended, nobody is traced any more.
            let tracer =
                thread::spawn(move || Tracer::new(pid).run(step, blow, steps, ready, &shared));
            let struck = tracer.join().unwrap();
            if struck && blow == Blow::Pause {
                continue_when_stopped(pid);
            }
        });
        // Never ready if the process has gone already.
        let _ = prepared.await;
        Strike { pid, state, thread }
    }

    /// The same for the next copy that a process makes of itself, from its first step on.
    pub(crate) async fn prepare_for_copy(pid: i32, step: usize, steps: Steps) -> Strike {
        let state = Arc::new(AtomicU8::new(PREPARED));
        let (ready, prepared) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            let tracer = Tracer { pid, original: Some(Vec::new()), calls: HashMap::new() };
            tracer.run(step, Blow::Kill, steps, ready, &shared);
        });
        let _ = prepared.await;
        Strike { pid, state, thread }
    }

    /// Whether the blow has fallen.
    pub(crate) fn has_fallen(&self) -> bool {
        self.state.load(Ordering::Acquire) == STRUCK
    }

    /// Lets go. Returns whether the blow has fallen.
    pub(crate) async fn finish(self) -> bool {
        let struck = !decide(&self.state, LET_GO);
        if !struck {
            // Wakes the tracer; to the process it means nothing.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGCONT);
        }
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
        struck
    }
}

/// Strikes one step later each time, until the blow does not fall any more:
/// three times in a row, as threads do not always take as many steps. `scene` is
/// given the step and returns whether the blow fell.
pub(crate) async fn sweep(mut scene: impl AsyncFnMut(usize) -> bool) {
    let mut missed = 0;
    for step in 0.. {
        missed = if scene(step).await { 0 } else { missed + 1 };
        if missed == 3 {
            assert!(step > 2, "nothing was struck");
            return;
        }
        assert!(step < 5000, "there is no end to it");
    }
}

struct Tracer {
    /// Whose steps count.
    pid: i32,
    /// The threads of the original, if its copy is to be struck: their steps do not count.
    original: Option<Vec<i32>>,
    /// Threads inside a system call, and the last one of each.
    calls: HashMap<i32, (bool, String)>,
}

impl Tracer {
    fn new(pid: i32) -> Self {
        Tracer { pid, original: None, calls: HashMap::new() }
    }

    fn run(
        mut self,
        step: usize,
        blow: Blow,
        steps: Steps,
        ready: oneshot::Sender<()>,
        state: &AtomicU8,
    ) -> bool {
        let mut options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
        let mut threads: Vec<i32> = fs::read_dir(format!("/proc/{}/task", self.pid))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap().parse().unwrap())
            .collect();
        if let Some(original) = &mut self.original {
            original.clone_from(&threads);
            options |= libc::PTRACE_O_TRACEFORK;
        }
        for &thread in &threads {
            match ptrace(libc::PTRACE_SEIZE, thread, options) {
                Ok(()) => {}
                // Its pool was dropped, or it has left just now.
                Err(Errno::ESRCH) => return false,
                Err(Errno::EPERM) if !is_alive(self.pid) => return false,
                Err(errno) => panic!("this system does not let us trace: {errno}"),
            }
            let _ = ptrace(libc::PTRACE_INTERRUPT, thread, 0);
        }
        let mut held = Vec::new();
        while !threads.is_empty() {
            let Some((thread, _)) = self.wait() else { return false };
            threads.retain(|&other| other != thread);
            held.push(thread);
        }
        // It may have been held.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGCONT);
        for thread in held {
            self.resume(thread, 0);
        }
        let _ = ready.send(());
        let mut count = 0;
        while let Some((thread, stop)) = self.wait() {
            if state.load(Ordering::Acquire) == LET_GO {
                return false;
            }
            let Some(stop) = stop else { continue };
            if stop == libc::SIGTRAP | libc::PTRACE_EVENT_FORK << 8 {
                self.pid = copy_made_by(thread);
            }
            if stop == libc::SIGTRAP | 0x80 {
                if self.counts(thread, steps) {
                    if count == step {
                        if !decide(state, STRUCK) {
                            return false;
                        }
                        let _ = kill(Pid::from_raw(self.pid), blow.signal());
                        return true;
                    }
                    count += 1;
                }
                self.resume(thread, 0);
            } else {
                // A signal goes on to the process, except ours; events are no
                // signals.
                let signal = if stop >> 8 == 0 && stop != libc::SIGCONT { stop } else { 0 };
                self.resume(thread, signal);
            }
        }
        false
    }

    fn counts(&mut self, thread: i32, steps: Steps) -> bool {
        let (inside, last) = self.calls.entry(thread).or_default();
        *inside = !*inside;
        if steps == Steps::All {
            return true;
        }
        if !*inside {
            return false;
        }
        let path = format!("/proc/{}/task/{thread}/syscall", self.pid);
        let call = fs::read_to_string(path).unwrap_or_default();
        let number = call.split(' ').next().unwrap_or_default();
        let differs = last != number;
        *last = number.to_owned();
        differs
    }

    /// The next thread that stops, and why; or that has ended. `None` when the
    /// process has. It is left to its parent.
    fn wait(&self) -> Option<(i32, Option<i32>)> {
        let (thread, stop) =
            // Of this thread: nobody but whom it traces.
            wait(libc::P_ALL, 0, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)?;
        if stop.is_none() && thread == self.pid {
            return None;
        }
        let which = if stop.is_some() { libc::WSTOPPED } else { libc::WEXITED };
        wait(libc::P_PID, thread, which | libc::WNOHANG);
        Some((thread, stop))
    }

    fn resume(&self, thread: i32, signal: i32) {
        let counts = self.original.as_ref().is_none_or(|threads| !threads.contains(&thread));
        let how = if counts { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
        // It may have been killed meanwhile.
        let _ = ptrace(how, thread, signal);
    }
}

fn wait(kind: libc::idtype_t, id: i32, which: i32) -> Option<(i32, Option<i32>)> {
    // SAFETY: zeroes are a valid siginfo for the kernel to overwrite.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    let which = which | libc::__WALL | libc::__WNOTHREAD;
    loop {
        // SAFETY: `info` is ours to write.
        match Errno::result(unsafe { libc::waitid(kind, id as libc::id_t, &mut info, which) }) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves the zeroes.
    let (thread, status) = unsafe { (info.si_pid(), info.si_status()) };
    Some((thread, (info.si_code == libc::CLD_TRAPPED).then_some(status)))
}

fn copy_made_by(thread: i32) -> i32 {
    let mut pid: libc::c_ulong = 0;
    // SAFETY: the kernel writes a number to a variable of ours.
    let told = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, thread, 0, &raw mut pid) };
    Errno::result(told).unwrap();
    pid as i32
}

fn ptrace(request: libc::c_uint, thread: i32, data: i32) -> nix::Result<()> {
    let (none, data) = (ptr::null_mut::<libc::c_void>(), data as usize as *mut libc::c_void);
    // SAFETY: the requests made here take numbers and touch no memory.
    Errno::result(unsafe { libc::ptrace(request, thread, none, data) })?;
    Ok(())
}

fn continue_when_stopped(pid: i32) {
    // The state of one that has ended is another one, or none.
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.trim_start().chars().next()
    };
    while !matches!(state(), None | Some('T' | 'Z' | 'X')) {
        thread::sleep(Duration::from_micros(50));
    }
    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
}
