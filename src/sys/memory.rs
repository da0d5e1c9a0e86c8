//! How much memory a process holds. Called by the worker between tasks, to
//! retire before it outgrows its limit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::libc;

/// This process's `/proc/self/statm`, kept open: reading it again costs one
/// system call, and works after the worker has lost its view of `/proc`.
#[derive(Debug)]
pub(crate) struct Statm {
    file: File,
    page_bytes: u64,
}

impl Statm {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Statm { file: File::open("/proc/self/statm")?, page_bytes: page_bytes() })
    }

    /// Bytes in memory now, shared pages included.
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        resident_bytes(&self.file, self.page_bytes)
    }
}

/// Bytes that another process has in memory now, shared pages included. `None` if
/// there is none with that number, or it may not be seen.
pub(crate) fn resident_bytes_of(pid: u32) -> Option<u64> {
    let file = File::open(format!("/proc/{pid}/statm")).ok()?;
    // One that is dead and was not collected has no memory.
    resident_bytes(&file, page_bytes()).ok().filter(|&bytes| bytes > 0)
}

fn page_bytes() -> u64 {
    // SAFETY: takes an integer and touches no memory of ours.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

fn resident_bytes(file: &File, page_bytes: u64) -> io::Result<u64> {
    // Seven numbers, each at most twenty digits: one read takes them all.
    let mut text = [0; 192];
    let len = file.read_at(&mut text, 0)?;
    std::str::from_utf8(&text[..len])
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .map(|pages| pages * page_bytes)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::hint;

    use super::*;

    #[test]
    fn touched_memory_is_seen() {
        // More than the tests beside this one have: what they give back is not taken for it.
        const BLOCK_BYTES: usize = 512 << 20;
        let statm = Statm::open().unwrap();
        let resident = || statm.resident_bytes().unwrap() as usize;
        let mut block = hint::black_box(Vec::with_capacity(BLOCK_BYTES));
        assert!(resident() < BLOCK_BYTES, "what is only reserved does not count");
        block.resize(BLOCK_BYTES, 1_u8);
        assert!(resident() >= BLOCK_BYTES);
        drop(hint::black_box(block));
        assert!(resident() < BLOCK_BYTES);
        let ours = resident_bytes_of(std::process::id()).unwrap();
        assert!(ours > 1 << 20 && resident_bytes_of(u32::MAX).is_none(), "{ours}");
    }
}
