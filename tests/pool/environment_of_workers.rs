//! What workers find around them: variables, folder, niceness, processors,
//! limits, name.

use std::collections::BTreeSet;
use std::fs;

use procession::process::start_method;
use procession::{Pool, PoolState, Resource, StartMethod, Stdio};

use crate::support::{Scratch, checked, line_of, proc_self};
use crate::tasks::{pid, pool_of};

fn var(name: String) -> Option<String> {
    std::env::var(name).ok()
}

fn folder() -> String {
    std::env::current_dir().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn variables_are_ours_and_those_that_were_set() {
    checked(async {
        let pool = Pool::builder().workers(1).env("A", "1").env("B", "2").env("A", "3");
        let pool = pool.build().unwrap();
        assert_eq!(pool.apply(var, "A".into()).await.unwrap().as_deref(), Some("3"));
        assert_eq!(pool.apply(var, "B".into()).await.unwrap().as_deref(), Some("2"));
        assert_eq!(pool.apply(var, "PATH".into()).await.unwrap(), var("PATH".into()));
        let pool = pool_of(1);
        assert_eq!(pool.apply(var, "A".into()).await.unwrap(), None);
    });
}

#[test]
fn an_environment_that_was_cleared_has_what_was_set() {
    checked(async {
        for builder in
            [Pool::builder().env_clear().env("A", "1"), Pool::builder().env("A", "1").env_clear()]
        {
            let pool = builder.workers(1).build().unwrap();
            assert_eq!(pool.apply(var, "PATH".into()).await.unwrap(), None);
            assert_eq!(pool.apply(var, "HOME".into()).await.unwrap(), None);
            assert_eq!(pool.apply(var, "A".into()).await.unwrap().as_deref(), Some("1"));
        }
    });
}

#[test]
fn the_folder_is_ours_or_the_one_that_was_set() {
    checked(async {
        let scratch = Scratch::new();
        let dir = fs::canonicalize(scratch.path(".")).unwrap();
        let pool = Pool::builder().workers(1).current_dir(&dir).build().unwrap();
        assert_eq!(pool.apply(folder, ()).await.unwrap(), dir.to_str().unwrap());
        assert_eq!(pool_of(1).apply(folder, ()).await.unwrap(), folder());
    });
}

#[test]
fn a_folder_that_is_not_there_breaks_the_pool() {
    checked(async {
        let pool = Pool::builder().workers(1).restart_limit(1).current_dir("/not/there");
        let pool = pool.build().unwrap();
        let error = pool.ready().await.unwrap_err();
        let text =
            format!("{error}: {:?}", std::error::Error::source(&error).map(|e| e.to_string()));
        assert!(text.contains("No such file or directory"), "{text}");
        assert_eq!(pool.status().state, PoolState::Broken);
    });
}

#[test]
fn workers_are_as_nice_as_they_were_told_to_be() {
    // The seventeenth field behind the name.
    let niceness = |stat: &str| {
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.clone().nth(16).unwrap().parse::<i32>().unwrap()
    };
    checked(async move {
        let pool = Pool::builder().workers(1).nice(19).build().unwrap();
        assert_eq!(niceness(&pool.apply(proc_self, "stat".into()).await.unwrap()), 19);
        let pool = pool_of(1);
        let theirs = niceness(&pool.apply(proc_self, "stat".into()).await.unwrap());
        assert_eq!(theirs, niceness(&proc_self("stat".into())));
    });
}

#[test]
fn workers_use_the_processors_they_were_given() {
    checked(async {
        let ours = line_of(&proc_self("status".into()), "Cpus_allowed_list:");
        let first: usize = ours.split([',', '-']).next().unwrap().parse().unwrap();
        let pool = Pool::builder().workers(1).cpu_affinity([first]).build().unwrap();
        let status = pool.apply(proc_self, "status".into()).await.unwrap();
        assert_eq!(line_of(&status, "Cpus_allowed_list:"), first.to_string());
        // Threads of a task as well.
        let on_a_thread = || std::thread::spawn(|| proc_self("status".into())).join().unwrap();
        let status = pool.apply(on_a_thread, ()).await.unwrap();
        assert_eq!(line_of(&status, "Cpus_allowed_list:"), first.to_string());
    });
}

#[test]
fn processors_that_are_not_there_break_the_pool() {
    checked(async {
        let pool = Pool::builder().workers(1).restart_limit(1).cpu_affinity([1023]);
        let error = pool.build().unwrap().ready().await.unwrap_err();
        assert!(error.to_string().contains("could not set cpu_affinity"), "{error}");
    });
}

#[test]
fn limits_hold_for_workers_only() {
    checked(async {
        let limits =
            [(Resource::OpenFiles, 64), (Resource::CoreFile, 0), (Resource::CpuTime, 1000)];
        let pool = Pool::builder().workers(1).rlimits(limits).build().unwrap();
        let theirs = pool.apply(proc_self, "limits".into()).await.unwrap();
        let both = |name| {
            let line = line_of(&theirs, name);
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(both("Max open files"), ["64", "64"]);
        assert_eq!(both("Max core file size"), ["0", "0"]);
        assert_eq!(both("Max cpu time"), ["1000", "1001"], "SIGXCPU, and a second later SIGKILL");
        let opens = |n: usize| {
            let files: Vec<_> = (0..n).map_while(|_| fs::File::open("/dev/null").ok()).collect();
            files.len()
        };
        assert!(pool.apply(opens, 100).await.unwrap() < 64);
        assert_eq!(pool_of(1).apply(opens, 100).await.unwrap(), 100);
    });
}

/// Processor seconds are counted over the worker's life.
#[test]
fn a_worker_over_its_limit_is_a_lost_one() {
    fn writes(path: String) -> bool {
        fs::write(path, vec![0; 1 << 16]).is_ok()
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder()
            .workers(1)
            .rlimits([(Resource::FileSize, 1 << 10), (Resource::CoreFile, 0)])
            .build()
            .unwrap();
        let error = pool.apply(writes, scratch.path("file")).await.unwrap_err();
        assert_eq!(error.exit().unwrap().to_string(), "killed by signal 25 (SIGXFSZ)");
    });
}

#[test]
fn a_pools_name_is_in_the_list_of_processes() {
    checked(async {
        let pool = Pool::builder().name("thumbs").workers(2).build().unwrap();
        pool.ready().await.unwrap();
        for worker in pool.workers() {
            let cmdline =
                fs::read_to_string(format!("/proc/{}/cmdline", worker.pid.unwrap())).unwrap();
            let arg0 = cmdline.split('\0').next().unwrap();
            let program = arg0.split(':').next().unwrap();
            assert!(program.starts_with(env!("CARGO_CRATE_NAME")), "it is named {arg0}");
            let whole = format!("{program}: procession worker thumbs/{}", worker.index);
            // A copy has the room that the name of its program takes.
            let room = match start_method() {
                StartMethod::Fork => std::env::args().next().unwrap().len(),
                _ => whole.len(),
            };
            assert_eq!(arg0, &whole[..whole.len().min(room)]);
        }
        assert!(format!("{pool:?}").contains("thumbs"));
    });
}

#[test]
fn a_workers_input_is_empty_and_its_descriptors_are_few() {
    checked(async {
        let pool = Pool::builder().workers(1).stdout(Stdio::null()).build().unwrap();
        let input = || std::io::read_to_string(std::io::stdin()).unwrap();
        assert_eq!(pool.apply(input, ()).await.unwrap(), "");
        // What we have open is not inherited.
        let _file = fs::File::open("/dev/zero").unwrap();
        let _other = pool_of(2);
        let open = || -> Vec<String> {
            let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
            all.filter_map(|fd| fs::read_link(fd.path()).ok())
                .map(|target| target.to_str().unwrap().to_owned())
                .collect()
        };
        let theirs = pool_of(1).apply(open, ()).await.unwrap();
        assert!(!theirs.contains(&"/dev/zero".to_owned()), "{theirs:?}");
        let sockets: BTreeSet<_> = theirs.iter().filter(|it| it.starts_with("socket:")).collect();
        // A copy has one that hears nobody, for each that its parent has.
        let is_copy = start_method() == StartMethod::Fork;
        assert_eq!(sockets.len(), 1 + usize::from(is_copy), "{theirs:?}");
    });
}

/// A blocked or ignored signal would be inherited.
#[test]
fn signals_are_as_in_a_fresh_process() {
    checked(async {
        let pool = pool_of(1);
        let status = pool.apply(proc_self, "status".into()).await.unwrap();
        assert_eq!(line_of(&status, "SigBlk:").trim_start_matches('0'), "");
        // SIGPIPE alone, as in any Rust program. Those from 32 on are the C
        // library's own, and cannot be reset.
        let ignored = u64::from_str_radix(&line_of(&status, "SigIgn:"), 16).unwrap();
        assert_eq!(ignored & 0x7fff_ffff & !(1 << (13 - 1)), 0, "{ignored:x}");
        assert_ne!(pool.apply(pid, ()).await.unwrap(), pid());
    });
}
