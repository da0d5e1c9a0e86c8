//! Puts a sandbox in force in this process, for good. Called by a worker before
//! its first task, after its initializer. What is to be refused is said by
//! `crate::sandbox`, which system calls computing takes by `sys::syscalls`.
//!
//! Landlock and capabilities are each thread's own: see `sys::threads`. A filter
//! of system calls can be put on all of them by the kernel.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use nix::libc;
use nix::sys::stat::{SFlag, fstat};

use crate::sandbox::{LANDLOCK_WANTED, Sandbox, SandboxReport};
use crate::sys::syscalls;
use crate::sys::threads::{no_new_privs, number, on_every_thread};

/// The ruleset that each thread is to be under; -1: none.
static RULESET: AtomicI32 = AtomicI32::new(-1);

/// What it handles: files, network, scopes. As in `landlock_ruleset_attr`.
static HANDLED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Puts the sandbox in force, as far as this system can.
///
/// # Errors
///
/// If that is not all of it and the sandbox is not one of best effort; or if a
/// path is not there. Part of it may be in force then.
pub(crate) fn enter(sandbox: &Sandbox) -> io::Result<SandboxReport> {
    let landlock = landlock_version();
    // Before anything is refused: a worker that says why it does not start is to
    // be able to.
    let problem = |what: String| io::Error::new(io::ErrorKind::Unsupported, what);
    if landlock < LANDLOCK_WANTED && !sandbox.best_effort {
        return Err(problem(match landlock {
            0 => "this kernel has no Landlock, or it is switched off".to_owned(),
            _ => format!("this kernel's Landlock is version {landlock}, not {LANDLOCK_WANTED}"),
        }));
    }
    let ruleset = match landlock {
        0 => None,
        _ => rules(sandbox, abi(landlock)).map_err(io::Error::other)?,
    };
    RULESET.store(ruleset.as_ref().map_or(-1, |fd| fd.as_raw_fd()), Ordering::Release);
    on_every_thread(confine)?;
    drop(ruleset);
    let filter = match (sandbox.filtered, sandbox.network) {
        (true, _) => Some(syscalls::filter(sandbox)),
        (false, false) => Some(syscalls::filter_network()),
        (false, true) => None,
    };
    let filtered = match filter {
        None => false,
        Some(Ok(())) => true,
        Some(Err(_)) if sandbox.best_effort => false,
        Some(Err(error)) => return Err(problem(format!("system calls not filtered: {error}"))),
    };
    Ok(SandboxReport::new(sandbox, landlock, filtered))
}

/// The version of Landlock's interface; 0 if there is none.
fn landlock_version() -> u8 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes no memory of ours.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<libc::c_void>(), 0, VERSION)
    };
    version.clamp(0, u8::MAX.into()) as u8
}

/// What of it we know, and have tested.
fn abi(version: u8) -> ABI {
    match version {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        _ => ABI::V6,
    }
}

fn rules(sandbox: &Sandbox, abi: ABI) -> Result<Option<OwnedFd>, String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    let files = AccessFs::from_all(abi);
    let network = if sandbox.network { BitFlags::EMPTY } else { AccessNet::from_all(abi) };
    let scopes = Scope::from_all(abi);
    for (handled, bits) in HANDLED.iter().zip([files.bits(), network.bits(), scopes.bits()]) {
        handled.store(bits, Ordering::Relaxed);
    }
    let handled = || {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(files)?;
        if !network.is_empty() {
            ruleset = ruleset.handle_access(network)?;
        }
        if !scopes.is_empty() {
            ruleset = ruleset.scope(scopes)?;
        }
        ruleset.create()
    };
    let mut ruleset = handled().map_err(|error| said(&error))?;
    for path in &sandbox.readable {
        ruleset = allow(ruleset, path, AccessFs::from_read(abi), abi)?;
    }
    for path in &sandbox.writable {
        ruleset = allow(ruleset, path, AccessFs::from_all(abi), abi)?;
    }
    Ok(ruleset.into())
}

fn allow(
    ruleset: RulesetCreated,
    path: &OsString,
    access: BitFlags<AccessFs>,
    abi: ABI,
) -> Result<RulesetCreated, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", Path::new(path).display());
    let fd = PathFd::new(path).map_err(|error| failed(&error))?;
    let kind = SFlag::from_bits_truncate(fstat(&fd).map_err(|error| failed(&error))?.st_mode);
    // What is for folders means nothing, and is refused, for a file.
    let is_folder = kind & SFlag::S_IFMT == SFlag::S_IFDIR;
    let access = if is_folder { access } else { access & AccessFs::from_file(abi) };
    ruleset.add_rule(PathBeneath::new(fd, access)).map_err(|error| failed(&error))
}

/// What each thread does. Runs in a signal handler.
fn confine() -> i32 {
    let mut failed = no_new_privs();
    if failed == 0 {
        failed = drop_capabilities();
    }
    let ruleset = RULESET.load(Ordering::Acquire);
    if failed == 0 && ruleset != -1 {
        failed = restrict(ruleset);
        // A thread with a table of descriptors of its own, such as the lifeline,
        // does not have it. It gets one without any rules, as it is ours.
        if failed == libc::EBADF || failed == libc::EBADFD {
            failed = restrict_wholly();
        }
    }
    failed
}

fn restrict(ruleset: i32) -> i32 {
    // SAFETY: takes integers and touches no memory of ours.
    number(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) })
}

fn restrict_wholly() -> i32 {
    let handled = [0, 1, 2].map(|part: usize| HANDLED[part].load(Ordering::Relaxed));
    // SAFETY: the kernel reads as much as we say. What it does not know is zero.
    let ruleset = unsafe {
        let len = size_of_val(&handled);
        libc::syscall(libc::SYS_landlock_create_ruleset, handled.as_ptr(), len, 0)
    };
    if ruleset == -1 {
        return number(ruleset);
    }
    let failed = restrict(ruleset as i32);
    // SAFETY: nobody else has seen it.
    unsafe { libc::close(ruleset as i32) };
    failed
}

/// Whatever this user may do that others may not, root too.
fn drop_capabilities() -> i32 {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3` of capset(2), which takes two of the sets.
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [[0_u32; 3]; 2];
    // SAFETY: both are as capset(2) wants them, and the kernel only reads them.
    number(unsafe { libc::syscall(libc::SYS_capset, &header, none.as_ptr()) })
}
