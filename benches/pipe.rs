//! A short message to another process and back: over a pipe, from plain code and from
//! runtimes, beside a bare socket.
//!
//! ```text
//! $ cargo bench --bench pipe
//! ```
//!
//! Prints ratios, from rounds that alternate between them, so that all meet the same
//! weather. Whole run: some seconds.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use procession::{Connection, Fd, Pool, pipe};
use tokio::runtime::Builder;

const ROUNDS: usize = 20;
const TIMES: u32 = 1000;

fn pong(mut end: Connection<u64>) {
    while let Ok(Some(n)) = end.blocking_recv() {
        end.blocking_send(n).expect("somebody reads");
    }
}

fn pong_raw(socket: Fd<UnixStream>) {
    let mut buffer = [0; 24];
    while (&*socket).read_exact(&mut buffer).is_ok() {
        (&*socket).write_all(&buffer).expect("somebody reads");
    }
}

fn each(mut ping: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..TIMES).for_each(|_| ping());
    began.elapsed() / TIMES
}

async fn each_waited(mut end: Connection<u64>) -> (Duration, Connection<u64>) {
    let began = Instant::now();
    for _ in 0..TIMES {
        end.send(7).await.expect("somebody reads");
        assert_eq!(end.recv().await.expect("somebody answers"), Some(7));
    }
    (began.elapsed() / TIMES, end)
}

fn there(
    end: &mut Option<Connection<u64>>,
    ping: impl FnOnce(Connection<u64>) -> (Duration, Connection<u64>),
) -> Duration {
    let (took, back) = ping(end.take().expect("it comes back"));
    *end = Some(back);
    took
}

fn main() {
    procession::init();
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let single = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let pool = runtime.block_on(async { Pool::builder().workers(3).build() }).expect("a pool");
    let (mut plain, theirs) = pipe::<u64>().expect("a pipe");
    let ponging = pool.apply_async(pong, theirs);
    let (waited, theirs) = pipe::<u64>().expect("a pipe");
    let ponging_too = pool.apply_async(pong, theirs);
    let (mut raw, theirs) = UnixStream::pair().expect("a socket pair");
    let ponging_raw = pool.apply_async(pong_raw, Fd::new(theirs));

    let mut waited = Some(waited);
    let mut rounds: Vec<[Duration; 5]> = Vec::new();
    for _ in 0..ROUNDS {
        let mut buffer = [7; 24];
        rounds.push([
            each(|| {
                raw.write_all(&buffer).expect("somebody reads");
                raw.read_exact(&mut buffer).expect("somebody answers");
            }),
            each(|| {
                plain.blocking_send(7).expect("somebody reads");
                assert_eq!(plain.blocking_recv().expect("somebody answers"), Some(7));
            }),
            there(&mut waited, |end| single.block_on(each_waited(end))),
            there(&mut waited, |end| {
                let task = runtime.spawn(each_waited(end));
                runtime.block_on(task).expect("it does not panic")
            }),
            there(&mut waited, |end| runtime.block_on(each_waited(end))),
        ]);
    }
    let median = |at: usize| {
        let mut all: Vec<_> = rounds.iter().map(|round| round[at]).collect();
        all.sort_unstable();
        all[ROUNDS / 2]
    };
    let names = [
        "bare socket",
        "pipe, blocking",
        "pipe, in a current-thread runtime",
        "pipe, in a task of a runtime with many threads",
        // Which is beside its threads: one of those wakes it.
        "pipe, in `block_on` of the same",
    ];
    for (at, name) in names.into_iter().enumerate() {
        let ratio = median(at).as_secs_f64() / median(0).as_secs_f64();
        println!("{name:48} {:?} there and back, {ratio:.2} of a bare socket", median(at));
    }
    drop((plain, waited, raw));
    runtime.block_on(async {
        ponging.await.expect("it has ended");
        ponging_too.await.expect("it has ended");
        ponging_raw.await.expect("it has ended");
    });
}
