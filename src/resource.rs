//! The resources that a pool can limit in its workers.

use serde::{Deserialize, Serialize};

/// A resource of a worker process that the kernel can limit, see
/// [`PoolBuilder::rlimits`](crate::PoolBuilder::rlimits) and `getrlimit(2)`.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Resource {
    /// `RLIMIT_AS`: bytes of address space. An allocation beyond it fails,
    /// which most Rust programs answer with an abort.
    AddressSpace,
    /// `RLIMIT_CORE`: bytes of a core file; 0 for none. Where `core_pattern` pipes
    /// cores to a program, the kernel leaves it to that, but for a limit of 1, with
    /// which it starts none: see `core(5)`.
    CoreFile,
    /// `RLIMIT_CPU`: seconds of processor time over the worker's life, then
    /// SIGXCPU. Where a task ignores that, SIGKILL one second later.
    CpuTime,
    /// `RLIMIT_DATA`: bytes of heap and other private writable memory, whether it
    /// is used or not. An allocation beyond it fails, as with `AddressSpace`.
    Data,
    /// `RLIMIT_FSIZE`: bytes of any file that is written, then SIGXFSZ.
    FileSize,
    /// `RLIMIT_MEMLOCK`: bytes locked into memory; to lock more fails.
    LockedMemory,
    /// `RLIMIT_NOFILE`: one more than the highest descriptor; to open more fails.
    /// The worker itself has about ten.
    OpenFiles,
    /// `RLIMIT_NPROC`: processes and threads of the user, all programs
    /// together; to start more fails. Does not hold for root.
    Processes,
    /// `RLIMIT_STACK`: bytes of the main thread's stack, for programs that the
    /// worker starts; its own is laid out already.
    Stack,
}
