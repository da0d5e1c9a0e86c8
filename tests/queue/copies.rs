//! A process that was copied by `fork`: each copy has locks of its own, and what
//! one holds is not done when the other drops it.

use std::cell::Cell;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use procession::{JoinableQueue, Queue};

use crate::support::alone;

/// Runs `f` in a copy of this process, which ends with 7 if that returns true.
fn in_a_copy(f: impl FnOnce() -> bool) -> nix::unistd::Pid {
    // SAFETY: the copy has one thread, the allocator of the C library works there,
    // and it does not return.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            // SAFETY: ends this process, which has nothing to clean up.
            unsafe { libc::_exit(if matches!(done, Ok(true)) { 7 } else { 1 }) }
        }
    }
}

fn ends_well(child: nix::unistd::Pid) {
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
}

#[test]
fn copies_put_and_get_beside_each_other() {
    alone(|| {
        let queue = Queue::<u64>::new(3).unwrap();
        let copies: Vec<_> = (0..3)
            .map(|part| {
                let queue = &queue;
                in_a_copy(move || {
                    (0..300).for_each(|n| queue.blocking_put(part * 300 + n).unwrap());
                    true
                })
            })
            .collect();
        let mut got: Vec<_> = (0..900).map(|_| queue.blocking_get().unwrap()).collect();
        for part in 0..3 {
            assert!(got.iter().filter(|n| *n / 300 == part).is_sorted());
        }
        got.sort_unstable();
        assert!(got.into_iter().eq(0..900));
        copies.into_iter().for_each(ends_well);
    });
}

#[test]
fn what_the_original_holds_is_not_done_in_a_copy() {
    alone(|| {
        let queue = JoinableQueue::<u64>::new(0).unwrap();
        queue.try_put(1).unwrap();
        queue.try_put(2).unwrap();
        // The closure is dropped here, too.
        let item = Cell::new(Some(queue.try_take().unwrap()));
        let copy = in_a_copy(|| {
            let own = queue.try_take().unwrap();
            drop(item.take());
            let right = *own == 2 && queue.unfinished() == 2;
            drop(own);
            right && queue.unfinished() == 1
        });
        ends_well(copy);
        assert_eq!(queue.unfinished(), 1);
        assert!(queue.blocking_join_timeout(Duration::from_millis(120)).is_err());
    });
}

#[test]
fn what_a_dead_copy_held_is_lost() {
    alone(|| {
        let queue = JoinableQueue::<u64>::new(0).unwrap();
        queue.try_put(1).unwrap();
        let copy = in_a_copy(|| {
            std::mem::forget(queue.try_take().unwrap());
            true
        });
        ends_well(copy);
        assert!(queue.blocking_join().unwrap_err().to_string().contains("lost"));
        assert_eq!((queue.lost(), queue.unfinished()), (1, 0));
    });
}

/// A copy that never touches the queue has its file, which is not to keep anything
/// for who is dead.
#[test]
fn what_the_dead_held_is_lost_though_a_copy_of_them_lives() {
    alone(|| {
        let queue = JoinableQueue::<u64>::new(0).unwrap();
        queue.try_put(1).unwrap();
        let (hold, held) = UnixStream::pair().unwrap();
        let copy = in_a_copy(|| {
            std::mem::forget(queue.try_take().unwrap());
            in_a_copy(|| {
                // SAFETY: this process does not use it any more, nor drop it.
                unsafe { libc::close(hold.as_raw_fd()) };
                (&held).read(&mut [0]).is_ok()
            });
            true
        });
        ends_well(copy);
        let error = queue.blocking_join_timeout(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        drop(hold);
    });
}
