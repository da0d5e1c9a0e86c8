//! Where one call is worked on: its result is written here, its future driven,
//! its items sent, its panics caught. The loop in `run` says which call, and
//! what to do with the result.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::forward::Post;
use super::outbox::Outbox;
use super::{end_copies, forget_callbacks, guard, is_asked_to_end};
use crate::attached::Arrived;
use crate::limits::{BATCH_REPLY_BYTES, SPARE_BYTES_MAX};
use crate::proto::answers;
use crate::proto::codec::EncodeFailure;
use crate::proto::draft::{Draft, Whole};
use crate::proto::frame::HEADER_BYTES;
use crate::proto::message::{Failure, begin_done, begin_item, finish_item};
use crate::registry::{CallFailure, Calls, Host, ResultLimits, Run, Tally};
use crate::sys::atomic::AtomicU32;
use crate::sys::clock::monotonic_nanos;
use crate::sys::page::Page;

/// A chunk looks at the clock at least this often, in items of a kind that
/// takes no time at all.
const CLOCK_STRIDE_MAX: u32 = 256;

/// Stride doubles while items between two looks take less than this.
const CLOCK_NANOS: u64 = 20_000;

pub(super) struct Desk {
    /// Frames in the making.
    pub(super) out: Draft,
    pub(super) frame_bytes_max: usize,
    pub(super) errands: Errands,
}

/// What a call needs done while it is made.
pub(super) struct Errands {
    page: Arc<Page>,
    pub(super) outbox: Post,
    /// Made for the first async task, and kept.
    runtime: Option<tokio::runtime::Runtime>,
    stream: Stream,
}

/// The arguments of a call, or of several, as they have arrived.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) bytes: Bytes,
    pub(super) arrived: Arrived,
}

impl Arguments {
    fn whole(&self) -> Whole<'_> {
        Whole { bytes: &self.bytes, arrived: &self.arrived }
    }
}

/// The stream that is being sent.
#[derive(Default)]
struct Stream {
    seq: u64,
    /// Items sent so far.
    sent: u32,
    /// The parent could not be written to; it is gone.
    broken: Option<io::Error>,
}

/// A chunk of calls.
pub(super) struct Batch {
    pub(super) seq: u64,
    pub(super) count: u32,
    /// When to stop and send what there is.
    pub(super) until: u64,
    pub(super) stop_on_failure: bool,
    pub(super) tallied: bool,
}

impl Desk {
    pub(super) fn new(page: Arc<Page>, outbox: Outbox) -> Self {
        let outbox = Post::Own(outbox);
        let errands = Errands { page, outbox, runtime: None, stream: Stream::default() };
        Desk { out: Draft::default(), frame_bytes_max: 0, errands }
    }

    /// One call, whose result is appended to `out`.
    pub(super) fn call(&mut self, run: Run, args: &Arguments) -> Result<(), Failure> {
        let limits = ResultLimits { each: self.frame_bytes_max, together: usize::MAX };
        let nobody = AtomicU32::new(0);
        let mut calls = Calls::new(1, args.whole(), &mut self.out, limits, &nobody);
        calls.go_on(1);
        make(run, &mut calls, &mut self.errands)
    }

    /// One call, answered by a `Done` frame without its header.
    pub(super) fn one(&mut self, run: Run, args: &Arguments) -> Result<u32, Failure> {
        begin_done(self.out.tail());
        self.call(run, args).map(|()| 1)
    }

    /// Calls one after the other, whose [`answers`] make a `Done` frame without
    /// its header. Returns how many were made: all of them, or those before the
    /// time was up or the answers were long enough.
    pub(super) fn batch(&mut self, run: Run, args: &Arguments, batch: &Batch) -> u32 {
        let Desk { out, frame_bytes_max, errands } = self;
        begin_done(out.tail());
        let mut values = answers::begin(out.tail());
        let page = Arc::clone(&errands.page);
        let limits = ResultLimits { each: *frame_bytes_max, together: BATCH_REPLY_BYTES };
        let shown = page.item_cell(batch.seq);
        let mut calls = Calls::new(batch.count, args.whole(), out, limits, shown);
        calls = match batch.tallied {
            true => calls.tallied(Tally::new(&page, batch.seq)),
            false => calls.bounded(page.bound(batch.seq)),
        };
        let mut watch = Watch::new();
        while !calls.is_enough() {
            calls.go_on(watch.calls_left);
            let before = calls.begun();
            let made = make(run, &mut calls, errands);
            let begun = calls.begun() - before;
            values.count += begun;
            if made.is_ok() && calls.is_enough() {
                calls.put_down();
            }
            if let Err(failure) = made {
                values.count -= 1;
                values = answers::fail(calls.out().tail(), values, &failure);
                // After broken arguments nobody knows where the next begin.
                if batch.stop_on_failure || matches!(failure, Failure::Arguments(_)) {
                    break;
                }
            }
            let is_unclean = batch.tallied && page.polite(batch.seq);
            if is_unclean {
                // What a call has asked for is for that call.
                forget_callbacks();
                page.set_polite(batch.seq, false);
            }
            if watch.is_due(begun) || is_unclean {
                let now = monotonic_nanos();
                if now >= batch.until || is_asked_to_end(&page, batch.seq) {
                    break;
                }
                watch.handle_look(now);
            }
        }
        let begun = calls.begun();
        answers::end(out.tail(), values);
        begun
    }

    /// One call whose items are sent one by one, then answered by an empty
    /// `Done` frame without its header.
    pub(super) fn stream(
        &mut self,
        run: Run,
        args: &Arguments,
        seq: u64,
    ) -> io::Result<Result<u32, Failure>> {
        self.errands.stream = Stream { seq, ..Stream::default() };
        begin_item(self.out.tail());
        let result = self.call(run, args);
        self.out.clear(SPARE_BYTES_MAX);
        if let Some(error) = self.errands.stream.broken.take() {
            return Err(error);
        }
        begin_done(self.out.tail());
        Ok(result.map(|()| 1))
    }
}

/// When a chunk looks at the clock: after the first call, then after ever more
/// of them.
struct Watch {
    looked: u64,
    /// Calls between two looks, and until the next one.
    stride: u32,
    calls_left: u32,
}

impl Watch {
    fn new() -> Self {
        Watch { looked: monotonic_nanos(), stride: 1, calls_left: 1 }
    }

    /// Whether a look is due, now that so many more calls were made.
    fn is_due(&mut self, calls: u32) -> bool {
        self.calls_left -= calls;
        self.calls_left == 0
    }

    fn handle_look(&mut self, now: u64) {
        if now - self.looked < CLOCK_NANOS {
            self.stride = (self.stride * 2).min(CLOCK_STRIDE_MAX);
        }
        self.looked = now;
        self.calls_left = self.stride;
    }
}

/// Makes the calls that are to be made now, up to the first that fails.
fn make(run: Run, calls: &mut Calls<'_>, errands: &mut Errands) -> Result<(), Failure> {
    match guard::guarded(|| run(calls, errands)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(CallFailure::Arguments(failure))) => Err(Failure::Arguments(failure.to_string())),
        Ok(Err(CallFailure::Result(EncodeFailure::TooLarge { size, limit }))) => {
            Err(Failure::ResultTooLarge { size, limit })
        }
        Ok(Err(CallFailure::Result(
            failure @ (EncodeFailure::TooDeep { .. } | EncodeFailure::Refused(_)),
        ))) => Err(Failure::Result(failure.to_string())),
        Err(panic) => {
            calls.handle_panic();
            Err(Failure::Panicked(panic))
        }
    }
}

impl Host for Errands {
    fn block_on(&mut self, future: Pin<&mut dyn Future<Output = ()>>) {
        let runtime = self.runtime.get_or_insert_with(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap_or_else(|error| panic!("no runtime for async tasks: {error}"))
        });
        runtime.block_on(future);
    }

    fn item(&mut self, out: &mut Draft) -> bool {
        end_copies();
        let Stream { seq, sent, .. } = self.stream;
        // While it waits here no code of the user's runs: it can be asked to end
        // and need not be killed.
        let was_polite = self.page.polite(seq);
        self.page.set_polite(seq, true);
        loop {
            let credit = self.page.credit(seq);
            if is_asked_to_end(&self.page, seq) {
                return false;
            }
            if credit != sent {
                break;
            }
            self.page.await_credit(seq, credit);
        }
        self.page.set_polite(seq, was_polite);
        self.stream.sent = sent.wrapping_add(1);
        let (len, attached) = (out.len(), out.attached_count());
        finish_item(out.head_mut(HEADER_BYTES), len, attached, seq);
        let pushed = self.outbox.push(out).and_then(|()| self.outbox.flush());
        out.clear(SPARE_BYTES_MAX);
        begin_item(out.tail());
        match pushed {
            Ok(()) => true,
            Err(error) => {
                self.stream.broken = Some(error);
                false
            }
        }
    }
}
