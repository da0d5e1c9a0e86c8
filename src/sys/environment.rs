//! The environment, exchanged as a whole, and the name in `argv[0]`. Called by a copy
//! of the fork server, which has one thread.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::{env, fs};

/// Gives this process these variables and no others.
pub(crate) fn replace<'a>(vars: impl Iterator<Item = (&'a OsStr, &'a OsStr)> + Clone) {
    let stale: Vec<_> = env::vars_os().collect();
    for (key, value) in vars.clone() {
        if !stale.iter().any(|(known, old)| known == key && old == value) {
            // SAFETY: there is no other thread that could read it.
            unsafe { env::set_var(key, value) };
        }
    }
    for (key, _) in &stale {
        if vars.clone().all(|(kept, _)| kept != key) {
            // SAFETY: as above.
            unsafe { env::remove_var(key) };
        }
    }
}

/// Writes over `argv[0]`, as far as there is room. Nothing, if nobody says where it is.
pub(crate) fn set_arg0(name: &str) {
    let Some(start) = start_of_arguments() else { return };
    let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
    let Some(room) = env::args_os().next().map(|arg0| arg0.as_bytes().len()) else { return };
    let name = &name.as_bytes()[..name.len().min(room)];
    for (at, byte) in name.iter().copied().chain(std::iter::repeat(0)).take(room).enumerate() {
        // SAFETY: the first argument begins there and is so long, as std has just seen;
        // it is this process's own to write to, and nobody else reads it now.
        unsafe { start.add(at).write_volatile(byte) };
    }
}

/// Where the kernel has put them, as it says in the 48th field of proc_pid_stat(5). In a
/// copy of a process that knows it they are at the same place.
pub(crate) fn start_of_arguments() -> Option<usize> {
    static START: OnceLock<Option<usize>> = OnceLock::new();
    *START.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is a name, in parentheses, and may contain anything.
        let behind_name = stat.rsplit(')').next()?;
        let start = behind_name.split_whitespace().nth(48 - 3)?.parse().ok()?;
        (start != 0).then_some(start)
    })
}
