//! A span in the hands of a pool, as long as something goes on. To open one and to
//! end it is to call the program's subscriber, and a panic of that is kept from
//! whoever has the span: its drop may come while others are dropped with it, or
//! while something else panics.

use std::mem;
use std::ops::Deref;

use tracing::Span;

use super::guarded;

#[derive(Debug)]
pub(crate) struct HeldSpan(Span);

impl HeldSpan {
    pub(crate) const NONE: Self = HeldSpan(Span::none());

    /// The span that `open` makes, or none.
    pub(crate) fn open(open: impl FnOnce() -> Span) -> Self {
        guarded(open).map_or(Self::NONE, HeldSpan)
    }
}

impl Deref for HeldSpan {
    type Target = Span;

    fn deref(&self) -> &Span {
        &self.0
    }
}

impl Drop for HeldSpan {
    fn drop(&mut self) {
        // Most are of nobody's subscriber.
        if !self.0.is_disabled() {
            let span = mem::replace(&mut self.0, Span::none());
            guarded(|| drop(span));
        }
    }
}
