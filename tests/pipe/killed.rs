//! Whoever has an end of a pipe is killed at a random instant: the other end sees
//! whole messages, all that were sent, and then the end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use procession::{
    Connection, Fd, Process, Receiver, RecvError, Sender, StartMethod, channel, pipe,
};

use crate::support::{LIMIT, Scratch, checked, for_good, within};

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Kills it within some milliseconds.
    async fn strike<R>(&mut self, victim: &Process<R>) {
        let pause = match self.below(3) {
            0 => self.below(200),
            1 => self.below(2000),
            _ => self.below(8000),
        };
        tokio::time::sleep(Duration::from_micros(pause)).await;
        victim.kill();
    }
}

type Message = (u64, Bytes);

/// Of a length between nothing and far more than a socket takes at once, whose bytes
/// are its number.
fn message(n: u64) -> Message {
    let len = match n % 16 {
        3 => 300_000 + n as usize % 7,
        7 => 70_000,
        11 => 33_000,
        14 => 3 << 20,
        _ => n as usize * 37 % 2000,
    };
    (n, vec![n as u8; len].into())
}

/// Sends messages from 0 on, and leaves in a file how many it has sent.
fn say(mut to: Sender<Message>, count: Fd<File>) {
    for n in 0.. {
        if to.blocking_send(message(n)).is_err() {
            return;
        }
        count.write_all_at(&(n + 1).to_le_bytes(), 0).unwrap();
    }
}

/// Receives messages, which must be those of `say`. Returns how many came.
async fn hear(from: &mut Receiver<Message>, seed: u64) -> u64 {
    let mut came = 0;
    loop {
        match within(LIMIT, from.recv()).await {
            Ok(Some(got)) => {
                assert!(got == message(came), "seed {seed}: {} is not {came}", got.0);
                came += 1;
            }
            Ok(None) => break,
            Err(RecvError::CutOff) => {
                assert!(matches!(from.recv().await, Ok(None)), "seed {seed}");
                break;
            }
            Err(error) => panic!("seed {seed}: {error:?}"),
        }
    }
    came
}

fn hear_blocking(mut from: Receiver<Message>) {
    let mut came = 0;
    while let Some(got) = from.blocking_recv().unwrap() {
        assert!(got == message(came));
        came += 1;
    }
}

fn count_file(scratch: &Scratch) -> Fd<File> {
    let path = scratch.path("count");
    File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap().into()
}

fn count_in(file: &File) -> u64 {
    let mut count = [0; 8];
    match file.read_at(&mut count, 0).unwrap() {
        0 => 0,
        _ => u64::from_le_bytes(count),
    }
}

/// Processes come faster so than by `Spawn`, and the server is there before a test
/// looks for leftovers.
fn start<F, Args, M>(f: F, args: Args) -> Process<F::Output>
where
    F: procession::TaskFn<Args, M>,
    Args: serde::Serialize + serde::de::DeserializeOwned,
{
    Process::builder().start_method(StartMethod::ForkServer).spawn(f, args).unwrap()
}

fn with_server() {
    for_good(|| {
        start(|| (), ()).blocking_join();
    });
}

#[test]
fn a_sender_at_random_instants() {
    with_server();
    checked(async {
        let scratch = Scratch::new();
        let mut came_in_all = 0;
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let count = count_file(&scratch);
            let (to, mut from) = channel().unwrap();
            let victim = start(say, (to, count.clone()));
            let (came, ()) = tokio::join!(hear(&mut from, seed), random.strike(&victim));
            victim.join().await;
            let sent = count_in(&count);
            // One more may have left, and not been noted.
            assert!((sent..=sent + 1).contains(&came), "seed {seed}: {sent} sent, {came} came");
            came_in_all += came;
        }
        assert!(came_in_all > 0);
    });
}

#[test]
fn a_receiver_at_random_instants() {
    with_server();
    checked(async {
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let (mut to, from) = channel().unwrap();
            let mut victim = start(hear_blocking, from);
            let saying = async {
                for n in 0.. {
                    if let Err(error) = within(LIMIT, to.send(message(n))).await {
                        assert!(error.is_closed(), "seed {seed}: {error:?}");
                        assert!(error.into_inner() == Some(message(n)));
                        break;
                    }
                }
            };
            tokio::join!(saying, random.strike(&victim));
            let exit = victim.join().await;
            assert_eq!(exit.signal(), Some(9), "seed {seed}: {:?}", (&mut victim).await);
        }
    });
}

/// Both say all they can at the same time.
#[test]
fn one_of_two_that_talk_at_random_instants() {
    fn talk(end: Connection<Message>) {
        let (to, from) = end.into_split();
        std::thread::spawn(|| hear_blocking(from));
        let mut to = to;
        for n in 0.. {
            if to.blocking_send(message(n)).is_err() {
                return;
            }
        }
    }
    with_server();
    checked(async {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let (mut ours, theirs) = pipe().unwrap();
            let victim = start(talk, theirs);
            let (to, from) = ours.halves();
            let saying = async {
                for n in 0.. {
                    if within(LIMIT, to.send(message(n))).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(saying, hear(from, seed), random.strike(&victim));
            assert_eq!(victim.join().await.signal(), Some(9), "seed {seed}");
        }
    });
}

/// The one that says it is not the one that was given the end first.
#[test]
fn an_end_that_was_passed_on_at_random_instants() {
    /// Keeps nothing of it.
    fn pass_on(mut from: Receiver<(Sender<Message>, Fd<File>)>, mut to: Sender<Passed>) {
        while let Some(passed) = from.blocking_recv().unwrap() {
            if to.blocking_send(passed).is_err() {
                return;
            }
        }
    }
    type Passed = (Sender<Message>, Fd<File>);
    fn say_what_comes(mut from: Receiver<Passed>) {
        while let Ok(Some((to, count))) = from.blocking_recv() {
            std::thread::spawn(|| say(to, count));
        }
    }
    with_server();
    checked(async {
        let scratch = Scratch::new();
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let count = count_file(&scratch);
            let (to_first, from_us) = channel().unwrap();
            let (to_second, from_first) = channel().unwrap();
            let first = start(pass_on, (from_us, to_second));
            let second = start(say_what_comes, from_first);
            let (to, mut from) = channel().unwrap();
            let mut to_first = to_first;
            to_first.send((to, count.clone())).await.unwrap();
            let striking = async {
                if seed % 2 == 0 {
                    random.strike(&first).await;
                }
                random.strike(&second).await;
            };
            let (came, ()) = tokio::join!(hear(&mut from, seed), striking);
            drop(to_first);
            first.join().await;
            second.join().await;
            let sent = count_in(&count);
            assert!((sent..=sent + 1).contains(&came), "seed {seed}: {sent} sent, {came} came");
        }
    });
}

/// Ends are on their way, in messages that nobody will ever receive: their other ends
/// are told.
#[test]
fn with_descriptors_in_flight() {
    fn send_ends(mut to: Sender<Vec<Connection<u8>>>, mut back: Sender<Connection<u8>>) {
        loop {
            let (kept, sent): (Vec<_>, Vec<_>) = (0..5).map(|_| pipe().unwrap()).unzip();
            if to.blocking_send(sent).is_err() {
                return;
            }
            for end in kept {
                if back.blocking_send(end).is_err() {
                    return;
                }
            }
        }
    }
    fn take_ends(mut from: Receiver<Vec<Connection<u8>>>) {
        while let Ok(Some(ends)) = from.blocking_recv() {
            for mut end in ends {
                let _ = end.blocking_send(7);
            }
        }
    }
    with_server();
    checked(async {
        let mut said_in_all = 0;
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let (to, from) = channel().unwrap();
            let (back_to, mut back) = channel::<Connection<u8>>().unwrap();
            let sending = start(send_ends, (to, back_to));
            let taking = start(take_ends, from);
            let striking = async {
                let (one, other) =
                    if seed % 2 == 0 { (&sending, &taking) } else { (&taking, &sending) };
                random.strike(one).await;
                random.strike(other).await;
            };
            let looking = async {
                let mut said = 0;
                loop {
                    let mut end = match within(LIMIT, back.recv()).await {
                        Ok(Some(end)) => end,
                        Ok(None) | Err(RecvError::CutOff) => break said,
                        Err(error) => panic!("seed {seed}: {error:?}"),
                    };
                    // Whoever has the other one speaks, or ends.
                    match within(LIMIT, end.recv()).await.unwrap() {
                        Some(7) => said += 1,
                        None => {}
                        Some(other) => panic!("seed {seed}: {other}"),
                    }
                    assert_eq!(within(LIMIT, end.recv()).await.unwrap(), None);
                }
            };
            let ((), said) = tokio::join!(striking, looking);
            said_in_all += said;
            sending.join().await;
            taking.join().await;
        }
        assert!(said_in_all > 0);
    });
}
