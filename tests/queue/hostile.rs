//! Somebody who has the queue's memory, and means harm: whatever is written there,
//! and whatever is locked, nobody else panics, hangs for good, or fills up.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::libc;
use procession::{GetError, JoinError, JoinableQueue, PutErrorKind, Queue};

use crate::support::{alone, checked};

const MOMENT: Duration = Duration::from_millis(30);

/// Who has the lock.
const HOLDER: u64 = 96;

/// Where the ring begins.
const RING: u64 = 12288;

/// The memory of the one queue that there is, as whoever has a handle can get it.
fn memory() -> File {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut queues = links.filter(|entry| {
        std::fs::read_link(entry.path())
            .is_ok_and(|to| to.to_str().unwrap().contains("procession-queue"))
    });
    let path = queues.next().expect("there is a queue").path();
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Numbers that hurt more often than others.
    fn number(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(300),
            1 => 1 << self.below(64),
            2 => u64::MAX - self.below(3),
            3 => (1 << 30) - self.below(30),
            _ => self.next(),
        }
    }
}

/// Everything that can be called without waiting for others.
fn use_it(queue: &JoinableQueue<Bytes>, random: &mut Random) {
    let _ = (queue.len(), queue.is_full(), queue.unfinished(), queue.lost(), queue.is_closed());
    let item = Bytes::from(vec![1; [3, 1500, 50_000][random.below(3) as usize]]);
    match queue.blocking_put_timeout(item, Duration::ZERO) {
        Ok(()) => {}
        Err(error) => assert!(!matches!(error.kind(), PutErrorKind::Encode(_)), "{error:?}"),
    }
    let _ = queue.try_put(Bytes::from_static(b"item"));
    let _ = queue.blocking_get_timeout(Duration::ZERO);
    let _ = queue.try_get();
    let _ = queue.try_take();
    let _ = queue.task_done();
    let _ = queue.blocking_join_timeout(Duration::ZERO);
    let held = queue.blocking_take_timeout(Duration::ZERO);
    let _ = queue.blocking_join_timeout(Duration::from_micros(1));
    drop(held);
}

#[test]
fn whatever_is_written_into_the_state_makes_nobody_panic_or_hang() {
    alone(|| {
        let mut random = Random(0x853c_49e6_748f_ea9b);
        let mut damaged = 0;
        for round in 0..300 {
            let queue = JoinableQueue::builder()
                .bytes_max(1 << 20)
                .maxsize([0, 3][round % 2])
                .requeue_lost(round % 3 == 0)
                .build()
                .unwrap();
            let memory = memory();
            for _ in 0..4 {
                use_it(&queue, &mut random);
                let held = queue.try_take();
                // A word of the states, of the leases, or of an item.
                for _ in 0..random.below(4) {
                    let at = match random.below(5) {
                        0 => random.below(8) * 8,
                        1 | 2 => 64 + random.below(56) * 8,
                        3 => 4096 + random.below(16) * 8,
                        _ => RING + random.below(20) * 8,
                    };
                    memory.write_all_at(&random.number().to_le_bytes(), at).unwrap();
                }
                use_it(&queue, &mut random);
                drop(held);
                let joined = queue.blocking_join_timeout(Duration::ZERO);
                if let Err(JoinError::Fault(fault)) = joined {
                    assert!(fault.is_corrupt(), "{fault:?}");
                    assert!(fault.to_string().starts_with("the queue's memory was damaged: "));
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 100, "{damaged}");
    });
}

/// While others use it.
#[test]
fn writing_all_the_time_keeps_nobody() {
    checked(async {
        let queue: Queue<Bytes> = Queue::builder().bytes_max(1 << 20).build().unwrap();
        let memory = memory();
        let enough = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let vandal = std::thread::spawn({
            let enough = enough.clone();
            move || {
                let mut random = Random(88_172_645_463_325_252);
                while !enough.load(std::sync::atomic::Ordering::Relaxed) {
                    let at = 64 + random.below(56) * 8;
                    memory.write_all_at(&random.number().to_le_bytes(), at).unwrap();
                }
            }
        });
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(500) {
            let _ = queue.put_timeout(Bytes::from(vec![1; 900]), Duration::from_millis(1)).await;
            let _ = queue.get_timeout(Duration::from_millis(1)).await;
        }
        enough.store(true, std::sync::atomic::Ordering::Relaxed);
        vandal.join().unwrap();
    });
}

#[test]
fn a_ring_full_of_holes_takes_no_memory_from_who_reads_it() {
    checked(async {
        let queue: Queue<Bytes> = Queue::new(0).unwrap();
        let memory = memory();
        queue.put(Bytes::from(vec![7; 400 << 20])).await.unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&memory, hole, RING as i64 + 4096, 400 << 20).unwrap();
        let before = resident();
        let error = queue.get().await.unwrap_err();
        let GetError::Fault(fault) = error else { panic!("{error:?}") };
        assert!(fault.is_corrupt() && fault.to_string().contains("no memory behind an item"));
        assert!(resident() < before + (50 << 20));
    });
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn memory_that_was_taken_away_is_an_error() {
    checked(async {
        let queue: Queue<u32> = Queue::new(0).unwrap();
        queue.put(1).await.unwrap();
        let memory = memory();
        assert!(memory.set_len(0).is_err() && memory.set_len(1 << 40).is_err());
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&memory, hole, RING as i64, 4096).unwrap();
        assert!(matches!(queue.get().await, Err(GetError::Fault(fault)) if fault.is_corrupt()));
        // All zeroes are an empty queue.
        fallocate(&memory, hole, 0, RING as i64).unwrap();
        assert!(queue.is_empty() && queue.try_get().unwrap_err().is_empty());
        queue.put(2).await.unwrap();
        assert_eq!(queue.get().await.unwrap(), 2);
    });
}

/// As somebody who was stopped in the middle of an operation would have it.
fn lock(memory: &File) {
    const NAME: u64 = 7 << 40;
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: NAME as i64,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(memory, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    memory.write_all_at(&NAME.to_ne_bytes(), HOLDER).unwrap();
}

#[test]
fn whoever_waits_for_the_lock_can_stop_waiting() {
    checked(async {
        let queue: Queue<u32> = Queue::new(0).unwrap();
        queue.put(1).await.unwrap();
        let memory = memory();
        lock(&memory);
        assert!(queue.put_timeout(2, MOMENT).await.unwrap_err().is_full());
        assert!(queue.get_timeout(MOMENT).await.unwrap_err().is_empty());
        assert!(queue.blocking_put_timeout(2, MOMENT).unwrap_err().is_full());
        assert!(queue.blocking_get_timeout(MOMENT).unwrap_err().is_empty());
        assert!(queue.try_put(2).unwrap_err().is_full());
        assert!(queue.try_get().unwrap_err().is_empty());
        assert_eq!(queue.len(), 1, "to look takes no lock");
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { (queue.get().await.unwrap(), queue.get().await.unwrap_err()) }
        });
        let thread = std::thread::spawn({
            let queue = queue.clone();
            move || queue.blocking_put(2).unwrap_err()
        });
        tokio::time::sleep(MOMENT).await;
        queue.close();
        assert!(queue.is_closed());
        // As if it were killed.
        drop(memory);
        let (item, error) = waiting.await.unwrap();
        assert_eq!(item, 1);
        assert!(error.is_closed() && thread.join().unwrap().is_closed());
    });
}
