//! Each limit, and a task that tries to get past it.

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use procession::process::start_method;
use procession::{Pool, PoolBuilder, Resource, StartMethod, Stdio, TaskError};

use crate::support::{Scratch, checked, until};
use crate::tasks::{pid, square};

const MIB: u64 = 1 << 20;

fn pool(builder: PoolBuilder) -> Pool {
    builder.workers(1).stderr(Stdio::null()).build().unwrap()
}

fn limited(resource: Resource, value: u64) -> Pool {
    pool(Pool::builder().rlimits([(resource, value), (Resource::CoreFile, 0)]))
}

/// Gives up what root may do, for good; true if there is nothing left of it.
fn become_nobody() -> bool {
    // SAFETY: these take integers and touch no memory of ours.
    unsafe {
        if libc::geteuid() == 0 {
            libc::setresgid(65534, 65534, 65534);
            libc::setresuid(65534, 65534, 65534);
        }
        libc::geteuid() != 0
    }
}

/// Takes memory a piece at a time, up to `bytes`, and gives it all back.
fn gobble(bytes: u64) -> usize {
    let pieces: Vec<_> = (0..bytes / MIB).map(|_| black_box(vec![1_u8; MIB as usize])).collect();
    pieces.len()
}

#[test]
fn more_files_than_are_allowed_are_not_opened() {
    /// How many it can have beside those that there are, and why no more.
    fn opens_many() -> (usize, Option<i32>) {
        let mut files = Vec::new();
        loop {
            match fs::File::open("/dev/null") {
                Ok(file) if files.len() < 1000 => files.push(file),
                Ok(_) => return (files.len(), None),
                Err(error) => return (files.len(), error.raw_os_error()),
            }
        }
    }
    checked(async {
        let pool = limited(Resource::OpenFiles, 64);
        // And once more: what it had was closed, and the worker lives.
        for _ in 0..2 {
            let (opened, refused) = pool.apply(opens_many, ()).await.unwrap();
            assert!((1..64).contains(&opened), "{opened}");
            assert_eq!(refused, Some(libc::EMFILE));
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

/// Who has no privileges cannot raise a limit, neither that of its own nor by
/// another program.
#[test]
fn limits_are_not_raised_by_who_they_are_for() {
    fn tries() -> (Vec<i32>, bool) {
        if !become_nobody() {
            return (vec![], false);
        }
        let resources = [libc::RLIMIT_AS, libc::RLIMIT_CPU, libc::RLIMIT_NOFILE, libc::RLIMIT_CORE];
        let raised = resources.map(|resource| {
            let more = libc::rlimit { rlim_cur: 1 << 45, rlim_max: 1 << 45 };
            // SAFETY: `more` outlives the call, which only reads it.
            unsafe { libc::setrlimit(resource, &more) }
        });
        (
            raised.to_vec(),
            Command::new("sh").args(["-c", "ulimit -n 4096"]).status().unwrap().success(),
        )
    }
    checked(async {
        let limits = [
            (Resource::AddressSpace, 1 << 40),
            (Resource::CpuTime, 1000),
            (Resource::OpenFiles, 64),
            (Resource::CoreFile, 0),
        ];
        let pool = pool(Pool::builder().rlimits(limits));
        assert_eq!(pool.apply(tries, ()).await.unwrap(), (vec![-1; 4], false));
    });
}

#[test]
fn each_resource_has_its_limit() {
    fn limits() -> String {
        fs::read_to_string("/proc/self/limits").unwrap()
    }
    let names = [
        (Resource::AddressSpace, "Max address space", 1 << 40),
        (Resource::CoreFile, "Max core file size", 0),
        (Resource::CpuTime, "Max cpu time", 1234),
        (Resource::Data, "Max data size", 1 << 39),
        (Resource::FileSize, "Max file size", 1 << 30),
        (Resource::LockedMemory, "Max locked memory", 4096),
        (Resource::OpenFiles, "Max open files", 100),
        (Resource::Processes, "Max processes", 10_000),
        (Resource::Stack, "Max stack size", 1 << 20),
    ];
    checked(async move {
        let set = names.map(|(resource, _, value)| (resource, value));
        let pool = pool(Pool::builder().rlimits(set).no_new_privs().memory_limit(1 << 40));
        let limits = pool.apply(limits, ()).await.unwrap();
        for (_, name, value) in names {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            let soft = line[name.len()..].split_whitespace().next().unwrap();
            assert_eq!(soft, value.to_string(), "{name}");
        }
    });
}

#[test]
fn few_descriptors_are_enough_for_a_worker_with_all_limits() {
    checked(async {
        let few = [(Resource::OpenFiles, 12)];
        let builder = Pool::builder().rlimits(few).no_new_privs();
        let pool = pool(builder.memory_limit(1 << 40).max_worker_memory(1 << 40));
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn address_space_that_is_not_there_is_not_given() {
    fn asks(bytes: usize) -> bool {
        Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
    }
    fn insists(bytes: usize) -> usize {
        black_box(vec![1_u8; bytes]).len()
    }
    checked(async {
        let pool = limited(Resource::AddressSpace, 1 << 30);
        assert!(pool.apply(asks, 1 << 26).await.unwrap());
        assert!(!pool.apply(asks, 1 << 31).await.unwrap());
        // Most allocations do not ask.
        let error = pool.apply(insists, 1 << 31).await.unwrap_err();
        assert_eq!(error.exit().unwrap().signal(), Some(libc::SIGABRT), "{error}");
        assert_eq!(error.memory_exceeded(), None, "it never had it");
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
    });
}

#[test]
fn a_task_without_end_runs_out_of_processor_time() {
    fn spins() {
        loop {
            std::hint::spin_loop();
        }
    }
    fn spins_on() {
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGXCPU, libc::SIG_IGN) };
        spins();
    }
    checked(async {
        let pool = limited(Resource::CpuTime, 1);
        let error = pool.apply(spins, ()).await.unwrap_err();
        assert_eq!(error.exit().unwrap().to_string(), "killed by signal 24 (SIGXCPU)");
        let error = pool.apply(spins_on, ()).await.unwrap_err();
        assert_eq!(error.exit().unwrap().to_string(), "killed by signal 9 (SIGKILL)");
    });
}

#[test]
fn a_crash_leaves_no_core_file() {
    fn crashes() {
        std::process::abort();
    }
    checked(async {
        let scratch = Scratch::new();
        let folder = scratch.path("cores");
        fs::create_dir(&folder).unwrap();
        // Whether there was one, and how many files there are.
        let crash = async |bytes| {
            let limits = [(Resource::CoreFile, bytes)];
            let builder = Pool::builder().restart_limit(1).current_dir(&folder).rlimits(limits);
            let exit = pool(builder).apply(crashes, ()).await.unwrap_err().exit().unwrap();
            (exit.core_dumped(), fs::read_dir(&folder).unwrap().count())
        };
        assert_eq!(crash(0).await, (false, 0));
        // It is the limit's doing.
        if crash(1 << 30).await != (true, 1) {
            eprintln!("NOT TESTED HERE: this system keeps cores elsewhere, or none");
        }
    });
}

#[test]
fn nobody_is_served_before_the_others_again() {
    fn tries() -> Option<i32> {
        // SAFETY: takes integers and touches no memory of ours.
        become_nobody().then(|| unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) })
    }
    checked(async {
        let pool = pool(Pool::builder().nice(10));
        assert_eq!(pool.apply(tries, ()).await.unwrap(), Some(-1));
    });
}

/// A program of root's with the set-user-id bit, started by somebody else.
#[test]
fn a_program_gets_no_more_rights_than_its_task_has() {
    fn who_it_is(program: String) -> String {
        assert!(become_nobody());
        let output = Command::new(program).arg("-u").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
    // SAFETY: takes nothing and touches no memory of ours.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("NOT TESTED HERE: only root can make programs that run as root");
        return;
    }
    checked(async {
        let scratch = Scratch::new();
        let program = scratch.path("id");
        fs::copy("/usr/bin/id", &program).unwrap();
        fs::set_permissions(scratch.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        let as_it_was = pool(Pool::builder());
        if as_it_was.apply(who_it_is, program.clone()).await.unwrap() != "0" {
            eprintln!("NOT TESTED HERE: set-user-id bits mean nothing on this file system");
            return;
        }
        let pool = pool(Pool::builder().no_new_privs());
        assert_eq!(pool.apply(who_it_is, program).await.unwrap(), "65534");
        // Whichever of its threads asks.
        let each = || -> Vec<String> {
            let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
            let status = threads.map(|it| fs::read_to_string(it.path().join("status")).unwrap());
            status
                .map(|it| it.lines().find(|l| l.starts_with("NoNewPrivs")).unwrap().into())
                .collect()
        };
        let threads = pool.apply(each, ()).await.unwrap();
        // The worker's and the lifeline; where it was executed, the test's beside them.
        let least = if start_method() == StartMethod::Spawn { 3 } else { 2 };
        assert!(threads.len() >= least, "{threads:?}");
        assert!(threads.iter().all(|line| line == "NoNewPrivs:\t1"), "{threads:?}");
    });
}

#[test]
fn a_task_that_takes_too_much_memory_is_ended_and_its_error_says_so() {
    checked(async {
        let pool = pool(Pool::builder().memory_limit(128 * MIB));
        let first = pool.apply(pid, ()).await.unwrap();
        assert_eq!(pool.apply(gobble, 16 * MIB).await.unwrap(), 16);
        assert_eq!(pool.apply(pid, ()).await.unwrap(), first);
        // An hour's worth: it does not come that far.
        let error = pool.apply(gobble, 1 << 45).label("bomb").await.unwrap_err();
        let memory = error.memory_exceeded().unwrap();
        assert_eq!(memory.limit, 128 * MIB);
        assert!(memory.resident > memory.limit, "{memory:?}");
        assert!(error.is_worker_lost() && error.started() == Some(true));
        assert_eq!(error.exit().unwrap().to_string(), "killed by signal 9 (SIGKILL)");
        let text = error.to_string();
        assert!(text.contains("bomb), over its memory limit of 128 MiB, with "), "{text}");
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        assert_eq!(pool.stats().workers_lost, 1);
    });
}

#[test]
fn whatever_takes_the_memory_it_is_the_limit_that_ends_it() {
    // Threads of the task's, and memory that was there before it was touched.
    fn on_a_thread(bytes: u64) -> usize {
        std::thread::spawn(move || gobble(bytes)).join().unwrap()
    }
    async fn later(bytes: u64) -> usize {
        tokio::task::spawn_blocking(move || gobble(bytes)).await.unwrap()
    }
    fn politely(bytes: u64) -> usize {
        procession::worker::is_cancelled();
        gobble(bytes)
    }
    fn at_once(bytes: usize) -> usize {
        let mut zeroes = vec![0_u8; bytes];
        zeroes.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        black_box(zeroes).len()
    }
    checked(async {
        let pool = pool(Pool::builder().memory_limit(128 * MIB));
        let errors = [
            pool.apply(on_a_thread, 1 << 45).await.unwrap_err(),
            pool.apply(later, 1 << 45).await.unwrap_err(),
            pool.apply(politely, 1 << 45).await.unwrap_err(),
            pool.apply(at_once, 8 << 30).await.unwrap_err(),
            pool.map(gobble, [1, MIB, 1 << 45, 1]).chunk_size(4).await.unwrap_err(),
        ];
        for error in &errors {
            assert!(error.memory_exceeded().is_some(), "{error}");
        }
        assert_eq!(errors[4].index(), Some(2));
    });
}

/// What a task has kept is its worker's end, and nobody else's.
#[test]
fn memory_that_is_left_behind_is_not_the_next_ones_fault() {
    static KEPT: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());
    fn keeps(bytes: usize) -> u32 {
        KEPT.lock().unwrap().push(vec![1; bytes]);
        pid()
    }
    checked(async {
        let pool = pool(Pool::builder().memory_limit(96 * MIB));
        let mut workers = Vec::new();
        // Each leaves 12 MiB, so that their worker comes to its limit between two
        // of them, or in one.
        let mut ended = 0;
        for _ in 0..40 {
            match pool.apply(keeps, 12 << 20).await {
                Ok(pid) => workers.push(pid),
                Err(error) => {
                    assert!(error.memory_exceeded().is_some(), "{error}");
                    ended += 1;
                }
            }
        }
        workers.dedup();
        assert!(workers.len() >= 4, "{workers:?}, {ended} ended");
        assert_eq!(pool.stats().lost, ended);
    });
}

#[test]
fn a_death_of_another_kind_is_not_blamed_on_memory() {
    fn dies(signal: i32) {
        // SAFETY: takes an integer and touches no memory of ours.
        unsafe { libc::raise(signal) };
    }
    checked(async {
        let pool = pool(Pool::builder().memory_limit(256 * MIB));
        for signal in [libc::SIGKILL, libc::SIGABRT, libc::SIGTERM] {
            let error = pool.apply(dies, signal).await.unwrap_err();
            assert_eq!(
                (error.exit().unwrap().signal(), error.memory_exceeded()),
                (Some(signal), None)
            );
        }
        let error = pool.apply(gobble, 1 << 45).timeout(Duration::from_secs(60)).await.unwrap_err();
        assert!(error.memory_exceeded().is_some(), "{error}");
    });
}

#[test]
fn a_limit_below_what_a_worker_needs_breaks_the_pool_and_says_why() {
    checked(async {
        let pool = pool(Pool::builder().memory_limit(4096).restart_limit(1));
        let error = pool.ready().await.unwrap_err().to_string();
        let start = "a worker could not start: could not set memory_limit: a worker without a task";
        assert!(error.starts_with(start), "{error}");
    });
}

/// The program that it has started is not its own memory, and goes with it.
#[test]
fn who_is_ended_for_memory_takes_what_it_has_started_along() {
    #[expect(clippy::zombie_processes, reason = "whoever would wait for it is ended with it")]
    fn starts_and_gobbles(path: String) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(path, child.id().to_string()).unwrap();
        gobble(1 << 45);
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = pool(Pool::builder().memory_limit(128 * MIB));
        let error = pool.apply(starts_and_gobbles, scratch.path("pid")).await.unwrap_err();
        assert!(error.memory_exceeded().is_some(), "{error}");
        let child: i32 = fs::read_to_string(scratch.path("pid")).unwrap().parse().unwrap();
        until("it is gone", || !crate::support::is_alive(child)).await;
    });
}

#[test]
fn old_workers_are_replaced_busy_or_not() {
    checked(async {
        let age = Duration::from_millis(200);
        let pool = Pool::builder().workers(2).max_worker_age(age).build().unwrap();
        pool.ready().await.unwrap();
        let first: Vec<_> = pool.workers().iter().map(|worker| worker.pid).collect();
        // Idle ones.
        until("both are others", || {
            let now = pool.workers();
            now.len() == 2 && now.iter().all(|it| it.pid.is_some() && !first.contains(&it.pid))
        })
        .await;
        // One whose task is longer than it may live finishes it.
        let long = |time: Duration| {
            std::thread::sleep(time);
            pid()
        };
        let worker = pool.apply(long, age * 3).await.unwrap();
        until("it has left", || !crate::support::is_alive(worker as i32)).await;
        for n in 0..2000 {
            assert_eq!(pool.apply(square, n).await.unwrap(), n * n);
        }
        assert_eq!((pool.stats().workers_lost, pool.stats().lost), (0, 0));
    });
}

/// One that is killed from outside is not confused by a limit.
#[test]
fn an_exit_is_told_as_before() {
    checked(async {
        let pool = pool(Pool::builder().memory_limit(1 << 40).no_new_privs());
        let error = pool.apply(|code: i32| -> () { std::process::exit(code) }, 3).await;
        let Err(TaskError::WorkerLost { exit, memory: None, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(exit.code(), Some(3));
        // What it starts gets ends of its own.
        let starts = || Command::new("sh").args(["-c", "kill -9 $$"]).status().unwrap().signal();
        assert_eq!(pool.apply(starts, ()).await.unwrap(), Some(9));
    });
}

/// A task leaves more than any may take, and its end is told before that is seen.
/// Another was sent ahead behind it.
#[test]
fn the_next_task_is_not_ended_for_what_the_last_one_has_left() {
    static KEPT: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());
    fn resident() -> u64 {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
    /// Up to just below the limit.
    fn fill(limit: u64) {
        while resident() + MIB < limit {
            KEPT.lock().unwrap().push(vec![1; 256 << 10]);
        }
    }
    fn tip(_: ()) -> u64 {
        KEPT.lock().unwrap().push(vec![1; 2 * MIB as usize]);
        resident()
    }
    /// Long enough to be looked at.
    fn innocent(_: ()) {
        std::thread::sleep(Duration::from_millis(30));
    }
    checked(async {
        let limit = 64 * MIB;
        let mut tipped = 0;
        while tipped < 5 {
            let pool = pool(Pool::builder().memory_limit(limit));
            pool.apply(fill, limit).await.unwrap();
            let (last, next) = (pool.apply_async(tip, ()), pool.apply_async(innocent, ()));
            // Or it was caught at it, which on a busy machine it often is.
            tipped += u32::from(last.await.is_ok_and(|resident| resident > limit));
            next.await.unwrap();
        }
    });
}
