//! Byte strings beside values.

use bytes::Bytes;
use futures::StreamExt;
use procession::{RecvError, channel, pipe};

use crate::support::checked;

#[test]
fn byte_strings_of_any_size() {
    checked(async {
        let (mut a, mut b) = pipe::<u8>().unwrap();
        for size in [0, 1, 1000, 32 << 10, 1 << 20, 20 << 20] {
            let bytes = Bytes::from(vec![size as u8; size]);
            let (sent, came) = tokio::join!(a.send_bytes(bytes.clone()), b.recv_bytes(usize::MAX));
            sent.unwrap();
            assert!(came.unwrap() == Some(bytes), "{size}");
        }
        drop(a);
        assert_eq!(b.recv_bytes(1).await.unwrap(), None);
    });
}

#[test]
fn one_that_is_too_long_is_dropped_and_told_of() {
    checked(async {
        let (mut sender, mut receiver) = channel::<u8>().unwrap();
        sender.send_bytes(vec![1; 100]).await.unwrap();
        sender.send_bytes(vec![2; 10]).await.unwrap();
        let error = receiver.recv_bytes(50).await.unwrap_err();
        assert!(matches!(error, RecvError::TooLong { size: 100, limit: 50 }), "{error}");
        assert_eq!(receiver.recv_bytes(50).await.unwrap().unwrap(), vec![2; 10]);
    });
}

#[test]
fn values_and_byte_strings_are_not_taken_for_each_other() {
    checked(async {
        let (mut sender, mut receiver) = channel::<u8>().unwrap();
        sender.send(7).await.unwrap();
        sender.send_bytes(&b"bytes"[..]).await.unwrap();
        sender.send(8).await.unwrap();
        assert!(matches!(receiver.recv_bytes(100).await, Err(RecvError::Decode(_))));
        assert!(matches!(receiver.recv().await, Err(RecvError::Decode(_))));
        // Who goes on comes to those behind them.
        assert_eq!(receiver.recv().await.unwrap(), Some(8));
    });
}

/// Who goes on after errors, as those behind are not affected, comes to an end.
#[test]
fn a_stream_of_values_gets_past_byte_strings() {
    checked(async {
        let (mut sender, receiver) = channel::<u8>().unwrap();
        sender.send_bytes(&b"bytes"[..]).await.unwrap();
        sender.send(7).await.unwrap();
        drop(sender);
        let all: Vec<_> = receiver.take(3).collect().await;
        assert!(matches!(all[..], [Err(RecvError::Decode(_)), Ok(7)]), "{all:?}");
    });
}

#[test]
fn without_waiting() {
    checked(async {
        let (mut a, mut b) = pipe::<u8>().unwrap();
        assert!(b.try_recv_bytes(10).unwrap_err().is_empty());
        a.try_send_bytes(&b"first"[..]).unwrap();
        assert_eq!(b.try_recv_bytes(10).unwrap().unwrap(), "first");
        let mut sent = 0;
        let refused = loop {
            match a.try_send_bytes(vec![7; 60_000]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(refused.is_full() && refused.into_inner().unwrap().len() == 60_000);
        for _ in 1..sent {
            assert_eq!(b.try_recv_bytes(usize::MAX).unwrap().unwrap().len(), 60_000);
        }
        // The rest of the last one.
        a.blocking_flush().unwrap();
        assert_eq!(b.try_recv_bytes(usize::MAX).unwrap().unwrap().len(), 60_000);
        a.blocking_close().unwrap();
        assert_eq!(b.try_recv_bytes(10).unwrap(), None);
        assert!(a.try_send_bytes(vec![1]).unwrap_err().is_closed());
        b.blocking_send_bytes(vec![1]).unwrap();
        assert_eq!(a.try_recv_bytes(10).unwrap().unwrap().len(), 1);
    });
}
