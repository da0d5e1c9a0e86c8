//! Memory that parent and workers look into together, instead of sending what is
//! in it.
//!
//! Which one? To pass many bytes on once, [`bytes::Bytes`] needs nothing else and
//! goes at the speed of a socket. [`SharedBytes`] pays where more tasks than one
//! look at the same bytes, or where they are so many that copying them takes longer
//! than the task: only a descriptor is sent, however long they are.

mod bytes;

pub use self::bytes::{SharedBytes, SharedBytesMut};
