//! The threads that this crate has beside those of its program, and how they are kept
//! at rest for as long as it takes to copy the process.
//!
//! A copy has one thread, and what others had locked at that moment stays locked in it,
//! the allocator among it. So each thread of the crew says when it *rests*: it waits in
//! the kernel then, for news or for a lock of this crate that no copy ever asks for.
//! All that it does between two rests is work. Whoever copies the process waits until
//! nobody works, and keeps them from beginning again: see [`Halt`].

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::unistd::gettid;

use crate::sys::threads::ids;

static CREW: Mutex<Crew> =
    Mutex::new(Crew { ids: Vec::new(), leaving: Vec::new(), working: 0, halts: 0 });
static CHANGED: Condvar = Condvar::new();

struct Crew {
    ids: Vec<i32>,
    /// These have nothing more to do, and may be there for a moment.
    leaving: Vec<i32>,
    /// How many are not at rest.
    working: usize,
    /// How many wait for all to be at rest. They come first, or two threads that never
    /// rest at the same time would keep them waiting.
    halts: usize,
}

thread_local! {
    static IS_MEMBER: Cell<bool> = const { Cell::new(false) };
}

fn lock() -> MutexGuard<'static, Crew> {
    CREW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a thread of the crew. It is at work, but where it [rests](rest).
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (enrolled, is_enrolled) = mpsc::channel::<()>();
    thread::Builder::new().name(name.into()).spawn(move || {
        let _member = Member::enrol();
        drop(enrolled);
        work();
    })?;
    // Until it is known it would pass for one of the program's.
    let _ = is_enrolled.recv();
    Ok(())
}

/// The calling thread, as one of the crew, until this is dropped.
#[derive(Debug)]
pub(crate) struct Member(());

impl Member {
    /// The thread is at work. Whoever began it may be at work, too, and wait for this:
    /// so it waits for no halt.
    pub(crate) fn enrol() -> Self {
        let mut crew = lock();
        crew.ids.push(gettid().as_raw());
        crew.working += 1;
        IS_MEMBER.set(true);
        Member(())
    }
}

/// A thread that never does anything but wait in the kernel.
pub(super) fn enrol_for_good(id: i32) {
    lock().ids.push(id);
}

impl Drop for Member {
    fn drop(&mut self) {
        let id = gettid().as_raw();
        let mut crew = lock();
        crew.ids.retain(|known| *known != id);
        crew.leaving.retain(|gone| is_running(*gone));
        crew.leaving.push(id);
        IS_MEMBER.set(false);
        crew.leave();
    }
}

impl Crew {
    fn leave(&mut self) {
        self.working -= 1;
        if self.working == 0 {
            CHANGED.notify_all();
        }
    }
}

/// Waits in the kernel, by calling `wait`, which must not allocate, nor hold any lock
/// that is not this crate's own. On a thread that is none of the crew's, calls it.
pub(crate) fn rest<T>(wait: impl FnOnce() -> T) -> T {
    if !IS_MEMBER.get() {
        return wait();
    }
    lock().leave();
    let done = wait();
    let mut crew = lock();
    while crew.halts > 0 {
        crew = CHANGED.wait(crew).unwrap_or_else(PoisonError::into_inner);
    }
    crew.working += 1;
    done
}

/// As long as it is there, the whole crew is at rest.
pub(super) struct Halt {
    crew: MutexGuard<'static, Crew>,
    until: Instant,
}

impl Halt {
    /// Waits for the crew to rest.
    ///
    /// # Errors
    ///
    /// If it does not within `limit`, or if this thread is one of the crew.
    pub(super) fn new(limit: Duration) -> io::Result<Halt> {
        if IS_MEMBER.get() {
            let problem = "a thread of procession's own, on which a waker or a callback was \
                           called, cannot be copied";
            return Err(io::Error::other(problem));
        }
        let until = Instant::now() + limit;
        let mut crew = lock();
        crew.halts += 1;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if crew.working == 0 || left.is_zero() {
                break;
            }
            crew = CHANGED.wait_timeout(crew, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        crew.halts -= 1;
        // They wait for the lock from here on.
        CHANGED.notify_all();
        if crew.working > 0 {
            let problem = "threads of procession's own did not come to rest in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
        Ok(Halt { crew, until })
    }

    /// The names of all threads but this one and the crew.
    pub(super) fn strangers(&mut self) -> io::Result<Vec<String>> {
        let ours = gettid().as_raw();
        let mut strangers = Vec::new();
        for id in self.all()? {
            if id == ours || self.crew.ids.contains(&id) {
                continue;
            }
            while self.crew.leaving.contains(&id) && is_running(id) && Instant::now() < self.until {
                thread::sleep(Duration::from_micros(100));
            }
            if is_running(id) {
                let name = fs::read_to_string(format!("/proc/self/task/{id}/comm"));
                strangers.push(name.map_or_else(|_| id.to_string(), |name| name.trim().to_owned()));
            }
        }
        Ok(strangers)
    }

    /// All threads. A list of the kernel's ends early where it comes to one that is just
    /// ending; how many there are it says without fail.
    fn all(&self) -> io::Result<Vec<i32>> {
        loop {
            let listed = ids()?;
            if listed.len() == count()? {
                return Ok(listed);
            }
            if Instant::now() > self.until {
                let problem = "threads come and go too fast to be listed";
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// This is the copy: there is nobody but this thread.
    pub(super) fn disband(mut self) {
        *self.crew = Crew { ids: Vec::new(), leaving: Vec::new(), working: 0, halts: 0 };
    }
}

/// How many threads this process has. Not by the kernel's list, which may end early: each
/// is a folder there, and so a link to the one above, of which the kernel keeps count.
pub(crate) fn count() -> io::Result<usize> {
    let links = fs::metadata("/proc/self/task")?.nlink();
    // From itself, from above, and from each thread.
    Ok(links.checked_sub(2).filter(|count| *count > 0).ok_or(io::ErrorKind::InvalidData)? as usize)
}

/// A field of proc_pid_stat(5) behind the second, which is a name, in parentheses, and may
/// contain anything.
fn number(stat: &str, field: usize) -> Option<u64> {
    stat.rsplit(')').next()?.split_whitespace().nth(field - 3)?.parse().ok()
}

/// Whether the thread is there, and not in the kernel on its way to its end, where it
/// still is when others have been told of that already.
fn is_running(id: i32) -> bool {
    /// In the field of flags.
    const PF_EXITING: u64 = 0x4;
    let Ok(stat) = fs::read_to_string(format!("/proc/self/task/{id}/stat")) else { return false };
    number(&stat, 9).is_none_or(|flags| flags & PF_EXITING == 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Other tests of this binary have members, too.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no threads of the kernel's")]
    fn nobody_works_during_a_halt() {
        let _alone = ALONE.lock().unwrap();
        let (is_over, works) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for _ in 0..2 {
            let (is_over, works) = (Arc::clone(&is_over), Arc::clone(&works));
            spawn("busy", move || {
                while !is_over.load(Ordering::SeqCst) {
                    works.store(true, Ordering::SeqCst);
                    rest(thread::yield_now);
                }
            })
            .unwrap();
        }
        for _ in 0..1000 {
            let halt = Halt::new(Duration::from_secs(60)).unwrap();
            works.store(false, Ordering::SeqCst);
            thread::yield_now();
            assert!(!works.load(Ordering::SeqCst));
            drop(halt);
        }
        is_over.store(true, Ordering::SeqCst);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no threads of the kernel's")]
    fn a_member_that_does_not_rest_is_not_waited_for_for_ever() {
        let _alone = ALONE.lock().unwrap();
        let (hold, held) = mpsc::channel::<()>();
        spawn("stuck", move || assert!(held.recv().is_err())).unwrap();
        let error = Halt::new(Duration::from_millis(1)).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(hold);
        let mut halt = Halt::new(Duration::from_secs(60)).unwrap();
        // The harness and its tests are there. What has left is not, in the end.
        let strangers = halt.strangers().unwrap();
        assert!(!strangers.is_empty() && !strangers.contains(&"stuck".into()), "{strangers:?}");
        drop(halt);
        // No member can have the others wait.
        let (told, outcome) = mpsc::channel();
        spawn("member", move || told.send(Halt::new(Duration::ZERO).is_err()).unwrap()).unwrap();
        assert!(outcome.recv().unwrap());
    }
}
