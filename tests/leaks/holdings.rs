//! What a process holds, heap to the byte, and how much of it may be noise.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::support::{LIMIT, children};

/// The system's allocator, and how many bytes of it are in use: what is
/// resident tells of leaks only once they are larger than the allocator's
/// whims.
struct Counting;

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

/// How often memory was asked for that could hold a large payload.
static LARGE: AtomicU64 = AtomicU64::new(0);

/// Called wherever as much is given back.
pub(crate) static WITNESS: Mutex<Option<fn()>> = Mutex::new(None);

/// Of at least this many bytes.
pub(crate) const LARGE_BYTES: usize = 8 << 20;

pub(crate) fn large_allocations() -> u64 {
    LARGE.load(Ordering::Relaxed)
}

fn count_large(size: usize) {
    if size >= LARGE_BYTES {
        LARGE.fetch_add(1, Ordering::Relaxed);
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: does what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        count_large(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() >= LARGE_BYTES {
            let witness = *WITNESS.lock().unwrap();
            witness.inspect(|witness| witness());
        }
        LIVE_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE_BYTES.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        count_large(size);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// A process at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Holdings {
    descriptors: usize,
    threads: usize,
    children: usize,
    /// Lines of `/proc/self/maps`.
    mappings: usize,
    heap_bytes: i64,
    resident_kib: i64,
}

/// Heap that may be in use beyond what was, after pools are gone: a thread's
/// name, a list that has grown.
pub(crate) const NOISE: i64 = 4 << 10;

/// The same while a pool lives on, whose buffers grow to what they once had to
/// hold: less than three bytes for each of a hundred thousand tasks.
pub(crate) const BUFFERS: i64 = 256 << 10;

/// Pieces that the allocator has cut its own mappings into.
const MAPPINGS_MORE: usize = 8;

/// What the allocator keeps of memory that was given back, and pages of the
/// program itself that had not been needed before.
const RESIDENT_KIB_MORE: i64 = 4 << 10;

impl Holdings {
    /// This process's, as a task too.
    pub(crate) fn now() -> Self {
        let count = |path| fs::read_dir(path).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident = resident.split_whitespace().next().unwrap();
        let resident_kib = resident.parse().unwrap();
        drop(status);
        Holdings {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            children: children().len(),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            heap_bytes: LIVE_BYTES.load(Ordering::Relaxed),
            resident_kib,
        }
    }

    /// Once all children have been collected.
    pub(crate) fn alone() -> Self {
        let deadline = Instant::now() + LIMIT;
        while !children().is_empty() {
            assert!(Instant::now() < deadline, "children stay: {:?}", children());
            std::thread::sleep(Duration::from_millis(2));
        }
        Holdings::now()
    }

    pub(crate) fn heap_bytes(&self) -> i64 {
        self.heap_bytes
    }

    pub(crate) fn is_within(&self, before: &Holdings, heap_bytes_more: i64) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.children <= before.children
            && self.mappings <= before.mappings + MAPPINGS_MORE
            && self.heap_bytes <= before.heap_bytes + heap_bytes_more
            && self.resident_kib <= before.resident_kib + RESIDENT_KIB_MORE
    }

    /// Waits until this process holds no more than before: workers of a dropped
    /// pool are collected a moment later.
    #[track_caller]
    pub(crate) fn assert_back(&self, heap_bytes_more: i64) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = Holdings::now();
            if now.is_within(self, heap_bytes_more) {
                return;
            }
            assert!(Instant::now() < deadline, "{now:?}, before: {self:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
