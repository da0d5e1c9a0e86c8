//! Numbers from producers to consumers, each of them a process.

use std::time::Instant;

use futures::future::join_all;
use procession::{Consumer, Pool, Producer, Queue};

use crate::contestant::Values;
use crate::ipc_channel;
use crate::jobs::Sizes;

/// Figure, producers, consumers.
const TEAMS: [(&str, u64, u64); 3] = [("one_one", 1, 1), ("two_one", 2, 1), ("two_two", 2, 2)];

fn produce(producer: Producer<u64>, count: u64) {
    for n in 0..count {
        producer.blocking_put(n).expect("somebody gets it");
    }
}

fn consume(consumer: Consumer<u64>) -> u64 {
    let mut count = 0;
    while consumer.blocking_get().is_ok() {
        count += 1;
    }
    count
}

pub fn procession(sizes: &Sizes) -> Values {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let pool = Pool::builder().workers(4).build().expect("a pool");
        pool.ready().await.expect("workers");
        let mut values = Values::new();
        for (name, producers, consumers) in TEAMS {
            let (producer, consumer) = Queue::new(0).expect("a queue").split();
            let start = Instant::now();
            let gets: Vec<_> =
                (0..consumers).map(|_| pool.apply_async(consume, consumer.clone())).collect();
            let each = sizes.items / producers;
            let puts: Vec<_> = (0..producers)
                .map(|_| pool.apply_async(produce, (producer.clone(), each)))
                .collect();
            drop((producer, consumer));
            join_all(puts).await.into_iter().for_each(|put| put.expect("it was put"));
            let got = join_all(gets).await.into_iter().map(|got| got.expect("it was got"));
            assert_eq!(got.sum::<u64>(), sizes.items);
            values.insert(name, sizes.items as f64 / start.elapsed().as_secs_f64());
        }
        values
    })
}

/// Its channels have one consumer.
pub fn ipc_channel(sizes: &Sizes) -> Values {
    let teams = TEAMS.into_iter().filter(|(_, _, consumers)| *consumers == 1);
    teams
        .map(|(name, producers, _)| {
            let took = ipc_channel::many_to_one(producers, sizes.items / producers);
            (name, sizes.items as f64 / took.as_secs_f64())
        })
        .collect()
}
