//! The messages inside the frames, in both directions.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::codec;
use super::frame::{self, Frame, FrameError, Kind};
use crate::limits::REPORT_TEXT_BYTES_MAX;
use crate::resource::Resource;

/// The worker asks to be replaced: it has reached its memory limit.
const RETIRE: u8 = 1;

/// The call is a chunk: its answer is a list of tagged items.
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
    /// Function and arguments to run before the first task.
    pub(crate) initializer: Option<(u64, Vec<u8>)>,
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
    /// has grown long; the rest has not been started then.
    Batch { count: u32, budget_nanos: u64, stop_on_failure: bool },
    /// `Item` frames, as many as the credit in the status page allows.
    Stream,
}

/// Bytes between the header of a `Run` and its arguments.
const RUN_PREFIX_BYTES: usize = 8 + 4 + 8;

/// Flag beside [`BATCH`].
const STOP_ON_FAILURE: u8 = 4;

/// Appends everything of a `Run` but its arguments, which the caller writes next.
pub(crate) fn put_run(out: &mut Vec<u8>, seq: u64, function: u64, shape: Shape, args_len: usize) {
    let (flags, count, budget_nanos) = match shape {
        Shape::One => (0, 1, 0),
        Shape::Batch { count, budget_nanos, stop_on_failure } => {
            (BATCH | if stop_on_failure { STOP_ON_FAILURE } else { 0 }, count, budget_nanos)
        }
        Shape::Stream => (STREAM, 1, 0),
    };
    frame::put_header(out, Kind::Run, flags, seq, RUN_PREFIX_BYTES + args_len);
    out.extend_from_slice(&function.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&budget_nanos.to_le_bytes());
}

/// A `Setup` frame, whole.
pub(crate) fn put_setup(out: &mut Vec<u8>, setup: &Setup) {
    put_report(out, Kind::Setup, 0, 0, setup);
}

/// A `Bye` frame, whole.
pub(crate) fn put_bye(out: &mut Vec<u8>) {
    frame::put_header(out, Kind::Bye, 0, 0, 0);
}

/// What a parent says.
#[derive(Debug)]
pub(crate) enum ToWorker {
    Setup(Setup),
    Run { seq: u64, function: u64, shape: Shape, args: BytesMut },
    Bye,
}

impl ToWorker {
    pub(crate) fn parse(frame: Frame) -> Result<Self, MessageError> {
        let mut body = frame.body;
        match frame.kind {
            Kind::Setup => Ok(ToWorker::Setup(report(&body)?)),
            Kind::Run => {
                if body.len() < RUN_PREFIX_BYTES {
                    return Err(MessageError::Malformed("run"));
                }
                let function = body.get_u64_le();
                let count = body.get_u32_le();
                let budget_nanos = body.get_u64_le();
                let shape = match frame.flags {
                    0 => Shape::One,
                    STREAM => Shape::Stream,
                    flags if flags & !STOP_ON_FAILURE == BATCH => {
                        let stop_on_failure = flags & STOP_ON_FAILURE != 0;
                        Shape::Batch { count, budget_nanos, stop_on_failure }
                    }
                    _ => return Err(MessageError::Malformed("run")),
                };
                Ok(ToWorker::Run { seq: frame.seq, function, shape, args: body })
            }
            Kind::Bye => Ok(ToWorker::Bye),
            other => Err(MessageError::WrongWay(other)),
        }
    }
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

/// Starts a `Done` frame whose payload the caller appends; [`finish_done`]
/// completes it. Returns where it starts.
pub(crate) fn begin_done(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; frame::HEADER_BYTES + DONE_PREFIX_BYTES]);
    start
}

/// Fills in the header of the `Done` that starts at `start` and ends with `out`.
pub(crate) fn finish_done(
    out: &mut [u8],
    start: usize,
    seq: u64,
    run_nanos: u64,
    answered: u32,
    retire: bool,
) {
    let mut head = Vec::with_capacity(frame::HEADER_BYTES + DONE_PREFIX_BYTES);
    let flags = if retire { RETIRE } else { 0 };
    frame::put_header(&mut head, Kind::Done, flags, seq, out.len() - start - frame::HEADER_BYTES);
    head.extend_from_slice(&run_nanos.to_le_bytes());
    head.extend_from_slice(&answered.to_le_bytes());
    out[start..start + head.len()].copy_from_slice(&head);
}

pub(crate) fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    put_report(out, Kind::Hello, 0, 0, hello);
}

pub(crate) fn put_ready(out: &mut Vec<u8>, outcome: &[u8]) {
    frame::put_header(out, Kind::Ready, 0, 0, outcome.len());
    out.extend_from_slice(outcome);
}

pub(crate) fn put_init_failed(out: &mut Vec<u8>, failure: &Failure) {
    put_report(out, Kind::InitFailed, 0, 0, failure);
}

pub(crate) fn put_failed(
    out: &mut Vec<u8>,
    seq: u64,
    run_nanos: u64,
    retire: bool,
    failure: &Failure,
) {
    put_report(out, Kind::Failed, if retire { RETIRE } else { 0 }, seq, &(run_nanos, failure));
}

pub(crate) fn put_skipped(out: &mut Vec<u8>, seq: u64) {
    frame::put_header(out, Kind::Skipped, 0, seq, 0);
}

/// Starts an `Item` frame whose payload the caller appends; [`finish_item`]
/// completes it. Returns where it starts.
pub(crate) fn begin_item(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; frame::HEADER_BYTES]);
    start
}

/// Fills in the header of the `Item` that starts at `start` and ends with `out`.
pub(crate) fn finish_item(out: &mut [u8], start: usize, seq: u64) {
    let mut head = Vec::with_capacity(frame::HEADER_BYTES);
    frame::put_header(&mut head, Kind::Item, 0, seq, out.len() - start - frame::HEADER_BYTES);
    out[start..start + head.len()].copy_from_slice(&head);
}

/// What a worker says.
#[derive(Debug)]
pub(crate) enum FromWorker {
    Hello(Hello),
    /// What the initializer returned; empty if there is none.
    Ready(BytesMut),
    InitFailed(Failure),
    Done {
        seq: u64,
        run_nanos: u64,
        answered: u32,
        retire: bool,
        payload: Bytes,
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
        payload: Bytes,
    },
}

impl FromWorker {
    /// The task that it is about, if any.
    pub(crate) fn seq(&self) -> Option<u64> {
        match self {
            FromWorker::Hello(_) | FromWorker::Ready(_) | FromWorker::InitFailed(_) => None,
            FromWorker::Done { seq, .. }
            | FromWorker::Failed { seq, .. }
            | FromWorker::Skipped { seq }
            | FromWorker::Item { seq, .. } => Some(*seq),
        }
    }

    pub(crate) fn parse(frame: Frame) -> Result<Self, MessageError> {
        let mut body = frame.body;
        let seq = frame.seq;
        let retire = frame.flags == RETIRE;
        if frame.flags & !RETIRE != 0 {
            return Err(MessageError::Malformed("flags"));
        }
        Ok(match frame.kind {
            Kind::Hello => FromWorker::Hello(report(&body)?),
            Kind::Ready => FromWorker::Ready(body),
            Kind::InitFailed => FromWorker::InitFailed(report(&body)?),
            Kind::Done if body.len() >= DONE_PREFIX_BYTES => {
                let run_nanos = body.get_u64_le();
                let answered = body.get_u32_le();
                FromWorker::Done { seq, run_nanos, answered, retire, payload: detach(body) }
            }
            Kind::Failed => {
                let (run_nanos, failure) = report(&body)?;
                FromWorker::Failed { seq, run_nanos, retire, failure }
            }
            Kind::Skipped if body.is_empty() => FromWorker::Skipped { seq },
            Kind::Item => FromWorker::Item { seq, payload: detach(body) },
            Kind::Done | Kind::Skipped => {
                return Err(MessageError::Malformed("body length"));
            }
            other => return Err(MessageError::WrongWay(other)),
        })
    }
}

/// Payloads up to this length are copied out of the read buffer, so that one
/// short answer that is kept does not keep a whole buffer.
const COPY_BYTES_MAX: usize = 16 << 10;

fn detach(body: BytesMut) -> Bytes {
    if body.len() <= COPY_BYTES_MAX { Bytes::copy_from_slice(&body) } else { body.freeze() }
}

fn put_report<T: Serialize>(out: &mut Vec<u8>, kind: Kind, flags: u8, seq: u64, value: &T) {
    let mut body = Vec::new();
    codec::encode_into(value, &mut body, u32::MAX as usize)
        .unwrap_or_else(|failure| unreachable!("plain data encodes: {failure:?}"));
    frame::put_header(out, kind, flags, seq, body.len());
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
mod tests {
    use proptest::prelude::*;

    use super::super::frame::FrameReader;
    use super::*;

    /// The frames of `bytes`, which must be whole ones.
    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut reader = FrameReader::new(1 << 20);
        reader.buffer().extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            frames.push(frame);
        }
        assert!(reader.buffer().is_empty(), "bytes are left over");
        frames
    }

    fn to_worker(bytes: &[u8]) -> ToWorker {
        let [frame] = <[Frame; 1]>::try_from(frames(bytes)).unwrap();
        ToWorker::parse(frame).unwrap()
    }

    fn from_worker(bytes: &[u8]) -> FromWorker {
        let [frame] = <[Frame; 1]>::try_from(frames(bytes)).unwrap();
        FromWorker::parse(frame).unwrap()
    }

    fn failures() -> Vec<Failure> {
        let location = Some("src/lib.rs:1:2".to_owned());
        let report = PanicReport { message: "no".into(), location, backtrace: "0: x".into() };
        vec![
            Failure::Panicked(report),
            Failure::Panicked(PanicReport::default()),
            Failure::Arguments("é".into()),
            Failure::Result(String::new()),
            Failure::ResultTooLarge { size: usize::MAX, limit: 0 },
            Failure::UnknownFunction,
            Failure::Setting("nice".into()),
        ]
    }

    #[test]
    fn what_a_parent_says_is_heard() {
        let setup = Setup {
            version: 1,
            fingerprint: u64::MAX,
            frame_bytes_max: 1 << 30,
            nice: Some(-5),
            cpu_affinity: vec![0, 63],
            rlimits: Vec::new(),
            memory_bytes_max: Some(1 << 40),
            initializer: Some((7, vec![1, 2, 3])),
        };
        let mut bytes = Vec::new();
        put_setup(&mut bytes, &setup);
        assert!(matches!(to_worker(&bytes), ToWorker::Setup(heard) if heard == setup));

        let mut bytes = Vec::new();
        put_bye(&mut bytes);
        assert!(matches!(to_worker(&bytes), ToWorker::Bye));

        let batch = |stop_on_failure| Shape::Batch { count: 9, budget_nanos: 5, stop_on_failure };
        for shape in [Shape::One, Shape::Stream, batch(false), batch(true)] {
            for given in [&b""[..], b"arguments"] {
                let mut bytes = Vec::new();
                put_run(&mut bytes, 1 << 50, u64::MAX - 1, shape, given.len());
                bytes.extend_from_slice(given);
                let ToWorker::Run { seq, function, shape: heard, args } = to_worker(&bytes) else {
                    panic!("a run is a run");
                };
                assert_eq!((seq, function, heard), (1 << 50, u64::MAX - 1, shape));
                assert_eq!(args, given);
            }
        }
    }

    #[test]
    fn what_a_worker_says_is_heard() {
        let hello = Hello { version: 3, fingerprint: 1 << 63, pid: i32::MAX };
        let mut bytes = Vec::new();
        put_hello(&mut bytes, &hello);
        assert!(matches!(from_worker(&bytes), FromWorker::Hello(heard) if heard == hello));

        for outcome in [&b""[..], b"outcome"] {
            let mut bytes = Vec::new();
            put_ready(&mut bytes, outcome);
            assert!(matches!(from_worker(&bytes), FromWorker::Ready(heard) if heard == outcome));
        }

        let mut bytes = Vec::new();
        put_skipped(&mut bytes, 1 << 55);
        assert!(matches!(from_worker(&bytes), FromWorker::Skipped { seq } if seq == 1 << 55));

        for said in failures() {
            let mut bytes = Vec::new();
            put_init_failed(&mut bytes, &said);
            assert!(matches!(from_worker(&bytes), FromWorker::InitFailed(heard) if heard == said));

            let mut bytes = Vec::new();
            put_failed(&mut bytes, 4, u64::MAX, true, &said);
            let FromWorker::Failed { seq, run_nanos, retire, failure } = from_worker(&bytes) else {
                panic!("a failure is a failure");
            };
            assert_eq!((seq, run_nanos, retire, failure), (4, u64::MAX, true, said));
        }
    }

    #[test]
    fn answers_and_items_hold_their_payload_wherever_they_start() {
        let short = vec![1; 10];
        let long = vec![2; COPY_BYTES_MAX + 1];
        for given in [&vec![], &short, &long] {
            for before in [0, 1, 33] {
                let mut bytes = Vec::new();
                for n in 0..before {
                    put_skipped(&mut bytes, n);
                }
                let start = begin_done(&mut bytes);
                bytes.extend_from_slice(given);
                finish_done(&mut bytes, start, 5, 99, 3, true);
                let start = begin_item(&mut bytes);
                bytes.extend_from_slice(given);
                finish_item(&mut bytes, start, 6);
                let mut heard = frames(&bytes);
                let item = FromWorker::parse(heard.pop().unwrap()).unwrap();
                assert!(matches!(item, FromWorker::Item { seq: 6, payload } if payload == *given));
                let done = FromWorker::parse(heard.pop().unwrap()).unwrap();
                let FromWorker::Done { seq, run_nanos, answered, retire, payload } = done else {
                    panic!("an answer is an answer");
                };
                assert_eq!((seq, run_nanos, answered, retire), (5, 99, 3, true));
                assert_eq!(payload, *given);
                assert_eq!(heard.len(), before as usize);
            }
        }
    }

    #[test]
    fn messages_that_go_the_other_way_are_refused() {
        let mut said = Vec::new();
        put_bye(&mut said);
        put_run(&mut said, 1, 2, Shape::One, 0);
        for frame in frames(&said) {
            assert!(matches!(FromWorker::parse(frame), Err(MessageError::WrongWay(_))));
        }
        let mut said = Vec::new();
        put_skipped(&mut said, 1);
        put_ready(&mut said, &[]);
        for frame in frames(&said) {
            assert!(matches!(ToWorker::parse(frame), Err(MessageError::WrongWay(_))));
        }
    }

    #[test]
    fn any_cut_of_a_body_is_heard_as_no_more_than_it_is() {
        let mut done = Vec::new();
        begin_done(&mut done);
        finish_done(&mut done, 0, 5, 99, 3, false);
        let mut failed = Vec::new();
        put_failed(&mut failed, 4, 1, false, &failures()[0]);
        let mut hello = Vec::new();
        put_hello(&mut hello, &Hello { version: 1, fingerprint: 2, pid: 3 });
        for whole in [done, failed, hello] {
            for len in 0..whole.len() - frame::HEADER_BYTES {
                let mut cut = whole[..frame::HEADER_BYTES + len].to_vec();
                cut[..4].copy_from_slice(&(len as u32).to_le_bytes());
                let frame = frames(&cut).remove(0);
                assert!(matches!(FromWorker::parse(frame), Err(MessageError::Malformed(_))));
            }
        }
    }

    fn parsed(kind: Kind, flags: u8, body: &[u8]) -> (Option<ToWorker>, Option<FromWorker>) {
        let frame = || Frame { kind, flags, seq: 1, body: BytesMut::from(body) };
        (ToWorker::parse(frame()).ok(), FromWorker::parse(frame()).ok())
    }

    #[test]
    fn only_flags_that_mean_something_are_taken() {
        let body = [0; RUN_PREFIX_BYTES];
        for flags in 0..=255 {
            let known = matches!(flags, 0 | BATCH | STREAM) || flags == BATCH | STOP_ON_FAILURE;
            assert_eq!(parsed(Kind::Run, flags, &body).0.is_some(), known, "run, {flags}");
            for kind in [Kind::Ready, Kind::Done, Kind::Item] {
                let known = matches!(flags, 0 | RETIRE);
                assert_eq!(parsed(kind, flags, &body).1.is_some(), known, "{kind:?}, {flags}");
            }
        }
    }

    #[test]
    fn a_worker_that_retires_says_so_and_no_other_does() {
        for said in [false, true] {
            let mut bytes = Vec::new();
            begin_done(&mut bytes);
            finish_done(&mut bytes, 0, 5, 99, 3, said);
            let FromWorker::Done { retire, .. } = from_worker(&bytes) else { panic!("it is done") };
            assert_eq!(retire, said);
            let mut bytes = Vec::new();
            put_failed(&mut bytes, 4, 1, said, &Failure::UnknownFunction);
            let FromWorker::Failed { retire, .. } = from_worker(&bytes) else {
                panic!("it failed")
            };
            assert_eq!(retire, said);
        }
    }

    #[test]
    fn bodies_have_the_length_that_their_kind_needs() {
        for len in 0..30 {
            let body = vec![0; len];
            assert_eq!(parsed(Kind::Run, 0, &body).0.is_some(), len >= RUN_PREFIX_BYTES);
            assert_eq!(parsed(Kind::Done, 0, &body).1.is_some(), len >= DONE_PREFIX_BYTES);
            assert_eq!(parsed(Kind::Skipped, 0, &body).1.is_some(), len == 0);
            assert!(parsed(Kind::Item, 0, &body).1.is_some());
        }
    }

    #[test]
    fn reports_are_clipped_at_a_characters_edge() {
        let most = REPORT_TEXT_BYTES_MAX;
        let clipped = |text: &str| {
            let mut text = text.to_owned();
            clip(&mut text);
            text
        };
        let fits = "a".repeat(most);
        assert_eq!(clipped(&fits), fits);
        assert_eq!(clipped(&(fits.clone() + "a")), fits.clone() + "…");
        let wide = "é".repeat(most / 2);
        assert_eq!(clipped(&format!("a{wide}")), format!("a{}…", &wide[2..]));
        let (long, cut) = (fits.clone() + "aa", fits + "…");
        let report = PanicReport {
            message: long.clone(),
            location: Some(long.clone()),
            backtrace: long.clone(),
        };
        let expected =
            PanicReport { message: cut.clone(), location: Some(cut.clone()), backtrace: cut };
        assert_eq!(report.clipped(), expected);
        let nowhere = PanicReport { message: long, ..PanicReport::default() };
        assert_eq!(nowhere.clipped().location, None);
    }

    #[test]
    fn a_short_answer_that_is_kept_keeps_no_buffer() {
        for (len, copied) in [(1, true), (COPY_BYTES_MAX, true), (COPY_BYTES_MAX + 1, false)] {
            let body = BytesMut::from(&vec![1; len][..]);
            let before = body.as_ptr();
            assert_eq!(detach(body).as_ptr() != before, copied, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(
            kind in any::<u8>(),
            flags in prop_oneof![any::<u8>(), 0u8..8],
            seq in any::<u64>(),
            body in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let Some(kind) = Kind::from_byte(kind % 24) else { return Ok(()) };
            let frame = || Frame { kind, flags, seq, body: BytesMut::from(&body[..]) };
            let _ = ToWorker::parse(frame());
            let _ = FromWorker::parse(frame());
        }
    }
}
