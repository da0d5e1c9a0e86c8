//! What this process holds: descriptors, threads, children, memory. All of it
//! has to be back where it was when the pools are gone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::process;
use std::sync::atomic::{AtomicI64, Ordering};

/// The environment of every worker has this, so that what workers have started
/// is found too, whoever its parent is by now.
pub(crate) const MARK: &str = "PROCESSION_CHAOS";

/// The system's allocator, and how many bytes of it are in use: what is
/// resident tells of the allocator's habits as much as of what we keep.
struct Counting;

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: does what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE_BYTES.fetch_add(size as i64 - layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Children, zombies included.
    pub(crate) children: usize,
    /// Workers and their children, whoever their parent is.
    pub(crate) marked: Vec<String>,
    /// In use, to the byte.
    pub(crate) heap_bytes: i64,
    pub(crate) resident_kib: u64,
}

/// What may be in use at the end of a round beyond what was at the end of the
/// second: the books' own notes of remarkable calls. Nothing grows with the
/// millions of calls of an hour.
const HEAP_BYTES_MORE: i64 = 256 << 10;

/// The same of what is resident once the allocator has given back what it can:
/// pages that hold something of what is in use, or of the program itself; and of what
/// glibc keeps for each thread, up to 448 pieces that may each be on a page of its own:
/// 9 MiB for the five that there are.
const RESIDENT_KIB_MORE: u64 = 16 << 10;

impl Vitals {
    pub(crate) fn now() -> Self {
        let heap_bytes = LIVE_BYTES.load(Ordering::Relaxed);
        Vitals {
            heap_bytes,
            // One is the listing's own.
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) - 1,
            threads: fs::read_dir("/proc/self/task").map_or(0, Iterator::count),
            children: children(),
            marked: marked(),
            resident_kib: resident_kib(),
        }
    }

    /// After the allocator has given back what it can. It keeps twice the
    /// largest piece that it was ever given back, at the end of each of its
    /// arenas, of which there are several for each processor.
    pub(crate) fn trimmed() -> Self {
        #[cfg(target_env = "gnu")]
        // SAFETY: takes a number, and may be called at any time.
        unsafe {
            nix::libc::malloc_trim(0);
        }
        Vitals::now()
    }

    /// Whether no process is left, and no more of anything else than before.
    pub(crate) fn is_within(&self, before: &Vitals) -> bool {
        self.children == 0
            && self.marked.is_empty()
            && self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.heap_bytes <= before.heap_bytes + HEAP_BYTES_MORE
    }

    /// Whether that goes for resident memory, too. Both were trimmed.
    pub(crate) fn is_as_small(&self, before: &Vitals) -> bool {
        self.resident_kib <= before.resident_kib + RESIDENT_KIB_MORE
    }
}

fn children() -> usize {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count()).sum()
}

/// Processes that have our mark in their environment, with what they run.
fn marked() -> Vec<String> {
    let mark = format!("{MARK}={}", process::id());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found = Vec::new();
    for process in processes {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes()) {
            let pid = process.file_name();
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("{} {command}", pid.to_string_lossy()));
        }
    }
    found
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
