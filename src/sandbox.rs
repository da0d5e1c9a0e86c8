//! What a pool refuses its workers, as a plain value, and what came of it. The
//! pool's builder makes the first, `sys/sandbox.rs` puts it in force, and
//! `Pool::workers` shows the second.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// What workers are kept from, beside what the system refuses them already. See
/// [`PoolBuilder::sandbox`](crate::PoolBuilder::sandbox).
///
/// A worker's rights are those of its user, which are those of this process: it
/// may read this process's memory and environment, signal it, and write its
/// files. In a sandbox it may not, nor do so to any other process. It has no
/// privileges either, whoever its user is.
///
/// # Which one?
///
/// | | |
/// |---|---|
/// | [`computing()`](Self::computing) | threads, memory, clocks, what it was given already; and nothing else |
/// | … [`read(path)`](Self::read), [`write(path)`](Self::write) | and these files |
/// | … [`network()`](Self::network) | and TCP, UDP |
/// | … [`any_syscall()`](Self::any_syscall) | and whatever Landlock does not know, such as other programs |
///
/// # Examples
///
/// ```no_run
/// # use procession::{Pool, Sandbox};
/// # async fn example() -> Result<(), procession::SpawnError> {
/// let pool = Pool::builder()
///     .sandbox(Sandbox::computing().read("/usr/share/fonts"))
///     .untrusted()
///     .env_clear()
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # Platform
///
/// Files, signals and other processes are Landlock's: Linux 5.13 refuses some of
/// that, 6.12 all of it. System calls are seccomp's, which every kernel has, and
/// which containers may have switched off. What is missing breaks the pool,
/// unless it is made [`best_effort`](Self::best_effort).
#[must_use = "a sandbox does nothing until a pool has it"]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    pub(crate) readable: Vec<OsString>,
    pub(crate) writable: Vec<OsString>,
    pub(crate) network: bool,
    /// Whether system calls are filtered.
    pub(crate) filtered: bool,
    /// Whether to go on with less than all of it.
    pub(crate) best_effort: bool,
}

impl Sandbox {
    /// For pure computing: no file, no network, no other process or program, no
    /// signal. What stays is memory, threads, clocks, random numbers, and what
    /// the worker had already: its connection to the pool, its standard output,
    /// whatever its initializer has opened. Async tasks have timers and channels.
    ///
    /// What is refused fails with `PermissionDenied`, as far as the system's
    /// interface has errors; nobody is killed for it.
    pub fn computing() -> Self {
        Sandbox {
            readable: Vec::new(),
            writable: Vec::new(),
            network: false,
            filtered: true,
            best_effort: false,
        }
    }

    /// Allows reading this file, or what is below this folder. It must be there
    /// when a worker starts. Where [any system call](Self::any_syscall) is
    /// allowed, programs there can be run.
    pub fn read(mut self, path: impl Into<OsString>) -> Self {
        self.readable.push(path.into());
        self
    }

    /// Allows reading and writing this file; or reading, writing, making and
    /// removing files and folders below this folder. It must be there when a
    /// worker starts.
    ///
    /// With it a worker may also change the mode of whatever file it can open, what
    /// it may only [`read`](Self::read) among them, as far as its user may.
    ///
    /// Never `/` or `/proc` for a worker that may be taken over: some files there
    /// belong to other processes and are no part of their memory, such as
    /// `/proc/PID/oom_score_adj`, with which it can make this process the first to be
    /// killed when memory is short. Reading them shows it other processes' command
    /// lines.
    pub fn write(mut self, path: impl Into<OsString>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Allows TCP and UDP, to and from anywhere. Looking up names takes files
    /// too: `/etc`, and the libraries that it is done with.
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }

    /// Filters no system calls: what is left is Landlock. That does not keep a
    /// worker from looking which files there are, nor from changing their mode,
    /// owner, times and extended attributes as far as its user may.
    ///
    /// Without [`network`](Self::network) a filter of two calls stays, as Landlock
    /// knows no more of it than plain TCP: sockets can be made only of the Unix
    /// family, which reach those that have a path; `io_uring` is refused, by which
    /// others could be made. Programs of another architecture, such as those of 32
    /// bits, are killed by it.
    pub fn any_syscall(mut self) -> Self {
        self.filtered = false;
        self
    }

    /// Goes on with what this system has, down to nothing. What is in force is
    /// in [`WorkerInfo::sandbox`](crate::WorkerInfo::sandbox). Without this, a
    /// worker that cannot have all of it does not start.
    ///
    /// Without Landlock, a worker that may open files, or make
    /// [any system call](Self::any_syscall), has the files and processes of its user.
    /// What else is refused it can then have another process do: count on nothing
    /// where [`processes`](SandboxReport::processes) is not fully held.
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    /// Whether tasks have any use for files.
    pub(crate) fn has_files(&self) -> bool {
        !self.readable.is_empty() || !self.writable.is_empty()
    }
}

/// How much of a measure is in force.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub enum Held {
    /// All of it.
    Fully,
    /// Some of it: this kernel is too old for the rest.
    Partly,
    /// None: this system cannot.
    Not,
    /// It was not asked for.
    Unwanted,
}

/// What is in force of a worker's [`Sandbox`], as the worker said before it was
/// given its first task.
///
/// Each line is of what the worker can do itself, and those that it starts. Where
/// `processes` or `files` is not fully held, a worker that was taken over can make
/// other processes of its user do the rest for it, this one among them.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct SandboxReport {
    /// The version of Landlock's interface that this kernel has; 0 if none.
    pub landlock: u8,
    /// Files are refused. Partly: those that are open can be truncated (before
    /// version 3), and devices configured (before version 5).
    pub files: Held,
    /// The network is refused. Partly: only plain TCP, neither MPTCP nor a
    /// connection by TCP fast open, and nothing else.
    pub network: Held,
    /// The memory, environment and descriptors of other processes are refused. Not
    /// the rest of `/proc`, if that is below a path that is allowed.
    pub processes: Held,
    /// Signals to other processes, and abstract Unix sockets, are refused.
    pub signals: Held,
    /// System calls are filtered, and not those of the network alone.
    pub syscalls: Held,
}

/// The first version of Landlock that has all that we ask for.
pub(crate) const LANDLOCK_WANTED: u8 = 6;

/// A report as one number, for the status page: 0 is none.
const PRESENT: u64 = 1 << 16;
const FILTERED: u64 = 1 << 8;

impl SandboxReport {
    /// Whether everything is in force that was asked for.
    pub fn is_complete(&self) -> bool {
        let SandboxReport { landlock: _, files, network, processes, signals, syscalls } = *self;
        [files, network, processes, signals, syscalls]
            .iter()
            .all(|held| matches!(held, Held::Fully | Held::Unwanted))
    }

    /// What it comes to to have Landlock in this version, and the filter or not.
    pub(crate) fn new(sandbox: &Sandbox, landlock: u8, has_filter: bool) -> Self {
        // Where any system call is allowed, the filter is one of the network alone.
        let is_filtered = has_filter && sandbox.filtered;
        let from = |fully: u8, partly: u8| match landlock {
            version if version >= fully => Held::Fully,
            version if version >= partly => Held::Partly,
            _ => Held::Not,
        };
        SandboxReport {
            landlock,
            // Without any that is allowed, none can be opened.
            files: if is_filtered && !sandbox.has_files() { Held::Fully } else { from(5, 1) },
            network: match sandbox.network {
                true => Held::Unwanted,
                false if has_filter => Held::Fully,
                false if landlock >= 4 => Held::Partly,
                false => Held::Not,
            },
            // Without files there is no way to those in /proc.
            processes: if is_filtered && !sandbox.has_files() { Held::Fully } else { from(1, 1) },
            signals: if is_filtered { Held::Fully } else { from(6, 6) },
            syscalls: match (sandbox.filtered, is_filtered) {
                (false, _) => Held::Unwanted,
                (true, true) => Held::Fully,
                (true, false) => Held::Not,
            },
        }
    }

    /// As a number, for the status page.
    pub(crate) fn to_bits(self) -> u64 {
        // Without a filter, not even one of the network alone, that is not all.
        let has_filter = self.syscalls == Held::Fully || self.network == Held::Fully;
        let filtered = if has_filter { FILTERED } else { 0 };
        PRESENT | filtered | u64::from(self.landlock)
    }

    /// From that number; `None` for a worker that has said nothing.
    pub(crate) fn from_bits(sandbox: &Sandbox, bits: u64) -> Option<Self> {
        (bits & PRESENT != 0).then(|| Self::new(sandbox, bits as u8, bits & FILTERED != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_page() {
        for sandbox in [
            Sandbox::computing(),
            Sandbox::computing().read("/"),
            Sandbox::computing().network(),
            Sandbox::computing().any_syscall(),
            Sandbox::computing().network().any_syscall(),
        ] {
            for landlock in 0..=9 {
                for filtered in [false, sandbox.filtered || !sandbox.network] {
                    let report = SandboxReport::new(&sandbox, landlock, filtered);
                    let bits = report.to_bits();
                    assert_eq!(SandboxReport::from_bits(&sandbox, bits), Some(report));
                }
            }
            assert_eq!(SandboxReport::from_bits(&sandbox, 0), None);
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let files = Sandbox::computing().read("/");
        let complete = |sandbox: &Sandbox, landlock, filtered| {
            SandboxReport::new(sandbox, landlock, filtered).is_complete()
        };
        assert!(complete(&files, 6, true) && !complete(&files, 6, false));
        assert!(!complete(&files, 4, true) && !complete(&files, 0, true));
        let report = SandboxReport::new(&files, 0, true);
        assert_eq!((report.files, report.processes), (Held::Not, Held::Not));
        let report = SandboxReport::new(&Sandbox::computing(), 0, true);
        assert_eq!((report.files, report.processes), (Held::Fully, Held::Fully));
        let report = SandboxReport::new(&files, 2, false);
        assert_eq!((report.files, report.network), (Held::Partly, Held::Not));
        assert_eq!((report.signals, report.syscalls), (Held::Not, Held::Not));
    }
}
