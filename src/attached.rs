//! What goes beside the bytes of a payload, as a descriptor: memory that both ends
//! look into, or anything else that is open. Payloads hold on to it and name it by
//! its place among those of its kind that are attached to their frame. What it is
//! in truth, only `sys::memfd` and `sys::descriptor` know.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer, ser};

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
pub(crate) struct Shared(Arc<dyn Memory>);

impl Shared {
    pub(crate) fn new(memory: impl Memory) -> Self {
        Shared(Arc::new(memory))
    }

    /// No memory at all. It is never sent.
    pub(crate) fn empty() -> Self {
        Shared::new(Nothing)
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
    pub(crate) fn is(&self, other: &Shared) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Serialize for Shared {
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

/// Something that is open: on its way out, or just come in.
pub(crate) trait Open: Any + fmt::Debug + Send + Sync + UnwindSafe + RefUnwindSafe {
    /// It as memory, for good, if it is some that nobody can change. It has just
    /// come in.
    fn to_memory(&self) -> Option<Shared>;

    fn as_any(&self) -> &dyn Any;
}

/// A descriptor that can go beside a payload, each time it occurs in it.
///
/// The encoder and the decoder know this type. There is no other format for it.
#[derive(Clone, Debug)]
pub(crate) struct Passed(Arc<dyn Open>);

/// Why another format has none.
const ONLY_HERE: &str =
    "a descriptor travels only with procession's own messages, not in other formats";

impl Passed {
    pub(crate) fn new(open: impl Open) -> Self {
        Passed(Arc::new(open))
    }

    pub(crate) fn to_memory(&self) -> Option<Shared> {
        self.0.to_memory()
    }

    pub(crate) fn open(&self) -> &dyn Any {
        self.0.as_any()
    }
}

impl Serialize for Passed {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom(ONLY_HERE))
    }
}

impl<'de> Deserialize<'de> for Passed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Our decoder knows by the type what is wanted.
        deserializer.deserialize_byte_buf(OnlyHere)
    }
}

/// Takes nothing from anybody.
struct OnlyHere;

impl Visitor<'_> for OnlyHere {
    type Value = Passed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ONLY_HERE)
    }

    fn visit_bytes<E: de::Error>(self, _bytes: &[u8]) -> Result<Passed, E> {
        Err(E::custom(ONLY_HERE))
    }
}

/// What goes beside a payload.
#[derive(Clone, Debug)]
pub(crate) enum Attached {
    Memory(Shared),
    Descriptor(Passed),
}

impl Attached {
    /// Bytes that it counts for.
    pub(crate) fn len(&self) -> usize {
        match self {
            Attached::Memory(memory) => memory.len(),
            Attached::Descriptor(_) => 0,
        }
    }

    pub(crate) fn memory(&self) -> Option<&Shared> {
        match self {
            Attached::Memory(memory) => Some(memory),
            Attached::Descriptor(_) => None,
        }
    }

    pub(crate) fn descriptor(&self) -> Option<&Passed> {
        match self {
            Attached::Memory(_) => None,
            Attached::Descriptor(descriptor) => Some(descriptor),
        }
    }
}

/// How much of each kind is attached. On the way all memory is before the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    pub(crate) memory: usize,
    pub(crate) descriptors: usize,
}

impl Count {
    pub(crate) const NONE: Count = Count { memory: 0, descriptors: 0 };

    pub(crate) fn of(attached: &[Attached]) -> Self {
        let memory = attached.iter().filter_map(Attached::memory).count();
        Count { memory, descriptors: attached.len() - memory }
    }

    pub(crate) fn all(self) -> usize {
        self.memory + self.descriptors
    }
}

/// What came with a frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    memory: Vec<Shared>,
    descriptors: Vec<Passed>,
    /// Not all of it could be received.
    is_short: bool,
}

impl Arrived {
    pub(crate) const NOTHING: Arrived =
        Arrived { memory: Vec::new(), descriptors: Vec::new(), is_short: false };

    pub(crate) fn new(memory: Vec<Shared>, descriptors: Vec<Passed>, is_short: bool) -> Self {
        Arrived { memory, descriptors, is_short }
    }

    /// Whether nothing was attached.
    pub(crate) fn is_none(&self) -> bool {
        self.memory.is_empty() && self.descriptors.is_empty() && !self.is_short
    }

    pub(crate) fn memory(&self, index: usize) -> Option<&Shared> {
        self.memory.get(index)
    }

    pub(crate) fn descriptor(&self, index: usize) -> Option<&Passed> {
        self.descriptors.get(index)
    }

    /// Whether there is anything but memory, or may have been.
    pub(crate) fn has_descriptors(&self) -> bool {
        !self.descriptors.is_empty() || self.is_short
    }

    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// How much came.
    pub(crate) fn count(&self) -> usize {
        self.memory.len() + self.descriptors.len()
    }

    /// Bytes of the memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.iter().fold(0, |bytes, one| bytes.saturating_add(one.len()))
    }

    /// Adds what came behind it. Behind something that is missing nothing has its
    /// place.
    pub(crate) fn append(&mut self, behind: Arrived) {
        if !self.is_short {
            self.memory.extend(behind.memory);
            self.descriptors.extend(behind.descriptors);
            self.is_short = behind.is_short;
        }
    }
}
