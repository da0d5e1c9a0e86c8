//! How much fits, who waits for room, and for how long.

use std::time::Duration;

use bytes::Bytes;
use procession::{GetError, PutErrorKind, Queue};

use crate::support::{LIMIT, alone, checked, checked_current_thread, until, within};

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn a_full_queue_takes_nothing_until_there_is_room() {
    checked(async {
        let queue: Queue<String> = Queue::new(2).unwrap();
        assert_eq!((queue.maxsize(), queue.is_full()), (2, false));
        queue.put("a".into()).await.unwrap();
        queue.put("b".into()).await.unwrap();
        assert!(queue.is_full());
        let error = queue.try_put("c".into()).unwrap_err();
        assert!(error.is_full() && matches!(error.kind(), PutErrorKind::Full));
        assert_eq!(error.to_string(), "the queue is full");
        assert_eq!(error.into_inner(), "c");
        let error = queue.put_timeout("c".into(), MOMENT).await.unwrap_err();
        assert!(error.is_full() && matches!(error.kind(), PutErrorKind::TimedOut { .. }));
        let error = queue.blocking_put_timeout("c".into(), MOMENT).unwrap_err();
        assert!(error.is_full() && error.into_inner() == "c");
        assert_eq!(queue.len(), 2);
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.put("c".into()).await }
        });
        for expected in ["a", "b", "c"] {
            assert_eq!(queue.get().await.unwrap(), expected);
        }
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn an_empty_queue_keeps_one_waiting_for_as_long_as_one_likes() {
    checked(async {
        let queue: Queue<u8> = Queue::new(0).unwrap();
        let error = queue.try_get().unwrap_err();
        assert!(error.is_empty() && matches!(error, GetError::Empty), "{error:?}");
        let error = queue.get_timeout(MOMENT).await.unwrap_err();
        assert!(error.is_empty() && matches!(error, GetError::TimedOut { .. }), "{error:?}");
        let error = queue.blocking_get_timeout(MOMENT).unwrap_err();
        assert!(matches!(error, GetError::TimedOut { after: MOMENT }), "{error:?}");
        assert!(queue.blocking_get_timeout(Duration::ZERO).unwrap_err().is_empty());
        queue.put(1).await.unwrap();
        assert_eq!(queue.get_timeout(Duration::ZERO).await.unwrap(), 1);
        queue.put(2).await.unwrap();
        assert_eq!(queue.blocking_get_timeout(Duration::ZERO).unwrap(), 2);
        queue.put(3).await.unwrap();
        assert_eq!(queue.get_timeout(Duration::MAX).await.unwrap(), 3);
        queue.put(4).await.unwrap();
        assert_eq!(queue.blocking_get_timeout(Duration::MAX).unwrap(), 4);
    });
}

#[test]
fn a_megabyte_that_nobody_reads_is_put_at_once() {
    checked_current_thread(async {
        let queue: Queue<Bytes> = Queue::new(0).unwrap();
        for _ in 0..5 {
            within(LIMIT, queue.put(Bytes::from(vec![7; 1 << 20]))).await.unwrap();
        }
        assert_eq!(queue.len(), 5);
    });
}

#[test]
fn bytes_are_a_bound_as_well() {
    checked(async {
        let queue: Queue<Bytes> = Queue::builder().bytes_max(64 << 10).build().unwrap();
        let item = Bytes::from(vec![1; 16_000]);
        let mut count = 0;
        while queue.try_put(item.clone()).is_ok() {
            count += 1;
        }
        assert_eq!((count, queue.len()), (4, 4));
        // Around the end of the ring, many times.
        for n in 0..200_u32 {
            let other = Bytes::from(vec![n as u8; 10_000 + 29 * n as usize]);
            assert_eq!(queue.get().await.unwrap().len(), item.len().min(16_000), "{n}");
            while queue.len() > 1 {
                queue.get().await.unwrap();
            }
            queue.put(other.clone()).await.unwrap();
            queue.get().await.unwrap();
            assert!(queue.get().await.unwrap() == other);
            while queue.try_put(item.clone()).is_ok() {}
        }
    });
}

#[test]
fn an_item_that_can_never_fit_is_an_error_that_says_so() {
    checked(async {
        let queue: Queue<Bytes> = Queue::builder().bytes_max(64 << 10).build().unwrap();
        let error = queue.put(Bytes::from(vec![1; 40_000])).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the item takes 40003 bytes, over the queue's limit of 32744"
        );
        assert!(!error.is_full() && !error.is_closed());
        assert_eq!(error.into_inner().len(), 40_000);
        queue.put(Bytes::from(vec![1; 32_741])).await.unwrap();
        queue.put(Bytes::from(vec![1; 32_741])).await.unwrap();
        assert!(queue.is_full());
    });
}

#[test]
fn nonsense_is_refused() {
    for bytes in [0, 1, (64 << 10) - 1, (8 << 30) + 1, u64::MAX] {
        let error = Queue::<u8>::builder().bytes_max(bytes).build().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with("bytes_max is "), "{error}");
    }
    Queue::<u8>::builder().bytes_max(8 << 30).maxsize(usize::MAX).build().unwrap();
}

#[test]
fn a_large_queue_takes_memory_only_for_what_is_in_it() {
    alone(|| {
        let queue: Queue<Bytes> = Queue::new(0).unwrap();
        let memory = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let files = links.filter(|entry| {
                std::fs::read_link(entry.path())
                    .is_ok_and(|to| to.to_str().unwrap().contains("procession-queue"))
            });
            let blocks = files.map(|file| {
                use std::os::unix::fs::MetadataExt;
                std::fs::metadata(file.path()).unwrap().blocks() * 512
            });
            blocks.max().unwrap()
        };
        let megabyte = Bytes::from(vec![7; 1 << 20]);
        assert!(memory() < 64 << 10);
        for _ in 0..64 {
            queue.try_put(megabyte.clone()).unwrap();
        }
        assert!((64 << 20..66 << 20).contains(&memory()));
        for left in (0..64_u64).rev() {
            queue.try_get().unwrap();
            assert!(memory() <= (left + 3) << 20, "{left}: {}", memory());
        }
        assert!(memory() <= (1 << 20) + (64 << 10), "{}", memory());
        // Many short ones that come and go take no more than one of them.
        for _ in 0..10_000 {
            queue.try_put(Bytes::from_static(b"short")).unwrap();
            queue.try_get().unwrap();
        }
        assert!(memory() <= (1 << 20) + (64 << 10), "{}", memory());
    });
}

#[test]
fn a_put_that_is_dropped_has_put_nothing_and_a_get_has_taken_nothing() {
    checked(async {
        let queue: Queue<u32> = Queue::new(1).unwrap();
        queue.put(0).await.unwrap();
        for n in 1..100 {
            let put = queue.put(n);
            let mut put = std::pin::pin!(put);
            assert!(futures::poll!(put.as_mut()).is_pending());
        }
        assert_eq!(queue.get().await.unwrap(), 0);
        for n in 100..200 {
            {
                let mut get = std::pin::pin!(queue.get());
                assert!(futures::poll!(get.as_mut()).is_pending());
                queue.try_put(n).unwrap();
            }
            assert_eq!(queue.try_get().unwrap(), n);
        }
        assert!(queue.is_empty());
    });
}

#[test]
fn of_many_that_wait_each_gets_one() {
    checked(async {
        let queue: Queue<u32> = Queue::new(0).unwrap();
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await.unwrap() })
            })
            .collect();
        for n in 0..100 {
            queue.put(n).await.unwrap();
            if n % 10 == 0 {
                until("it is taken", || queue.is_empty()).await;
            }
        }
        let mut got = Vec::new();
        for one in waiting {
            got.push(one.await.unwrap());
        }
        got.sort_unstable();
        assert!(got.into_iter().eq(0..100));
    });
}
