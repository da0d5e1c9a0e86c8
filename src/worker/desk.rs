//! Where one call is worked on: its result is written here, its future driven,
//! its items sent, its panics caught. The loop in `run` says which call, and
//! what to do with the result.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::outbox::Outbox;
use super::{guard, is_asked_to_end};
use crate::limits::{BATCH_REPLY_BYTES, SPARE_BYTES_MAX};
use crate::proto::codec::{self, Budget, EncodeFailure};
use crate::proto::draft::Draft;
use crate::proto::frame::HEADER_BYTES;
use crate::proto::message::{Failure, begin_done, begin_item, finish_item};
use crate::registry::{CallFailure, Host, Step};
use crate::sys::clock::monotonic_nanos;
use crate::sys::page::Page;

/// Byte before each item of a chunk's answer.
pub(crate) const ITEM_OK: u8 = 0;
const ITEM_FAILED: u8 = 1;

/// A chunk looks at the clock at least this often, in items of a kind that
/// takes no time at all.
const CLOCK_STRIDE_MAX: u32 = 256;

/// Stride doubles while items between two looks take less than this.
const CLOCK_NANOS: u64 = 20_000;

pub(super) struct Desk {
    page: Arc<Page>,
    pub(super) outbox: Outbox,
    /// Frames in the making.
    pub(super) out: Draft,
    pub(super) frame_bytes_max: usize,
    /// The arguments of the call, or calls, and what decoding them may take.
    args: Bytes,
    budget: Budget,
    /// The call that is worked on is the last one in its payload.
    last: bool,
    /// Made for the first async task, and kept.
    runtime: Option<tokio::runtime::Runtime>,
    stream: Stream,
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
}

impl Desk {
    pub(super) fn new(page: Arc<Page>, outbox: Outbox) -> Self {
        Desk {
            page,
            outbox,
            out: Draft::default(),
            frame_bytes_max: 0,
            args: Bytes::new(),
            budget: Budget::for_payload(0),
            last: false,
            runtime: None,
            stream: Stream::default(),
        }
    }

    /// One call, whose result is appended to `out`.
    pub(super) fn call(&mut self, step: Step, args: &Bytes) -> Result<(), Failure> {
        self.begin(args);
        self.last = true;
        self.step(step, &mut &args[..])
    }

    /// One call, answered by a `Done` frame without its header.
    pub(super) fn one(&mut self, step: Step, args: &Bytes) -> Result<u32, Failure> {
        begin_done(self.out.tail());
        self.call(step, args).map(|()| 1)
    }

    /// Calls one after the other, each answered by a tagged item in a `Done`
    /// frame without its header. Returns how many were made: all of them, or
    /// those before the time was up or the answer was long enough.
    pub(super) fn batch(&mut self, step: Step, args: &Bytes, batch: &Batch) -> u32 {
        begin_done(self.out.tail());
        self.begin(args);
        let mut args = &args[..];
        let mut stride = 1;
        let mut look_at = 1;
        let mut looked = monotonic_nanos();
        let mut answered = 0;
        while answered < batch.count {
            self.page.set_item(batch.seq, answered);
            let start = self.out.mark();
            self.out.tail().push(ITEM_OK);
            self.last = answered + 1 == batch.count;
            let result = self.step(step, &mut args);
            answered += 1;
            if let Err(failure) = result {
                self.out.rewind(start);
                self.out.tail().push(ITEM_FAILED);
                codec::encode_into(&failure, self.out.tail(), usize::MAX)
                    .unwrap_or_else(|error| unreachable!("plain data encodes: {error:?}"));
                // After broken arguments nobody knows where the next begin.
                if batch.stop_on_failure || matches!(failure, Failure::Arguments(_)) {
                    break;
                }
            }
            if self.out.len() >= BATCH_REPLY_BYTES {
                break;
            }
            if answered == look_at {
                let now = monotonic_nanos();
                if now >= batch.until || is_asked_to_end(&self.page, batch.seq) {
                    break;
                }
                if now - looked < CLOCK_NANOS {
                    stride = (stride * 2).min(CLOCK_STRIDE_MAX);
                }
                looked = now;
                look_at += stride;
            }
        }
        answered
    }

    /// One call whose items are sent one by one, then answered by an empty
    /// `Done` frame without its header.
    pub(super) fn stream(
        &mut self,
        step: Step,
        args: &Bytes,
        seq: u64,
    ) -> io::Result<Result<u32, Failure>> {
        self.stream = Stream { seq, ..Stream::default() };
        begin_item(self.out.tail());
        let result = self.call(step, args);
        self.out.clear(SPARE_BYTES_MAX);
        if let Some(error) = self.stream.broken.take() {
            return Err(error);
        }
        begin_done(self.out.tail());
        Ok(result.map(|()| 1))
    }

    fn begin(&mut self, args: &Bytes) {
        self.args = args.clone();
        self.budget = Budget::for_payload(args.len());
    }

    /// Lets go of the last call's arguments: their memory is used again.
    pub(super) fn end(&mut self) {
        self.args = Bytes::new();
    }

    fn step(&mut self, step: Step, args: &mut &[u8]) -> Result<(), Failure> {
        match guard::guarded(|| step(args, self)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(CallFailure::Arguments(failure))) => {
                Err(Failure::Arguments(failure.to_string()))
            }
            Ok(Err(CallFailure::Result(EncodeFailure::TooLarge { size, limit }))) => {
                Err(Failure::ResultTooLarge { size, limit })
            }
            Ok(Err(CallFailure::Result(
                failure @ (EncodeFailure::TooDeep { .. } | EncodeFailure::Refused(_)),
            ))) => Err(Failure::Result(failure.to_string())),
            Err(panic) => Err(Failure::Panicked(panic)),
        }
    }
}

impl Host for Desk {
    fn block_on(&mut self, future: Pin<&mut dyn Future<Output = ()>>) {
        let runtime = self.runtime.get_or_insert_with(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap_or_else(|error| panic!("no runtime for async tasks: {error}"))
        });
        runtime.block_on(future);
    }

    fn result(&mut self) -> (&mut Draft, usize) {
        (&mut self.out, self.frame_bytes_max)
    }

    fn item(&mut self) -> bool {
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
        let len = self.out.len();
        finish_item(self.out.head_mut(HEADER_BYTES), len, seq);
        let pushed = self.outbox.push(&self.out).and_then(|()| self.outbox.flush());
        self.out.clear(SPARE_BYTES_MAX);
        begin_item(self.out.tail());
        match pushed {
            Ok(()) => true,
            Err(error) => {
                self.stream.broken = Some(error);
                false
            }
        }
    }

    fn payload(&mut self) -> (&Bytes, &mut Budget) {
        (&self.args, &mut self.budget)
    }

    fn is_last(&self) -> bool {
        self.last
    }
}
