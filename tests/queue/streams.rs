//! Ends of a queue as a stream, and as a sink.

use futures::{SinkExt, StreamExt, stream};
use procession::{PutErrorKind, Queue};

use crate::support::checked;

#[test]
fn a_consumer_is_a_stream_that_ends_with_the_queue() {
    checked(async {
        let (producer, consumer) = Queue::<u32>::new(3).unwrap().split();
        let put = tokio::spawn(async move {
            for n in 0..1000 {
                producer.put(n).await.unwrap();
            }
        });
        let got: Vec<_> = consumer.map(Result::unwrap).collect().await;
        assert!(got.into_iter().eq(0..1000));
        put.await.unwrap();
    });
}

#[test]
fn a_producer_is_a_sink_that_waits_for_room() {
    checked(async {
        let (producer, mut consumer) = Queue::<u32>::new(3).unwrap().split();
        let mut sink = producer.clone();
        drop(producer);
        let sent = tokio::spawn(async move {
            sink.send_all(&mut stream::iter((0..1000).map(Ok))).await.unwrap();
            sink.flush().await.unwrap();
            SinkExt::<u32>::close(&mut sink).await.unwrap();
        });
        for n in 0..1000 {
            assert_eq!(consumer.next().await.unwrap().unwrap(), n);
        }
        assert!(consumer.next().await.is_none());
        assert!(consumer.next().await.is_none());
        sent.await.unwrap();
    });
}

#[test]
fn a_sink_says_that_nobody_takes_anything() {
    checked(async {
        let (mut producer, consumer) = Queue::<u32>::new(1).unwrap().split();
        producer.send(1).await.unwrap();
        drop(consumer);
        assert!(matches!(producer.send(2).await, Err(PutErrorKind::Abandoned)));
        SinkExt::<u32>::close(&mut producer).await.unwrap();
    });
}

#[test]
fn no_item_is_lost_with_the_future_that_waited_for_it() {
    checked(async {
        let (producer, mut consumer) = Queue::<u32>::new(0).unwrap().split();
        for n in 0..100 {
            assert!(futures::poll!(consumer.next()).is_pending());
            if n % 3 == 0 {
                consumer = consumer.clone();
            }
            producer.put(n).await.unwrap();
            assert_eq!(consumer.next().await.unwrap().unwrap(), n);
        }
    });
}
