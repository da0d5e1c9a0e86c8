//! The calls that came together, as far as they have been made: where the
//! worker says how far to go, and a task's own code gets its arguments and
//! leaves its results. Generic code that is compiled for each task, so what is
//! here costs each item of a chunk a few instructions, not calls.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::TALLY_BYTES;
use crate::proto::answers;
use crate::proto::codec::{self, Budget, DecodeFailure, EncodeFailure};
use crate::proto::draft::{Draft, Mark, Whole};
use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::cast::Sharing;
use crate::sys::layout::{Bound, Layout};

/// Calls of one function, made in the order of their arguments.
#[derive(Debug)]
pub(crate) struct Calls<'a> {
    /// Arguments of those that are left,
    rest: &'a [u8],
    /// what they are part of, and what decoding them may still take.
    payload: Whole<'a>,
    budget: Budget,
    /// Where results are appended, and the end of those before the call that was
    /// begun last.
    out: &'a mut Draft,
    whole: Mark,
    /// How many calls there are, how many of them have been begun, and how many
    /// may be.
    count: u32,
    begun: u32,
    until: u32,
    limits: ResultLimits,
    /// Tells others which call was begun last.
    shown: &'a AtomicU32,
    tally: Option<Tally<'a>>,
    /// Or where somebody may say that no further one is to be begun.
    bound: Option<Bound<'a>>,
}

/// Where results are put down before the next call is begun, and where it says
/// whether that may be.
pub(crate) struct Tally<'a> {
    page: &'a Layout,
    seq: u64,
    /// Results that are there, and their bytes.
    count: u32,
    bytes: usize,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(page: &'a Layout, seq: u64) -> Self {
        Tally { page, seq, count: 0, bytes: 0 }
    }

    fn claim(&self) -> bool {
        self.page.claim_item(self.seq)
    }

    /// Puts a result down. What does not fit is not, and nothing after it.
    fn put(&mut self, result: &[u8]) -> bool {
        let fits = result.len() <= TALLY_BYTES - self.bytes;
        if fits {
            self.count += 1;
            self.page.tally(self.seq, self.count, self.bytes, result);
            self.bytes += result.len();
        }
        fits
    }
}

impl fmt::Debug for Tally<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("seq", &self.seq).field("count", &self.count).finish()
    }
}

/// How long results may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResultLimits {
    /// Each of them.
    pub(crate) each: usize,
    /// All before the one that is the last for now.
    pub(crate) together: usize,
}

/// Why a call has no result although the function did not panic.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// The function was not called.
    Arguments(DecodeFailure),
    /// The function returned, with something that cannot be sent.
    Result(EncodeFailure),
}

impl<'a> Calls<'a> {
    pub(crate) fn new(
        count: u32,
        payload: Whole<'a>,
        out: &'a mut Draft,
        limits: ResultLimits,
        shown: &'a AtomicU32,
    ) -> Self {
        let budget = Budget::for_payload(payload.bytes.len());
        let rest = &payload.bytes[..];
        let whole = out.mark();
        let (tally, bound) = (None, None);
        let (begun, until) = (0, 0);
        Calls {
            rest,
            payload,
            budget,
            out,
            whole,
            count,
            begun,
            until,
            limits,
            shown,
            tally,
            bound,
        }
    }

    /// Asks before each call whether it may be begun.
    pub(crate) fn bounded(self, bound: Bound<'a>) -> Self {
        Calls { bound: Some(bound), ..self }
    }

    /// Puts each result down before the call after it, which is asked for.
    pub(crate) fn tallied(self, tally: Tally<'a>) -> Self {
        Calls { tally: Some(tally), ..self }
    }

    /// Puts the result of the last call down, if that is asked for and has not been
    /// done. `false` if there is no room for it.
    pub(crate) fn put_down(&mut self) -> bool {
        let Some(tally) = &mut self.tally else { return true };
        let is_there = tally.count == self.begun;
        is_there || self.out.since(self.whole).is_some_and(|result| tally.put(result))
    }

    /// Whether the next call may be made now as far as the tally goes.
    fn is_wanted(&mut self) -> bool {
        let is_kept = self.put_down();
        let Some(tally) = &self.tally else { return true };
        if is_kept && self.begun > 0 && tally.page.polite(tally.seq) {
            // The last call has left something to be cleared away first.
            return false;
        }
        let wanted = is_kept && tally.claim();
        if !wanted {
            // There is no next call.
            self.count = self.begun;
        }
        wanted
    }

    /// Lets so many more of them be made.
    pub(crate) fn go_on(&mut self, calls: u32) {
        self.until = self.begun.saturating_add(calls).min(self.count);
    }

    /// Takes back the result, or what there is of it, of a call that panicked.
    pub(crate) fn handle_panic(&mut self) {
        self.out.rewind(self.whole);
    }

    /// How many have been begun.
    pub(crate) fn begun(&self) -> u32 {
        self.begun
    }

    /// Whether the results are as long as they may be together, or there is no
    /// further call.
    #[inline]
    pub(crate) fn is_enough(&self) -> bool {
        self.begun == self.count || self.out.weight() >= self.limits.together
    }

    /// What the results are appended to.
    #[inline]
    pub(crate) fn out(&mut self) -> &mut Draft {
        self.out
    }

    /// Begins the next call, if it is to be made now: its arguments.
    ///
    /// They are behind us before the function is called, so that the call after
    /// one that panics is found.
    #[inline(always)]
    pub(super) fn next<Args: DeserializeOwned>(&mut self) -> Option<Result<Args, CallFailure>> {
        if self.begun >= self.until || self.out.weight() >= self.limits.together {
            return None;
        }
        if self.tally.is_some() && !self.is_wanted() {
            return None;
        }
        if self.bound.is_some_and(|bound| !bound.allows(self.begun)) {
            // There is no next call.
            self.count = self.begun;
            return None;
        }
        // Not where the last result was appended: dropping that may have panicked,
        // and then the call has failed.
        self.whole = self.out.mark();
        self.shown.store(self.begun, Ordering::Relaxed);
        self.begun += 1;
        let (rest, budget) = (&mut self.rest, &mut self.budget);
        let args = codec::decode_front_shared::<Sharing, Args>(rest, self.payload, budget);
        // Bytes after the last arguments mean that `Args` reads back less than
        // it wrote, and so something else.
        if self.begun == self.count && !self.rest.is_empty() && args.is_ok() {
            let bytes = self.rest.len();
            return Some(Err(CallFailure::Arguments(DecodeFailure::LeftOver { bytes })));
        }
        Some(args.map_err(CallFailure::Arguments))
    }

    /// Appends the result of a call.
    #[inline(always)]
    pub(super) fn append<T: Serialize>(&mut self, result: &T) -> Result<(), CallFailure> {
        if self.tally.is_none() {
            let drafted = codec::draft::<Sharing, T>(result, self.out, self.limits.each);
            return drafted.map_err(CallFailure::Result);
        }
        answers::begin_sized(self.out);
        let drafted = codec::draft::<Sharing, T>(result, self.out, self.limits.each);
        match drafted {
            Ok(_) => answers::end_sized(self.out, self.whole),
            Err(_) => self.out.rewind(self.whole),
        }
        drafted.map_err(CallFailure::Result)
    }
}
