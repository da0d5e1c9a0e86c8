//! Memory in a file without a name (memfd): the status page lies in one, and what
//! is attached to payloads may be one. Called by `page`, by `shared`, and by
//! `descriptor` for what both ends send and receive.
//!
//! Attached memory is sealed against any change, of its bytes and of its length:
//! that is what makes a `&[u8]` of it sound whoever has it too. It has no holes,
//! so that to read it takes no memory that might not be there.

use std::any::Any;
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::attached::{Memory, Shared};
use crate::sys::descriptor::Counted;

/// As it shows in `/proc/…/maps`.
const NAME: &CStr = c"procession-shared";

/// What `stat` counts blocks in.
const BLOCK_BYTES: u64 = 512;

/// Makes an empty file, close-on-exec, that can be sealed.
pub(super) fn create(name: &CStr) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Since Linux 6.3 a memfd should say that nobody means to execute it;
    // some systems refuse those that do not. Older kernels refuse the flag.
    let noexec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let made = match memfd_create(name, flags | noexec) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        made => made,
    };
    Ok(File::from(made?))
}

/// The seals of a file. It fails for all that is no memory.
pub(super) fn seals(file: BorrowedFd<'_>) -> io::Result<SealFlag> {
    Ok(SealFlag::from_bits_retain(fcntl(file, FcntlArg::F_GET_SEALS)?))
}

pub(super) fn seal(file: &File, seals: SealFlag) -> io::Result<()> {
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

fn fixed_length() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// A mapping of a whole file that cannot shrink.
struct View {
    /// Invariant: the start of a mapping of `len` bytes, unmapped by `drop` only.
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and who may write
// there is for its owners to say.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    fn map(
        file: BorrowedFd<'_>,
        len: NonZeroUsize,
        access: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<View> {
        // SAFETY: a new mapping, placed by the kernel. All callers know that the
        // file has this length and cannot shrink.
        let mapped = unsafe { mmap(None, len, access, flags, file, 0) }?;
        Ok(View { start: mapped.cast(), len })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: by the field's invariant this is our mapping, and no borrow of
        // it outlives `self`.
        let unmapped = unsafe { munmap(self.start.cast(), self.len.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Memory that is being filled: nobody else has its file yet.
pub(crate) struct Unsealed {
    /// Its length is sealed.
    file: File,
    view: View,
}

impl Unsealed {
    /// So many bytes, all of them zero. Takes the memory at once: where there is
    /// none left, this fails, and no write.
    pub(crate) fn zeroed(len: NonZeroUsize) -> io::Result<Unsealed> {
        let file = create(NAME)?;
        if len.get() as u64 > memory_bytes()? {
            // To find that out by taking it would end this process, or another.
            return Err(Errno::ENOMEM.into());
        }
        file.set_len(len.get() as u64)?;
        seal(&file, fixed_length())?;
        for start in (0..len.get()).step_by(TAKEN_AT_ONCE) {
            take_memory(&file, start, TAKEN_AT_ONCE.min(len.get() - start))?;
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let view = View::map(file.as_fd(), len, access, MapFlags::MAP_SHARED)?;
        // In a copy of this process it would keep the file from being sealed.
        // SAFETY: takes nothing away from this process.
        unsafe { madvise(view.start.cast(), len.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(Unsealed { file, view })
    }

    /// Ends all writing, for good and for everybody.
    pub(crate) fn seal(self) -> io::Result<Shared> {
        let Unsealed { file, view } = self;
        let len = view.len;
        // While it can be written to by way of a mapping, the kernel refuses.
        drop(view);
        seal_for_good(file, len)
    }
}

/// A copy of bytes. Written to the file, and not to a mapping of it: that would
/// take a page fault for every 4 KiB, and twice as long.
pub(crate) fn copy_of(bytes: &[u8]) -> io::Result<Shared> {
    let len = NonZeroUsize::new(bytes.len()).ok_or(Errno::EINVAL)?;
    let mut file = create(NAME)?;
    file.write_all(bytes)?;
    seal_for_good(file, len)
}

fn seal_for_good(file: File, len: NonZeroUsize) -> io::Result<Shared> {
    seal(&file, fixed_length() | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)?;
    let sealed = Sealed::new(file, len, None);
    sealed.open()?;
    Ok(Shared::new(sealed))
}

impl Deref for Unsealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: by the view's invariant. Only this process has the file, and
        // only `self` has the mapping.
        unsafe { std::slice::from_raw_parts(self.view.start.as_ptr(), self.view.len.get()) }
    }
}

impl DerefMut for Unsealed {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for as long as this lives.
        unsafe { std::slice::from_raw_parts_mut(self.view.start.as_ptr(), self.view.len.get()) }
    }
}

/// A call that takes more would begin anew with every signal that is handled
/// meanwhile, and might never end.
const TAKEN_AT_ONCE: usize = 4 << 20;

fn take_memory(file: &File, start: usize, len: usize) -> io::Result<()> {
    loop {
        let (start, len) = (start as libc::off_t, len as libc::off_t);
        match fallocate(file, FallocateFlags::empty(), start, len) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// All there is in this machine, disks that memory is moved to included.
fn memory_bytes() -> io::Result<u64> {
    // SAFETY: zeroes are a valid sysinfo for the kernel to overwrite.
    let mut info: libc::sysinfo = unsafe { mem::zeroed() };
    // SAFETY: `info` is ours to write.
    Errno::result(unsafe { libc::sysinfo(&mut info) })?;
    Ok((info.totalram + info.totalswap).saturating_mul(info.mem_unit.into()))
}

/// Memory that nobody can change any more.
struct Sealed {
    file: OwnedFd,
    len: NonZeroUsize,
    view: OnceLock<View>,
    /// Until it is opened.
    counted: Mutex<Option<Counted>>,
}

impl Sealed {
    fn new(file: File, len: NonZeroUsize, counted: Option<Counted>) -> Sealed {
        Sealed { file: file.into(), len, view: OnceLock::new(), counted: Mutex::new(counted) }
    }

    /// Looks at what somebody has sent. `None` if it is anything else.
    fn of(file: &File) -> Option<NonZeroUsize> {
        // First of all: of what is no memory the kernel says so at once, where
        // any other question may be one to a file system that does not answer.
        let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
        let sealed = seals(file.as_fd()).is_ok_and(|seals| seals.contains(needed));
        // Huge pages have lengths of their own, and may be missing.
        if !sealed || fstatfs(file).ok()?.filesystem_type() != TMPFS_MAGIC {
            return None;
        }
        let stat = file.metadata().ok()?;
        // To read where there is a hole takes memory, and there may be none.
        if stat.blocks().saturating_mul(BLOCK_BYTES) < stat.len() {
            return None;
        }
        let len = NonZeroUsize::new(usize::try_from(stat.len()).ok()?)?;
        (len.get() <= isize::MAX as usize).then_some(len)
    }
}

impl Memory for Sealed {
    fn len(&self) -> usize {
        self.len.get()
    }

    fn open(&self) -> io::Result<()> {
        if self.view.get().is_none() {
            // Private, though nothing is ever written: before Linux 6.7 a sealed
            // file cannot be mapped in another way.
            let flags = MapFlags::MAP_PRIVATE;
            let view = View::map(self.file.as_fd(), self.len, ProtFlags::PROT_READ, flags)?;
            // Another thread may have been faster; then its view is as good.
            let _ = self.view.set(view);
            self.counted.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: by the view's invariant. The file is sealed, so that neither
        // its bytes nor its length change, and the mapping is only read.
        self.view.get().map_or(&[], |view| unsafe {
            std::slice::from_raw_parts(view.start.as_ptr(), view.len.get())
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("len", &self.len).finish_non_exhaustive()
    }
}

pub(super) fn descriptor(memory: &Shared) -> BorrowedFd<'_> {
    let sealed = memory.memory().downcast_ref::<Sealed>();
    sealed.expect("there is no other memory").file.as_fd()
}

/// Takes what somebody has sent, unless it is anything but memory which nobody can
/// change: then it is returned.
pub(super) fn of(
    fd: OwnedFd,
    counted: Option<Counted>,
) -> Result<Shared, (OwnedFd, Option<Counted>)> {
    let file = File::from(fd);
    match Sealed::of(&file) {
        Some(len) => Ok(Shared::new(Sealed::new(file, len, counted))),
        None => Err((file.into(), counted)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::attached::Attached;
    use crate::sys::descriptor::{receive, send};
    use crate::sys::fd::{self, Received};

    fn sealed(text: &[u8]) -> Shared {
        let mut unsealed = Unsealed::zeroed(NonZeroUsize::new(text.len()).unwrap()).unwrap();
        unsealed.copy_from_slice(text);
        unsealed.seal().unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn memory_is_sent_and_received() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let slices = [IoSlice::new(b"see "), IoSlice::new(b"this")];
        let attached = [b"one".as_slice(), b"another"].map(|text| Attached::Memory(sealed(text)));
        send(ours.as_fd(), &slices, &attached, 0..2).unwrap();
        let mut buffer = bytes::BytesMut::with_capacity(100);
        let received = fd::receive_into(theirs.as_fd(), &mut buffer, usize::MAX).unwrap();
        let Received { len, fds, cut_short } = received;
        assert_eq!((len, &buffer[..], cut_short), (8, &b"see this"[..], false));
        let came: Vec<_> = receive(fds, None).0.iter().map(|came| came.to_memory()).collect();
        let [Some(one), Some(another)] = &came[..] else { panic!("refused") };
        assert_eq!((one.len(), one.bytes()), (3, &b""[..]));
        one.open().unwrap();
        one.open().unwrap();
        another.open().unwrap();
        assert_eq!((one.bytes(), another.bytes()), (&b"one"[..], &b"another"[..]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn a_copy_of_this_process_does_not_keep_memory_from_being_sealed() {
        let unsealed = Unsealed::zeroed(NonZeroUsize::MIN).unwrap();
        // SAFETY: the child only waits for its end.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => loop {
                // SAFETY: as above.
                unsafe { libc::pause() };
            },
            nix::unistd::ForkResult::Parent { child } => {
                let sealed = unsealed.seal();
                nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
                nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(sealed.unwrap().bytes(), [0]);
            }
        }
    }
}
