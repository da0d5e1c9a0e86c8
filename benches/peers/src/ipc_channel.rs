//! What one would write by hand over ipc-channel, which has no pool: workers in
//! a loop, each fed by a thread of its own with its share of the tasks. Crashes,
//! cancelling and uneven tasks are not thought of.

use std::any::Any;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory};
use serde::{Deserialize, Serialize};

use crate::contestant::{Contestant, time_each};
use crate::tasks::{hang, seed, squares, wait_for, work};

#[derive(Serialize, Deserialize)]
enum Request {
    Work(u64, u64),
    Squares(Vec<u64>),
    /// Faster for it than through the socket.
    Echo(IpcSharedMemory),
    Hang(String),
    Produce(IpcSender<u64>, u64),
    Consume(IpcReceiver<u64>),
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Work(u64),
    Squares(Vec<u64>),
    Echo(IpcSharedMemory),
}

fn answer(request: Request) -> Reply {
    match request {
        Request::Work(seed, steps) => Reply::Work(work(seed, steps)),
        Request::Squares(numbers) => Reply::Squares(squares(numbers)),
        Request::Echo(bytes) => Reply::Echo(bytes),
        Request::Hang(running) => hang(running.into()),
        Request::Produce(to, count) => {
            (0..count).for_each(|n| to.send(n).expect("somebody receives"));
            Reply::Work(count)
        }
        Request::Consume(from) => {
            let mut count = 0;
            while from.recv().is_ok() {
                count += 1;
            }
            Reply::Work(count)
        }
    }
}

/// One worker and the way to it.
struct Worker {
    requests: IpcSender<Request>,
    replies: IpcReceiver<Reply>,
    child: Child,
}

const WORKER: &str = "--ipc-channel-worker";

/// Becomes a worker, if this process was started as one.
pub fn init() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(WORKER) {
        return;
    }
    let server = IpcSender::connect(arguments.next().expect("a name")).expect("a server");
    let (request, requests) = ipc::channel::<Request>().expect("a channel");
    let (reply, replies) = ipc::channel::<Reply>().expect("a channel");
    server.send((request, replies)).expect("a parent");
    // The parent may be gone before it has read an answer.
    while requests.recv().is_ok_and(|request| reply.send(answer(request)).is_ok()) {}
    std::process::exit(0);
}

impl Worker {
    fn start() -> Worker {
        let (server, name) = IpcOneShotServer::new().expect("a server");
        let child = Command::new("/proc/self/exe").args([WORKER, &name]).spawn();
        let (_, (requests, replies)) = server.accept().expect("a worker");
        Worker { requests, replies, child: child.expect("a process") }
    }

    fn send(&mut self, request: Request) {
        self.requests.send(request).expect("sent");
    }

    fn receive(&mut self) -> Reply {
        self.replies.recv().expect("a reply")
    }

    fn receive_work(&mut self) -> u64 {
        match self.receive() {
            Reply::Work(answer) => answer,
            _ => panic!("another reply"),
        }
    }

    /// The sum of these tasks' answers, with some requests sent ahead.
    fn work(&mut self, mut share: impl Iterator<Item = u64>, steps: u64) -> u64 {
        let mut sum = 0_u64;
        let mut flying = 0;
        loop {
            while flying < IN_FLIGHT
                && let Some(i) = share.next()
            {
                self.send(Request::Work(seed(i), steps));
                flying += 1;
            }
            if flying == 0 {
                return sum;
            }
            sum = sum.wrapping_add(self.receive_work());
            flying -= 1;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const IN_FLIGHT: u64 = 64;

pub struct IpcChannel(Vec<Worker>);

impl Contestant for IpcChannel {
    fn start(workers: usize) -> Self {
        IpcChannel((0..workers).map(|_| Worker::start()).collect())
    }

    fn round_trips(&mut self, calls: usize) -> Vec<Duration> {
        let mut turn = (0..self.0.len()).cycle();
        time_each(calls, || {
            let worker = &mut self.0[turn.next().expect("a cycle")];
            worker.send(Request::Work(7, 0));
            assert_eq!(worker.receive_work(), 7);
        })
    }

    fn each(&mut self, tasks: u64, steps: u64) -> Option<u64> {
        let workers = self.0.len();
        thread::scope(|scope| {
            let shares = self.0.iter_mut().enumerate().map(|(first, worker)| {
                let share = (first as u64..tasks).step_by(workers);
                scope.spawn(move || worker.work(share, steps))
            });
            let threads: Vec<_> = shares.collect();
            Some(threads.into_iter().map(|it| it.join().unwrap()).fold(0, u64::wrapping_add))
        })
    }

    const SQUARES_CHUNKS: &[usize] = &[1_000, 10_000, 100_000, 500_000];

    fn squares(&mut self, n: u64, chunk: usize) -> Option<Vec<u64>> {
        let mut answers = vec![0; n as usize];
        let share = answers.len().div_ceil(self.0.len());
        thread::scope(|scope| {
            let shares = answers.chunks_mut(share).zip(&mut self.0).enumerate();
            for (i, (answers, worker)) in shares {
                scope.spawn(move || {
                    let starts = ((i * share) as u64..).step_by(chunk);
                    for (start, answers) in starts.zip(answers.chunks_mut(chunk)) {
                        let numbers = start..start + answers.len() as u64;
                        worker.send(Request::Squares(numbers.collect()));
                        match worker.receive() {
                            Reply::Squares(squares) => answers.copy_from_slice(&squares),
                            _ => panic!("another reply"),
                        }
                    }
                });
            }
        });
        Some(answers)
    }

    fn echo(&mut self, again: Vec<u8>) -> Option<(Duration, Box<dyn Any>)> {
        let start = Instant::now();
        self.0[0].send(Request::Echo(IpcSharedMemory::from_bytes(&again)));
        match self.0[0].receive() {
            Reply::Echo(bytes) => Some((start.elapsed(), Box::new(bytes.to_vec()))),
            _ => panic!("another reply"),
        }
    }

    fn cancel(&mut self, running: &Path) -> Option<Duration> {
        self.0[0].send(Request::Hang(running.to_str().expect("UTF-8").into()));
        wait_for(running);
        let start = Instant::now();
        self.0[0] = Worker::start();
        self.0[0].send(Request::Work(7, 0));
        assert_eq!(self.0[0].receive_work(), 7);
        Some(start.elapsed())
    }
}

/// So many numbers from each of so many workers to another.
pub fn many_to_one(producers: u64, count: u64) -> Duration {
    let mut workers: Vec<Worker> = (0..producers).map(|_| Worker::start()).collect();
    let mut consumer = Worker::start();
    let (to, from) = ipc::channel::<u64>().expect("a channel");
    let start = Instant::now();
    consumer.send(Request::Consume(from));
    for worker in &mut workers {
        worker.send(Request::Produce(to.clone(), count));
    }
    drop(to);
    for worker in &mut workers {
        assert_eq!(worker.receive_work(), count);
    }
    assert_eq!(consumer.receive_work(), producers * count);
    start.elapsed()
}
