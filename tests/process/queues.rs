//! Processes that talk through a queue, whose ends are their arguments.

use procession::{Consumer, Process, Producer, Queue};

use crate::checked;

fn produce(producer: Producer<u64>) {
    (0..100).for_each(|n| producer.blocking_put(n).unwrap());
}

fn consume(consumer: Consumer<u64>) -> Vec<u64> {
    std::iter::from_fn(|| consumer.blocking_get().ok()).collect()
}

#[test]
fn two_processes_share_a_queue() {
    checked(async {
        let (producer, consumer) = Queue::new(5).unwrap().split();
        let puts = Process::spawn(produce, producer).unwrap();
        let gets = Process::spawn(consume, consumer).unwrap();
        puts.await.unwrap();
        assert!(gets.await.unwrap().into_iter().eq(0..100));
    });
}

#[test]
fn a_queue_ends_with_the_process_that_was_its_other_end() {
    checked(async {
        let (producer, consumer) = Queue::<u64>::new(5).unwrap().split();
        let gets = Process::spawn(consume, consumer).unwrap();
        producer.put(1).await.unwrap();
        gets.kill();
        assert_eq!(gets.await.unwrap_err().exit().unwrap().signal(), Some(9));
        while producer.try_put(2).is_ok() {
            tokio::task::yield_now().await;
        }
        let error = producer.put(3).await.unwrap_err();
        assert!(error.is_closed() && error.into_inner() == 3);
    });
}
