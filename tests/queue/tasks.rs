//! Tasks and pools that several tests need.

use procession::{Consumer, GetError, JoinableQueue, Pool, Producer};

use crate::support::note;

pub(crate) fn pool_of(workers: usize) -> Pool {
    Pool::builder().workers(workers).build().unwrap()
}

pub(crate) fn pid() -> u32 {
    std::process::id()
}

pub(crate) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Puts so many numbers from the first on.
pub(crate) fn produce(producer: Producer<u64>, first: u64, count: u64) {
    for n in first..first + count {
        producer.blocking_put(n).unwrap();
    }
}

/// Gets all there is, until the queue ends.
pub(crate) fn consume(consumer: Consumer<u64>) -> Vec<u64> {
    let mut got = Vec::new();
    loop {
        match consumer.blocking_get() {
            Ok(n) => got.push(n),
            Err(GetError::Closed) => return got,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The same in a runtime.
pub(crate) async fn consume_async(consumer: Consumer<u64>) -> Vec<u64> {
    let mut got = Vec::new();
    loop {
        match consumer.get().await {
            Ok(n) => got.push(n),
            Err(GetError::Closed) => return got,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Takes one item, notes it and its process, and never returns.
pub(crate) fn take_and_stay(queue: JoinableQueue<u64>, journal: String) {
    let item = queue.blocking_take().unwrap();
    note(journal, &format!("{} {}", *item, pid()));
    loop {
        std::thread::park();
    }
}
