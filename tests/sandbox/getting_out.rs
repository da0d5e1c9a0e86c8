use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::parent_id;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::errno::Errno;
use nix::libc;
use procession::{Pool, Sandbox, TaskFn};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::{Scratch, checked};
use crate::{free_pool, is_possible, pool_in};

/// What became of an attempt: nothing, or the number of the error.
type Got = Result<(), i32>;

fn got<T>(result: io::Result<T>) -> Got {
    // Errors that are not the system's are not refusals.
    result.map(drop).map_err(|error| error.raw_os_error().unwrap_or_else(|| panic!("{error}")))
}

fn called(result: libc::c_long) -> Got {
    Errno::result(result).map(drop).map_err(|errno| errno as i32)
}

const REFUSED: [Got; 2] = [Err(libc::EPERM), Err(libc::EACCES)];

/// Makes the attempt in a worker that is free, where it must succeed, and in each
/// of the sandboxes, where it must be refused.
async fn refused_in<F, Args, M>(sandboxes: &[Sandbox], attempt: F, args: Args)
where
    F: TaskFn<Args, M, Output = Got>,
    Args: Serialize + DeserializeOwned + Clone + Send + 'static,
{
    let name = std::any::type_name::<F>();
    let free = free_pool().apply(attempt, args.clone()).await.unwrap();
    assert_eq!(free, Ok(()), "{name}: it is no way out, sandbox or not");
    for sandbox in sandboxes {
        let got = pool_in(sandbox.clone()).apply(attempt, args.clone()).await.unwrap();
        assert!(REFUSED.contains(&got), "{name} in {sandbox:?}: {got:?}");
    }
}

/// With nothing allowed; with all files and the network; and with all system
/// calls, where Landlock is alone.
fn each() -> [Sandbox; 3] {
    let open = Sandbox::computing().write("/").network();
    [Sandbox::computing(), open.clone(), open.any_syscall()]
}

static SECRET: [u8; 16] = *b"our own business";

fn secret() -> usize {
    // Where it is in this process; a worker has its own somewhere else.
    SECRET.as_ptr() as usize
}

fn memory_by_file(address: usize) -> Got {
    let read = || {
        let mut memory = fs::File::open(format!("/proc/{}/mem", parent_id()))?;
        memory.seek(SeekFrom::Start(address as u64))?;
        let mut bytes = [0; 16];
        memory.read_exact(&mut bytes)?;
        assert_eq!(bytes, SECRET);
        Ok(())
    };
    got(read())
}

fn memory_by_call(address: usize) -> Got {
    let mut bytes = [0_u8; 16];
    let ours = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 16 };
    let theirs = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 16 };
    // SAFETY: writes to `bytes` alone, and as much as that holds.
    let read = unsafe { libc::process_vm_readv(parent_id() as i32, &ours, 1, &theirs, 1, 0) };
    called(read as libc::c_long)
}

fn environment() -> Got {
    got(fs::read(format!("/proc/{}/environ", parent_id())))
}

fn descriptors() -> Got {
    got(fs::read_dir(format!("/proc/{}/fd", parent_id())).map(|all| all.count()))
}

/// One that does nothing by default.
fn signal() -> Got {
    // SAFETY: takes integers and touches no memory of ours.
    called(unsafe { libc::kill(parent_id() as i32, libc::SIGURG) }.into())
}

fn signal_by_descriptor() -> Got {
    // SAFETY: these take integers, and a null that stands for what kill(2) says.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, parent_id(), 0);
        called(pidfd)?;
        called(libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGURG, 0, 0))
    }
}

fn trace() -> Got {
    // SAFETY: takes integers; PTRACE_SEIZE stops nobody.
    called(unsafe { libc::ptrace(libc::PTRACE_SEIZE, parent_id() as i32, 0, 0) })
}

#[test]
fn the_parents_memory_environment_and_descriptors() {
    checked(async {
        if is_possible().await {
            refused_in(&each(), memory_by_file, secret()).await;
            refused_in(&each(), memory_by_call, secret()).await;
            refused_in(&each(), environment, ()).await;
            refused_in(&each(), trace, ()).await;
            // All of /proc may be read where all files may, but not what is behind.
            refused_in(&[Sandbox::computing()], descriptors, ()).await;
        }
    });
}

#[test]
fn signals_to_the_parent() {
    checked(async {
        if is_possible().await {
            refused_in(&each(), signal, ()).await;
            refused_in(&each(), signal_by_descriptor, ()).await;
        }
    });
}

/// By way of the kernel, which sends them for whoever owns a descriptor.
#[test]
fn signals_that_the_kernel_sends() {
    fn by_proxy() -> Got {
        const F_SETOWN: libc::c_int = 8;
        const F_SETSIG: libc::c_int = 10;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&ours);
        // SAFETY: these commands take integers and touch no memory of ours.
        unsafe {
            called(libc::fcntl(fd, F_SETOWN, parent_id()).into())?;
            called(libc::fcntl(fd, F_SETSIG, libc::SIGUSR2).into())?;
            let flags = libc::fcntl(fd, libc::F_GETFL);
            called(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC).into())?;
        }
        got(theirs.write_all(b"!"))
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let kind = tokio::signal::unix::SignalKind::user_defined2();
        let mut heard = tokio::signal::unix::signal(kind).unwrap();
        assert_eq!(free_pool().apply(by_proxy, ()).await.unwrap(), Ok(()));
        heard.recv().await.unwrap();
        let [closed, open, any_syscall] = each();
        for sandbox in [closed, open] {
            let got = pool_in(sandbox).apply(by_proxy, ()).await.unwrap();
            assert_eq!(got, Err(libc::EPERM));
        }
        // It may ask the kernel to, and the kernel does not.
        assert_eq!(pool_in(any_syscall).apply(by_proxy, ()).await.unwrap(), Ok(()));
        // One that came would be ahead of this.
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR2).unwrap();
        heard.recv().await.unwrap();
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), heard.recv()).await;
        assert!(more.is_err(), "the parent got it");
    });
}

/// A terminal's go to whoever is before it, without `F_SETOWN`.
#[test]
fn signals_that_a_terminal_sends() {
    fn by_flag() -> Got {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&ours);
        // SAFETY: these commands take integers and touch no memory of ours.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            called(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK).into())?;
            called(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC).into())
        }
    }
    fn by_ioctl() -> Got {
        const FIOASYNC: libc::c_ulong = 0x5452;
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let on: libc::c_int = 1;
        // SAFETY: `on` outlives the call, which only reads it.
        called(unsafe {
            libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&ours), FIOASYNC as _, &raw const on).into()
        })
    }
    fn still_may() -> Got {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&ours);
        // SAFETY: takes integers and touches no memory of ours.
        called(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) }.into())
    }
    checked(async {
        if is_possible().await {
            let [closed, open, _] = each();
            refused_in(&[closed.clone(), open.clone()], by_flag, ()).await;
            refused_in(&[closed.clone(), open], by_ioctl, ()).await;
            assert_eq!(pool_in(closed).apply(still_may, ()).await.unwrap(), Ok(()));
        }
    });
}

#[test]
fn files() {
    fn reads(path: String) -> Got {
        got(fs::read(path))
    }
    fn writes(path: String) -> Got {
        got(fs::OpenOptions::new().append(true).open(path).and_then(|mut file| file.write(b"!")))
    }
    fn makes(path: String) -> Got {
        got(fs::write(&path, "!")).and_then(|()| got(fs::remove_file(path)))
    }
    fn lists(path: String) -> Got {
        got(fs::read_dir(path).map(|all| all.count()))
    }
    fn truncates(path: String) -> Got {
        let path = std::ffi::CString::new(path).unwrap();
        // SAFETY: the path ends with a NUL and outlives the call.
        called(unsafe { libc::truncate(path.as_ptr(), 0) }.into())
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let scratch = Scratch::new();
        for folder in ["open", "shut"] {
            fs::create_dir(scratch.path(folder)).unwrap();
            fs::write(scratch.path(&format!("{folder}/file")), "here").unwrap();
        }
        let (open, shut) = (scratch.path("open"), scratch.path("shut"));
        let file = format!("{shut}/file");
        let others = [
            Sandbox::computing(),
            Sandbox::computing().write(&open),
            Sandbox::computing().write(&open).network().any_syscall(),
        ];
        refused_in(&others, reads, file.clone()).await;
        refused_in(&others, writes, file.clone()).await;
        refused_in(&others, makes, format!("{shut}/new")).await;
        refused_in(&others, lists, shut.clone()).await;
        refused_in(&others, truncates, file.clone()).await;
        fs::write(&file, "here").unwrap();
        // Another way to the same.
        let around = format!("{open}/../shut/file");
        refused_in(&others, reads, around).await;
        std::os::unix::fs::symlink(&file, format!("{open}/link")).unwrap();
        refused_in(&others, reads, format!("{open}/link")).await;
        // What may be read may not be written.
        let readers = [
            Sandbox::computing().read(&shut),
            Sandbox::computing().read(&file),
            Sandbox::computing().read("/").network().any_syscall(),
        ];
        refused_in(&readers, writes, file.clone()).await;
        refused_in(&readers, makes, format!("{shut}/new")).await;
        for sandbox in readers {
            assert_eq!(pool_in(sandbox).apply(reads, file.clone()).await.unwrap(), Ok(()));
        }
        let pool = pool_in(Sandbox::computing().write(&shut));
        assert_eq!(pool.apply(reads, file.clone()).await.unwrap(), Ok(()));
        assert_eq!(pool.apply(writes, file.clone()).await.unwrap(), Ok(()));
        assert_eq!(pool.apply(makes, format!("{shut}/new")).await.unwrap(), Ok(()));
        assert_eq!(pool.apply(lists, shut).await.unwrap(), Ok(()));
    });
}

/// Landlock does not look at it.
#[test]
fn the_mode_of_files() {
    fn changes(path: String) -> Got {
        use std::os::unix::fs::PermissionsExt;
        got(fs::set_permissions(path, fs::Permissions::from_mode(0o640)))
    }
    fn changes_what_is_open(path: String) -> Got {
        use std::os::unix::fs::PermissionsExt;
        let file = fs::File::open(path).unwrap();
        got(file.set_permissions(fs::Permissions::from_mode(0o4777)))
    }
    checked(async {
        if is_possible().await {
            let scratch = Scratch::new();
            fs::write(scratch.path("file"), "").unwrap();
            let filtered = [Sandbox::computing(), Sandbox::computing().read("/")];
            refused_in(&filtered, changes, scratch.path("file")).await;
            let readers =
                [Sandbox::computing().read("/"), Sandbox::computing().read("/").network()];
            refused_in(&readers, changes_what_is_open, scratch.path("file")).await;
            let pool = pool_in(Sandbox::computing().write(scratch.path("file")));
            let got = pool.apply(changes_what_is_open, scratch.path("file")).await.unwrap();
            assert_eq!(got, Ok(()));
        }
    });
}

#[test]
fn the_network() {
    fn tcp(address: String) -> Got {
        got(TcpStream::connect(address))
    }
    /// The two that Landlock does not take for TCP.
    fn tcp_by_other_names(port: u16) -> Vec<Got> {
        const IPPROTO_MPTCP: libc::c_int = 262;
        // SAFETY: all zero is an address.
        let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = port.to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let len = size_of_val(&address) as u32;
        let to = (&raw const address).cast::<libc::sockaddr>();
        // SAFETY: `address` is as long as we say, outlives the calls, and is only read.
        unsafe {
            let multipath = libc::socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP);
            let multipath = called(multipath.into())
                .and_then(|()| called(libc::connect(multipath, to, len).into()));
            let fast = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            let flag = libc::MSG_FASTOPEN;
            let fast = called(fast.into()).and_then(|()| {
                called(libc::sendto(fast, b"!".as_ptr().cast(), 1, flag, to, len) as libc::c_long)
            });
            vec![multipath, fast]
        }
    }
    fn listening() -> Got {
        got(TcpListener::bind("127.0.0.1:0"))
    }
    fn udp(address: String) -> Got {
        got(UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"!", address)))
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let datagrams = socket.local_addr().unwrap().to_string();
        let without = [
            Sandbox::computing(),
            Sandbox::computing().write("/"),
            Sandbox::computing().read("/").any_syscall(),
        ];
        for sandbox in &without {
            let port = server.local_addr().unwrap().port();
            let all = pool_in(sandbox.clone()).apply(tcp_by_other_names, port).await.unwrap();
            assert!(all.iter().all(|got| REFUSED.contains(got)), "{sandbox:?}: {all:?}");
        }
        refused_in(&without, tcp, address.clone()).await;
        refused_in(&without, listening, ()).await;
        refused_in(&without, udp, datagrams.clone()).await;
        let pool = pool_in(Sandbox::computing().network());
        assert_eq!(pool.apply(tcp, address).await.unwrap(), Ok(()));
        assert_eq!(pool.apply(udp, datagrams).await.unwrap(), Ok(()));
        assert_eq!(pool.apply(listening, ()).await.unwrap(), Ok(()));
    });
}

#[test]
fn sockets_of_this_machine() {
    fn with_a_path(path: String) -> Got {
        got(UnixStream::connect(path))
    }
    fn datagram_from_a_pair(path: String) -> Got {
        got(UnixDatagram::pair().and_then(|(ours, _)| ours.send_to(b"!", path)))
    }
    fn without_a_path(name: String) -> Got {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        got(UnixStream::connect_addr(&address))
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let _server = UnixListener::bind(&path).unwrap();
        let [closed, open, any_syscall] = each();
        refused_in(&[closed.clone(), open.clone()], with_a_path, path).await;
        let path = scratch.path("datagrams");
        let _log = UnixDatagram::bind(&path).unwrap();
        refused_in(&[closed.clone(), open.clone()], datagram_from_a_pair, path).await;
        let name = format!("procession-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _server = UnixListener::bind_addr(&address).unwrap();
        refused_in(&[closed, open, any_syscall], without_a_path, name).await;
    });
}

#[test]
fn other_programs() {
    fn runs() -> Got {
        got(Command::new("/bin/true").status())
    }
    fn forks() -> Got {
        // SAFETY: the child does nothing but to end.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: runs no exit handlers.
            unsafe { libc::_exit(0) };
        }
        called(child.into())?;
        // SAFETY: waits for the child, and takes no status.
        called(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }.into())
    }
    checked(async {
        if is_possible().await {
            let [closed, open, _] = each();
            refused_in(&[closed.clone(), open.clone()], runs, ()).await;
            refused_in(&[closed, open], forks, ()).await;
            let readable = Sandbox::computing().read("/").network().any_syscall();
            assert_eq!(pool_in(readable).apply(runs, ()).await.unwrap(), Ok(()));
        }
    });
}

/// What only root may, whose workers have nothing left of it.
#[test]
fn what_the_user_may_who_is_root() {
    fn another_host_name() -> Got {
        let mut name = [0_u8; 256];
        // SAFETY: the name is ours, and as long as we say; it is set to what it is.
        unsafe {
            libc::gethostname(name.as_mut_ptr().cast(), 255);
            let len = name.iter().position(|byte| *byte == 0).unwrap();
            called(libc::sethostname(name.as_ptr().cast(), len).into())
        }
    }
    fn another_user() -> Got {
        // SAFETY: takes an integer and touches no memory of ours.
        called(unsafe { libc::setuid(65534) }.into())
    }
    // SAFETY: takes nothing and touches no memory of ours.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("NOT TESTED HERE: we are not root");
        return;
    }
    checked(async {
        if is_possible().await {
            refused_in(&each(), another_host_name, ()).await;
            refused_in(&each(), another_user, ()).await;
        }
    });
}

#[test]
fn limits_that_are_raised_again() {
    fn raises() -> Got {
        let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
        // SAFETY: `limit` outlives the call, which only reads it.
        called(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }.into())
    }
    checked(async {
        if is_possible().await {
            for sandbox in each() {
                let limits = [(procession::Resource::OpenFiles, 64)];
                let pool = Pool::builder().workers(1).rlimits(limits).sandbox(sandbox);
                let pool = pool.build().unwrap();
                assert_eq!(pool.apply(raises, ()).await.unwrap(), Err(libc::EPERM));
            }
        }
    });
}

/// What it was given of the processors. The filter's doing: where all system calls
/// are allowed, a task may give itself others.
#[test]
fn other_processors_and_another_turn() {
    fn processors() -> usize {
        // SAFETY: all zero is a set, and the kernel writes no more than we say.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            libc::CPU_COUNT(&set) as usize
        }
    }
    fn takes_all() -> Got {
        // SAFETY: all zero is a set; it outlives the call, which only reads it.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            (0..libc::CPU_SETSIZE as usize).for_each(|cpu| libc::CPU_SET(cpu, &mut set));
            called(libc::sched_setaffinity(0, size_of_val(&set), &set).into())
        }
    }
    fn changes_niceness() -> Got {
        // SAFETY: takes integers and touches no memory of ours.
        called(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }.into())
    }
    fn changes_policy() -> Got {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: `param` outlives the call, which only reads it.
        called(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) }.into())
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let [closed, open, any_syscall] = each();
        let filtered = [closed, open];
        refused_in(&filtered, changes_niceness, ()).await;
        refused_in(&filtered, changes_policy, ()).await;
        refused_in(&filtered, takes_all, ()).await;
        let ours = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let first = (0..).find(|cpu| ours.is_set(*cpu).unwrap()).unwrap();
        let one = |sandbox| Pool::builder().workers(1).cpu_affinity([first]).sandbox(sandbox);
        for sandbox in filtered {
            let pool = one(sandbox).build().unwrap();
            assert_eq!(pool.apply(takes_all, ()).await.unwrap(), Err(libc::EPERM));
            assert_eq!(pool.apply(processors, ()).await.unwrap(), 1);
        }
        let pool = one(any_syscall).build().unwrap();
        assert_eq!(pool.apply(takes_all, ()).await.unwrap(), Ok(()), "as is documented");
    });
}

/// Where a thread was begun before.
static OLD_THREAD: Mutex<Option<(Sender<String>, Receiver<Got>)>> = Mutex::new(None);

#[test]
fn by_way_of_threads_that_were_there_before() {
    fn begins_one() {
        let (ask, asked) = channel::<String>();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for path in asked {
                tell.send(got(fs::write(path, "!"))).unwrap();
            }
        });
        *OLD_THREAD.lock().unwrap() = Some((ask, told));
    }
    fn asks_it(path: String) -> Got {
        let there = OLD_THREAD.lock().unwrap();
        let (ask, told) = there.as_ref().unwrap();
        ask.send(path).unwrap();
        told.recv().unwrap()
    }
    /// What the kernel says of each.
    fn status_of_all(line: String) -> Vec<String> {
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let status = threads.map(|it| fs::read_to_string(it.path().join("status")).unwrap());
        status.map(|it| it.lines().find(|it| it.starts_with(&line)).unwrap().to_owned()).collect()
    }
    checked(async {
        if !is_possible().await {
            return;
        }
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).initializer(begins_one, ()).build().unwrap();
        assert_eq!(pool.apply(asks_it, scratch.path("file")).await.unwrap(), Ok(()));
        // In the first the filter lets files through: it is Landlock's doing.
        let readable = Sandbox::computing().read("/").network();
        for sandbox in [readable.clone(), readable.any_syscall()] {
            let pool = Pool::builder().workers(1).initializer(begins_one, ()).sandbox(sandbox);
            let pool = pool.build().unwrap();
            let got = pool.apply(asks_it, scratch.path("file")).await.unwrap();
            assert_eq!(got, Err(libc::EACCES));
            for (line, all) in [("NoNewPrivs:", "1"), ("CapEff:", "0000000000000000")] {
                let each = pool.apply(status_of_all, line.into()).await.unwrap();
                assert!(each.len() >= 4 && each.iter().all(|it| it.ends_with(all)), "{each:?}");
            }
        }
        let pool = pool_in(Sandbox::computing().read("/"));
        let each = pool.apply(status_of_all, "Seccomp:".into()).await.unwrap();
        assert!(each.iter().all(|it| it.ends_with('2')), "{each:?}");
    });
}
