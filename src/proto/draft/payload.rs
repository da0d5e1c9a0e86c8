//! Payloads: arguments that were encoded, answers as they have come, and what is decoded
//! as a part of either.

use std::ops::Deref;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Draft;
use crate::attached::{Arrived, Attached};
use crate::limits::COPY_BYTES_MAX;

/// So many bytes are kept where the `Bytes` would be that holds them, or less:
/// most arguments and answers are shorter, and memory of their own would cost
/// more than all else that is done with them.
const SHORT_BYTES_MAX: usize = 22;

/// A few bytes, right here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short {
    len: u8,
    bytes: [u8; SHORT_BYTES_MAX],
}

impl Short {
    const EMPTY: Short = Short { len: 0, bytes: [0; SHORT_BYTES_MAX] };

    fn new(bytes: &[u8]) -> Option<Short> {
        let mut short = Short { len: bytes.len() as u8, ..Short::EMPTY };
        short.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(short)
    }
}

impl Deref for Short {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Arguments. Cloning them copies but a few bytes.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Short(Short),
    /// In order; none is empty.
    Pieces(Arc<[Bytes]>),
    Laden(Arc<Laden>),
}

/// Arguments with memory beside them.
#[derive(Debug)]
pub(crate) struct Laden {
    /// In order; none is empty.
    pieces: Vec<Bytes>,
    attached: Arc<[Attached]>,
}

impl Laden {
    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

impl Payload {
    /// All of it, in pieces that are not empty.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (short, pieces) = match self {
            Payload::Short(short) => (&short[..], &[][..]),
            Payload::Pieces(pieces) => (&[][..], &pieces[..]),
            Payload::Laden(laden) => (&[][..], &laden.pieces[..]),
        };
        let short = Some(short).filter(|short| !short.is_empty());
        short.into_iter().chain(pieces.iter().map(|piece| &piece[..]))
    }

    pub(crate) fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// What goes beside it, if anything does.
    pub(crate) fn attached(&self) -> Option<&Arc<[Attached]>> {
        match self {
            Payload::Short(_) | Payload::Pieces(_) => None,
            Payload::Laden(laden) => Some(&laden.attached),
        }
    }

    /// Adds what goes beside it.
    pub(crate) fn laden_with(self, attached: Arc<[Attached]>) -> Payload {
        if attached.is_empty() {
            return self;
        }
        let pieces = match &self {
            Payload::Short(short) => vec![Bytes::copy_from_slice(short)],
            Payload::Pieces(pieces) => pieces.to_vec(),
            Payload::Laden(laden) => laden.pieces.clone(),
        };
        Payload::Laden(Arc::new(Laden { pieces, attached }))
    }

    /// Cuts off and returns all but the first `at` bytes. Beside both goes what
    /// went beside the whole: either may refer to any of it.
    pub(crate) fn split_off(&mut self, mut at: usize) -> Payload {
        let attached = self.attached().cloned();
        let pieces = match self {
            Payload::Short(short) => {
                let behind = Payload::from(short[at..].to_vec());
                *self = short[..at].to_vec().into();
                return behind;
            }
            Payload::Pieces(pieces) => &pieces[..],
            Payload::Laden(laden) => &laden.pieces[..],
        };
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        for piece in pieces.iter() {
            let here = at.min(piece.len());
            at -= here;
            before.extend((here > 0).then(|| piece.slice(..here)));
            behind.extend((here < piece.len()).then(|| piece.slice(here..)));
        }
        let part = |pieces: Vec<Bytes>| match &attached {
            None => Payload::Pieces(pieces.into()),
            Some(attached) => {
                Payload::Laden(Arc::new(Laden { pieces, attached: Arc::clone(attached) }))
            }
        };
        *self = part(before);
        part(behind)
    }
}

impl Default for Payload {
    fn default() -> Self {
        Payload::Short(Short::EMPTY)
    }
}

impl Draft {
    /// As a payload. With its memory, if that is not part of it.
    pub(crate) fn into_payload(self) -> (Payload, Option<Vec<u8>>) {
        if self.kept.is_empty() && self.attached.is_empty() {
            if let Some(short) = Short::new(&self.bytes) {
                return (Payload::Short(short), Some(self.bytes));
            }
        }
        (self.into(), None)
    }
}

impl From<Draft> for Payload {
    fn from(draft: Draft) -> Self {
        let Draft { bytes, kept, attached } = draft;
        if kept.is_empty() && attached.is_empty() {
            return bytes.into();
        }
        let mut rest = Bytes::from(bytes);
        let mut cut = 0;
        let mut pieces = Vec::with_capacity(2 * kept.len() + 1);
        for kept in kept {
            pieces.extend([rest.split_to(kept.at - cut), kept.piece]);
            cut = kept.at;
        }
        pieces.push(rest);
        pieces.retain(|piece| !piece.is_empty());
        if attached.is_empty() {
            Payload::Pieces(pieces.into())
        } else {
            Payload::Laden(Arc::new(Laden { pieces, attached: attached.into() }))
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        match Short::new(&bytes) {
            Some(short) => Payload::Short(short),
            None => Payload::Pieces([Bytes::from(bytes)].into()),
        }
    }
}

/// An answer, or an item of a stream, as it has arrived.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Other(Other),
    Long(Bytes),
}

/// What is no larger than a few bytes are. Two kinds in one, because of which a
/// reply is no larger than a `Bytes`.
#[derive(Clone, Debug)]
pub(crate) enum Other {
    Short(Short),
    Laden(Arc<(Bytes, Arrived)>),
}

impl Reply {
    /// What is behind the first `start` bytes, and what came beside it. The body
    /// may be part of a larger buffer, and is kept only where it is worth that:
    /// one short answer that is kept must not keep a whole buffer.
    pub(crate) fn detach(body: BytesMut, start: usize, arrived: Arrived) -> Self {
        let payload = &body[start..];
        let short = if arrived.is_none() { Short::new(payload) } else { None };
        let bytes = match short {
            Some(short) => return Reply::Other(Other::Short(short)),
            None if payload.len() <= COPY_BYTES_MAX => Bytes::copy_from_slice(payload),
            None => body.freeze().split_off(start),
        };
        if arrived.is_none() {
            Reply::Long(bytes)
        } else {
            Reply::Other(Other::Laden(Arc::new((bytes, arrived))))
        }
    }

    /// What values in it may share.
    pub(crate) fn whole(&self) -> Whole<'_> {
        match self {
            Reply::Other(Other::Short(_)) => Whole::nothing(),
            Reply::Other(Other::Laden(laden)) => Whole { bytes: &laden.0, arrived: &laden.1 },
            Reply::Long(bytes) => Whole::from(bytes),
        }
    }
}

impl Default for Reply {
    fn default() -> Self {
        Reply::Other(Other::Short(Short::EMPTY))
    }
}

impl Deref for Reply {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Reply::Other(Other::Short(short)) => short,
            Reply::Other(Other::Laden(laden)) => &laden.0,
            Reply::Long(bytes) => bytes,
        }
    }
}

/// What is decoded is part of this, and may share it instead of being copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<'a> {
    pub(crate) bytes: &'a Bytes,
    pub(crate) arrived: &'a Arrived,
}

impl<'a> From<&'a Bytes> for Whole<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        Whole { bytes, ..Whole::nothing() }
    }
}

impl Whole<'_> {
    /// Nothing is shared.
    pub(crate) fn nothing() -> Whole<'static> {
        static NO_BYTES: Bytes = Bytes::new();
        static NOTHING: Arrived = Arrived::NOTHING;
        Whole { bytes: &NO_BYTES, arrived: &NOTHING }
    }
}

/// The part of `whole` that `part` is, if it is one.
pub(crate) fn shared(whole: &Bytes, part: &[u8]) -> Option<Bytes> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then(|| whole.slice(start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_as_small_as_they_can_be() {
        assert_eq!(size_of::<Payload>(), 24);
        assert_eq!(size_of::<Reply>(), size_of::<Bytes>());
    }

    #[test]
    fn short_and_long_are_the_same_bytes() {
        for len in [0, 1, SHORT_BYTES_MAX, SHORT_BYTES_MAX + 1, COPY_BYTES_MAX, COPY_BYTES_MAX + 1]
        {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let payload = Payload::from(bytes.clone());
            assert_eq!(matches!(payload, Payload::Short(_)), len <= SHORT_BYTES_MAX);
            assert_eq!(payload.slices().collect::<Vec<_>>().concat(), bytes);
            let reply = Reply::detach(
                BytesMut::from(&[&[9], &bytes[..]].concat()[..]),
                1,
                Arrived::NOTHING,
            );
            assert_eq!(reply[..], bytes);
            let is_shared = len > SHORT_BYTES_MAX;
            assert_eq!(reply.whole().bytes[..], bytes[..if is_shared { len } else { 0 }]);
        }
    }

    #[test]
    fn parts_are_shared_and_nothing_else_is() {
        let whole = Bytes::from(vec![1, 2, 3, 4]);
        let part = shared(&whole, &whole[1..3]).unwrap();
        assert_eq!((&part[..], part.as_ptr()), (&[2, 3][..], whole[1..].as_ptr()));
        assert_eq!(shared(&whole, &[2, 3]), None);
        assert_eq!(shared(&whole.slice(..2), &whole[1..3]), None);
        assert_eq!(shared(&whole.slice(2..), &whole[1..3]), None);
        assert_eq!(shared(&whole, &whole).unwrap().len(), 4);
    }
}
