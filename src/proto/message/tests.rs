//! Each message as it is written and as it is heard.

use proptest::prelude::*;

use super::*;
use crate::limits::COPY_BYTES_MAX;
use crate::proto::frame::FrameReader;

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

fn context() -> CallContext {
    let trace = Some(("00-ab".to_owned(), String::new()));
    CallContext { task: TaskId(9), label: Some("é".into()), trace }
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
        memory_limit: Some(1 << 41),
        no_new_privs: true,
        sandbox: Some(Sandbox::computing().read("/a").write("/b").network().best_effort()),
        initializer: Some((7, Bytes::from_static(&[1, 2, 3]))),
    };
    let mut bytes = Vec::new();
    put_setup(&mut bytes, &setup, &[]);
    assert!(matches!(to_worker(&bytes), ToWorker::Setup(heard, _) if heard == setup));

    let mut bytes = Vec::new();
    put_bye(&mut bytes);
    assert!(matches!(to_worker(&bytes), ToWorker::Bye));

    let batch = |stop_on_failure, tallied| Shape::Batch {
        count: 9,
        budget_nanos: 5,
        stop_on_failure,
        tallied,
    };
    let batches = [batch(false, false), batch(true, false), batch(false, true)];
    for shape in [Shape::One, Shape::Stream].into_iter().chain(batches) {
        for given in [&b""[..], b"arguments"] {
            for said in [None, Some(context())] {
                let mut bytes = Vec::new();
                let (seq, function) = (1 << 50, u64::MAX - 1);
                put_run(&mut bytes, seq, function, shape, said.as_ref(), given.len(), Count::NONE);
                bytes.extend_from_slice(given);
                let heard = to_worker(&bytes);
                let ToWorker::Run { seq, function, shape: heard, context, args, .. } = heard else {
                    panic!("a run is a run");
                };
                assert_eq!((seq, function, heard), (1 << 50, u64::MAX - 1, shape));
                assert_eq!((context.as_deref(), &args[..]), (said.as_ref(), given));
            }
        }
    }
}

#[test]
fn what_a_worker_says_is_heard() {
    let hello = Hello { version: 3, fingerprint: 1 << 63, pid: i32::MAX };
    let mut bytes = Vec::new();
    put_hello(&mut bytes, &hello);
    assert!(matches!(from_worker(&bytes), FromWorker::Hello(heard) if heard == hello));

    for said in [&b""[..], b"outcome"] {
        for (listens, forwards) in [(false, false), (true, false), (false, true), (true, true)] {
            let ears = Ears { listens, forwards };
            let mut bytes = Vec::new();
            put_ready(&mut bytes, ears, said);
            assert!(matches!(
                from_worker(&bytes),
                FromWorker::Ready { ears: heard, outcome } if heard == ears && outcome == said
            ));
        }
    }

    let mut bytes = Vec::new();
    put_trace(&mut bytes, 1 << 54, b"news");
    assert!(matches!(
        from_worker(&bytes),
        FromWorker::Trace { seq, body } if seq == 1 << 54 && &body[..] == b"news"
    ));

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
            let len = bytes.len() - start;
            finish_done(&mut bytes[start..], len, Count::NONE, 5, 99, 3, true);
            let start = begin_item(&mut bytes);
            bytes.extend_from_slice(given);
            let len = bytes.len() - start;
            finish_item(&mut bytes[start..], len, Count::NONE, 6);
            let mut heard = frames(&bytes);
            let item = FromWorker::parse(heard.pop().unwrap()).unwrap();
            assert!(
                matches!(item, FromWorker::Item { seq: 6, payload } if payload[..] == given[..])
            );
            let done = FromWorker::parse(heard.pop().unwrap()).unwrap();
            let FromWorker::Done { seq, run_nanos, answered, retire, payload } = done else {
                panic!("an answer is an answer");
            };
            assert_eq!((seq, run_nanos, answered, retire), (5, 99, 3, true));
            assert_eq!(payload[..], given[..]);
            assert_eq!(heard.len(), before as usize);
        }
    }
}

#[test]
fn messages_that_go_the_other_way_are_refused() {
    let mut said = Vec::new();
    put_bye(&mut said);
    put_run(&mut said, 1, 2, Shape::One, None, 0, Count::NONE);
    for frame in frames(&said) {
        assert!(matches!(FromWorker::parse(frame), Err(MessageError::WrongWay(_))));
    }
    let mut said = Vec::new();
    put_skipped(&mut said, 1);
    put_ready(&mut said, Ears::default(), &[]);
    for frame in frames(&said) {
        assert!(matches!(ToWorker::parse(frame), Err(MessageError::WrongWay(_))));
    }
}

#[test]
fn any_cut_of_a_body_is_heard_as_no_more_than_it_is() {
    let mut done = Vec::new();
    begin_done(&mut done);
    finish_done(&mut done, DONE_HEAD_BYTES, Count::NONE, 5, 99, 3, false);
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
    let frame =
        || Frame { kind, flags, seq: 1, body: BytesMut::from(body), arrived: Arrived::NOTHING };
    (ToWorker::parse(frame()).ok(), FromWorker::parse(frame()).ok())
}

#[test]
fn only_flags_that_mean_something_are_taken() {
    let mut run = Vec::new();
    put_run(&mut run, 1, 0, Shape::One, Some(&context()), 0, Count::NONE);
    let body = run.split_off(frame::HEADER_BYTES);
    for flags in 0..=255 {
        let shape = flags & !CONTEXT;
        let known = shape == 0 || shape == STREAM || shape & !(STOP_ON_FAILURE | TALLIED) == BATCH;
        assert_eq!(parsed(Kind::Run, flags, &body).0.is_some(), known, "run, {flags}");
        for kind in [Kind::Ready, Kind::Done, Kind::Item, Kind::Trace] {
            let known = match kind {
                Kind::Ready => flags <= LISTENS | FORWARDS,
                Kind::Trace => flags == 0,
                _ => matches!(flags, 0 | RETIRE),
            };
            assert_eq!(parsed(kind, flags, &body).1.is_some(), known, "{kind:?}, {flags}");
        }
    }
}

#[test]
fn a_worker_that_retires_says_so_and_no_other_does() {
    for said in [false, true] {
        let mut bytes = Vec::new();
        begin_done(&mut bytes);
        finish_done(&mut bytes, DONE_HEAD_BYTES, Count::NONE, 5, 99, 3, said);
        let FromWorker::Done { retire, .. } = from_worker(&bytes) else { panic!("it is done") };
        assert_eq!(retire, said);
        let mut bytes = Vec::new();
        put_failed(&mut bytes, 4, 1, said, &Failure::UnknownFunction);
        let FromWorker::Failed { retire, .. } = from_worker(&bytes) else { panic!("it failed") };
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
        assert_eq!(
            Reply::detach(body, 0, Arrived::NOTHING).as_ptr() != before,
            copied,
            "{len} bytes"
        );
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
        let frame = || Frame { kind, flags, seq, body: BytesMut::from(&body[..]), arrived: Arrived::NOTHING };
        let _ = ToWorker::parse(frame());
        let _ = FromWorker::parse(frame());
    }
}
