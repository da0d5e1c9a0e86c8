//! Whatever workers do when their process of origin dies, and whatever way that
//! dies, a moment later nobody is left: no worker, no grandchild. As in
//! `parents`, the parents are this test program, started once more.

use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio, id};
use std::time::{Duration, Instant};

use futures::StreamExt;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, raise, signal};
use nix::sys::{prctl, stat};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, mkfifo, pipe, setpgid, setsid};
use procession::{Pool, worker};

use crate::support::{LIMIT, Scratch, alone, children_of, note, notes};
use crate::tasks::*;

const DEATH: &str = "PROCESSION_TEST_DEATH";
const FOLDER: &str = "PROCESSION_TEST_FOLDER";

/// Set for workers, and so for all that comes of them: how survivors are found,
/// in whatever namespace, group or session they are.
const BROOD: &str = "PROCESSION_TEST_BROOD";

/// Seconds that a parent, or a copy of it, lives at most.
const ALARM: u32 = 400;

// What workers do ------------------------------------------------------------

/// Says that the task has come to where it stays, or is about to.
fn here(folder: &str, name: &str) {
    note(format!("{folder}/here"), &format!("{name} {}", id()));
}

fn stay() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn sleeps(folder: String) {
    here(&folder, "S sleeps");
    stay();
}

fn works(folder: String) {
    here(&folder, "R works");
    loop {
        std::hint::spin_loop();
    }
}

fn allocates(folder: String) {
    here(&folder, "R allocates");
    for n in 0.. {
        let block = vec![1_u8; 1 + n % (1 << 20)];
        std::hint::black_box(&block);
    }
}

fn reads_a_pipe(folder: String) {
    let (ours, _theirs) = pipe().unwrap();
    here(&folder, "S reads_a_pipe");
    File::from(ours).read_exact(&mut [0]).unwrap();
}

fn waits_for_a_lock(folder: String) {
    let lock = std::sync::Mutex::new(());
    let _held = lock.lock().unwrap();
    here(&folder, "S waits_for_a_lock");
    let _never = lock.lock().unwrap();
}

fn waits_for_a_file_lock(folder: String) {
    let open = || File::create(format!("{folder}/lock")).unwrap();
    let held = open();
    lock_file(&held);
    here(&folder, "S waits_for_a_file_lock");
    lock_file(&open());
}

fn lock_file(file: &File) {
    // SAFETY: takes two integers.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
}

fn is_stopped(folder: String) {
    here(&folder, "T is_stopped");
    raise(Signal::SIGSTOP).unwrap();
    stay();
}

/// Whoever continues it gets it for no longer than it takes to say stop.
fn stops_again_and_again(folder: String) {
    here(&folder, "T stops_again_and_again");
    loop {
        raise(Signal::SIGSTOP).unwrap();
    }
}

fn ignores_signals(folder: String) {
    ignore_all();
    here(&folder, "S ignores_signals");
    stay();
}

fn ignore_all() {
    for number in 1..libc::SIGRTMAX() {
        if let Ok(number) = Signal::try_from(number) {
            // SAFETY: ignoring a signal runs no code. SIGKILL and SIGSTOP refuse.
            let _ = unsafe { signal(number, SigHandler::SigIgn) };
        }
    }
}

fn blocks_signals(folder: String) {
    SigSet::all().thread_block().unwrap();
    here(&folder, "S blocks_signals");
    stay();
}

fn has_many_threads(folder: String) {
    for _ in 0..40 {
        std::thread::spawn(|| {
            SigSet::all().thread_block().unwrap();
            stay();
        });
    }
    here(&folder, "S has_many_threads");
    stay();
}

/// Its thread waits in the kernel, for a child that has its memory and does not
/// come to its program.
fn waits_for_a_vfork(folder: String) {
    let fifo = format!("{folder}/fifo");
    mkfifo(fifo.as_str(), stat::Mode::S_IRWXU).unwrap();
    let path = CString::new(fifo).unwrap();
    let program = c"/bin/true";
    here(&folder, "D waits_for_a_vfork");
    // SAFETY: plain values, initialised by the calls that are made for that;
    // every pointer is to something that lives until the last call.
    unsafe {
        let mut actions = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawn_file_actions_addopen(&mut actions, 5, path.as_ptr(), libc::O_RDONLY, 0);
        let (mut pid, args) = (0, [program.as_ptr().cast_mut(), std::ptr::null_mut()]);
        libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            &actions,
            std::ptr::null(),
            args.as_ptr(),
            args.as_ptr().add(1),
        );
    }
    stay();
}

/// Closes all that it did not open, as those who want to become daemons do.
fn closes_all_descriptors(folder: String) {
    here(&folder, "S closes_all_descriptors");
    close_from_3();
    stay();
}

fn close_from_3() {
    // SAFETY: the descriptors are others', and that they miss them is the point.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// As above, and puts others in their places that never have any news.
fn replaces_all_descriptors(folder: String) {
    here(&folder, "S replaces_all_descriptors");
    close_from_3();
    let (quiet, _end) = pipe().unwrap();
    for number in 0..64 {
        if number != quiet.as_raw_fd() && number != _end.as_raw_fd() {
            // SAFETY: as above.
            unsafe { libc::dup2(quiet.as_raw_fd(), number) };
        }
    }
    // What waits in the kernel looks its descriptors up once more.
    raise(Signal::SIGCONT).unwrap();
    stay();
}

/// Leaves its group, in which its child stays.
fn leaves_its_group(folder: String) {
    let own = getpgrp();
    let sleep = Command::new("sleep").arg("1000").spawn().unwrap();
    // The other group's leader ends with us, by the end of its input.
    let cat = Command::new("cat").stdin(Stdio::piped()).process_group(0).spawn().unwrap();
    setpgid(Pid::from_raw(0), Pid::from_raw(cat.id() as i32)).unwrap();
    assert_ne!(getpgrp(), own);
    here(&folder, "S leaves_its_group");
    let _both = (sleep, cat);
    stay();
}

fn has_a_child(folder: String) {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    here(&folder, "S has_a_child");
    child.wait().unwrap();
}

fn has_a_grandchild_that_ignores_signals(folder: String) {
    let script = r#"trap "" HUP INT QUIT TERM USR1 USR2 CONT TSTP
        sh -c 'sleep 1000; sleep 1000' & wait; sleep 1000"#;
    let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
    here(&folder, "S has_a_grandchild");
    child.wait().unwrap();
}

/// A child with all our memory and descriptors.
fn has_forked(folder: String) {
    here(&folder, "S has_forked");
    // SAFETY: the child calls nothing but the kernel.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        ignore_all();
        loop {
            // SAFETY: it returns for signals only.
            unsafe { libc::pause() };
        }
    }
    stay();
}

fn has_forked_and_is_stopped(folder: String) {
    // SAFETY: the child calls nothing but the kernel.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        loop {
            raise(Signal::SIGSTOP).unwrap();
        }
    }
    here(&folder, "T has_forked_and_is_stopped");
    raise(Signal::SIGSTOP).unwrap();
    stay();
}

async fn is_async(folder: String) {
    here(&folder, "S is_async");
    std::future::pending::<()>().await;
}

/// Is cancelled, and ignores SIGTERM for the rest of its grace period.
fn is_terminated(folder: String) {
    ignore_term();
    here(&folder, "S is_terminated");
    stay();
}

/// Is cancelled, knows it, and takes its time.
fn is_cancelled(folder: String) {
    worker::on_terminate({
        let folder = folder.clone();
        move || here(&folder, "S knows_it")
    });
    here(&folder, "S is_cancelled");
    stay();
}

fn streams(folder: String) -> impl Iterator<Item = u64> {
    (0..).inspect(move |&n| {
        if n == 0 {
            here(&folder, "S streams");
        }
    })
}

fn prepares(folder: String) {
    here(&folder, "S prepares");
    stay();
}

// Parents --------------------------------------------------------------------

/// How many tasks say where they are.
const HERE: usize = 26;

/// How the parent dies.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Death {
    Killed,
    /// With all of its process group.
    InItsGroup,
    /// It had been stopped before.
    Stopped,
    /// After it left the session that its workers are in.
    AfterSetsid,
    /// It becomes another program.
    Exec,
    /// A thread that is not the main one becomes another program.
    ExecByThread,
    /// In another session, and it has made a copy of itself, which lives on.
    Forked,
    /// As above, and it becomes another program itself.
    ForkedExec,
    /// Its own parent takes in orphans, and is in the same session.
    BelowSubreaper,
    /// In a namespace of process ids where it is the first process.
    AsFirst,
    /// In a namespace where it is not the first.
    AsSecond,
    /// As the first process, with a user namespace as well.
    AsUser,
}

const DEATHS: [Death; 12] = [
    Death::Killed,
    Death::InItsGroup,
    Death::Stopped,
    Death::AfterSetsid,
    Death::Exec,
    Death::ExecByThread,
    Death::Forked,
    Death::ForkedExec,
    Death::BelowSubreaper,
    Death::AsFirst,
    Death::AsSecond,
    Death::AsUser,
];

/// Not a test of its own: what the parent processes run.
#[test]
fn parent_process() {
    let Ok(death) = env::var(DEATH) else { return };
    let death = DEATHS.into_iter().find(|candidate| format!("{candidate:?}") == death).unwrap();
    let folder = env::var(FOLDER).unwrap();
    // Should the test fail, this is not left behind.
    nix::unistd::alarm::set(ALARM);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let builder = || Pool::builder().env(BROOD, &folder).grace_period(Duration::from_secs(1000));
    let starting = builder().workers(2).initializer(prepares, folder.clone()).build().unwrap();
    let idle = builder().workers(2).build().unwrap();
    let pool = builder().workers(HERE - 3).build().unwrap();
    macro_rules! run {
        ($($task:ident),*) => {
            $(pool.apply_async($task, folder.clone()).detach();)*
        };
    }
    run!(
        sleeps,
        works,
        allocates,
        reads_a_pipe,
        waits_for_a_lock,
        waits_for_a_file_lock,
        is_stopped,
        ignores_signals,
        blocks_signals,
        has_many_threads,
        waits_for_a_vfork,
        closes_all_descriptors,
        replaces_all_descriptors,
        leaves_its_group,
        has_a_child,
        has_a_grandchild_that_ignores_signals,
        has_forked,
        has_forked_and_is_stopped,
        is_async
    );
    if matches!(death, Death::Forked | Death::ForkedExec) {
        // Only the leash holds one that stops again and again, and the copy has
        // its other end.
        run!(is_stopped);
    } else {
        run!(stops_again_and_again);
    }
    let mut stream = Box::pin(pool.stream(streams, folder.clone()));
    // One that is not read waits for somebody who takes its items.
    assert_eq!(runtime.block_on(stream.next()).unwrap().unwrap(), 0);
    let terminated = pool.apply_async(is_terminated, folder.clone());
    let cancelled = pool.apply_async(is_cancelled, folder.clone());
    let here = || notes(format!("{folder}/here"));
    wait_until("the tasks run", || here().len() >= HERE - 1);
    drop((terminated, cancelled));
    wait_until("the tasks are in place", || {
        here().len() == HERE && here().iter().all(|note| in_place(note))
    });
    runtime.block_on(idle.ready()).unwrap();
    match death {
        Death::Killed
        | Death::InItsGroup
        | Death::Stopped
        | Death::BelowSubreaper
        | Death::AsFirst
        | Death::AsSecond
        | Death::AsUser => {}
        Death::AfterSetsid => drop(setsid().unwrap()),
        Death::Exec => become_sleep(&folder),
        Death::ExecByThread => {
            std::thread::scope(|scope| drop(scope.spawn(|| become_sleep(&folder))));
        }
        Death::Forked | Death::ForkedExec => {
            // In the same session, the kernel itself continues orphans that are
            // stopped.
            setsid().unwrap();
            // SAFETY: the child calls nothing but the kernel.
            match unsafe { fork() }.unwrap() {
                // SAFETY: as promised; an alarm is not inherited.
                ForkResult::Child => unsafe {
                    libc::alarm(ALARM);
                    libc::pause();
                    libc::_exit(0);
                },
                ForkResult::Parent { child } => note(format!("{folder}/copy"), &child.to_string()),
            }
            if death == Death::ForkedExec {
                become_sleep(&folder);
            }
        }
    }
    note(format!("{folder}/up"), "up");
    let _all = (starting, idle, pool, stream);
    stay();
}

fn become_sleep(folder: &str) {
    note(format!("{folder}/up"), "up");
    wait_until("it may", || Path::new(&format!("{folder}/go")).exists());
    panic!("{}", Command::new("sleep").arg("1000").exec());
}

/// Whether this note's task is in the state that the note begins with: a thread of it,
/// or all of them where it is stopped.
fn in_place(note: &str) -> bool {
    let pid = note.rsplit(' ').next().unwrap();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut stats =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let is_it = |stat: String| stat.rsplit(") ").next().unwrap().starts_with(&note[..1]);
    if note.starts_with('T') { stats.all(is_it) } else { stats.any(is_it) }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// The test -------------------------------------------------------------------

/// All processes with the mark of this brood, and what they are.
pub(super) fn brood(folder: &str) -> Vec<(i32, String)> {
    let mark = format!("{BROOD}={folder}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let environ = fs::read(entry.path().join("environ")).ok()?;
            let marked = environ.windows(mark.len()).any(|part| part == mark.as_bytes());
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            marked.then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}

/// Waits until nobody of the brood is left. Returns how long that took.
#[track_caller]
pub(super) fn assert_extinct(folder: &str, whose: &str) -> Duration {
    let start = Instant::now();
    loop {
        // One that is just becoming another program has no mark for a moment.
        let left = [brood(folder), brood(folder)].concat();
        if left.is_empty() {
            return start.elapsed();
        }
        if start.elapsed() > LIMIT {
            let here = notes(format!("{folder}/here"));
            for (pid, _) in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            panic!("they outlive their parent, {whose}: {left:?}; there were {here:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says what was not tested, even where the harness keeps what tests print.
pub(super) fn not_here(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT TESTED HERE: {what}");
}

/// What starts the parent in a namespace of its own, where that is possible.
fn namespace(death: Death) -> Option<Vec<&'static str>> {
    let new = match death {
        Death::AsFirst => vec!["unshare", "--pid", "--fork", "--mount-proc"],
        Death::AsSecond => vec!["unshare", "--pid", "--fork", "--mount-proc"],
        Death::AsUser => {
            vec!["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        }
        _ => return Some(vec!["env"]),
    };
    let mut check = Command::new(new[0]);
    check.args(&new[1..]).arg("true").stderr(Stdio::null());
    check.status().is_ok_and(|status| status.success()).then(|| match death {
        // It stays, as the namespace's first, when the parent is dead.
        Death::AsSecond => [new, vec!["sh", "-c", r#""$@"; exec sleep 1000"#, "sh"]].concat(),
        _ => new,
    })
}

/// A process that ends with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nobody_is_left(death: Death) {
    alone(|| {
        let Some(prefix) = namespace(death) else {
            return not_here(&format!("a parent in a namespace: {death:?}"));
        };
        let scratch = Scratch::new();
        let folder = scratch.path("");
        let folder = folder.trim_end_matches('/');
        let mut command = Command::new(prefix[0]);
        command
            .args(&prefix[1..])
            .arg(env::current_exe().unwrap())
            .args(["orphans::parent_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(DEATH, format!("{death:?}"))
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if death == Death::InItsGroup {
            command.process_group(0);
        }
        prctl::set_child_subreaper(death == Death::BelowSubreaper).unwrap();
        let mut started = Started(command.spawn().unwrap());
        wait_until("the parent is up", || {
            assert!(started.0.try_wait().unwrap().is_none(), "the parent has ended too early");
            !notes(format!("{folder}/up")).is_empty()
        });
        let outermost = Pid::from_raw(started.0.id() as i32);
        let below = |pid: Pid| Pid::from_raw(*children_of(pid.as_raw()).first().unwrap());
        let parent = match death {
            Death::AsFirst | Death::AsUser => below(outermost),
            Death::AsSecond => below(below(outermost)),
            _ => outermost,
        };
        let workers = children_of(parent.as_raw());
        assert!(workers.len() > HERE, "{workers:?}");
        // What tasks start comes a moment later, and has no mark while it becomes another
        // program.
        wait_until("their children are there", || brood(folder).len() > workers.len() + 6);
        match death {
            Death::InItsGroup => nix::sys::signal::killpg(parent, Signal::SIGKILL).unwrap(),
            Death::Exec | Death::ExecByThread | Death::ForkedExec => {
                note(format!("{folder}/go"), "go");
                wait_until("the parent is another program", || {
                    fs::read_to_string(format!("/proc/{parent}/comm")).unwrap().trim() == "sleep"
                });
            }
            _ => {
                if death == Death::Stopped {
                    kill(parent, Signal::SIGSTOP).unwrap();
                }
                kill(parent, Signal::SIGKILL).unwrap();
            }
        }
        let took = assert_extinct(folder, &format!("{death:?}"));
        println!("{death:?}: nobody left after {took:?}");
        for copy in notes(format!("{folder}/copy")) {
            kill(Pid::from_raw(copy.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
        if death == Death::AsSecond {
            kill(below(outermost), Signal::SIGKILL).unwrap();
        }
        drop(started);
        prctl::set_child_subreaper(false).unwrap();
        if death == Death::BelowSubreaper {
            // Now they are our children; we have no others.
            while nix::sys::wait::waitpid(None, None).is_ok() {}
        }
    });
}

#[test]
fn nobody_is_left_of_a_parent_that_is_killed() {
    nobody_is_left(Death::Killed);
}

#[test]
fn nobody_is_left_of_a_parent_that_is_killed_with_its_group() {
    nobody_is_left(Death::InItsGroup);
}

#[test]
fn nobody_is_left_of_a_parent_that_is_killed_while_it_is_stopped() {
    nobody_is_left(Death::Stopped);
}

#[test]
fn nobody_is_left_of_a_parent_in_another_session() {
    nobody_is_left(Death::AfterSetsid);
}

#[test]
fn nobody_is_left_of_a_parent_that_becomes_another_program() {
    nobody_is_left(Death::Exec);
}

#[test]
fn nobody_is_left_of_a_parent_that_becomes_another_program_on_a_thread() {
    nobody_is_left(Death::ExecByThread);
}

#[test]
fn nobody_is_left_of_a_parent_whose_copy_lives_on() {
    nobody_is_left(Death::Forked);
}

#[test]
fn nobody_is_left_of_a_parent_that_becomes_another_program_and_whose_copy_lives_on() {
    nobody_is_left(Death::ForkedExec);
}

#[test]
fn nobody_is_left_to_a_subreaper() {
    nobody_is_left(Death::BelowSubreaper);
}

#[test]
fn nobody_is_left_in_a_namespace_whose_first_process_was_the_parent() {
    nobody_is_left(Death::AsFirst);
}

#[test]
fn nobody_is_left_in_a_namespace_that_goes_on_without_the_parent() {
    nobody_is_left(Death::AsSecond);
}

#[test]
fn nobody_is_left_in_a_user_namespace() {
    nobody_is_left(Death::AsUser);
}
