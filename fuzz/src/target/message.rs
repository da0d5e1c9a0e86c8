//! `message`: whatever a frame holds, reading it never panics, and a message
//! that is read, written and read again is the same.

use arbitrary::{Arbitrary, Unstructured};
use bytes::BytesMut;

use crate::attached::{Arrived, Count};
use crate::limits::TRACE_TEXT_BYTES_MAX;
use crate::proto::frame::{Frame, FrameReader, Kind};
use crate::proto::message::{
    FromWorker, ToWorker, begin_done, begin_item, finish_done, finish_item, put_began, put_bye,
    put_failed, put_hello, put_init_failed, put_ready, put_run, put_setup, put_skipped, put_trace,
};
use crate::proto::trace::News;

#[derive(Arbitrary, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    seq: u64,
}

pub fn message(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(Head { kind, flags, seq }) = Head::arbitrary(&mut data) else { return };
    let Some(kind) = Kind::from_byte(kind) else { return };
    let body = data.take_rest();
    let frame =
        || Frame { kind, flags, seq, body: BytesMut::from(body), arrived: Arrived::NOTHING };

    let to_worker = ToWorker::parse(frame());
    let from_worker = FromWorker::parse(frame());
    assert!(to_worker.is_err() || from_worker.is_err(), "{kind:?} goes one way only");
    if let Ok(message) = to_worker {
        let bytes = write_to_worker(&message);
        let again = ToWorker::parse(read(&bytes)).expect("what we write we read");
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
        assert_eq!(write_to_worker(&again), bytes);
    }
    if let Ok(message) = from_worker {
        let bytes = write_from_worker(&message);
        let again = FromWorker::parse(read(&bytes)).expect("what we write we read");
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
        assert_eq!(write_from_worker(&again), bytes);
        if let FromWorker::Trace { body, .. } = message {
            check_news(&body);
        }
    }
}

/// What a worker's `tracing` is told is cut once, and is short then.
fn check_news(body: &[u8]) {
    let Ok(news) = News::decode(body) else { return };
    let bytes = news.encode();
    assert!(bytes.len() <= body.len() + TRACE_TEXT_BYTES_MAX);
    let again = News::decode(&bytes).expect("what we write we read");
    // Numbers that are none are not the same as themselves.
    assert_eq!(format!("{:?}", again.clipped()), format!("{:?}", news.clipped()));
}

/// The one frame that `bytes` are.
fn read(bytes: &[u8]) -> Frame {
    let mut reader = FrameReader::new(bytes.len());
    reader.buffer().extend_from_slice(bytes);
    let frame = reader.next_frame().expect("what we write are frames").expect("a whole one");
    assert!(reader.buffer().is_empty(), "and nothing else");
    frame
}

fn write_to_worker(message: &ToWorker) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        ToWorker::Setup(setup, _) => put_setup(&mut out, setup, &[]),
        ToWorker::Run { seq, function, shape, context, args, .. } => {
            let context = context.as_deref();
            put_run(&mut out, *seq, *function, *shape, context, args.len(), Count::NONE);
            out.extend_from_slice(args);
        }
        ToWorker::Bye => put_bye(&mut out),
    }
    out
}

fn write_from_worker(message: &FromWorker) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        FromWorker::Hello(hello) => put_hello(&mut out, hello),
        FromWorker::Ready { ears, outcome } => put_ready(&mut out, *ears, outcome),
        FromWorker::Trace { seq, body } => put_trace(&mut out, *seq, body),
        FromWorker::InitFailed(failure) => put_init_failed(&mut out, failure),
        FromWorker::Done { seq, run_nanos, answered, retire, payload } => {
            begin_done(&mut out);
            out.extend_from_slice(payload);
            let len = out.len();
            finish_done(&mut out, len, Count::NONE, *seq, *run_nanos, *answered, *retire);
        }
        FromWorker::Failed { seq, run_nanos, retire, failure } => {
            put_failed(&mut out, *seq, *run_nanos, *retire, failure);
        }
        FromWorker::Skipped { seq } => put_skipped(&mut out, *seq),
        FromWorker::Began { seq } => put_began(&mut out, *seq),
        FromWorker::Item { seq, payload } => {
            begin_item(&mut out);
            out.extend_from_slice(payload);
            let len = out.len();
            finish_item(&mut out, len, Count::NONE, *seq);
        }
    }
    out
}
