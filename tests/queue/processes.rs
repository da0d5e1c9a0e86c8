//! Queues whose ends are in several processes: they travel as arguments and
//! results, in each other, and in whatever holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use procession::{
    Consumer, JoinError, JoinableQueue, Pool, Producer, Queue, TaskError, TaskHandle,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{LIMIT, Scratch, alone, checked, noted, notes, until, within};
use crate::tasks::{consume, consume_async, kill, pid, pool_of, produce, take_and_stay};

#[test]
fn a_worker_puts_and_we_get() {
    checked(async {
        let pool = pool_of(1);
        let (producer, consumer) = Queue::<u64>::new(10).unwrap().split();
        let put = pool.apply_async(produce, (producer, 0, 1000));
        for n in 0..1000 {
            assert_eq!(consumer.get().await.unwrap(), n);
        }
        put.await.unwrap();
        assert!(consumer.get().await.unwrap_err().is_closed(), "the worker's end is gone");
    });
}

#[test]
fn we_put_and_a_worker_gets() {
    checked(async {
        let pool = pool_of(2);
        let (producer, consumer) = Queue::<u64>::new(10).unwrap().split();
        let got = pool.apply_async(consume, consumer.clone());
        let got_too = pool.apply_async(consume_async, consumer);
        for n in 0..1000 {
            producer.put(n).await.unwrap();
        }
        drop(producer);
        let (got, got_too) = (got.await.unwrap(), got_too.await.unwrap());
        assert!(got.is_sorted() && got_too.is_sorted());
        let all: BTreeSet<_> = got.iter().chain(&got_too).copied().collect();
        assert_eq!((got.len() + got_too.len(), all), (1000, (0..1000).collect()));
    });
}

#[test]
fn producers_and_consumers_in_all_processes() {
    checked(async {
        let pool = pool_of(4);
        pool.ready().await.unwrap();
        for maxsize in [1, 5, 0] {
            let (producer, consumer) = Queue::<u64>::new(maxsize).unwrap().split();
            let puts: Vec<_> = (0..2)
                .map(|n| pool.apply_async(produce, (producer.clone(), n * 1000, 1000)))
                .collect();
            let gets: Vec<_> =
                (0..2).map(|_| pool.apply_async(consume, consumer.clone())).collect();
            let here = tokio::spawn(consume_async(consumer));
            produce(producer, 2000, 1000);
            join_all(puts).await.into_iter().for_each(|put| put.unwrap());
            let mut got: Vec<Vec<u64>> =
                join_all(gets).await.into_iter().map(|got| got.unwrap()).collect();
            got.push(here.await.unwrap());
            for of_one in &got {
                for part in 0..3 {
                    assert!(of_one.iter().filter(|n| *n / 1000 == part).is_sorted());
                }
            }
            let all = got.concat();
            assert_eq!(all.len(), 3000);
            assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), (0..3000).collect());
        }
    });
}

#[derive(Serialize, Deserialize)]
struct Order {
    name: String,
    /// Where the answer goes.
    answers: Producer<(u32, Bytes)>,
    body: Bytes,
}

/// A server: each order says where its answer goes.
fn serve(orders: Consumer<Order>) -> u32 {
    let mut served = 0;
    while let Ok(order) = orders.blocking_get() {
        served += 1;
        order.answers.blocking_put((order.name.len() as u32, order.body)).unwrap();
    }
    served
}

#[test]
fn queues_travel_in_queues() {
    checked(async {
        let pool = pool_of(2);
        let (orders, waiting) = Queue::<Order>::new(0).unwrap().split();
        let served: Vec<_> = (0..2).map(|_| pool.apply_async(serve, waiting.clone())).collect();
        drop(waiting);
        for len in [0, 10, 100_000] {
            let (answers, answer) = Queue::new(1).unwrap().split();
            let body = Bytes::from(vec![7; len]);
            let order = Order { name: "name".into(), answers, body: body.clone() };
            orders.put(order).await.unwrap();
            assert!(answer.get().await.unwrap() == (4, body));
            assert!(answer.get().await.unwrap_err().is_closed());
        }
        drop(orders);
        let served = join_all(served).await.into_iter().map(Result::unwrap).sum::<u32>();
        assert_eq!(served, 3);
    });
}

#[test]
fn queues_travel_in_results_and_values_of_all_kinds() {
    type Ends = (Vec<Option<Consumer<String>>>, BTreeMap<u8, Producer<String>>);
    fn make() -> (Queue<String>, Ends) {
        let queue = Queue::new(3).unwrap();
        queue.try_put("from there".into()).unwrap();
        let ends = vec![Some(queue.consumer()), None, Some(queue.consumer())];
        let keyed = BTreeMap::from([(1, queue.producer())]);
        (queue, (ends, keyed))
    }
    checked(async {
        let pool = pool_of(1);
        let (queue, (ends, keyed)) = pool.apply(make, ()).await.unwrap();
        keyed[&1].put("from here".into()).await.unwrap();
        assert_eq!((queue.len(), queue.maxsize()), (2, 3));
        assert_eq!(ends[0].as_ref().unwrap().get().await.unwrap(), "from there");
        assert_eq!(ends[2].as_ref().unwrap().get().await.unwrap(), "from here");
        let echo = |queue: Queue<String>| queue;
        let again = pool.apply(echo, queue.clone()).await.unwrap();
        again.put("around".into()).await.unwrap();
        assert_eq!(queue.get().await.unwrap(), "around");
        // To many calls at once.
        let put = |n: u32, queue: Queue<String>| queue.blocking_put(n.to_string()).unwrap();
        let drain = tokio::spawn({
            let queue = queue.clone();
            async move {
                let mut got = BTreeSet::new();
                while got.len() < 20 {
                    got.insert(queue.get().await.unwrap());
                }
                got
            }
        });
        pool.map(put, (0..20).map(move |n| (n, queue.clone()))).await.unwrap();
        assert_eq!(drain.await.unwrap(), (0..20).map(|n| n.to_string()).collect());
    });
}

/// Sent as one end, and read as another.
enum Lie {
    Sent(Producer<u8>),
    Read(Consumer<u8>),
}

impl Serialize for Lie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Lie::Sent(producer) => producer.serialize(serializer),
            Lie::Read(consumer) => consumer.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Lie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Consumer::deserialize(deserializer).map(Lie::Read)
    }
}

#[test]
fn one_end_is_not_taken_for_another() {
    checked(async {
        let pool = pool_of(1);
        let queue = Queue::<u8>::new(0).unwrap();
        let error = pool.apply(drop::<Lie>, Lie::Sent(queue.producer())).await.unwrap_err();
        assert!(matches!(error, TaskError::Decode(_)), "{error:?}");
        assert!(error.to_string().contains("this is no Consumer, but a Producer"), "{error}");
        pool.apply(drop::<Lie>, Lie::Read(queue.consumer())).await.unwrap();
    });
}

#[test]
fn other_formats_have_no_queues() {
    alone(|| {
        let queue = Queue::<u8>::new(0).unwrap();
        for error in [
            serde_json::to_string(&queue).unwrap_err(),
            serde_json::to_string(&queue.producer()).unwrap_err(),
            serde_json::from_str::<Consumer<u8>>(
                r#"{"kind":"Consumer","is_fresh":true,"descriptors":[1,2,3]}"#,
            )
            .unwrap_err(),
        ] {
            assert!(error.to_string().contains("only with procession's own messages"), "{error}");
        }
    });
}

#[test]
fn consumers_hear_that_producers_were_killed() {
    fn put_and_stay(producer: Producer<u32>) {
        producer.blocking_put(pid()).unwrap();
        loop {
            std::thread::park();
        }
    }
    checked(async {
        let pool = pool_of(2);
        let (producer, consumer) = Queue::<u32>::new(0).unwrap().split();
        let calls: Vec<_> =
            (0..2).map(|_| pool.apply_async(put_and_stay, producer.clone())).collect();
        drop(producer);
        let pids = [consumer.get().await.unwrap(), consumer.get().await.unwrap()];
        assert!(consumer.get_timeout(Duration::from_millis(20)).await.unwrap_err().is_empty());
        kill(pids[0]);
        assert!(consumer.get_timeout(Duration::from_millis(20)).await.unwrap_err().is_empty());
        kill(pids[1]);
        assert!(within(LIMIT, consumer.get()).await.unwrap_err().is_closed());
        for call in calls {
            assert!(call.await.unwrap_err().is_worker_lost());
        }
    });
}

#[test]
fn producers_hear_that_consumers_were_killed() {
    fn get_and_stay(consumer: Consumer<u32>, back: Producer<u32>) {
        consumer.blocking_get().unwrap();
        back.blocking_put(pid()).unwrap();
        loop {
            std::thread::park();
        }
    }
    checked(async {
        let pool = pool_of(1);
        let (producer, consumer) = Queue::<u32>::new(1).unwrap().split();
        let (back, pids) = Queue::<u32>::new(0).unwrap().split();
        let call = pool.apply_async(get_and_stay, (consumer, back));
        producer.put(1).await.unwrap();
        let pid = pids.get().await.unwrap();
        producer.put(2).await.unwrap();
        let waiting = tokio::spawn(async move { producer.put(3).await.unwrap_err() });
        tokio::task::yield_now().await;
        kill(pid);
        let error = within(LIMIT, waiting).await.unwrap();
        assert!(error.is_closed() && error.into_inner() == 3);
        assert!(call.await.unwrap_err().is_worker_lost());
    });
}

#[test]
fn what_was_put_outlives_who_put_it() {
    checked(async {
        let pool = pool_of(1);
        let queue = Queue::<u64>::new(0).unwrap();
        let worker = pool.apply(pid, ()).await.unwrap();
        pool.apply(produce, (queue.producer(), 0, 100)).await.unwrap();
        kill(worker);
        until("it is gone", || pool.workers().iter().all(|w| w.pid != Some(worker))).await;
        for n in 0..100 {
            assert_eq!(queue.get().await.unwrap(), n);
        }
    });
}

/// Has a worker take the next item, and stay with it. Returns its call and its pid.
async fn hold_one(
    pool: &Pool,
    queue: &JoinableQueue<u64>,
    journal: String,
) -> (TaskHandle<()>, u32) {
    let call = pool.apply_async(take_and_stay, (queue.clone(), journal.clone()));
    noted(&journal).await;
    (call, notes(&journal)[0].rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_lost_item_is_told_of() {
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let queue = JoinableQueue::<u64>::new(0).unwrap();
        queue.put(7).await.unwrap();
        queue.put(8).await.unwrap();
        let (call, holder) = hold_one(&pool, &queue, scratch.path("journal")).await;
        let joined = tokio::spawn({
            let queue = queue.clone();
            async move { queue.join().await }
        });
        assert_eq!(*queue.take().await.unwrap(), 8);
        assert_eq!((queue.unfinished(), joined.is_finished()), (1, false));
        kill(holder);
        let error = within(LIMIT, joined).await.unwrap().unwrap_err();
        assert!(matches!(error, JoinError::Lost { items: 1 }), "{error:?}");
        assert_eq!(error.to_string(), "an item was lost with its holder");
        assert_eq!((queue.unfinished(), queue.lost(), queue.len()), (0, 1, 0));
        queue.join().await.unwrap();
        assert!(call.await.unwrap_err().is_worker_lost());
    });
}

#[test]
fn a_lost_item_is_put_back_in_front() {
    checked(async {
        let pool = pool_of(2);
        let scratch = Scratch::new();
        let queue = JoinableQueue::<u64>::builder().requeue_lost(true).build().unwrap();
        for n in 0..5 {
            queue.put(n).await.unwrap();
        }
        let (first, first_holder) = hold_one(&pool, &queue, scratch.path("first")).await;
        let (second, second_holder) = hold_one(&pool, &queue, scratch.path("second")).await;
        let ours = queue.take().await.unwrap();
        assert_eq!(*ours, 2);
        kill(second_holder);
        kill(first_holder);
        for call in [first, second] {
            assert!(call.await.unwrap_err().is_worker_lost());
        }
        let mut got = Vec::new();
        // Those that were held are seen by whoever finds no other, at the latest.
        while queue.unfinished() > 1 {
            got.push(within(LIMIT, queue.take()).await.unwrap().done());
        }
        assert_eq!(got.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 3, 4]));
        assert!(got.iter().position(|n| *n == 0) < got.iter().position(|n| *n == 1));
        drop(ours);
        queue.join().await.unwrap();
        assert_eq!(queue.lost(), 0);
    });
}

/// Others do not have to be taken first.
#[test]
fn a_lost_item_is_put_back_into_a_queue_that_is_never_empty() {
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let queue = JoinableQueue::<u64>::builder().requeue_lost(true).build().unwrap();
        queue.put(0).await.unwrap();
        let (call, holder) = hold_one(&pool, &queue, scratch.path("journal")).await;
        // Whoever has looked for the dead does not look again at once.
        queue.put(1).await.unwrap();
        assert_eq!(queue.take().await.unwrap().done(), 1);
        kill(holder);
        assert!(call.await.unwrap_err().is_worker_lost());
        let came_back = async {
            loop {
                queue.put(1).await.unwrap();
                queue.put(1).await.unwrap();
                if queue.take().await.unwrap().done() == 0 {
                    return;
                }
            }
        };
        within(LIMIT, came_back).await;
    });
}

#[test]
fn whoever_waits_gets_what_is_put_back() {
    checked(async {
        let pool = pool_of(1);
        let scratch = Scratch::new();
        let queue = JoinableQueue::<u64>::builder().requeue_lost(true).build().unwrap();
        queue.put(7).await.unwrap();
        let (call, holder) = hold_one(&pool, &queue, scratch.path("journal")).await;
        // Closed, and yet it may come back.
        queue.close();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.take().await.map(|item| item.done()) }
        });
        let thread = std::thread::spawn({
            let queue = queue.clone();
            move || queue.blocking_take().map(|item| item.done())
        });
        kill(holder);
        until("both know", || waiting.is_finished() && thread.is_finished()).await;
        // One has it; to the other nothing comes any more.
        let (got, missed) = match (waiting.await.unwrap(), thread.join().unwrap()) {
            (Ok(got), Err(missed)) | (Err(missed), Ok(got)) => (got, missed),
            other => panic!("{other:?}"),
        };
        assert!(got == 7 && missed.is_closed(), "{got}, {missed}");
        assert!(call.await.unwrap_err().is_worker_lost());
        queue.join().await.unwrap();
    });
}

#[test]
fn a_stopped_process_keeps_nobody_waiting_unless_in_the_middle() {
    checked(async {
        let pool = pool_of(1);
        let (producer, consumer) = Queue::<u64>::new(0).unwrap().split();
        let worker = pool.apply(pid, ()).await.unwrap();
        let got = pool.apply_async(consume, consumer.clone());
        let process = nix::unistd::Pid::from_raw(worker as i32);
        for n in 0..20 {
            nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGSTOP).unwrap();
            // Cancelled in time where the process was stopped in the middle.
            let put = producer.put_timeout(n, Duration::from_millis(5)).await;
            let _ = consumer.get_timeout(Duration::from_millis(5)).await;
            nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGCONT).unwrap();
            if put.is_err() {
                producer.put(n).await.unwrap();
            }
        }
        drop(producer);
        drop(consumer);
        assert!(got.await.unwrap().is_sorted());
    });
}

#[test]
fn a_pool_that_is_dropped_takes_its_ends_with_it() {
    checked(async {
        let (producer, consumer) = Queue::<u64>::new(0).unwrap().split();
        let pool: Pool = pool_of(1);
        // One runs, others are on their way or wait.
        let calls: Vec<_> = (0..5).map(|_| pool.apply_async(consume, consumer.clone())).collect();
        drop(consumer);
        producer.put(1).await.unwrap();
        drop(pool);
        for call in calls {
            assert!(matches!(call.await.unwrap_err(), TaskError::Terminated));
        }
        until("nobody gets", || producer.try_put(2).is_err()).await;
    });
}
