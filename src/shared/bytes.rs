//! `SharedBytes` and `SharedBytesMut`: the public side of attached memory.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::attached::Shared;
use crate::limits::DECODE_HINT_ELEMENTS_MAX;
use crate::sys::memfd::{self, Unsealed};

/// Bytes that are passed to a worker, and back, without being copied: what is sent
/// is a descriptor of the memory they lie in.
///
/// As an argument, a result, an item, or in a field of any of them. Both processes
/// map the same memory; nobody can change it any more, not even a worker that was
/// taken over. Cloning it, and sending it to any number of workers, costs no
/// memory. It is made from a [`SharedBytesMut`], or by
/// [`copy_from_slice`](Self::copy_from_slice), and lives until its last clone in
/// any process is dropped.
///
/// Each takes a descriptor and a mapping for as long as it lives, at both ends. A
/// program may have 1024 descriptors unless told otherwise (`ulimit -n`). An answer
/// whose descriptors are one too many for the caller's process is a
/// [`TaskError::Decode`](crate::TaskError::Decode). For many short byte strings, and
/// for those that are made anew for each call and looked at once, take
/// [`bytes::Bytes`]: fresh memory costs more than the way through a socket, whose
/// buffers are used again.
///
/// Arguments, and results, may hold 1024 that are not clones of each other, less the
/// [`Fd`](crate::Fd)s in them. What they
/// hold counts towards the pool's [`frame_limit`](crate::PoolBuilder::frame_limit)
/// as if it were sent, but clones count once. A call with such arguments is not
/// sent to a worker before that has answered for all it had.
///
/// In a format other than a pool's it is a byte string like any other.
///
/// # Examples
///
/// ```standalone_crate
/// use procession::{Pool, SharedBytes, SharedBytesMut};
///
/// fn sum(bytes: SharedBytes, part: usize) -> u64 {
///     bytes.chunks(1 << 20).nth(part).unwrap().iter().map(|byte| u64::from(*byte)).sum()
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     procession::init();
///     let mut image = SharedBytesMut::zeroed(4 << 20)?;
///     image[1 << 20..].fill(1);
///     let image = image.freeze()?;
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let pool = Pool::builder().workers(2).build()?;
///         let sums = pool.map(sum, (0..4).map(move |part| (image.clone(), part))).await?;
///         assert_eq!(sums, [0, 1 << 20, 1 << 20, 1 << 20]);
///         Ok(())
///     })
/// }
/// ```
#[derive(Clone)]
pub struct SharedBytes(Shared);

impl SharedBytes {
    /// Copies bytes into memory of their own. Takes half as long as to fill a
    /// [`SharedBytesMut`] with them.
    ///
    /// # Errors
    ///
    /// Those of [`SharedBytesMut::zeroed`].
    pub fn copy_from_slice(bytes: &[u8]) -> io::Result<Self> {
        match bytes {
            [] => Ok(SharedBytes::default()),
            bytes => memfd::copy_of(bytes).map(SharedBytes),
        }
    }

    /// The same memory as a [`Bytes`], which does not copy it either. To a worker
    /// that one goes through the socket.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// No bytes at all. These take no descriptor.
impl Default for SharedBytes {
    fn default() -> Self {
        SharedBytes(Shared::empty())
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0) || self[..] == other[..]
    }
}

impl Eq for SharedBytes {}

impl From<SharedBytes> for Bytes {
    fn from(shared: SharedBytes) -> Self {
        shared.into_bytes()
    }
}

/// Without the bytes, which may be many.
impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("len", &self.len()).finish_non_exhaustive()
    }
}

const NAME: &str = "SharedBytes";

impl Serialize for SharedBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(NAME, &self.0)
    }
}

impl<'de> Deserialize<'de> for SharedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Newtype;

        impl<'de> Visitor<'de> for Newtype {
            type Value = SharedBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<SharedBytes, D::Error> {
                // A pool's decoder knows by the type what is wanted.
                deserializer.deserialize_byte_buf(Copying).map(SharedBytes)
            }
        }

        deserializer.deserialize_newtype_struct(NAME, Newtype)
    }
}

/// Copies bytes of another format.
struct Copying;

impl<'de> Visitor<'de> for Copying {
    type Value = Shared;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Shared, E> {
        let shared = SharedBytes::copy_from_slice(bytes);
        shared.map(|shared| shared.0).map_err(|error| {
            E::custom(format_args!("no memory for {} shared bytes: {error}", bytes.len()))
        })
    }

    /// Formats without byte strings have lists of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shared, A::Error> {
        let hint = seq.size_hint().unwrap_or(0).min(DECODE_HINT_ELEMENTS_MAX);
        let mut bytes = Vec::with_capacity(hint);
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        self.visit_bytes(&bytes)
    }
}

/// Memory for [`SharedBytes`] that is yet to be filled.
///
/// It is a `&mut [u8]` of a fixed length, which only this process can see until it
/// is [frozen](Self::freeze).
pub struct SharedBytesMut(Option<Unsealed>);

impl SharedBytesMut {
    /// So many bytes, all of them zero.
    ///
    /// The memory is taken now, not as it is written to, and does not count as the
    /// heap's.
    ///
    /// # Errors
    ///
    /// If there is not so much memory, or no descriptor left.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Ok(SharedBytesMut(NonZeroUsize::new(len).map(Unsealed::zeroed).transpose()?))
    }

    /// Ends all writing, for good.
    ///
    /// # Errors
    ///
    /// If the kernel cannot map the memory again, or something outside of this
    /// process's control still writes to it, such as a read from a disk that is
    /// under way.
    pub fn freeze(self) -> io::Result<SharedBytes> {
        match self.0 {
            Some(unsealed) => unsealed.seal().map(SharedBytes),
            None => Ok(SharedBytes::default()),
        }
    }
}

impl Deref for SharedBytesMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for SharedBytesMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl AsRef<[u8]> for SharedBytesMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for SharedBytesMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Without the bytes, which may be many.
impl fmt::Debug for SharedBytesMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytesMut").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn what_was_written_is_there_once_it_is_frozen() {
        for len in [0, 1, 4095, 4096, 4097, 10 << 20] {
            let mut bytes = SharedBytesMut::zeroed(len).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0));
            let expected: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            bytes.copy_from_slice(&expected);
            let frozen = bytes.freeze().unwrap();
            assert_eq!(frozen, frozen.clone());
            assert!(frozen[..] == expected[..]);
            assert_eq!(frozen.clone().into_bytes(), expected);
            assert_eq!(SharedBytes::copy_from_slice(&expected).unwrap(), frozen);
            assert!(format!("{frozen:?}").starts_with(&format!("SharedBytes {{ len: {len}")));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn more_than_there_can_be_is_an_error() {
        for len in [1 << 46, isize::MAX as usize, usize::MAX] {
            assert!(SharedBytesMut::zeroed(len).is_err());
        }
    }
}
