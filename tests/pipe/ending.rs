//! Ends whose holder closes them, ends, or is killed.

use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use procession::{Connection, Pool, RecvError, Sender, channel, pipe};

use crate::support::{Scratch, checked, noted};

#[test]
fn a_message_of_a_process_that_has_ended_is_still_received() {
    fn say_and_die(mut to: Sender<Vec<u8>>) {
        to.blocking_send(vec![7; 50_000]).unwrap();
        to.blocking_send(vec![8]).unwrap();
        std::process::abort();
    }
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let (sender, mut receiver) = channel().unwrap();
        assert!(pool.apply(say_and_die, sender).await.unwrap_err().is_worker_lost());
        assert!(receiver.recv().await.unwrap() == Some(vec![7; 50_000]));
        assert_eq!(receiver.recv().await.unwrap(), Some(vec![8]));
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
}

#[test]
fn a_message_that_a_kill_has_cut_off() {
    fn say_without_end(journal: String, mut to: Sender<Vec<u8>>) {
        to.blocking_send(vec![1]).unwrap();
        to.try_send(vec![2; 2 << 20]).unwrap();
        crate::support::note(journal, "begun");
        loop {
            std::thread::park();
        }
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
        let (sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        let saying = pool.apply_async(say_without_end, (scratch.path("journal"), sender));
        noted(&scratch.path("journal")).await;
        assert_eq!(receiver.recv().await.unwrap(), Some(vec![1]));
        // Part of the long one is there.
        assert!(receiver.try_recv().unwrap_err().is_empty());
        saying.cancel().await;
        let error = receiver.recv().await.unwrap_err();
        assert!(matches!(error, RecvError::CutOff), "{error}");
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
}

#[test]
fn whoever_waits_is_told_that_the_other_was_killed() {
    fn hold(journal: String, _end: Connection<Vec<u8>>) {
        crate::support::note(journal, "here");
        loop {
            std::thread::park();
        }
    }
    checked(async {
        let pool = Pool::builder().workers(1).grace_period(Duration::ZERO).build().unwrap();
        for sends in [false, true] {
            let scratch = Scratch::new();
            let (mut ours, theirs) = pipe::<Vec<u8>>().unwrap();
            let holding = pool.apply_async(hold, (scratch.path("journal"), theirs));
            noted(&scratch.path("journal")).await;
            let waiting = tokio::spawn(async move {
                if sends {
                    let error = ours.send(vec![0; 10 << 20]).await.unwrap_err();
                    assert!(error.is_closed(), "{error}");
                } else {
                    assert_eq!(ours.recv().await.unwrap(), None);
                }
            });
            tokio::task::yield_now().await;
            holding.cancel().await;
            waiting.await.unwrap();
        }
    });
}

#[test]
fn one_direction_is_closed_and_the_other_is_not() {
    checked(async {
        let (mut a, mut b) = pipe::<u8>().unwrap();
        a.send(1).await.unwrap();
        a.close().await.unwrap();
        assert!(a.send(2).await.unwrap_err().is_closed());
        assert_eq!(b.recv().await.unwrap(), Some(1));
        assert_eq!(b.recv().await.unwrap(), None);
        b.send(3).await.unwrap();
        assert_eq!(a.recv().await.unwrap(), Some(3));

        let (a, mut b) = pipe::<u8>().unwrap();
        let (sender, mut receiver) = a.into_split();
        drop(sender);
        assert_eq!(b.recv().await.unwrap(), None);
        b.send(4).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap(), Some(4));
        drop(receiver);
        assert!(b.send(5).await.unwrap_err().is_closed());
    });
}

/// The other end had not read all: it is a connection that was reset.
#[test]
fn an_end_that_is_dropped_with_messages_unread() {
    checked(async {
        let (mut a, mut b) = pipe::<u8>().unwrap();
        a.send(1).await.unwrap();
        b.send(2).await.unwrap();
        drop(b);
        assert_eq!(a.recv().await.unwrap(), Some(2));
        assert_eq!(a.recv().await.unwrap(), None);
        assert!(a.send(3).await.unwrap_err().is_closed());
    });
}

#[test]
fn a_sender_whose_rest_is_dropped_with_it() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        sender.try_send(vec![7; 10 << 20]).unwrap();
        drop(sender);
        let error = receiver.recv().await.unwrap_err();
        assert!(matches!(error, RecvError::CutOff), "{error}");
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
}

/// A copy of this process has copies of the ends, which are not its own.
#[test]
fn what_a_forked_copy_drops_ends_nothing() {
    checked(async {
        let (a, mut b) = pipe::<u8>().unwrap();
        let (mut sender, mut receiver) = a.into_split();
        let (mut long, mut longs) = channel::<Vec<u8>>().unwrap();
        long.try_send(vec![7; 10 << 20]).unwrap();
        let came = longs.try_recv();
        assert!(came.unwrap_err().is_empty(), "there is room for more of it");
        // SAFETY: the child takes no lock of other threads, and does not return.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop((sender, receiver, long));
                // SAFETY: ends this process, which has nothing to clean up.
                unsafe { nix::libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                waitpid(child, None).unwrap();
            }
        }
        sender.send(1).await.unwrap();
        assert_eq!(b.recv().await.unwrap(), Some(1));
        b.send(2).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap(), Some(2));
        let (flushed, came) = tokio::join!(long.flush(), longs.recv());
        flushed.unwrap();
        assert!(came.unwrap() == Some(vec![7; 10 << 20]));
    });
}
