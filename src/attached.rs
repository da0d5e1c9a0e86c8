//! What goes beside the bytes of a payload, as a descriptor: memory that stays
//! where it is and that both ends look into. Payloads hold on to it and name it
//! by its place among what is attached to their frame. What it is in truth, only
//! `sys::memfd` knows.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Bytes that nobody can change.
pub(crate) trait Memory:
    Any + fmt::Debug + Send + Sync + UnwindSafe + RefUnwindSafe
{
    fn len(&self) -> usize;

    /// Makes them visible in this process, once and for all.
    fn open(&self) -> io::Result<()>;

    /// The bytes, once it is open; before that, none.
    fn bytes(&self) -> &[u8];

    fn as_any(&self) -> &dyn Any;
}

/// Memory that can go beside a payload. Clones are the same memory.
///
/// The encoder and the decoder know this type. In any other format it is its
/// bytes.
#[derive(Clone, Debug)]
pub(crate) struct Attached(Arc<dyn Memory>);

impl Attached {
    pub(crate) fn new(memory: impl Memory) -> Self {
        Attached(Arc::new(memory))
    }

    /// No memory at all. It is never sent.
    pub(crate) fn empty() -> Self {
        Attached::new(Nothing)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn open(&self) -> io::Result<()> {
        self.0.open()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(crate) fn memory(&self) -> &dyn Any {
        self.0.as_any()
    }

    /// Whether both are the same, and not just alike.
    pub(crate) fn is(&self, other: &Attached) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Serialize for Attached {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

#[derive(Debug)]
struct Nothing;

impl Memory for Nothing {
    fn len(&self) -> usize {
        0
    }

    fn open(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &[]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What came with a frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    list: Vec<Attached>,
    /// Not all of it could be received.
    is_short: bool,
}

impl Arrived {
    pub(crate) const NOTHING: Arrived = Arrived { list: Vec::new(), is_short: false };

    pub(crate) fn new(list: Vec<Attached>, is_short: bool) -> Self {
        Arrived { list, is_short }
    }

    /// Whether nothing was attached.
    pub(crate) fn is_none(&self) -> bool {
        self.list.is_empty() && !self.is_short
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Attached> {
        self.list.get(index)
    }

    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }
}
