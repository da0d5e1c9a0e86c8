//! What is said between a process and its fork server, as values and as bytes: orders,
//! and an answer to each. Both are one program, and neither has any reason to lie; still
//! nothing that is read here is worth a panic.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::proto::budget::DecodeFailure;
use crate::proto::codec;
use crate::proto::encode::EncodeFailure;
use crate::start::identity::Birth;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Call this function with these arguments, before the first fork.
    Preload {
        function: u64,
        args: Vec<u8>,
    },
    Fork(Box<Fork>),
}

/// A worker to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Fork {
    pub(crate) birth: Birth,
    pub(crate) once: bool,
    pub(crate) independent: bool,
    /// The group to be in; 0 for one of its own.
    pub(crate) group: i32,
    /// All variables that it is to have, as the system keeps them: `KEY=value`, and a zero
    /// behind each.
    pub(crate) env: Vec<u8>,
    pub(crate) current_dir: Option<Vec<u8>>,
    /// For which of input, output and error there is a descriptor.
    pub(crate) streams: [bool; 3],
}

/// The descriptors that each fork comes with, before those of its streams.
pub(crate) const FIXED_FDS: usize = 4;
pub(crate) const FDS_MAX: usize = FIXED_FDS + 3;

/// A pid, or why there is none. Of a preload: zero.
pub(crate) type Answer = Result<i32, String>;

/// Once it is there, a worker writes its pid to its own socket, before it does anything
/// that takes time. So it is known even if the server was killed before it could answer.
pub(crate) const ANNOUNCEMENT_BYTES: usize = size_of::<i32>();

/// What an announcement says; `None` if it is no pid: other numbers mean groups, or
/// everybody, to those who send signals.
pub(crate) fn announced(bytes: [u8; ANNOUNCEMENT_BYTES]) -> Option<i32> {
    Some(i32::from_le_bytes(bytes)).filter(|pid| *pid > 0)
}

/// How long what follows is, in so many bytes.
pub(crate) const LENGTH_BYTES: usize = size_of::<u32>();

/// An order or an answer, behind its length.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeFailure> {
    let mut bytes = vec![0; LENGTH_BYTES];
    codec::encode_into(message, &mut bytes, u32::MAX as usize)?;
    let len = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&len.to_le_bytes());
    Ok(bytes)
}

/// What came behind its length.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeFailure> {
    codec::decode(bytes)
}
