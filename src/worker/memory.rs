//! Ends the worker when its task takes more memory than it may. A thread that
//! looks at what is resident every few milliseconds while a task runs, and
//! sleeps while none does: an idle worker makes no wake-ups.
//!
//! It ends nobody but the task that it has found: once it has claimed that one,
//! the worker cannot come past its end. Nothing here may allocate after the
//! start: the task may hold the allocator's lock for good.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::{CLAIMED, RUNNING};
use crate::sys::atomic::fence;
use crate::sys::memory::Statm;
use crate::sys::page::Page;
use crate::sys::signal::{exit_group_now, with_signals_blocked};
use crate::sys::{crew, futex};

/// Between two looks. Fresh memory comes at a few gigabytes a second at most, so
/// a task is found some megabytes above its limit.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// So many looks without a task, and it sleeps.
const QUIET_LOOKS: u32 = 4;

/// Whether the thread looks.
static AWAKE: AtomicU32 = AtomicU32::new(0);

/// Starts the thread.
///
/// # Errors
///
/// If there is none to be had, or if the limit is that low that no task could
/// run.
pub(super) fn watch(page: Arc<Page>, statm: Statm, limit: u64) -> io::Result<()> {
    let now = statm.resident_bytes()?;
    if now > limit {
        let problem = format!("a worker without a task has {now} bytes already");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let watch = move || {
        crew::rest(|| {
            loop {
                sleep();
                let mut quiet = 0;
                while quiet < QUIET_LOOKS {
                    thread::sleep(LOOK_EVERY);
                    let task = RUNNING.load(Ordering::Acquire);
                    if task == 0 {
                        quiet += 1;
                    } else {
                        quiet = 0;
                        look(task, &statm, &page, limit);
                    }
                }
            }
        })
    };
    with_signals_blocked(|| crew::spawn("procession-memory", watch))?
}

/// There is no such thread yet: this is a copy of a process that had one, at most.
pub(super) fn forget() {
    AWAKE.store(0, Ordering::Relaxed);
}

/// A task has begun: `RUNNING` says so already.
pub(super) fn handle_task() {
    // With the one in `sleep`: either we see that it sleeps, or it sees the task.
    fence(Ordering::SeqCst);
    if AWAKE.load(Ordering::Relaxed) == 0 && AWAKE.swap(1, Ordering::AcqRel) == 0 {
        futex::wake_all(&AWAKE);
    }
}

fn sleep() {
    AWAKE.store(0, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if RUNNING.load(Ordering::Relaxed) != 0 {
        AWAKE.store(1, Ordering::Relaxed);
    }
    while AWAKE.load(Ordering::Acquire) == 0 {
        futex::wait(&AWAKE, 0);
    }
}

fn look(task: u64, statm: &Statm, page: &Page, limit: u64) {
    let Ok(resident) = statm.resident_bytes() else { return };
    let claim = || RUNNING.compare_exchange(task, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
    if resident > limit && claim().is_ok() {
        page.set_over_memory(resident);
        exit_group_now();
    }
}
