//! What a call that waits holds in the parent.

use std::ffi::CStr;
use std::time::Duration;

use nix::libc;
use procession::Pool;

use crate::counting::{descriptors, heap_bytes};
use crate::support::checked_current_thread;

/// Bytes on the heap for each, its handle and what the table of tasks has in
/// reserve included.
const QUEUED_BYTES_MAX: i64 = 240;

/// glibc maps another for each thread that allocates, of 64 MiB of addresses.
#[test]
fn a_worker_has_no_heap_but_that_of_its_tasks() {
    fn heaps() -> usize {
        let (mut text, mut len) = (std::ptr::null_mut(), 0);
        // SAFETY: the stream writes to a buffer of its own, which is read once it is closed,
        // and freed.
        unsafe {
            let stream = libc::open_memstream(&mut text, &mut len);
            assert!(!stream.is_null() && libc::malloc_info(0, stream) == 0);
            libc::fclose(stream);
            let count = CStr::from_ptr(text).to_str().unwrap().matches("<heap nr=").count();
            libc::free(text.cast());
            count
        }
    }
    checked_current_thread(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        // In a test binary: that of its main thread, and that of the test.
        assert_eq!(pool.apply(heaps, ()).await.unwrap(), 2);
        pool.terminate().await;
    });
}

#[test]
fn a_queued_call() {
    checked_current_thread(async {
        let pool = Pool::builder().workers(1).queue_limit(1 << 20).build().unwrap();
        pool.ready().await.unwrap();
        let busy = pool.apply_async(|| std::thread::sleep(Duration::from_secs(3600)), ());
        // Tables are doubled: with as many as fill one, nothing is in reserve but what is
        // kept for the next calls, and the call before these.
        let calls = (1 << 16) - 1024 - 1;
        let mut handles = Vec::with_capacity(calls);
        let before = (heap_bytes(), descriptors());
        for n in 0..calls as u64 {
            handles.push(pool.apply_async(|n: u64| n, n));
        }
        let handle_bytes = size_of_val(&handles[0]) as i64;
        let each = (heap_bytes() - before.0) / calls as i64 + handle_bytes;
        println!("a queued call: {each} bytes, {handle_bytes} of them its handle");
        assert!(each <= QUEUED_BYTES_MAX, "{each} bytes, {QUEUED_BYTES_MAX} were recorded");
        assert_eq!(descriptors(), before.1);
        drop(handles);
        drop(busy);
        pool.terminate().await;
    });
}
