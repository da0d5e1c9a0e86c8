//! Ends that go to other processes: as arguments, as results, inside of messages.

use procession::{Connection, Fd, Pool, Receiver, Sender, TaskError, channel, pipe};
use serde::{Deserialize, Serialize};

use crate::support::checked;

fn pool_of(workers: usize) -> Pool {
    Pool::builder().workers(workers).build().unwrap()
}

fn square(mut end: Connection<u64>) -> u64 {
    let mut count = 0;
    while let Some(n) = end.blocking_recv().unwrap() {
        end.blocking_send(n * n).unwrap();
        count += 1;
    }
    count
}

async fn square_later(mut end: Connection<u64>) -> u64 {
    let mut count = 0;
    while let Some(n) = end.recv().await.unwrap() {
        end.send(n * n).await.unwrap();
        count += 1;
    }
    count
}

#[test]
fn an_end_as_an_argument() {
    checked(async {
        let pool = pool_of(1);
        for is_async in [false, true] {
            let (mut ours, theirs) = pipe::<u64>().unwrap();
            let squaring = match is_async {
                false => pool.apply_async(square, theirs),
                true => pool.apply_async(square_later, theirs),
            };
            for n in 0..100 {
                ours.send(n).await.unwrap();
                assert_eq!(ours.recv().await.unwrap(), Some(n * n));
            }
            drop(ours);
            assert_eq!(squaring.await.unwrap(), 100);
        }
        assert_eq!(pool.stats().workers_started, 1);
    });
}

#[test]
fn two_processes_that_talk_past_us() {
    fn count(mut to: Sender<u32>, until: u32) {
        for n in 0..until {
            to.blocking_send(n).unwrap();
        }
    }
    fn sum(from: Receiver<u32>) -> u32 {
        let mut from = from;
        std::iter::from_fn(|| from.blocking_recv().unwrap()).sum()
    }
    checked(async {
        let pool = pool_of(2);
        let (sender, receiver) = channel().unwrap();
        let counting = pool.apply_async(count, (sender, 10_000));
        let sum = pool.apply(sum, receiver).await.unwrap();
        counting.await.unwrap();
        assert_eq!(sum, (0..10_000).sum());
    });
}

#[derive(Serialize, Deserialize)]
struct Order {
    number: u32,
    answer: Sender<String>,
    more: Vec<Connection<u8>>,
}

#[test]
fn ends_inside_of_messages_and_of_results() {
    fn serve(mut orders: Receiver<Order>) {
        while let Some(mut order) = orders.blocking_recv().unwrap() {
            for mut end in order.more {
                end.blocking_send(order.number as u8).unwrap();
            }
            order.answer.blocking_send(format!("order {}", order.number)).unwrap();
        }
    }
    fn open() -> (Sender<u8>, Receiver<u8>) {
        channel().unwrap()
    }
    checked(async {
        let pool = pool_of(1);
        let (mut orders, theirs) = channel().unwrap();
        let serving = pool.apply_async(serve, theirs);
        for number in 0..20 {
            let (answer, mut answers) = channel().unwrap();
            let (ours, theirs): (Vec<_>, Vec<_>) = (0..3).map(|_| pipe().unwrap()).unzip();
            orders.send(Order { number, answer, more: theirs }).await.unwrap();
            assert_eq!(answers.recv().await.unwrap().unwrap(), format!("order {number}"));
            assert_eq!(answers.recv().await.unwrap(), None);
            for mut end in ours {
                assert_eq!(end.recv().await.unwrap(), Some(number as u8));
                assert_eq!(end.recv().await.unwrap(), None);
            }
        }
        drop(orders);
        serving.await.unwrap();
        let (mut sender, mut receiver) = pool.apply(open, ()).await.unwrap();
        sender.send(7).await.unwrap();
        drop(sender);
        assert_eq!(receiver.recv().await.unwrap(), Some(7));
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
}

#[test]
fn what_an_end_has_received_goes_with_it() {
    fn rest(mut from: Receiver<u32>) -> Vec<u32> {
        std::iter::from_fn(|| from.blocking_recv().unwrap()).collect()
    }
    checked(async {
        let pool = pool_of(1);
        for looked in [false, true] {
            let (mut sender, mut receiver) = channel::<u32>().unwrap();
            for n in 0..100 {
                sender.send(n).await.unwrap();
            }
            assert_eq!(receiver.recv().await.unwrap(), Some(0));
            if looked {
                assert!(receiver.is_readable());
            }
            let resting = pool.apply_async(rest, receiver);
            for n in 100..200 {
                sender.send(n).await.unwrap();
            }
            drop(sender);
            assert_eq!(resting.await.unwrap(), Vec::from_iter(1..200));
        }
    });
}

#[test]
fn what_cannot_be_sent_says_why() {
    checked(async {
        let pool = pool_of(1);
        let refusal = |error: TaskError| {
            assert!(matches!(error, TaskError::Encode(_)), "{error:?}");
            error.to_string()
        };
        let (ours, _theirs) = pipe::<u8>().unwrap();
        let (half, _other) = ours.into_split();
        let error = pool.apply(|_: Sender<u8>| (), half).await.unwrap_err();
        assert!(refusal(error).contains("reunite"));

        let (mut sender, _receiver) = channel::<Vec<u8>>().unwrap();
        while sender.try_send(vec![0; 50_000]).is_ok() {}
        let error = pool.apply(|_: Sender<Vec<u8>>| (), sender).await.unwrap_err();
        assert!(refusal(error).contains("flush it"));

        let (mut sender, mut receiver) = channel::<Fd<std::fs::File>>().unwrap();
        sender.send(std::fs::File::open("/dev/null").unwrap().into()).await.unwrap();
        assert!(receiver.is_readable());
        let error = pool.apply(|_: Receiver<Fd<std::fs::File>>| (), receiver).await.unwrap_err();
        assert!(refusal(error).contains("before that is taken"));
    });
}

/// Python's pool cannot do that.
#[test]
fn ends_for_each_item_of_a_map() {
    fn greet(mut to: Sender<String>, name: String) {
        to.blocking_send(format!("hello {name}")).unwrap();
    }
    checked(async {
        let pool = pool_of(2);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..50).map(|_| channel::<String>().unwrap()).unzip();
        let names = (0..50).map(|n| n.to_string());
        pool.map(greet, senders.into_iter().zip(names)).await.unwrap();
        for (n, mut receiver) in receivers.into_iter().enumerate() {
            assert_eq!(receiver.recv().await.unwrap(), Some(format!("hello {n}")));
            assert_eq!(receiver.recv().await.unwrap(), None);
        }
    });
}
