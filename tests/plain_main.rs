//! `init` as the first line of a plain `main`: a worker has one thread for its tasks, and
//! none of those that watch beside it may be noticed by them. Nor by large thread-locals.
//!
//! No test harness, which would have another; so it answers nextest's questions itself.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::Pid;
use procession::{Pool, Process, StartMethod};

const NAME: &str = "init_in_a_plain_main";

const LARGE: usize = 5 << 20;

thread_local! {
    /// More than the stack of a thread has room for, on which glibc puts it.
    static TABLE: [Cell<u8>; LARGE] = const { [const { Cell::new(0) }; LARGE] };
}

fn fill(n: u8) -> u8 {
    TABLE.with(|table| {
        table[LARGE - 1].set(n);
        table.iter().fold(0, |sum, byte| sum | byte.get())
    })
}

fn send_ourselves(signal: Signal) {
    nix::sys::signal::kill(Pid::this(), signal).unwrap();
}

/// A signal that is blocked waits, as in any process with one thread.
fn await_signal() -> i32 {
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGUSR1);
    awaited.thread_block().unwrap();
    send_ourselves(Signal::SIGUSR1);
    awaited.wait().unwrap() as i32
}

/// As tokio's, and others: the handler writes to a socket.
fn handle_signal() -> u8 {
    static TOLD: OnceLock<UnixStream> = OnceLock::new();
    extern "C" fn tell(_: i32) {
        let _ = TOLD.get().unwrap().write_all(&[7]);
    }
    let (told, mut hears) = UnixStream::pair().unwrap();
    TOLD.set(told).unwrap();
    let action = SigAction::new(SigHandler::Handler(tell), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only writes.
    unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
    let mut held = SigSet::empty();
    held.add(Signal::SIGUSR2);
    held.thread_block().unwrap();
    send_ourselves(Signal::SIGUSR2);
    held.thread_unblock().unwrap();
    // Written before it came back, or by another thread that is about to.
    hears.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut byte = [0];
    hears.read_exact(&mut byte).unwrap();
    byte[0]
}

fn main() {
    procession::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        if !args.iter().any(|arg| arg == "--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(checked());
    println!("test {NAME} ... ok");
}

async fn checked() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let builder = || Process::builder().start_method(method);
        assert_eq!(builder().spawn(fill, 9).unwrap().await.unwrap(), 9);
        assert_eq!(
            builder().spawn(await_signal, ()).unwrap().await.unwrap(),
            Signal::SIGUSR1 as i32
        );
        assert_eq!(builder().spawn(handle_signal, ()).unwrap().await.unwrap(), 7);
        // The watch over what a task takes is another thread.
        let pool = Pool::builder().workers(1).start_method(method).memory_limit(1 << 30);
        let pool = pool.build().unwrap();
        assert_eq!(pool.apply(await_signal, ()).await.unwrap(), Signal::SIGUSR1 as i32);
        assert_eq!(pool.apply(handle_signal, ()).await.unwrap(), 7);
        pool.terminate().await;
    }
}
