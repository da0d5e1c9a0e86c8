//! Not waiting, waiting for so long, waiting without a runtime, and giving up.

use std::fs;
use std::time::{Duration, Instant};

use futures::FutureExt;
use procession::{RecvError, SendErrorKind, channel, pipe};

use crate::support::{alone, checked, until};

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn nothing_there_and_no_room() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        assert!(receiver.try_recv().unwrap_err().is_empty() && !receiver.is_readable());
        let error = receiver.recv_timeout(MOMENT).await.unwrap_err();
        assert!(matches!(error, RecvError::TimedOut { after: MOMENT }), "{error}");
        sender.try_send(vec![1]).unwrap();
        assert!(receiver.is_readable() && receiver.is_readable());
        receiver.readable().await;
        assert_eq!(receiver.try_recv().unwrap(), Some(vec![1]));

        // Until nothing more fits; what was begun is sent whole.
        let mut sent = 0_u32;
        let error = loop {
            let mut message = sent.to_le_bytes().to_vec();
            message.resize(50_000, 7);
            match sender.try_send(message) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_full() && error.into_inner().unwrap().len() == 50_000);
        let error = sender.send_timeout(vec![9; 50_000], MOMENT).await.unwrap_err();
        assert!(error.is_timeout() && error.into_inner().unwrap().len() == 50_000);
        let flushing = tokio::spawn(async move { sender.flush().await.map(|()| sender) });
        for n in 0..sent {
            let message = receiver.recv().await.unwrap().unwrap();
            assert_eq!((message.len(), &message[..4]), (50_000, &n.to_le_bytes()[..]));
        }
        drop(flushing.await.unwrap().unwrap());
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
}

#[test]
fn a_receiver_that_does_not_read_blocks_its_sender_only() {
    checked(async {
        let (mut a, b) = pipe::<Vec<u8>>().unwrap();
        let mut send = Box::pin(a.send(vec![0; 10 << 20]));
        assert!((&mut send).now_or_never().is_none());
        let (mut other, mut another) = pipe::<u8>().unwrap();
        for n in 0..100 {
            other.send(n).await.unwrap();
            assert_eq!(another.recv().await.unwrap(), Some(n));
        }
        drop(b);
        let error = send.await.unwrap_err();
        assert!(error.is_closed());
        assert_eq!(error.into_inner().unwrap().len(), 10 << 20);
    });
}

/// As a runtime has it for sockets of its own: an error, and no panic.
#[test]
fn no_room_in_a_runtime_that_has_ended() {
    alone(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let (mut sender, receiver) = channel::<Vec<u8>>().unwrap();
        let error = handle.block_on(sender.send(vec![0; 10 << 20])).unwrap_err();
        assert!(matches!(error.kind(), SendErrorKind::Io(_)), "{error}");
        drop(receiver);
    });
}

/// Nor is the runtime told any more of what the other end reads.
#[test]
fn a_half_that_waited_for_room_leaves_nothing_to_the_other() {
    checked(async {
        let (a, b) = pipe::<Vec<u8>>().unwrap();
        let (mut sender, receiver) = a.into_split();
        let sockets = || {
            let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
            links.filter(|link| link.to_str().unwrap().starts_with("socket:")).count()
        };
        let before = sockets();
        assert!(sender.send(vec![0; 10 << 20]).now_or_never().is_none());
        drop(sender);
        assert_eq!(sockets(), before);
        drop((receiver, b));
    });
}

/// However far a send had come when it was dropped, the next messages are whole.
#[test]
fn a_send_that_is_dropped_sends_all_or_nothing() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        // No room at all: nothing is sent.
        while sender.try_send(vec![0; 1000]).is_ok() {}
        assert!(sender.send(vec![1; 1000]).now_or_never().is_none());
        assert!(sender.send_timeout(vec![1; 1000], MOMENT).await.unwrap_err().is_timeout());
        let sending = tokio::spawn(async move {
            sender.send(vec![2; 1000]).await.unwrap();
            sender
        });
        loop {
            let message = receiver.recv().await.unwrap().unwrap();
            assert_eq!(message, vec![message[0]; 1000]);
            assert_ne!(message[0], 1, "it was dropped");
            if message[0] == 2 {
                break;
            }
        }
        // Begun: it is sent, before the next.
        let mut sender = sending.await.unwrap();
        assert!(sender.send(vec![3; 5 << 20]).now_or_never().is_none());
        let sending = tokio::spawn(async move { sender.send(vec![4]).await.unwrap() });
        assert!(receiver.recv().await.unwrap() == Some(vec![3; 5 << 20]));
        assert_eq!(receiver.recv().await.unwrap(), Some(vec![4]));
        sending.await.unwrap();
    });
}

#[test]
fn a_receive_that_is_dropped_loses_nothing() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        let sending = tokio::spawn(async move {
            for n in 0..20_u8 {
                sender.send(vec![n; 300_000]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut came = 0_u8;
        while came < 20 {
            // Polled once, dropped, and polled anew.
            match receiver.recv().now_or_never() {
                Some(message) => {
                    assert!(message.unwrap() == Some(vec![came; 300_000]));
                    came += 1;
                }
                None => tokio::task::yield_now().await,
            }
        }
        sending.await.unwrap();
    });
}

#[test]
fn both_ends_without_a_runtime() {
    alone(|| {
        let (mut a, mut b) = pipe::<u64>().unwrap();
        let thread = std::thread::spawn(move || {
            while let Some(n) = b.blocking_recv().unwrap() {
                b.blocking_send(n * n).unwrap();
            }
        });
        for n in 0..1000 {
            a.blocking_send(n).unwrap();
            assert_eq!(a.blocking_recv().unwrap(), Some(n * n));
        }
        assert!(a.blocking_recv_timeout(MOMENT).unwrap_err().is_timeout());
        assert!(!a.blocking_readable(MOMENT) && a.try_recv().unwrap_err().is_empty());
        drop(a);
        thread.join().unwrap();

        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        let thread = std::thread::spawn(move || {
            sender.blocking_send(vec![7; 3 << 20]).unwrap();
            sender.blocking_send_bytes(vec![8; 100_000]).unwrap();
        });
        assert!(receiver.blocking_recv().unwrap() == Some(vec![7; 3 << 20]));
        assert_eq!(receiver.blocking_recv_bytes(1 << 20).unwrap().unwrap().len(), 100_000);
        assert_eq!(receiver.blocking_recv().unwrap(), None);
        thread.join().unwrap();

        let (mut sender, _receiver) = channel::<Vec<u8>>().unwrap();
        let began = Instant::now();
        let mut outcome = Ok(());
        while outcome.is_ok() {
            outcome = sender.blocking_send_timeout(vec![0; 50_000], MOMENT);
        }
        assert!(matches!(outcome.unwrap_err().kind(), SendErrorKind::TimedOut { after: MOMENT }));
        assert!(began.elapsed() >= MOMENT);
    });
}

#[test]
fn an_end_is_used_in_one_runtime_after_the_other() {
    alone(|| {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (mut a, mut b) = pipe::<u32>().unwrap();
        let kept = runtime();
        for n in 0..5 {
            let (first, second) = (runtime(), runtime());
            // Waited for here, and then there, while this one sleeps.
            assert!(kept.block_on(async { b.recv().now_or_never().is_none() }));
            std::thread::scope(|scope| {
                scope.spawn(|| first.block_on(a.send(n)).unwrap());
                assert_eq!(second.block_on(b.recv()).unwrap(), Some(n));
            });
        }
        b.blocking_send(7).unwrap();
        assert_eq!(kept.block_on(a.recv()).unwrap(), Some(7));
    });
}

#[test]
fn a_receive_in_one_task_and_a_send_in_another() {
    checked(async {
        let (mut sender, mut receiver) = channel::<u32>().unwrap();
        let receiving = tokio::spawn(async move {
            receiver.readable().await;
            receiver.recv().await.unwrap()
        });
        let mut waited = 0;
        until("it waits", || {
            waited += 1;
            waited > 5
        })
        .await;
        sender.send(1).await.unwrap();
        assert_eq!(receiving.await.unwrap(), Some(1));
    });
}

/// The half that sends is still there, and so is the connection.
#[test]
fn whoever_waits_for_room_is_told_that_the_half_that_receives_is_gone() {
    checked(async {
        let (mut a, b) = pipe::<Vec<u8>>().unwrap();
        let (mut speaks, hears) = b.into_split();
        // In a task of its own, which nothing else wakes.
        let sending = tokio::spawn(async move {
            let (sent, ()) = tokio::join!(a.send(vec![0; 10 << 20]), async { drop(hears) });
            assert!(sent.unwrap_err().is_closed());
            a
        });
        let mut a = sending.await.unwrap();
        speaks.send(vec![7]).await.unwrap();
        assert_eq!(a.recv().await.unwrap(), Some(vec![7]));
    });
}
