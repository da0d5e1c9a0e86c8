//! The parent dies while a worker stands between two system calls of its boot,
//! for each of these; or while the parent's own threads for workers stand between
//! two of those that start one. A tracer stops them there.

use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, getpgid, getpgrp};
use procession::Pool;

use crate::orphans::{assert_extinct, not_here};
use crate::support::{Scratch, alone, children_of, note, notes};

const TRACED: &str = "PROCESSION_TEST_TRACED";

/// Workers of one parent, each of which is stopped elsewhere.
const WORKERS: usize = 16;

/// What `init` asks first of all. What comes before it is the program's start,
/// of which a few places are enough.
const FIRST_OF_BOOT: libc::c_long = libc::SYS_getsockname;
const STRIDE_BEFORE: usize = 24;

/// They make the same system calls for each worker: steps of a length that is no
/// part of their number come to all of them.
const PARENT_STRIDE: usize = 7;

/// The last thing that workers do here: begins a grandchild, and says so.
fn prepares(folder: String) {
    #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
    let sleep = Command::new("sleep").arg("1000").spawn().unwrap();
    note(format!("{folder}/here"), &sleep.id().to_string());
}

/// Not a test of its own: what the parent processes run.
#[test]
fn parent_process() {
    let Ok(folder) = env::var(TRACED) else { return };
    nix::unistd::alarm::set(90);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let warden = Pool::builder().workers(1).build().unwrap();
    runtime.block_on(warden.ready()).unwrap();
    note(format!("{folder}/up"), "up");
    wait_for(&folder, "go");
    let _pool = Pool::builder()
        .workers(WORKERS)
        .env("PROCESSION_TEST_BROOD", &folder)
        .initializer(prepares, folder.clone())
        .build()
        .unwrap();
    wait_for(&folder, "split");
    // SAFETY: the child calls nothing but the kernel.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        // SAFETY: as promised.
        unsafe {
            libc::alarm(90);
            libc::pause();
            libc::_exit(0);
        }
    }
    note(format!("{folder}/is_split"), "yes");
    loop {
        std::thread::park();
    }
}

fn wait_for(folder: &str, what: &str) {
    while notes(format!("{folder}/{what}")).is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

// Tracing --------------------------------------------------------------------

fn ptrace(request: libc::c_uint, pid: i32, data: usize) -> Result<(), Errno> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: where `data` is a pointer, it is one to a live variable.
    Errno::result(unsafe { libc::ptrace(request as _, pid, none, data) }).map(drop)
}

/// Waits for news of a thread that is traced; `None` if it is dead.
fn stop_of(pid: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is ours to write.
    let waited = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    assert_eq!(Errno::result(waited), Ok(pid));
    libc::WIFSTOPPED(status).then_some(status)
}

fn event(status: i32) -> i32 {
    status >> 16
}

/// The process or thread that `pid` says it has just begun, where that stands.
fn new_one(pid: i32, options: i32) -> i32 {
    let mut new: libc::c_ulong = 0;
    ptrace(libc::PTRACE_GETEVENTMSG, pid, &raw mut new as usize).unwrap();
    stop_of(new as i32).expect("it has just begun");
    ptrace(libc::PTRACE_SETOPTIONS, new as i32, options as usize).unwrap();
    new as i32
}

/// The threads for workers, as their names are cut.
const WARDEN: &str = "procession-ward";
const STARTER: &str = "procession-star";

/// A parent of whose threads one is traced.
struct Parent {
    process: Child,
    thread: i32,
    folder: String,
    _scratch: Scratch,
}

/// A worker that is traced, and stands somewhere.
struct Worker {
    pid: i32,
    stops: usize,
}

impl Parent {
    /// Its thread of that name stands. `None` where tracing is not allowed.
    fn start(name: &str, options: i32) -> Option<Parent> {
        let scratch = Scratch::new();
        let folder = scratch.path("").trim_end_matches('/').to_owned();
        let process = Command::new(env::current_exe().unwrap())
            .args(["traced::parent_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(TRACED, &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut parent = Parent { process, thread: 0, folder, _scratch: scratch };
        while notes(format!("{}/up", parent.folder)).is_empty() {
            assert!(parent.process.try_wait().unwrap().is_none(), "the parent has ended too early");
            std::thread::sleep(Duration::from_millis(1));
        }
        let threads = fs::read_dir(format!("/proc/{}/task", parent.process.id())).unwrap();
        let is_it = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|it| it.starts_with(name))
        };
        let thread = threads.flatten().map(|entry| entry.path()).find(is_it).unwrap();
        parent.thread = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let seized = ptrace(libc::PTRACE_SEIZE, parent.thread, options as usize);
        if seized == Err(Errno::EPERM) {
            parent.process.kill().unwrap();
            parent.process.wait().unwrap();
            not_here("a parent's death at each system call: no process may be traced");
            return None;
        }
        seized.unwrap();
        ptrace(libc::PTRACE_INTERRUPT, parent.thread, 0).unwrap();
        stop_of(parent.thread).expect("the parent lives");
        note(format!("{}/go", parent.folder), "go");
        Some(parent)
    }

    fn go_on(&self) {
        ptrace(libc::PTRACE_CONT, self.thread, 0).unwrap();
    }

    /// Waits until the starter, which goes on, has come to its next worker, which
    /// stands at its very first instruction then.
    fn next_worker(&self) -> Worker {
        loop {
            let status = stop_of(self.thread).expect("the parent lives");
            let is_new = event(status) != 0 && event(status) != libc::PTRACE_EVENT_STOP;
            let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
            let pid = is_new.then(|| new_one(self.thread, options));
            self.go_on();
            if let Some(pid) = pid {
                return Worker { pid, stops: 0 };
            }
        }
    }

    /// Kills the parent, and waits until it is gone.
    fn die(&mut self) {
        self.process.kill().unwrap();
        while stop_of(self.thread).is_some() {}
        self.process.wait().unwrap();
    }

    /// Makes the parent make a copy of itself, which has all its descriptors and
    /// lives on.
    fn split(&self) -> Pid {
        let before = children_of(self.process.id() as i32);
        note(format!("{}/split", self.folder), "split");
        wait_for(&self.folder, "is_split");
        let after = children_of(self.process.id() as i32);
        // Workers have groups of their own; the copy has its parent's.
        let is_copy = |pid: &&i32| getpgid(Some(Pid::from_raw(**pid))) == Ok(getpgrp());
        Pid::from_raw(*after.difference(&before).find(is_copy).unwrap())
    }

    fn grandchildren(&self) -> usize {
        notes(format!("{}/here", self.folder)).len()
    }
}

impl Worker {
    /// Lets it go on to where its next system call begins or ends. When the
    /// harness begins the thread that becomes the worker, goes on with that.
    fn step(&mut self) {
        loop {
            ptrace(libc::PTRACE_SYSCALL, self.pid, 0).unwrap();
            let status = stop_of(self.pid).expect("the worker lives");
            if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
                self.stops += 1;
                return;
            }
            if event(status) == libc::PTRACE_EVENT_CLONE {
                let thread = new_one(self.pid, libc::PTRACE_O_TRACESYSGOOD);
                ptrace(libc::PTRACE_DETACH, self.pid, 0).unwrap();
                self.pid = thread;
            }
        }
    }

    fn system_call(&self) -> Option<libc::c_long> {
        // It may have been killed where it stood.
        let line = fs::read_to_string(format!("/proc/{}/syscall", self.pid)).ok()?;
        line.split(' ').next().unwrap().trim().parse().ok()
    }

    /// Lets it go. It may have been killed where it stood.
    fn let_go(self) {
        if ptrace(libc::PTRACE_DETACH, self.pid, 0).is_err() {
            while stop_of(self.pid).is_some() {}
        }
    }
}

const NEW_PROCESSES: i32 =
    libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACECLONE;

/// Where workers are to be stopped: how many system calls begin or end before.
struct Places {
    /// While the starter waits for the worker to come to its program.
    early: Vec<usize>,
    late: Vec<usize>,
}

impl Places {
    /// Goes through the boot of one worker. `None` where that is not allowed.
    fn find() -> Option<Places> {
        let mut parent = Parent::start(STARTER, NEW_PROCESSES)?;
        parent.go_on();
        let mut worker = parent.next_worker();
        let (mut program, mut boot) = (0, None);
        while parent.grandchildren() == 0 {
            worker.step();
            match worker.system_call() {
                _ if boot.is_some() => {}
                Some(libc::SYS_execve) => program = worker.stops,
                Some(FIRST_OF_BOOT) => boot = Some(worker.stops),
                _ => {}
            }
        }
        let boot = boot.expect("the worker boots");
        let few = |range: std::ops::Range<usize>| range.step_by(STRIDE_BEFORE);
        let places = Places {
            early: few(0..program).collect(),
            late: few(program..boot).chain(boot..=worker.stops).collect(),
        };
        parent.die();
        worker.let_go();
        assert_extinct(&parent.folder, "whose worker was looked at");
        Some(places)
    }
}

#[test]
fn nobody_is_left_wherever_in_its_boot_a_worker_is() {
    everywhere_in_boot(false);
}

/// The copy has the parent's ends of all sockets.
#[test]
fn nobody_is_left_to_a_copy_of_the_parent_wherever_in_its_boot_a_worker_is() {
    everywhere_in_boot(true);
}

fn everywhere_in_boot(split: bool) {
    alone(|| {
        let Some(Places { mut early, mut late }) = Places::find() else { return };
        println!("{} places before the program, {} in it", early.len(), late.len());
        while !early.is_empty() || !late.is_empty() {
            let mut parent = Parent::start(STARTER, NEW_PROCESSES).unwrap();
            parent.go_on();
            let mut round = late.split_off(late.len().saturating_sub(WORKERS - 1));
            // It keeps the starter from starting another.
            round.extend(early.pop());
            let mut workers = Vec::new();
            for &place in &round {
                let mut worker = parent.next_worker();
                // Some come to their first task in fewer steps than the one that was
                // looked at, where they would wait for it.
                let here = parent.grandchildren();
                while worker.stops < place && parent.grandchildren() == here {
                    worker.step();
                }
                workers.push(worker);
            }
            let copy = split.then(|| parent.split());
            parent.die();
            workers.into_iter().for_each(Worker::let_go);
            assert_extinct(&parent.folder, &format!("whose workers were at {round:?}"));
            if let Some(copy) = copy {
                kill(copy, Signal::SIGKILL).unwrap();
            }
        }
    });
}

/// As above, with the one who starts the workers: a worker that is there may
/// not be known to anybody yet.
#[test]
fn nobody_is_left_wherever_the_warden_is() {
    everywhere_in_parent(WARDEN);
}

#[test]
fn nobody_is_left_wherever_the_starter_is() {
    everywhere_in_parent(STARTER);
}

fn everywhere_in_parent(name: &str) {
    alone(|| {
        for place in (1..).step_by(PARENT_STRIDE) {
            let options = libc::PTRACE_O_TRACESYSGOOD;
            let Some(mut parent) = Parent::start(name, options) else { return };
            let mut thread = Worker { pid: parent.thread, stops: 0 };
            while thread.stops < place && parent.grandchildren() < 2 {
                thread.step();
            }
            let is_over = parent.grandchildren() >= 2;
            parent.die();
            assert_extinct(&parent.folder, &format!("whose {name} was at {place}"));
            if is_over {
                return;
            }
        }
    });
}
