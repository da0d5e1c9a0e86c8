//! What a parent leaves in the socket for a worker to find: eight bytes and
//! its descriptors. Written by `spawn`, read by `boot`. Not part of the
//! protocol of frames, which begins after it.
//!
//! ```text
//!  "process"  flags        with  status page
//!   7 bytes   1 byte             pidfd of the warden's thread
//!                                the worker's end of the leash
//!                                standard output, if flags & 1
//! ```

/// Marks a worker in its `argv[0]`, as in `thumbs: procession worker eu/3`.
/// Counts only together with a socket at descriptor 0.
pub(crate) const ARG0_MARK: &str = ": procession worker ";

pub(crate) const MESSAGE_BYTES: usize = 8;
pub(crate) const FDS_MAX: usize = 4;

const MAGIC: &[u8; 7] = b"process";
const HAS_STDOUT: u8 = 1;

pub(crate) fn encode(has_stdout: bool) -> [u8; MESSAGE_BYTES] {
    let mut message = [0; MESSAGE_BYTES];
    message[..MAGIC.len()].copy_from_slice(MAGIC);
    message[MAGIC.len()] = if has_stdout { HAS_STDOUT } else { 0 };
    message
}

/// Whether a descriptor for the standard output follows the others.
/// `None` if this is not a boot message.
pub(crate) fn decode(message: &[u8]) -> Option<bool> {
    match message.strip_prefix(MAGIC)? {
        [0] => Some(false),
        [HAS_STDOUT] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode(&encode(true)), Some(true));
        assert_eq!(decode(&encode(false)), Some(false));
    }

    #[test]
    fn anything_else_is_refused() {
        for other in [&b""[..], b"process", b"process\x02", b"process\0\0", b"Process\0"] {
            assert_eq!(decode(other), None);
        }
    }
}
