use nix::libc;
use procession::{Held, Pool, Sandbox};

use crate::support::{Scratch, checked};
use crate::{free_pool, is_possible, pool_in};

#[test]
fn what_is_in_force_is_reported_for_each_worker() {
    checked(async {
        if !is_possible().await {
            return;
        }
        let pool = Pool::builder().workers(2).sandbox(Sandbox::computing()).build().unwrap();
        pool.ready().await.unwrap();
        for worker in pool.workers() {
            let report = worker.sandbox.unwrap();
            assert!(report.is_complete() && report.landlock >= 6, "{report:?}");
            assert_eq!((report.files, report.syscalls), (Held::Fully, Held::Fully));
        }
        let pool = pool_in(Sandbox::computing().network().any_syscall());
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert_eq!((report.network, report.syscalls), (Held::Unwanted, Held::Unwanted));
        assert!(report.is_complete());
        let pool = free_pool();
        pool.ready().await.unwrap();
        assert_eq!(pool.workers()[0].sandbox, None);
    });
}

#[test]
fn a_path_that_is_not_there_breaks_the_pool_and_is_named() {
    checked(async {
        if is_possible().await {
            let scratch = Scratch::new();
            let pool = pool_in(Sandbox::computing().read(scratch.path("nowhere")));
            let error = pool.ready().await.unwrap_err().to_string();
            assert!(
                error.starts_with("a worker could not start: could not set sandbox: /"),
                "{error}"
            );
            assert!(error.contains("/nowhere"), "{error}");
        }
    });
}

#[test]
fn the_network_is_refused_whatever_system_calls_are_allowed() {
    checked(async {
        if !is_possible().await {
            return;
        }
        let pool = pool_in(Sandbox::computing().any_syscall());
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert_eq!((report.network, report.syscalls), (Held::Fully, Held::Unwanted));
        assert!(report.is_complete(), "{report:?}");
        let builder = || Pool::builder().workers(1).restart_limit(1);
        let builder = || builder().initializer(without_seccomp, ());
        let pool = builder().sandbox(Sandbox::computing().any_syscall()).build().unwrap();
        let error = pool.ready().await.unwrap_err().to_string();
        assert!(error.contains("could not set sandbox: system calls not filtered: "), "{error}");
        let best = Sandbox::computing().any_syscall().best_effort();
        let pool = builder().sandbox(best).build().unwrap();
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert_eq!((report.network, report.syscalls), (Held::Partly, Held::Unwanted));
        assert!(!report.is_complete(), "{report:?}");
    });
}

/// As a container does that has not heard of it: `call` fails with `errno`.
fn without(call: i64, errno: u32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which is there until it has.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
    };
    assert_eq!(done, 0);
}

fn without_landlock() {
    without(libc::SYS_landlock_create_ruleset, libc::ENOSYS as u32);
}

fn without_seccomp() {
    without(libc::SYS_seccomp, libc::EPERM as u32);
}

/// The initializer takes it away, before the sandbox is entered.
#[test]
fn a_system_that_lacks_something_is_refused_or_reported() {
    checked(async {
        if !is_possible().await {
            return;
        }
        let builder = || Pool::builder().workers(1).restart_limit(1);
        let files = || Sandbox::computing().read("/usr");
        let pool = builder().initializer(without_landlock, ()).sandbox(files()).build().unwrap();
        let error = pool.ready().await.unwrap_err().to_string();
        assert!(
            error.ends_with("sandbox: this kernel has no Landlock, or it is switched off"),
            "{error}"
        );
        let pool = builder().initializer(without_seccomp, ()).sandbox(files()).build().unwrap();
        let error = pool.ready().await.unwrap_err().to_string();
        assert!(error.contains("could not set sandbox: system calls not filtered: "), "{error}");

        let best = || files().best_effort();
        let pool = builder().initializer(without_landlock, ()).sandbox(best()).build().unwrap();
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert_eq!((report.landlock, report.files, report.processes), (0, Held::Not, Held::Not));
        assert_eq!((report.network, report.syscalls), (Held::Fully, Held::Fully));
        let pool = builder().initializer(without_seccomp, ()).sandbox(best()).build().unwrap();
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert_eq!((report.files, report.processes), (Held::Fully, Held::Fully));
        assert_eq!((report.network, report.syscalls), (Held::Partly, Held::Not));
        assert!(!report.is_complete());
    });
}

/// What is left is the filter of the network; the rest would be Landlock's.
#[test]
fn without_landlock_any_system_call_leaves_files_open_and_that_is_said() {
    fn writes(path: String) -> bool {
        std::fs::write(path, "written").is_ok()
    }
    fn listens() -> bool {
        std::net::TcpListener::bind("127.0.0.1:0").is_ok()
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let builder = || Pool::builder().workers(1).restart_limit(1);
        let builder = || builder().initializer(without_landlock, ());
        let strict = builder().sandbox(Sandbox::computing().any_syscall()).build().unwrap();
        let error = strict.ready().await.unwrap_err().to_string();
        assert!(error.ends_with("this kernel has no Landlock, or it is switched off"), "{error}");
        let best = Sandbox::computing().any_syscall().best_effort();
        let pool = builder().sandbox(best).build().unwrap();
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert!(!report.is_complete(), "{report:?}");
        let lines = [report.files, report.processes, report.signals];
        assert_eq!((report.landlock, lines), (0, [Held::Not; 3]));
        assert_eq!((report.network, report.syscalls), (Held::Fully, Held::Unwanted));
        // It is as it says.
        assert!(pool.apply(writes, Scratch::new().path("file")).await.unwrap());
        assert!(!pool.apply(listens, ()).await.unwrap());
    });
}
