//! Producers and consumers that are killed at random instants: nothing comes twice
//! or out of order, each takes at most the item with it that it was handling, and
//! nobody else waits for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use procession::{Consumer, GetError, JoinError, JoinableQueue, Pool, Producer, Queue};

use crate::support::{LIMIT, Scratch, checked, notes, within};
use crate::tasks::kill;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Adds lines to a file that stays open: what was written survives a kill.
struct Journal(std::fs::File);

impl Journal {
    fn open(path: &str) -> Journal {
        Journal(OpenOptions::new().append(true).create(true).open(path).unwrap())
    }

    fn note(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// An item as long as its number says, whose bytes are its number.
fn item(who: u64, n: u64) -> (u64, u64, Bytes) {
    let len = match n % 10 {
        9 => 70_000,
        5 => 3000,
        _ => n as usize % 50,
    };
    (who, n, Bytes::from(vec![n as u8; len]))
}

type Item = (u64, u64, Bytes);

/// Puts numbers from 0 on, and notes each that it has put, for ever.
fn produce(producer: Producer<Item>, who: u64, journal: String) {
    let mut journal = Journal::open(&journal);
    journal.note(&format!("pid {}", std::process::id()));
    for n in 0.. {
        if producer.blocking_put(item(who, n)).is_err() {
            return;
        }
        journal.note(&format!("put {n}"));
    }
}

/// Notes what it gets.
fn consume(consumer: Consumer<Item>, journal: String) {
    let mut journal = Journal::open(&journal);
    journal.note(&format!("pid {}", std::process::id()));
    loop {
        match consumer.blocking_get() {
            Ok(got) => {
                assert!(got == item(got.0, got.1));
                journal.note(&format!("got {} {}", got.0, got.1));
            }
            Err(GetError::Closed) => return,
            Err(error) => {
                journal.note(&format!("error {error:?}"));
                return;
            }
        }
    }
}

fn pid_in(journal: &str) -> Option<u32> {
    notes(journal).first()?.strip_prefix("pid ")?.parse().ok()
}

async fn started(journal: &str) -> u32 {
    crate::support::until("it has started", || pid_in(journal).is_some()).await;
    pid_in(journal).unwrap()
}

/// One process after another is killed, and a new one takes its place; then all
/// producers are, and what is left is taken.
async fn random_kills(pool: &Pool, seed: u64, maxsize: usize) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    let scratch = Scratch::new();
    let (producer, consumer) = Queue::<Item>::new(maxsize).unwrap().split();
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    let mut calls = Vec::new();
    let mut journals = (0, Vec::new(), Vec::new());
    let mut kills = 0;
    for round in 0..8 {
        while producers.len() < 2 {
            let who = journals.1.len() as u64;
            let journal = scratch.path(&format!("p{who}"));
            calls.push(pool.apply_async(produce, (producer.clone(), who, journal.clone())));
            journals.1.push(journal.clone());
            producers.push(journal);
        }
        while consumers.len() < 2 {
            let journal = scratch.path(&format!("c{}", journals.2.len()));
            calls.push(pool.apply_async(consume, (consumer.clone(), journal.clone())));
            journals.2.push(journal.clone());
            consumers.push(journal);
        }
        for journal in producers.iter().chain(&consumers) {
            within(LIMIT, started(journal)).await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(8000))).await;
        if round == 7 {
            break;
        }
        let list = if random.below(2) == 0 { &mut producers } else { &mut consumers };
        let victim = list.remove(random.below(2) as usize);
        kill(pid_in(&victim).unwrap());
        kills += 1;
        journals.0 += 1;
    }
    drop(producer);
    for journal in &producers {
        kill(pid_in(journal).unwrap());
        kills += 1;
    }
    // Consumers end by themselves, and we take what they leave.
    let mut here = Vec::new();
    loop {
        match within(LIMIT, consumer.get()).await {
            Ok(got) => here.push((got.0, got.1)),
            Err(GetError::Closed) => break,
            Err(error) => panic!("seed {seed}: {error:?}"),
        }
    }
    for call in calls {
        let _ = within(LIMIT, call).await;
    }
    let mut got: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut add = |who: u64, n: u64, last: &mut BTreeMap<u64, u64>| {
        assert!(got.entry(who).or_default().insert(n), "seed {seed}: {who} {n} came twice");
        let before = last.insert(who, n);
        assert!(before.is_none_or(|before| before < n), "seed {seed}: out of order");
    };
    let mut last = BTreeMap::new();
    for (who, n) in here {
        add(who, n, &mut last);
    }
    for journal in &journals.2 {
        let mut last = BTreeMap::new();
        for line in notes(journal) {
            if let Some(numbers) = line.strip_prefix("got ") {
                let (who, n) = numbers.split_once(' ').unwrap();
                add(who.parse().unwrap(), n.parse().unwrap(), &mut last);
            } else {
                assert!(line.starts_with("pid "), "seed {seed}: {line}");
            }
        }
    }
    let mut lost = 0;
    for (who, journal) in journals.1.iter().enumerate() {
        let put = notes(journal).iter().filter(|line| line.starts_with("put ")).count() as u64;
        let got = got.remove(&(who as u64)).unwrap_or_default();
        // One more may have been put, and not noted.
        assert!(got.last().is_none_or(|last| *last <= put), "seed {seed}");
        lost += (0..put).filter(|n| !got.contains(n)).count();
    }
    assert!(lost <= kills, "seed {seed}: {lost} lost by {kills} kills");
}

#[test]
fn at_random_instants() {
    checked(async {
        let pool = Pool::builder().workers(4).spare_workers(2).build().unwrap();
        for seed in 0..12 {
            random_kills(&pool, seed, [0, 1, 5][seed as usize % 3]).await;
        }
        pool.terminate().await;
    });
}

/// Takes items and holds each for a moment, until it is killed.
fn work(queue: JoinableQueue<Item>, journal: String) {
    let mut journal = Journal::open(&journal);
    journal.note(&format!("pid {}", std::process::id()));
    loop {
        match queue.blocking_take() {
            Ok(item) => {
                std::thread::yield_now();
                let number = item.1;
                drop(item);
                journal.note(&format!("done {number}"));
            }
            Err(GetError::Closed) => return,
            Err(error) => {
                journal.note(&format!("error {error:?}"));
                return;
            }
        }
    }
}

async fn random_workers(pool: &Pool, seed: u64, requeue: bool) {
    const ITEMS: u64 = 400;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    let scratch = Scratch::new();
    let queue = JoinableQueue::builder().requeue_lost(requeue).build().unwrap();
    for n in 0..ITEMS {
        queue.put(item(0, n)).await.unwrap();
    }
    let mut calls = Vec::new();
    let mut workers: Vec<String> = Vec::new();
    let mut count = 0;
    let mut kills = 0;
    while !queue.is_empty() && kills < 10 {
        while workers.len() < 3 {
            let journal = scratch.path(&count.to_string());
            calls.push(pool.apply_async(work, (queue.clone(), journal.clone())));
            workers.push(journal);
            count += 1;
        }
        for journal in &workers {
            within(LIMIT, started(journal)).await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(2000))).await;
        kill(pid_in(&workers.remove(random.below(3) as usize)).unwrap());
        kills += 1;
    }
    // Some may have died with the last.
    calls.push(pool.apply_async(work, (queue.clone(), scratch.path("last"))));
    let joined = within(LIMIT, queue.join()).await;
    let lost = queue.lost();
    match joined {
        Ok(()) => assert_eq!(lost, 0),
        Err(JoinError::Lost { items }) => assert_eq!(items, lost),
        Err(error) => panic!("seed {seed}: {error:?}"),
    }
    assert!(lost <= if requeue { 0 } else { kills }, "seed {seed}: {lost} of {kills}");
    assert_eq!((queue.len(), queue.unfinished()), (0, 0));
    queue.close();
    for call in calls {
        let _ = within(LIMIT, call).await;
    }
    let mut done = BTreeMap::new();
    for journal in (0..count).map(|n| n.to_string()).chain(["last".to_owned()]) {
        for line in notes(scratch.path(&journal)) {
            if let Some(number) = line.strip_prefix("done ") {
                *done.entry(number.parse::<u64>().unwrap()).or_insert(0) += 1;
            }
        }
    }
    assert!(done.values().all(|times| *times == 1), "seed {seed}: {done:?}");
    // Whoever was killed may have been done, and not have noted it.
    let silent = ITEMS - done.len() as u64;
    assert!((lost..=lost + kills).contains(&silent), "seed {seed}: {silent} {lost} {kills}");
}

#[test]
fn with_items_that_are_held() {
    checked(async {
        let pool = Pool::builder().workers(3).spare_workers(2).build().unwrap();
        for seed in 0..12 {
            random_workers(&pool, seed, seed % 2 == 0).await;
        }
        pool.terminate().await;
    });
}
