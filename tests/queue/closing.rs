//! A queue ends when somebody closes it, or when one end is gone.

use std::os::unix::net::UnixStream;

use procession::{Fd, GetError, JoinError, JoinableQueue, PutErrorKind, Queue};

use crate::support::{alone, checked};

#[test]
fn a_closed_queue_gives_what_it_has_and_takes_nothing() {
    checked(async {
        let queue: Queue<u8> = Queue::new(0).unwrap();
        queue.put(1).await.unwrap();
        queue.put(2).await.unwrap();
        assert!(!queue.is_closed());
        queue.close();
        queue.close();
        assert!(queue.is_closed());
        let error = queue.put(3).await.unwrap_err();
        assert!(error.is_closed() && matches!(error.kind(), PutErrorKind::Closed));
        assert_eq!(error.into_parts().0, 3);
        assert!(queue.try_put(3).unwrap_err().is_closed());
        assert!(queue.blocking_put(3).unwrap_err().is_closed());
        assert_eq!(queue.get().await.unwrap(), 1);
        assert_eq!(queue.blocking_get().unwrap(), 2);
        assert!(queue.get().await.unwrap_err().is_closed());
        assert!(matches!(queue.try_get(), Err(GetError::Closed)));
        assert!(queue.blocking_get().unwrap_err().is_closed());
    });
}

#[test]
fn closing_wakes_all_who_wait() {
    checked(async {
        let empty: Queue<u8> = Queue::new(1).unwrap();
        let full: Queue<u8> = Queue::new(1).unwrap();
        full.put(0).await.unwrap();
        let mut waiting = Vec::new();
        let mut threads = Vec::new();
        for _ in 0..5 {
            let queue = empty.clone();
            waiting.push(tokio::spawn(async move { queue.get().await.unwrap_err().is_closed() }));
            let queue = full.clone();
            waiting.push(tokio::spawn(async move { queue.put(1).await.unwrap_err().is_closed() }));
            let queue = empty.consumer();
            threads.push(std::thread::spawn(move || queue.blocking_get().unwrap_err().is_closed()));
            let queue = full.producer();
            threads
                .push(std::thread::spawn(move || queue.blocking_put(1).unwrap_err().is_closed()));
        }
        // So that most of them have come to wait.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        empty.close();
        full.close();
        for one in waiting {
            assert!(one.await.unwrap());
        }
        for thread in threads {
            assert!(thread.join().unwrap());
        }
        assert_eq!(full.get().await.unwrap(), 0);
    });
}

#[test]
fn consumers_hear_that_all_producers_are_gone() {
    checked(async {
        let (producer, consumer) = Queue::<u8>::new(0).unwrap().split();
        let other = producer.clone();
        producer.put(1).await.unwrap();
        other.put(2).await.unwrap();
        let waiting = tokio::spawn(async move {
            assert_eq!(consumer.get().await.unwrap(), 1);
            assert_eq!(consumer.get().await.unwrap(), 2);
            consumer.get().await.unwrap_err()
        });
        drop(producer);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(other);
        assert!(waiting.await.unwrap().is_closed());
    });
}

#[test]
fn producers_hear_that_all_consumers_are_gone() {
    checked(async {
        let (producer, consumer) = Queue::<String>::new(1).unwrap().split();
        producer.put("a".into()).await.unwrap();
        let waiting = tokio::spawn({
            let producer = producer.clone();
            async move { producer.put("b".into()).await.unwrap_err() }
        });
        let thread = std::thread::spawn({
            let producer = producer.clone();
            move || producer.blocking_put("b".into()).unwrap_err()
        });
        drop(consumer);
        for error in [waiting.await.unwrap(), thread.join().unwrap()] {
            assert!(error.is_closed() && matches!(error.kind(), PutErrorKind::Abandoned));
            assert_eq!(error.into_inner(), "b");
        }
        assert!(matches!(
            producer.try_put("c".into()).unwrap_err().into_parts(),
            (item, PutErrorKind::Abandoned) if item == "c"
        ));
        assert_eq!(producer.len(), 1);
    });
}

#[test]
fn a_queue_is_both_ends_and_keeps_itself_open() {
    alone(|| {
        let queue: Queue<u8> = Queue::new(0).unwrap();
        drop(queue.producer());
        drop(queue.consumer());
        queue.try_put(1).unwrap();
        assert_eq!(queue.try_get().unwrap(), 1);
        assert!(queue.try_get().unwrap_err().is_empty());
        let consumer = queue.consumer();
        drop(queue);
        assert!(consumer.try_get().unwrap_err().is_closed());
    });
}

/// Python's `shutdown(immediate=True)`.
#[test]
fn a_queue_that_is_closed_and_cleared() {
    checked(async {
        let queue: Queue<Vec<u8>> = Queue::new(3).unwrap();
        assert_eq!(queue.clear().unwrap(), 0);
        for n in 0..3 {
            queue.put(vec![n; 50_000]).await.unwrap();
        }
        assert!(queue.is_full());
        assert_eq!(queue.clear().unwrap(), 3);
        assert!(queue.is_empty());
        // Nothing else has changed.
        queue.put(vec![7]).await.unwrap();
        assert_eq!(queue.get().await.unwrap(), [7]);
        queue.put(vec![8]).await.unwrap();
        queue.close();
        assert_eq!(queue.consumer().clear().unwrap(), 1);
        assert!(queue.try_get().unwrap_err().is_closed());
        assert!(queue.try_put(vec![9]).unwrap_err().is_closed());
        assert_eq!(queue.clear().unwrap(), 0);
    });
}

#[test]
fn items_that_are_cleared_are_done_and_those_that_are_held_are_not() {
    checked(async {
        for requeue in [false, true] {
            let queue: JoinableQueue<Fd<UnixStream>> =
                JoinableQueue::builder().requeue_lost(requeue).build().unwrap();
            let (_ours, theirs) = UnixStream::pair().unwrap();
            let theirs = Fd::from(theirs);
            for _ in 0..5 {
                queue.put(theirs.clone()).await.unwrap();
            }
            let held = queue.take().await.unwrap();
            let got = queue.get().await.unwrap();
            queue.close();
            assert_eq!(queue.clear().unwrap(), 3);
            assert_eq!((queue.len(), queue.unfinished()), (0, 2));
            let joining = tokio::spawn({
                let queue = queue.clone();
                async move { queue.join().await }
            });
            drop((got, held));
            assert_eq!(queue.unfinished(), 1);
            queue.task_done().unwrap();
            joining.await.unwrap().unwrap();
            assert!(matches!(queue.task_done(), Err(JoinError::OverDone)));
            assert_eq!(queue.lost(), 0);
        }
    });
}
