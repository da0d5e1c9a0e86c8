//! What a put and a get cost in system calls, counted by a tracer; and what a
//! process keeps of queues that it had.

use procession::{Consumer, Pool, Producer, Queue};

use crate::blow::{Blow, Steps, Strike};
use crate::support::{alone, checked};
use crate::tasks::{pid, pool_of};

fn put_to_producer(producer: Producer<u64>, count: u64) {
    (0..count).for_each(|n| producer.blocking_put(n).unwrap());
}

fn put(queue: Queue<u64>, count: u64) {
    (0..count).for_each(|n| queue.blocking_put(n).unwrap());
}

fn get(consumer: Consumer<u64>, count: u64) {
    (0..count).for_each(|n| assert_eq!(consumer.blocking_get().unwrap(), n));
}

fn both(queue: Queue<u64>, count: u64) {
    for n in 0..count {
        queue.blocking_put(n).unwrap();
        assert_eq!(queue.blocking_get().unwrap(), n);
    }
}

/// How many steps a worker takes for a call.
async fn steps(call: impl AsyncFn(&Pool)) -> usize {
    let (mut least, mut most) = (0, 2000);
    while least < most {
        let step = (least + most) / 2;
        let pool = pool_of(1);
        let victim = pool.apply(pid, ()).await.unwrap() as i32;
        let strike = Strike::prepare(victim, step, Blow::Pause, Steps::All).await;
        call(&pool).await;
        let struck = strike.finish().await;
        (least, most) = if struck { (step + 1, most) } else { (least, step) };
        pool.terminate().await;
    }
    least
}

/// System calls of each of many operations, each of which is two steps.
async fn calls_of_each(call: impl AsyncFn(&Pool, u64)) -> f64 {
    let (few, many) = (
        steps(async |pool| call(pool, 10).await).await,
        steps(async |pool| call(pool, 60).await).await,
    );
    (many as f64 - few as f64) / 100.0
}

#[test]
fn system_calls() {
    checked(async {
        let filled = || {
            let queue = Queue::<u64>::new(0).unwrap();
            (0..60).for_each(|n| queue.try_put(n).unwrap());
            queue
        };
        let puts = calls_of_each(async |pool, count| {
            pool.apply(put, (Queue::new(0).unwrap(), count)).await.unwrap();
        });
        // The write.
        let puts = puts.await;
        assert!((0.9..1.5).contains(&puts), "{puts} for a put");
        let queue = Queue::new(0).unwrap();
        let puts = calls_of_each(async |pool, count| {
            pool.apply(put_to_producer, (queue.producer(), count)).await.unwrap();
        });
        // And a look at whether there are consumers.
        let puts = puts.await;
        assert!((1.9..2.5).contains(&puts), "{puts} for a put by a producer");
        let gets = calls_of_each(async |pool, count| {
            pool.apply(get, (filled().consumer(), count)).await.unwrap();
        });
        // The read.
        let gets = gets.await;
        assert!((0.9..1.5).contains(&gets), "{gets} for a get");
        let both = calls_of_each(async |pool, count| {
            pool.apply(both, (Queue::new(0).unwrap(), count)).await.unwrap();
        });
        let both = both.await;
        assert!((1.9..2.5).contains(&both), "{both} for both, where nobody waits");
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("procession-queue")).count()
}

#[test]
fn a_worker_keeps_nothing_of_queues() {
    checked(async {
        let pool = pool_of(1);
        let held = || (descriptors(), mappings());
        let before = pool.apply(held, ()).await.unwrap();
        for n in 0..50 {
            let queue = Queue::<u64>::new(0).unwrap();
            pool.apply(put, (queue.clone(), n)).await.unwrap();
            pool.apply(get, (queue.consumer(), n)).await.unwrap();
            // Answers that nobody takes, and arguments that are not read.
            drop(pool.apply_async(|queue: Queue<u64>| vec![queue.clone(), queue], queue.clone()));
            let back = pool.apply(|queue: Queue<u64>| vec![queue], queue).await.unwrap();
            assert_eq!(back[0].len(), 0);
        }
        assert_eq!(pool.apply(held, ()).await.unwrap(), before);
    });
}

#[test]
fn a_queue_takes_as_many_descriptors_as_it_says() {
    alone(|| {
        let before = descriptors();
        let queue = Queue::<u64>::new(0).unwrap();
        assert_eq!(descriptors() - before, 5);
        let other = queue.clone();
        let (producer, consumer) = queue.split();
        assert_eq!((descriptors() - before, mappings()), (5, 1));
        drop(other);
        drop(consumer);
        assert_eq!(descriptors() - before, 3);
        drop(producer);
        assert_eq!((descriptors(), mappings()), (before, 0));
    });
}
