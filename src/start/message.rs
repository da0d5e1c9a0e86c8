//! What a parent leaves in the socket for a worker to find: a few bytes and its
//! descriptors. Written by `spawn`, read by `boot`. Not part of the protocol of
//! frames, which begins after it.
//!
//! ```text
//!  "process"  flags   length  Birth          with  status page
//!   7 bytes   1 byte  u32 le  so many bytes        pidfd of the warden's thread
//!                                                  the worker's end of the leash
//!                                                  standard output, if flags & 1
//!                                                  standard input, if flags & 2
//! ```

use crate::proto::codec;
use crate::start::identity::Birth;

/// Marks a worker in its `argv[0]`, as in `thumbs: procession worker eu/3`.
/// Counts only together with a socket at descriptor 0.
pub(crate) const ARG0_MARK: &str = ": procession worker ";

pub(crate) const HEADER_BYTES: usize = 12;
pub(crate) const FDS_MAX: usize = 5;

const MAGIC: &[u8; 7] = b"process";
const HAS_STDOUT: u8 = 1;
const HAS_STDIN: u8 = 2;
const ONCE: u8 = 4;
const INDEPENDENT: u8 = 8;
const FORK_SERVER: u8 = 16;
const ALL: u8 = HAS_STDOUT | HAS_STDIN | ONCE | INDEPENDENT | FORK_SERVER;

/// What kind of worker it is to be, and which descriptors follow those that
/// each has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) has_stdout: bool,
    pub(crate) has_stdin: bool,
    /// It runs one task, and ends.
    pub(crate) once: bool,
    /// It may outlive its parent.
    pub(crate) independent: bool,
    /// It makes workers, and is none.
    pub(crate) fork_server: bool,
}

pub(crate) fn encode(flags: Flags, birth: &Birth) -> Vec<u8> {
    let Flags { has_stdout, has_stdin, once, independent, fork_server } = flags;
    let bits = [
        (has_stdout, HAS_STDOUT),
        (has_stdin, HAS_STDIN),
        (once, ONCE),
        (independent, INDEPENDENT),
        (fork_server, FORK_SERVER),
    ];
    let bits = bits.into_iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum();
    let mut message = MAGIC.to_vec();
    message.push(bits);
    message.extend([0; 4]);
    codec::encode_into(birth, &mut message, u32::MAX as usize)
        .unwrap_or_else(|failure| unreachable!("plain data encodes: {failure:?}"));
    let len = (message.len() - HEADER_BYTES) as u32;
    message[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
    message
}

/// What the header says, and how many bytes follow. `None` if this is not a boot
/// message.
pub(crate) fn decode_header(header: &[u8]) -> Option<(Flags, usize)> {
    let (bits, len) = header.strip_prefix(MAGIC)?.split_first()?;
    if bits & !ALL != 0 {
        return None;
    }
    let is_set = |bit| bits & bit != 0;
    let flags = Flags {
        has_stdout: is_set(HAS_STDOUT),
        has_stdin: is_set(HAS_STDIN),
        once: is_set(ONCE),
        independent: is_set(INDEPENDENT),
        fork_server: is_set(FORK_SERVER),
    };
    Some((flags, u32::from_le_bytes(len.try_into().ok()?) as usize))
}

pub(crate) fn decode_birth(body: &[u8]) -> Option<Birth> {
    codec::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth() -> Birth {
        Birth {
            name: "Process-2:1".into(),
            path: vec![2, 1],
            parent: "Process-2".into(),
            parent_pid: 4711,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for bits in 0..32 {
            let is_set = |bit| bits & bit != 0;
            let flags = Flags {
                has_stdout: is_set(1),
                has_stdin: is_set(2),
                once: is_set(4),
                independent: is_set(8),
                fork_server: is_set(16),
            };
            let message = encode(flags, &birth());
            let (header, body) = message.split_at(HEADER_BYTES);
            assert_eq!(decode_header(header), Some((flags, body.len())));
            assert_eq!(decode_birth(body), Some(birth()));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for other in [&b""[..], b"process", b"process\x20\0\0\0\0", b"process\0\0", b"Process\0"] {
            assert_eq!(decode_header(other), None);
        }
        assert_eq!(decode_birth(b"\x05ab"), None);
    }
}
