//! Ends of queues as arguments of tasks in a sandbox.

use procession::{Consumer, Producer, Queue, Sandbox};

use crate::pool_in;
use crate::support::checked;

fn double(from: Consumer<u64>, to: Producer<u64>) {
    while let Ok(n) = from.blocking_get() {
        to.blocking_put(2 * n).unwrap();
    }
}

#[test]
fn a_queue_leads_into_a_sandbox_and_out() {
    checked(async {
        let pool = pool_in(Sandbox::computing().best_effort());
        let (producer, from) = Queue::new(1).unwrap().split();
        let (to, consumer) = Queue::new(1).unwrap().split();
        let call = pool.apply_async(double, (from, to));
        for n in 0..100 {
            producer.put(n).await.unwrap();
            assert_eq!(consumer.get().await.unwrap(), 2 * n);
        }
        drop(producer);
        assert!(consumer.get().await.unwrap_err().is_closed());
        call.await.unwrap();
    });
}
