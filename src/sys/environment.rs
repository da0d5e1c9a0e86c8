//! The environment, exchanged as a whole, and the name in `argv[0]`. Called by a copy
//! of the fork server, which has one thread.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::{env, fs};

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Gives this process these variables and no others: `KEY=value`, with a zero behind each.
pub(crate) fn replace(block: &[u8]) {
    if is_there(block) {
        return;
    }
    let vars = block.split(|byte| *byte == 0).filter_map(|var| {
        // As the standard library has it, a key may begin with one.
        let at = 1 + var.get(1..)?.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&var[..at]), OsStr::from_bytes(&var[at + 1..])))
    });
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

/// Whether it has just these, in this order: as a rule, unless something was preloaded, and
/// then nothing is copied.
fn is_there(mut block: &[u8]) -> bool {
    // SAFETY: there is no other thread that could change it.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: the list ends with a null, which is not passed.
        let var = unsafe { *next };
        if var.is_null() {
            break;
        }
        // SAFETY: each is a string.
        match block.strip_prefix(unsafe { CStr::from_ptr(var) }.to_bytes_with_nul()) {
            Some(rest) => block = rest,
            None => return false,
        }
        // SAFETY: as above.
        next = unsafe { next.add(1) };
    }
    block.is_empty()
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
