//! The input of `map` and `imap`, whatever its type: pulled and encoded item by item,
//! as much as a chunk wants.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::stream::Stream;
use serde::Serialize;

use super::pace::{CHUNK_BYTES_MAX, CHUNK_ITEMS_MAX};
use crate::error::{Side, TaskError};
use crate::limits::TOGETHER_ATTACHED_MAX;
use crate::proto::codec;
use crate::proto::draft::{Draft, Mark};
use crate::sys::cast::Sharing;

/// Where the input comes from.
pub(super) trait Source: Send {
    /// Appends the arguments of as many items as `out` wants.
    fn poll_pull(&mut self, cx: &mut Context<'_>, out: &mut Pulled, limit: usize) -> Poll<Pull>;

    /// How many items are left, if that is known.
    fn left(&self) -> Option<usize>;
}

/// What pulling came to.
pub(super) enum Pull {
    Enough,
    /// There is an item, and it cannot be sent.
    Failed(TaskError),
    End,
}

/// Items on their way into a chunk.
pub(super) struct Pulled {
    pub(super) args: Draft,
    /// The end of those before the one that was pulled last, should that panic.
    pub(super) whole: Mark,
    /// Where the arguments of each but the last end, which is before
    /// `CHUNK_BYTES_MAX`.
    pub(super) ends: Vec<u32>,
    pub(super) count: usize,
    pub(super) wanted: usize,
    /// How long the input may take for them: then those that there are have waited
    /// long enough.
    pub(super) patience: Option<Duration>,
}

/// Whether more may go with what is attached.
#[inline]
fn may_go_on(args: &Draft) -> bool {
    // Descriptors are the worker's alone once it has begun, for which nothing else may
    // have to be sent again.
    args.attached().is_empty()
        || (args.attached().len() < TOGETHER_ATTACHED_MAX && args.attached_count().descriptors == 0)
}

impl Pulled {
    /// Makes room for those behind the first, of which there are so many, if they
    /// are as long: what grows on the way is copied again and again.
    #[cold]
    fn reserve(&mut self, left: usize) {
        let items = left.min(self.wanted - 1).min(CHUNK_ITEMS_MAX);
        let args = self.args.tail();
        args.reserve(items.saturating_mul(args.len() + 1).min(CHUNK_BYTES_MAX));
        self.ends.reserve(items);
    }
}

/// A stream of arguments as a source.
pub(super) struct Encoded<S>(pub(super) Pin<Box<S>>);

impl<S> Source for Encoded<S>
where
    S: Stream<Item: Serialize> + Send,
{
    fn poll_pull(&mut self, cx: &mut Context<'_>, out: &mut Pulled, limit: usize) -> Poll<Pull> {
        let mut len = out.args.len();
        let begun = out.patience.map(|_| Instant::now());
        // When to look at the clock next: as often as the count doubles.
        let mut look_at = if begun.is_some() { 1 } else { usize::MAX };
        while out.count < out.wanted && len < CHUNK_BYTES_MAX && may_go_on(&out.args) {
            out.whole = out.args.mark();
            let Some(args) = ready!(self.0.as_mut().poll_next(cx)) else {
                return Poll::Ready(Pull::End);
            };
            // What fits into a frame alone fits into one behind others: the
            // slack beyond the limit is at least as long as a chunk.
            if let Err(failure) = codec::draft::<Sharing, _>(&args, &mut out.args, limit) {
                let error = TaskError::from_encode(failure, Side::Arguments);
                return Poll::Ready(Pull::Failed(error));
            }
            match out.count {
                0 => out.reserve(self.left().unwrap_or(0)),
                _ => out.ends.push(len as u32),
            }
            out.count += 1;
            len = out.args.len();
            if out.count == look_at {
                look_at *= 2;
                if begun.map(|begun| begun.elapsed()) >= out.patience {
                    out.wanted = out.count;
                }
            }
        }
        Poll::Ready(Pull::Enough)
    }

    fn left(&self) -> Option<usize> {
        match self.0.size_hint() {
            (least, Some(most)) if least == most => Some(least),
            _ => None,
        }
    }
}
