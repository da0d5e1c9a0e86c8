//! The messages inside the frames, in both directions.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::codec;
use super::draft::Reply;
use super::frame::{self, Frame, FrameError, Kind};
use crate::attached::{Arrived, Attached, Count};
use crate::id::TaskId;
use crate::limits::REPORT_TEXT_BYTES_MAX;
use crate::resource::Resource;
use crate::sandbox::Sandbox;

/// The worker asks to be replaced: it has reached its memory limit.
const RETIRE: u8 = 1;

/// Somebody in the worker listens for spans of calls.
const LISTENS: u8 = 1;
/// The worker forwards what its `tracing` is told.
const FORWARDS: u8 = 2;

/// The call is a chunk: its answer is [`super::answers`].
const BATCH: u8 = 1;
/// The call's answer is a stream of `Item` frames.
const STREAM: u8 = 2;

/// First words of the parent: what the worker must set up before its first task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) version: u32,
    pub(crate) fingerprint: u64,
    pub(crate) frame_bytes_max: usize,
    pub(crate) nice: Option<i32>,
    /// Processor numbers; empty: inherited.
    pub(crate) cpu_affinity: Vec<usize>,
    /// Resources, each with the value for both of its limits.
    pub(crate) rlimits: Vec<(Resource, u64)>,
    /// Resident bytes above which the worker asks to be replaced.
    pub(crate) memory_bytes_max: Option<u64>,
    /// Resident bytes with which the worker ends itself, and its task.
    pub(crate) memory_limit: Option<u64>,
    pub(crate) no_new_privs: bool,
    /// Only if this program has the feature.
    pub(crate) sandbox: Option<Sandbox>,
    /// Function and arguments to run before the first task.
    pub(crate) initializer: Option<(u64, Bytes)>,
}

/// First words of the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) fingerprint: u64,
    pub(crate) pid: i32,
}

/// How a call wants its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// One value.
    One,
    /// `count` argument lists one after the other. The answer may cover fewer
    /// than `count`, once `budget_nanos` have passed (0: never) or the answer
    /// has grown long; the rest has not been started then. `tallied`: the status
    /// page says how far it has come, and has the answers so far.
    Batch { count: u32, budget_nanos: u64, stop_on_failure: bool, tallied: bool },
    /// `Item` frames, as many as the credit in the status page allows.
    Stream,
}

/// Bytes between the header of a `Run` and its arguments.
const RUN_PREFIX_BYTES: usize = 8 + 4 + 8;

/// Flag beside [`BATCH`].
const STOP_ON_FAILURE: u8 = 4;
/// And another.
const TALLIED: u8 = 8;

/// Flag: before the arguments comes a [`CallContext`], and before that its length.
const CONTEXT: u8 = 16;

const CONTEXT_LEN_BYTES: usize = size_of::<u16>();

/// What a worker needs to know of a call for its span. Sent where somebody listens
/// for that.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CallContext {
    pub(crate) task: TaskId,
    pub(crate) label: Option<String>,
    /// The caller's trace, as W3C Trace Context writes it: `traceparent`, and
    /// `tracestate`.
    pub(crate) trace: Option<(String, String)>,
}

/// Appends everything of a `Run` but its arguments, which the caller writes next.
pub(crate) fn put_run(
    out: &mut Vec<u8>,
    seq: u64,
    function: u64,
    shape: Shape,
    context: Option<&CallContext>,
    args_len: usize,
    attached: Count,
) {
    let (flags, count, budget_nanos) = match shape {
        Shape::One => (0, 1, 0),
        Shape::Batch { count, budget_nanos, stop_on_failure, tallied } => {
            let stop = if stop_on_failure { STOP_ON_FAILURE } else { 0 };
            (BATCH | stop | if tallied { TALLIED } else { 0 }, count, budget_nanos)
        }
        Shape::Stream => (STREAM, 1, 0),
    };
    let mut encoded = Vec::new();
    let mut flags = flags;
    if let Some(context) = context {
        flags |= CONTEXT;
        encoded.extend_from_slice(&[0; CONTEXT_LEN_BYTES]);
        codec::encode_into(context, &mut encoded, u16::MAX.into())
            .unwrap_or_else(|failure| unreachable!("its texts are cut: {failure:?}"));
        let len = (encoded.len() - CONTEXT_LEN_BYTES) as u16;
        encoded[..CONTEXT_LEN_BYTES].copy_from_slice(&len.to_le_bytes());
    }
    let body_len = RUN_PREFIX_BYTES + encoded.len() + args_len;
    out.extend_from_slice(&frame::header(Kind::Run, flags, seq, body_len, attached));
    out.extend_from_slice(&function.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&budget_nanos.to_le_bytes());
    out.extend_from_slice(&encoded);
}

/// A `Setup` frame, whole, with what is attached to the initializer's arguments.
pub(crate) fn put_setup(out: &mut Vec<u8>, setup: &Setup, attached: &[Attached]) {
    put_report(out, Kind::Setup, 0, 0, setup, Count::of(attached));
}

/// A `Bye` frame, whole.
pub(crate) fn put_bye(out: &mut Vec<u8>) {
    frame::put_header(out, Kind::Bye, 0, 0, 0);
}

/// What a parent says.
#[derive(Debug)]
pub(crate) enum ToWorker {
    Setup(Setup, Arrived),
    Run {
        seq: u64,
        function: u64,
        shape: Shape,
        context: Option<Box<CallContext>>,
        args: Bytes,
        arrived: Arrived,
    },
    Bye,
}

impl ToWorker {
    pub(crate) fn parse(frame: Frame) -> Result<Self, MessageError> {
        let mut body = frame.body;
        match frame.kind {
            Kind::Setup => Ok(ToWorker::Setup(report(&body)?, frame.arrived)),
            Kind::Run => {
                if body.len() < RUN_PREFIX_BYTES {
                    return Err(MessageError::Malformed("run"));
                }
                let function = body.get_u64_le();
                let count = body.get_u32_le();
                let budget_nanos = body.get_u64_le();
                let shape = match frame.flags & !CONTEXT {
                    0 => Shape::One,
                    STREAM => Shape::Stream,
                    flags if flags & !(STOP_ON_FAILURE | TALLIED) == BATCH => {
                        let stop_on_failure = flags & STOP_ON_FAILURE != 0;
                        let tallied = flags & TALLIED != 0;
                        Shape::Batch { count, budget_nanos, stop_on_failure, tallied }
                    }
                    _ => return Err(MessageError::Malformed("run")),
                };
                let context = match frame.flags & CONTEXT {
                    0 => None,
                    _ => Some(take_context(&mut body)?),
                };
                let (seq, args, arrived) = (frame.seq, body.freeze(), frame.arrived);
                Ok(ToWorker::Run { seq, function, shape, context, args, arrived })
            }
            Kind::Bye => Ok(ToWorker::Bye),
            other => Err(MessageError::WrongWay(other)),
        }
    }
}

fn take_context(body: &mut BytesMut) -> Result<Box<CallContext>, MessageError> {
    let malformed = MessageError::Malformed("context");
    if body.len() < CONTEXT_LEN_BYTES {
        return Err(malformed);
    }
    let len = usize::from(body.get_u16_le());
    if body.len() < len {
        return Err(malformed);
    }
    codec::decode(&body.split_to(len)).map(Box::new).map_err(|_| malformed)
}

/// Why a call, or the initializer, has no value. Made by the worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Panicked(PanicReport),
    Arguments(String),
    Result(String),
    ResultTooLarge {
        size: usize,
        limit: usize,
    },
    UnknownFunction,
    /// A setting of the pool could not be put in force.
    Setting(String),
}

/// A panic, as its worker saw it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PanicReport {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: String,
}

impl Failure {
    /// Cuts texts to what a report may hold.
    pub(crate) fn clipped(mut self) -> Self {
        match &mut self {
            Failure::Panicked(report) => report.clip(),
            Failure::Arguments(text) | Failure::Result(text) | Failure::Setting(text) => clip(text),
            Failure::ResultTooLarge { .. } | Failure::UnknownFunction => {}
        }
        self
    }
}

impl PanicReport {
    pub(crate) fn clipped(mut self) -> Self {
        self.clip();
        self
    }

    fn clip(&mut self) {
        let texts = [&mut self.message, &mut self.backtrace];
        texts.into_iter().chain(&mut self.location).for_each(clip);
    }
}

/// Cuts a text to what a report may hold, at a character's edge.
pub(crate) fn clip(text: &mut String) {
    if text.len() > REPORT_TEXT_BYTES_MAX {
        let mut end = REPORT_TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

/// Bytes between the header of a `Done` and its payload.
pub(crate) const DONE_PREFIX_BYTES: usize = 8 + 4;

/// Bytes of a `Done` before its payload.
pub(crate) const DONE_HEAD_BYTES: usize = frame::HEADER_BYTES + DONE_PREFIX_BYTES;

/// Starts a `Done` frame whose payload the caller appends; [`finish_done`]
/// completes it. Returns where it starts.
pub(crate) fn begin_done(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; DONE_HEAD_BYTES]);
    start
}

/// Fills in the head of a `Done` of `len` bytes in all, which `frame` begins
/// with.
pub(crate) fn finish_done(
    frame: &mut [u8],
    len: usize,
    attached: Count,
    seq: u64,
    run_nanos: u64,
    answered: u32,
    retire: bool,
) {
    let flags = if retire { RETIRE } else { 0 };
    let header = frame::header(Kind::Done, flags, seq, len - frame::HEADER_BYTES, attached);
    let (head, prefix) = frame[..DONE_HEAD_BYTES].split_at_mut(header.len());
    head.copy_from_slice(&header);
    prefix[..8].copy_from_slice(&run_nanos.to_le_bytes());
    prefix[8..].copy_from_slice(&answered.to_le_bytes());
}

pub(crate) fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    put_report(out, Kind::Hello, 0, 0, hello, Count::NONE);
}

pub(crate) fn put_ready(out: &mut Vec<u8>, ears: Ears, outcome: &[u8]) {
    let listens = if ears.listens { LISTENS } else { 0 };
    let forwards = if ears.forwards { FORWARDS } else { 0 };
    frame::put_header(out, Kind::Ready, listens | forwards, 0, outcome.len());
    out.extend_from_slice(outcome);
}

/// A `Trace` frame, whole.
pub(crate) fn put_trace(out: &mut Vec<u8>, seq: u64, body: &[u8]) {
    frame::put_header(out, Kind::Trace, 0, seq, body.len());
    out.extend_from_slice(body);
}

pub(crate) fn put_init_failed(out: &mut Vec<u8>, failure: &Failure) {
    put_report(out, Kind::InitFailed, 0, 0, failure, Count::NONE);
}

pub(crate) fn put_failed(
    out: &mut Vec<u8>,
    seq: u64,
    run_nanos: u64,
    retire: bool,
    failure: &Failure,
) {
    let flags = if retire { RETIRE } else { 0 };
    put_report(out, Kind::Failed, flags, seq, &(run_nanos, failure), Count::NONE);
}

pub(crate) fn put_skipped(out: &mut Vec<u8>, seq: u64) {
    frame::put_header(out, Kind::Skipped, 0, seq, 0);
}

pub(crate) fn put_began(out: &mut Vec<u8>, seq: u64) {
    frame::put_header(out, Kind::Began, 0, seq, 0);
}

/// Starts an `Item` frame whose payload the caller appends; [`finish_item`]
/// completes it. Returns where it starts.
pub(crate) fn begin_item(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; frame::HEADER_BYTES]);
    start
}

/// Fills in the head of an `Item` of `len` bytes in all, which `frame` begins
/// with.
pub(crate) fn finish_item(frame: &mut [u8], len: usize, attached: Count, seq: u64) {
    finish_item_as(frame, len, attached, seq, 0);
}

/// As [`finish_item`], with flags.
pub(crate) fn finish_item_as(frame: &mut [u8], len: usize, attached: Count, seq: u64, flags: u8) {
    let header = frame::header(Kind::Item, flags, seq, len - frame::HEADER_BYTES, attached);
    frame[..header.len()].copy_from_slice(&header);
}

/// Who in a worker listens to `tracing`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ears {
    /// Somebody hears of spans of calls.
    pub(crate) listens: bool,
    /// It sends on what it hears.
    pub(crate) forwards: bool,
}

/// What a worker says.
#[derive(Debug)]
pub(crate) enum FromWorker {
    Hello(Hello),
    /// What the initializer returned; empty if there is none.
    Ready {
        ears: Ears,
        outcome: BytesMut,
    },
    InitFailed(Failure),
    Done {
        seq: u64,
        run_nanos: u64,
        answered: u32,
        retire: bool,
        payload: Reply,
    },
    Failed {
        seq: u64,
        run_nanos: u64,
        retire: bool,
        failure: Failure,
    },
    Skipped {
        seq: u64,
    },
    Item {
        seq: u64,
        payload: Reply,
    },
    /// The task has begun, and has what was attached to its arguments: it will not
    /// be sent again.
    Began {
        seq: u64,
    },
    /// [`News`](super::trace::News), as they came: there may be too many to read
    /// all.
    Trace {
        seq: u64,
        body: BytesMut,
    },
}

impl FromWorker {
    /// The task that it answers, if any.
    pub(crate) fn seq(&self) -> Option<u64> {
        match self {
            FromWorker::Hello(_)
            | FromWorker::Ready { .. }
            | FromWorker::InitFailed(_)
            | FromWorker::Trace { .. } => None,
            FromWorker::Done { seq, .. }
            | FromWorker::Failed { seq, .. }
            | FromWorker::Skipped { seq }
            | FromWorker::Item { seq, .. }
            | FromWorker::Began { seq } => Some(*seq),
        }
    }

    pub(crate) fn parse(frame: Frame) -> Result<Self, MessageError> {
        let (body, arrived) = (frame.body, frame.arrived);
        let seq = frame.seq;
        let retire = frame.flags == RETIRE;
        let known = match frame.kind {
            Kind::Ready => LISTENS | FORWARDS,
            Kind::Trace => 0,
            _ => RETIRE,
        };
        if frame.flags & !known != 0 {
            return Err(MessageError::Malformed("flags"));
        }
        Ok(match frame.kind {
            Kind::Hello => FromWorker::Hello(report(&body)?),
            Kind::Ready => {
                let has = |flag| frame.flags & flag != 0;
                let ears = Ears { listens: has(LISTENS), forwards: has(FORWARDS) };
                FromWorker::Ready { ears, outcome: body }
            }
            Kind::Trace => FromWorker::Trace { seq, body },
            Kind::InitFailed => FromWorker::InitFailed(report(&body)?),
            Kind::Done if body.len() >= DONE_PREFIX_BYTES => {
                let mut prefix = &body[..DONE_PREFIX_BYTES];
                let (run_nanos, answered) = (prefix.get_u64_le(), prefix.get_u32_le());
                let payload = Reply::detach(body, DONE_PREFIX_BYTES, arrived);
                FromWorker::Done { seq, run_nanos, answered, retire, payload }
            }
            Kind::Failed => {
                let (run_nanos, failure) = report(&body)?;
                FromWorker::Failed { seq, run_nanos, retire, failure }
            }
            Kind::Skipped if body.is_empty() => FromWorker::Skipped { seq },
            Kind::Item => FromWorker::Item { seq, payload: Reply::detach(body, 0, arrived) },
            Kind::Began if body.is_empty() => FromWorker::Began { seq },
            Kind::Done | Kind::Skipped | Kind::Began => {
                return Err(MessageError::Malformed("body length"));
            }
            other => return Err(MessageError::WrongWay(other)),
        })
    }
}

fn put_report<T: Serialize>(
    out: &mut Vec<u8>,
    kind: Kind,
    flags: u8,
    seq: u64,
    value: &T,
    attached: Count,
) {
    let mut body = Vec::new();
    codec::encode_into(value, &mut body, u32::MAX as usize)
        .unwrap_or_else(|failure| unreachable!("plain data encodes: {failure:?}"));
    out.extend_from_slice(&frame::header(kind, flags, seq, body.len(), attached));
    out.extend_from_slice(&body);
}

fn report<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    codec::decode(body).map_err(|_| MessageError::Malformed("report"))
}

/// A frame that is not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MessageError {
    Frame(FrameError),
    Malformed(&'static str),
    WrongWay(Kind),
}

impl From<FrameError> for MessageError {
    fn from(error: FrameError) -> Self {
        MessageError::Frame(error)
    }
}

#[cfg(test)]
mod tests;
