//! What only a copy of the program has, and what it is spared.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, pipe2};
use procession::process::{active_children, fork_server, start_method};
use procession::{Pool, Process, SpawnError, StartMethod, Stdio, TaskError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::support::one_thread::with_one_thread;
use crate::support::{Scratch, children, note, noted, notes, until};
use crate::tasks::{exit_with, forever, square};
use crate::{alone, checked};

/// What it says, and what the system has said.
pub(crate) fn cause(error: &SpawnError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[test]
fn it_has_what_is_in_its_parents_memory() {
    static LOADED: AtomicU64 = AtomicU64::new(0);
    checked(async {
        LOADED.store(7, Ordering::Relaxed);
        let changed = || LOADED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(Process::spawn(changed, ()).unwrap().await.unwrap(), 7);
        assert_eq!(LOADED.load(Ordering::Relaxed), 7, "it has changed its own");
        let pool = Pool::builder().workers(1).build().unwrap();
        assert_eq!(pool.map(|_: u8| LOADED.load(Ordering::Relaxed), 0..3).await.unwrap(), [7; 3]);
    });
}

/// As in any process with one thread.
#[test]
fn its_task_can_wait_for_a_signal() {
    fn await_signal() -> i32 {
        let mut awaited = SigSet::empty();
        awaited.add(Signal::SIGUSR1);
        awaited.thread_block().unwrap();
        kill(Pid::this(), Signal::SIGUSR1).unwrap();
        awaited.wait().unwrap() as i32
    }
    checked(async {
        let told = Process::spawn(await_signal, ()).unwrap().await.unwrap();
        assert_eq!(told, Signal::SIGUSR1 as i32);
    });
}

// Threads -------------------------------------------------------------------------

#[test]
fn a_program_with_other_threads_is_told_which_and_what_to_do() {
    checked(async {
        let (hold, held) = mpsc::channel::<()>();
        let (up, is_up) = mpsc::channel::<()>();
        let other = thread::Builder::new().name("other".into());
        let other = other
            .spawn(move || {
                up.send(()).unwrap();
                held.recv()
            })
            .unwrap();
        // Before that it may not have its name.
        is_up.recv().unwrap();
        let error = Process::spawn(square, 3).unwrap_err();
        let text = error.to_string();
        for word in ["one thread", "1 more: other", "ForkServer", "Spawn", "current-thread"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let spawned = Process::builder().start_method(StartMethod::Spawn).spawn(square, 3);
        assert_eq!(spawned.unwrap().await.unwrap(), 9);
        drop(hold);
        let _ = other.join().unwrap();
        // At once, though the kernel may still be at its end.
        assert_eq!(Process::spawn(square, 3).unwrap().await.unwrap(), 9);
    });
}

#[test]
fn threads_that_have_been_joined_are_not_in_the_way() {
    checked(async {
        for n in 0..100 {
            thread::spawn(|| ()).join().unwrap();
            assert_eq!(Process::spawn(square, n).unwrap().await.unwrap(), n * n);
        }
    });
}

/// The harness has a thread, and the test another.
#[test]
fn in_a_test_it_is_an_error() {
    let process = Process::builder().start_method(StartMethod::Fork);
    let error = process.spawn(square, 3).unwrap_err();
    assert!(error.to_string().contains("one thread"), "{error:?}");
}

#[test]
fn a_runtime_with_threads_is_an_error() {
    alone(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            // It has the names of its threads then.
            runtime.spawn(async {}).await.unwrap();
            let error = Process::spawn(square, 3).unwrap_err();
            assert!(error.to_string().contains("tokio"), "{error:?}");
            let error = Pool::builder().workers(1).build().unwrap_err();
            assert!(error.to_string().contains("tokio"), "{error:?}");
        });
    });
}

#[test]
fn a_pool_that_cannot_replace_a_worker_for_it_is_broken() {
    checked(async {
        let pool = Pool::builder().workers(1).restart_limit(2).build().unwrap();
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert!(pool.apply(exit_with, 3).await.unwrap_err().is_worker_lost());
        match pool.apply(square, 3).await {
            Err(TaskError::Broken(error)) => {
                assert!(error.to_string().contains("tokio"), "{error:?}")
            }
            other => panic!("{other:?}"),
        }
    });
}

/// A waker is called by the thread that serves processes.
#[test]
fn our_own_threads_are_not_copied() {
    struct Starts(mpsc::Sender<Result<(), SpawnError>>);
    impl Wake for Starts {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(Process::spawn(square, 3).map(drop));
        }
    }
    alone(|| {
        let (told, outcome) = mpsc::channel();
        let process = Process::spawn(square, 3).unwrap();
        let mut exited = Box::pin(process.exited());
        let waker = Waker::from(Arc::new(Starts(told)));
        let polled = exited.as_mut().poll(&mut std::task::Context::from_waker(&waker));
        drop(waker);
        if polled.is_pending() {
            let error = outcome.recv().unwrap().unwrap_err();
            assert!(error.to_string().contains("waker"), "{error:?}");
        }
        process.blocking_join();
    });
}

/// Those that serve other processes allocate and lock all the time.
#[test]
fn it_is_made_while_our_own_threads_are_busy() {
    checked(async {
        let long = |n: usize| vec![n as u8; n];
        let mut under_way = Vec::new();
        for round in 0..60 {
            let started = (0..4).map(|n| Process::spawn(long, 10_000 * (n + 1)).unwrap());
            under_way.push(started.collect::<Vec<_>>());
            if round % 4 == 3 {
                for processes in under_way.drain(..) {
                    for (n, answer) in join_all(processes).await.into_iter().enumerate() {
                        assert_eq!(answer.unwrap().len(), 10_000 * (n + 1));
                    }
                }
            }
        }
    });
}

/// Copies have the pool that they are workers of in their memory, and cannot use it.
#[test]
fn a_pool_that_is_copied_is_of_no_use() {
    static POOL: Mutex<Option<Pool>> = Mutex::new(None);
    async fn uses() -> [bool; 3] {
        let pool = POOL.lock().unwrap().take().unwrap();
        let is_over = matches!(pool.apply(square, 3).await, Err(TaskError::Terminated));
        let is_refused = match pool.try_apply(square, 3) {
            Ok(call) => matches!(call.await, Err(TaskError::Terminated)),
            Err(_) => true,
        };
        pool.status();
        pool.status();
        pool.resize(3);
        pool.close();
        pool.join().await;
        [is_over, is_refused, pool.ready().await.is_err()]
    }
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        *POOL.lock().unwrap() = Some(pool.clone());
        // One that has been made while the pool was under way.
        assert!(pool.apply(exit_with, 3).await.unwrap_err().is_worker_lost());
        assert_eq!(pool.apply(uses, ()).await.unwrap(), [true; 3]);
        assert_eq!(Process::spawn(uses, ()).unwrap().await.unwrap(), [true; 3]);
        assert_eq!(pool.apply(square, 3).await.unwrap(), 9);
        *POOL.lock().unwrap() = None;
    });
}

// Its own -------------------------------------------------------------------------

#[test]
fn it_may_have_processes_and_pools_of_its_own_by_each_method() {
    async fn nested(method: StartMethod) -> (u64, Vec<u64>) {
        let process = Process::builder().start_method(method).spawn(square, 4).unwrap();
        let pool = Pool::builder().workers(2).start_method(method).build().unwrap();
        let squares = pool.map(square, 0..4).await.unwrap();
        pool.close();
        pool.join().await;
        (process.await.unwrap(), squares)
    }
    async fn each() {
        assert_eq!(start_method(), StartMethod::Fork, "as it came to be itself");
        assert_eq!(active_children(), []);
        for method in [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork] {
            assert_eq!(nested(method).await, (16, vec![0, 1, 4, 9]), "{method:?}");
        }
    }
    checked(async {
        let _other = Process::spawn(thread::park, ()).unwrap();
        Process::spawn(each, ()).unwrap().await.unwrap();
        let pool = Pool::builder().workers(1).build().unwrap();
        pool.apply(each, ()).await.unwrap();
    });
}

fn depth(left: u32) -> u32 {
    if left == 0 {
        return 0;
    }
    let process = Process::builder().start_method(StartMethod::Fork).spawn(depth, left - 1);
    1 + futures::executor::block_on(process.unwrap()).unwrap()
}

#[test]
fn copies_of_copies() {
    checked(async {
        assert_eq!(Process::spawn(depth, 5).unwrap().await.unwrap(), 5);
    });
}

/// A worker that is copied while its task is cancelled politely: the copy is not.
#[test]
fn a_copy_of_a_worker_is_another_worker() {
    async fn patient(notes: String) -> bool {
        procession::worker::on_terminate(|| ());
        let copy = || procession::worker::is_cancelled();
        note(&notes, "there");
        procession::worker::cancelled().await;
        let process = Process::builder().start_method(StartMethod::Fork).spawn(copy, ()).unwrap();
        let copy_is_cancelled = process.await.unwrap();
        note(&notes, if copy_is_cancelled { "cancelled" } else { "not cancelled" });
        true
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).build().unwrap();
        let call = pool.apply_async(patient, scratch.path("notes"));
        noted(&scratch.path("notes")).await;
        call.cancel().await;
        assert_eq!(notes(scratch.path("notes")), ["there", "not cancelled"]);
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn nothing_of_its_parents_stack_is_unwound() {
    struct Noted(String);
    impl Drop for Noted {
        fn drop(&mut self) {
            note(&self.0, &std::process::id().to_string());
        }
    }
    let scratch = Scratch::new();
    let path = scratch.path("dropped");
    checked(async {
        let noted = Noted(path.clone());
        let panics = || -> u8 { panic!("on purpose") };
        assert!(Process::spawn(panics, ()).unwrap().await.unwrap_err().is_panic());
        assert_eq!(Process::spawn(square, 3).unwrap().await.unwrap(), 9);
        assert!(notes(&path).is_empty(), "{:?}", notes(&path));
        drop(noted);
        assert_eq!(notes(&path), [std::process::id().to_string()]);
        fs::remove_file(&path).unwrap();
    });
}

// What is let go of ---------------------------------------------------------------

#[test]
fn pipes_and_sockets_end_though_there_are_copies() {
    checked(async {
        let scratch = Scratch::new();
        let started = scratch.path("started");
        let (mut socket, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (there, mut here) = procession::pipe::<u32>().unwrap();
        let _running = Process::spawn(forever, started.clone()).unwrap();
        noted(&started).await;
        drop((theirs, writer, there));
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        assert_eq!(File::from(reader).read(&mut [0]).unwrap(), 0);
        assert!(matches!(here.recv().await, Ok(None)));
    });
}

/// A log, for instance: what the copy says to it meets nobody else.
#[test]
fn what_a_static_holds_is_harmless() {
    static LOG: Mutex<Option<File>> = Mutex::new(None);
    static PEER: Mutex<Option<UnixStream>> = Mutex::new(None);
    fn says_much(path: String) -> String {
        let files: Vec<File> =
            (0..50).map(|n| File::create(format!("{path}-{n}")).unwrap()).collect();
        for _ in 0..100 {
            let _ = LOG.lock().unwrap().as_ref().unwrap().write_all(b"from a copy");
            let _ = PEER.lock().unwrap().as_ref().unwrap().write_all(b"from a copy");
        }
        // Dropped, it closes nothing that is somebody's.
        drop((LOG.lock().unwrap().take(), PEER.lock().unwrap().take()));
        for mut file in files {
            file.write_all(b"own").unwrap();
        }
        (0..50).map(|n| fs::read_to_string(format!("{path}-{n}")).unwrap()).collect()
    }
    checked(async {
        let scratch = Scratch::new();
        *LOG.lock().unwrap() = Some(File::create(scratch.path("log")).unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        *PEER.lock().unwrap() = Some(theirs);
        let said = Process::spawn(says_much, scratch.path("file")).unwrap().await.unwrap();
        assert_eq!(said, "own".repeat(50));
        assert_eq!(fs::read(scratch.path("log")).unwrap(), b"");
        let nothing = (&ours).read(&mut [0; 100]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        (*LOG.lock().unwrap(), *PEER.lock().unwrap()) = (None, None);
    });
}

/// A connection, for instance, or a pipe: nobody else's descriptor has its number.
#[test]
fn what_a_static_is_connected_to_by_is_nobody_elses() {
    type Ends = (TcpStream, OwnedFd);
    static ENDS: Mutex<Option<Ends>> = Mutex::new(None);
    fn says_much(path: String) -> (bool, String) {
        let files: Vec<File> =
            (0..50).map(|n| File::create(format!("{path}-{n}")).unwrap()).collect();
        let (mut stream, pipe) = ENDS.lock().unwrap().take().unwrap();
        let mut pipe = File::from(pipe);
        let are_errors =
            stream.write_all(b"from a copy").is_err() && pipe.write_all(b"from a copy").is_err();
        // Dropped, they close nothing that is somebody's.
        drop((stream, pipe));
        for mut file in files {
            file.write_all(b"own").unwrap();
        }
        (are_errors, (0..50).map(|n| fs::read_to_string(format!("{path}-{n}")).unwrap()).collect())
    }
    checked(async {
        let scratch = Scratch::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        *ENDS.lock().unwrap() = Some((stream, writer));
        let said = Process::spawn(says_much, scratch.path("file")).unwrap().await.unwrap();
        assert_eq!(said, (true, "own".repeat(50)));
        *ENDS.lock().unwrap() = None;
        // Nor was anything said in its name.
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        File::from(reader).read_to_end(&mut heard).unwrap();
        assert!(heard.is_empty(), "{heard:?}");
    });
}

#[test]
fn descriptors_beyond_the_limit_are_not_in_the_way() {
    fn lowers() -> u64 {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: makes a descriptor, which stays open.
        assert!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 300) } >= 300);
        setrlimit(Resource::RLIMIT_NOFILE, 200, 200).unwrap();
        let process = copied().spawn(square, 3).unwrap();
        futures::executor::block_on(process).unwrap()
    }
    checked(async {
        assert_eq!(Process::spawn(lowers, ()).unwrap().await.unwrap(), 9);
    });
}

/// As daemons do that want nothing to do with a terminal.
#[test]
fn standard_streams_may_be_closed() {
    fn open() -> Vec<String> {
        let target = |n| fs::read_link(format!("/proc/self/fd/{n}"));
        (0..3).map(|n| target(n).unwrap().to_str().unwrap().to_owned()).collect()
    }
    fn closes(methods: Vec<u8>) -> Vec<Vec<String>> {
        for stream in 0..3 {
            // SAFETY: std does without them.
            unsafe { libc::close(stream) };
        }
        let started = methods.into_iter().map(|method| {
            let all = [StartMethod::Fork, StartMethod::ForkServer, StartMethod::Spawn];
            let process = Process::builder().start_method(all[usize::from(method)]);
            let process = process.stdin(Stdio::inherit()).spawn(open, ()).unwrap();
            futures::executor::block_on(process).unwrap()
        });
        started.collect()
    }
    checked(async {
        let open = Process::spawn(closes, vec![0, 1, 0, 2]).unwrap().await.unwrap();
        assert_eq!(open, vec![vec!["/dev/null"; 3]; 4]);
    });
}

/// Ends of queues are passed as arguments. What is put into one that is not goes nowhere,
/// and says so.
#[test]
fn a_queue_that_was_not_passed_on_is_of_no_use() {
    static QUEUE: Mutex<Option<procession::Queue<u64>>> = Mutex::new(None);
    async fn uses() -> (bool, bool) {
        let queue = QUEUE.lock().unwrap().take().unwrap();
        queue.close();
        (queue.try_put(2).is_err(), queue.try_get().is_err())
    }
    async fn puts(queue: procession::Queue<u64>) {
        queue.put(3).await.unwrap();
    }
    checked(async {
        let queue = procession::Queue::new(8).unwrap();
        *QUEUE.lock().unwrap() = Some(queue.clone());
        queue.put(1).await.unwrap();
        assert_eq!(Process::spawn(uses, ()).unwrap().await.unwrap(), (true, true));
        assert!(!queue.is_closed(), "it was not the copy's to close");
        Process::spawn(puts, queue.clone()).unwrap().await.unwrap();
        assert_eq!((queue.get().await.unwrap(), queue.get().await.unwrap()), (1, 3));
        assert!(queue.is_empty());
        *QUEUE.lock().unwrap() = None;
    });
}

#[test]
fn signals_that_its_parent_listens_to_end_it_all_the_same() {
    async fn listens(started: String) -> &'static str {
        let mut own = signal(SignalKind::user_defined1()).unwrap();
        note(&started, "there");
        own.recv().await;
        "heard"
    }
    checked(async {
        let scratch = Scratch::new();
        let mut ours = signal(SignalKind::terminate()).unwrap();
        let process = Process::spawn(forever, scratch.path("started")).unwrap();
        noted(&scratch.path("started")).await;
        process.terminate();
        assert_eq!(process.join().await.exitcode(), Some(-15));
        let _handled = signal(SignalKind::user_defined2()).unwrap();
        let process = Process::spawn(forever, scratch.path("second")).unwrap();
        noted(&scratch.path("second")).await;
        process.signal(libc::SIGUSR2).unwrap();
        assert_eq!(process.join().await.exitcode(), Some(-libc::SIGUSR2));
        let unheard = tokio::time::timeout(Duration::from_millis(50), ours.recv());
        assert!(unheard.await.is_err(), "it was the copy's");
        // And what the copy listens to, it hears.
        let listening = |started: String| async move { listens(started).await.to_owned() };
        let process = Process::spawn(listening, scratch.path("listens")).unwrap();
        noted(&scratch.path("listens")).await;
        process.signal(libc::SIGUSR1).unwrap();
        assert_eq!(process.await.unwrap(), "heard");
    });
}

/// Runs `f` in a process, and gives what it prints.
async fn printed(f: fn()) -> String {
    static F: Mutex<Option<fn()>> = Mutex::new(None);
    *F.lock().unwrap() = Some(f);
    let run = || (F.lock().unwrap().take().unwrap())();
    let mut process = Process::builder().stdout(Stdio::piped()).spawn(run, ()).unwrap();
    let mut text = String::new();
    process.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    process.await.unwrap();
    text
}

pub(crate) fn copied() -> procession::process::ProcessBuilder {
    Process::builder().start_method(StartMethod::Fork)
}

#[test]
fn what_is_buffered_is_printed_once() {
    fn prints() {
        print!("before, ");
        // SAFETY: a format without arguments.
        unsafe { libc::printf(c"in C, ".as_ptr()) };
        let child = || {
            print!("child, ");
            // SAFETY: as above.
            unsafe { libc::printf(c"its C, ".as_ptr()) };
        };
        copied().spawn(child, ()).unwrap().blocking_join();
        print!("after");
    }
    checked(async {
        assert_eq!(printed(prints).await, "before, in C, child, its C, after");
    });
}

#[test]
fn what_is_registered_for_the_end_is_called_in_the_process_that_did() {
    extern "C" fn ours() {
        println!("the parent's");
    }
    extern "C" fn theirs() {
        println!("the child's");
    }
    fn registers() {
        // SAFETY: functions of this program, which is not unloaded.
        unsafe { libc::atexit(ours) };
        copied().spawn(|| (), ()).unwrap().blocking_join();
        let exits = copied().spawn(exit_with, 7).unwrap().blocking_join();
        assert_eq!(exits.code(), Some(7));
        let registers = || {
            // SAFETY: as above.
            unsafe { libc::atexit(theirs) };
        };
        copied().spawn(registers, ()).unwrap().blocking_join();
    }
    checked(async {
        assert_eq!(printed(registers).await, "the child's\nthe parent's\n");
    });
}

/// One that is no daemon is waited for by the copy that has started it.
#[test]
fn a_copy_waits_for_its_own_at_its_end() {
    fn leaves(path: String) {
        let slow = |path: String| {
            thread::sleep(Duration::from_millis(100));
            note(path, "done");
        };
        drop(copied().daemon(false).spawn(slow, path).unwrap());
    }
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("notes");
        // So that the parent has registered, too.
        let _own = copied().daemon(false).spawn(|| (), ()).unwrap();
        Process::spawn(leaves, path.clone()).unwrap().await.unwrap();
        assert_eq!(notes(path), ["done"]);
    });
}

/// Tasks, timers and sockets of its parent's runtime are not the copy's.
#[test]
fn a_copy_has_a_runtime_of_its_own() {
    async fn lives() -> u64 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, connected) =
            tokio::join!(listener.accept(), tokio::net::TcpStream::connect(address));
        let (mut accepted, mut connected) = (accepted.unwrap().0, connected.unwrap());
        connected.write_all(b"hello").await.unwrap();
        drop(connected);
        let mut heard = String::new();
        accepted.read_to_string(&mut heard).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let ran = tokio::process::Command::new("true").status().await.unwrap();
        assert!(ran.success());
        tokio::task::spawn_blocking(move || heard.len() as u64).await.unwrap()
    }
    checked(async {
        let set = tokio::task::LocalSet::new();
        let ticked = Arc::new(AtomicU64::new(0));
        set.run_until(async {
            let counter = Arc::clone(&ticked);
            let ticks = tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let accepting = tokio::task::spawn_local(async move { listener.accept().await });
            assert!(tokio::process::Command::new("true").status().await.unwrap().success());
            let copies = (0..4).map(|_| {
                tokio::task::spawn_local(async { Process::spawn(lives, ()).unwrap().await })
            });
            for copy in join_all(copies).await {
                assert_eq!(copy.unwrap().unwrap(), 5);
            }
            assert!(ticked.load(Ordering::Relaxed) > 0 && !accepting.is_finished());
            ticks.abort();
            accepting.abort();
        })
        .await;
    });
}

/// Whenever its parent is killed while it is made.
#[test]
fn no_copy_outlives_its_parent() {
    fn makes_copies() {
        loop {
            println!("there");
            let process = copied().spawn(thread::park, ()).unwrap();
            if std::process::id() % 2 == 0 {
                process.detach();
            } else {
                drop(process);
            }
        }
    }
    checked(async {
        for round in 0..60 {
            let mut process =
                Process::builder().stdout(Stdio::piped()).spawn(makes_copies, ()).unwrap();
            let mut stdout = process.stdout.take().unwrap();
            let mut first = [0];
            stdout.read_exact(&mut first).await.unwrap();
            let pause = Duration::from_micros(137 * round);
            tokio::time::sleep(pause).await;
            process.kill();
            // Ends when nobody has it any more.
            let mut rest = Vec::new();
            stdout.read_to_end(&mut rest).await.unwrap();
            assert_eq!(process.join().await.exitcode(), Some(-9));
        }
    });
}

#[test]
fn an_overflow_of_its_stack_is_reported() {
    fn overflows(n: u64) -> u64 {
        let room = std::hint::black_box([n; 128]);
        if n == u64::MAX { 0 } else { overflows(n + 1) + room[3] }
    }
    checked(async {
        let mut process = Process::builder().stderr(Stdio::piped()).spawn(overflows, 1).unwrap();
        let mut said = String::new();
        process.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(process.join().await.signal(), Some(libc::SIGABRT));
        assert!(said.contains("overflowed its stack"), "{said}");
    });
}

#[test]
fn a_copy_is_made_without_any_runtime() {
    with_one_thread(|| {
        let process = copied().spawn(square, 3).unwrap();
        assert_eq!(futures::executor::block_on(process).unwrap(), 9);
    });
}

// Beside a fork server ------------------------------------------------------------

fn loads(scratch: String) {
    note(format!("{scratch}/loading"), "there");
    while notes(format!("{scratch}/gate")).is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whoever waits for the server rests, and what they have locked is nothing to a copy.
#[test]
fn it_is_made_while_a_fork_server_is_loading() {
    async fn has_a_server_of_its_own() -> u64 {
        let process = Process::builder().start_method(StartMethod::ForkServer);
        process.spawn(square, 4).unwrap().await.unwrap()
    }
    checked(async {
        let scratch = Scratch::new();
        fork_server().preload(loads, scratch.path(".")).unwrap();
        let pools: Vec<Pool> = (0..2)
            .map(|_| Pool::builder().workers(2).start_method(StartMethod::ForkServer))
            .map(|pool| pool.build().unwrap())
            .collect();
        noted(&scratch.path("loading")).await;
        for n in 0..3 {
            assert_eq!(copied().spawn(square, n).unwrap().await.unwrap(), n * n);
        }
        let nested = copied().spawn(has_a_server_of_its_own, ()).unwrap();
        assert_eq!(nested.await.unwrap(), 16);
        note(scratch.path("gate"), "open");
        for pool in &pools {
            assert_eq!(pool.map(square, 0..4).await.unwrap(), [0, 1, 4, 9]);
        }
        drop(pools);
        fork_server().stop();
        until("the server is gone", || children().is_empty()).await;
    });
}
