//! Counts what a process does and holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::ops::Sub;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::interpose::{Call, made};

struct Counting;

static ALLOCATIONS: AtomicI64 = AtomicI64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: does what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(size as i64 - layout.size() as i64, Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a process has done so far, or did meanwhile.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) sends: i64,
    pub(crate) reads: i64,
    /// Waits for any descriptor of the runtime.
    pub(crate) waits: i64,
    /// Wake-ups of a thread that waits for descriptors.
    pub(crate) wakes: i64,
    pub(crate) allocations: i64,
}

impl Cost {
    pub(crate) fn now() -> Self {
        let made = |call| i64::from(made(call));
        Cost {
            sends: made(Call::SocketSend),
            reads: made(Call::SocketRead),
            waits: made(Call::RuntimeWait),
            wakes: made(Call::Wake),
            allocations: ALLOCATIONS.load(Relaxed),
        }
    }

    /// Fails unless `calls` calls cost at most this many thousandths each.
    #[track_caller]
    pub(crate) fn assert_at_most(&self, who: &str, calls: i64, thousandths: Cost) {
        println!("{who}, {calls} calls: {self:?}");
        let per_mille = |cost: i64| cost * 1000 / calls;
        let each = [
            ("sends", self.sends, thousandths.sends),
            ("reads", self.reads, thousandths.reads),
            ("waits", self.waits, thousandths.waits),
            ("wakes", self.wakes, thousandths.wakes),
            ("allocations", self.allocations, thousandths.allocations),
        ];
        for (what, cost, most) in each {
            let cost = per_mille(cost);
            assert!(cost <= most, "{who}: {cost} {what} for 1000 calls, {most} were recorded");
        }
    }
}

impl Sub for Cost {
    type Output = Cost;

    fn sub(self, before: Cost) -> Cost {
        Cost {
            sends: self.sends - before.sends,
            reads: self.reads - before.reads,
            waits: self.waits - before.waits,
            wakes: self.wakes - before.wakes,
            allocations: self.allocations - before.allocations,
        }
    }
}

/// Bytes on the heap.
pub(crate) fn heap_bytes() -> i64 {
    LIVE_BYTES.load(Relaxed)
}

pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
