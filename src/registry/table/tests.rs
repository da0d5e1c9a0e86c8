//! Functions of every kind are called as a worker calls them, by what the linker has
//! put into the table.

use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use bytes::Bytes;
use serde::Serialize;

use super::super::calls::ResultLimits;
use super::*;
use crate::limits::KEEP_BYTES_LEAST;
use crate::proto::codec::{self, Budget, DecodeFailure, EncodeFailure};
use crate::proto::draft::{Draft, Payload, Whole};
use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::cast::Sharing;

/// A worker without a process.
struct Bench {
    /// Ends of the items so far.
    ends: Vec<usize>,
    /// How many items are wanted.
    wanted: usize,
}

impl Host for Bench {
    fn block_on(&mut self, mut future: Pin<&mut dyn Future<Output = ()>>) {
        while future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {}
    }

    fn item(&mut self, out: &mut Draft) -> bool {
        self.ends.push(out.len());
        self.ends.len() < self.wanted
    }
}

fn encoded<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = Vec::new();
    codec::encode_into(value, &mut bytes, usize::MAX).unwrap();
    bytes.into()
}

fn run(id: FnId) -> Run {
    match Table::global().lookup(id).expect("the call left an entry").kind {
        Kind::Value(run) | Kind::Stream(run) => run,
        Kind::TestMain => panic!("not a task"),
    }
}

const LIMITS: ResultLimits = ResultLimits { each: 1 << 20, together: usize::MAX };

/// Makes one call, whose result is appended to `out`.
fn call(run: Run, args: &Bytes, out: &mut Draft) -> Result<(), CallFailure> {
    let begun = AtomicU32::new(0);
    let mut calls = Calls::new(1, Whole::from(args), out, LIMITS, &begun);
    calls.go_on(1);
    run(&mut calls, &mut Bench { ends: Vec::new(), wanted: 0 })
}

/// What `Pool::apply` and a worker do together.
fn apply<F, Args, M>(f: F, args: Args) -> F::Output
where
    F: TaskFn<Args, M>,
    Args: Serialize + DeserializeOwned,
{
    let mut out = Draft::default();
    call(run(value_id(f)), &encoded(&args), &mut out).unwrap();
    codec::decode(out.as_slice().unwrap()).unwrap()
}

fn stream<F, Args, M>(f: F, args: Args, wanted: usize) -> Vec<F::Item>
where
    F: StreamFn<Args, M>,
    Args: Serialize + DeserializeOwned,
{
    let (args, begun) = (encoded(&args), AtomicU32::new(0));
    let mut bench = Bench { ends: Vec::new(), wanted };
    let mut out = Draft::default();
    let mut calls = Calls::new(1, Whole::from(&args), &mut out, LIMITS, &begun);
    calls.go_on(1);
    run(stream_id(f))(&mut calls, &mut bench).unwrap();
    let mut rest = out.as_slice().unwrap();
    let mut budget = Budget::for_payload(rest.len());
    bench.ends.iter().map(|_| codec::decode_front(&mut rest, &mut budget).unwrap()).collect()
}

fn square(n: u64) -> u64 {
    n * n
}

fn nothing() {}

fn double<T: std::ops::Add<Output = T> + Copy>(n: T) -> T {
    n + n
}

fn swap((a, b): (u8, String)) -> (String, u8) {
    (b, a)
}

fn parse(text: String) -> Result<i32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn sum(numbers: Vec<u32>) -> u32 {
    numbers.iter().sum()
}

#[expect(clippy::too_many_arguments, reason = "as many as a task can have")]
fn eight(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> [u8; 8] {
    [a, b, c, d, e, f, g, h]
}

async fn later(n: u64) -> u64 {
    std::future::ready(n).await + 1
}

async fn later_still(a: String, b: String) -> String {
    a + &b
}

#[test]
fn every_kind_of_function_is_a_task() {
    assert_eq!(apply(square, 3), 9);
    apply(nothing, ());
    assert_eq!(apply(double::<u32>, 1), 2);
    assert_eq!(apply(double::<f32>, 1.5), 3.0);
    assert_eq!(apply(swap, (1, "a".into())), ("a".to_owned(), 1));
    assert_eq!(apply(parse, "12".to_owned()), Ok(12));
    assert_eq!(apply(parse, "x".to_owned()), Err("\"x\" is not a number".to_owned()));
    assert_eq!(apply(sum, vec![1, 2, 3]), 6);
    assert_eq!(apply(eight, (1, 2, 3, 4, 5, 6, 7, 8)), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(apply(later, 1), 2);
    assert_eq!(apply(later_still, ("a".into(), "b".into())), "ab");
    assert_eq!(apply(|| 5_u8, ()), 5);
    assert_eq!(apply(|n: u64| n + 1, 3), 4);
    assert_eq!(apply(|(a, b): (u32, u32)| a + b, (1, 2)), 3);
    assert_eq!(apply(|a: u32, b: u32| a * b, (2, 3)), 6);
    assert_eq!(apply(|n: u8| async move { n + 1 }, 3), 4);
    assert_eq!(apply(async |n: u8| n + 1, 3), 4);
}

#[test]
fn items_are_produced_until_no_more_are_wanted() {
    fn up_to(n: u32) -> impl Iterator<Item = u32> {
        (0..n).map(|n| n * 10)
    }

    assert_eq!(stream(up_to, 3, usize::MAX), [0, 10, 20]);
    assert_eq!(stream(|from: u32| from.., 5, 2), [5, 6]);
    assert_eq!(stream(|a: u8, b: u8| vec![a, b], (1, 2), usize::MAX), [1, 2]);
}

#[test]
fn identical_closures_are_different_tasks() {
    fn ids<F: TaskFn<u32, M> + Copy, M>(f: F) -> (FnId, FnId) {
        (value_id(f), value_id(f))
    }

    let one = ids(|n: u32| n + 1);
    let two = ids(|n: u32| n + 1);
    let three = ids(|n: u32| n + 1);
    assert!(one.0 == one.1 && two.0 == two.1 && three.0 == three.1);
    assert!(one.0 != two.0 && two.0 != three.0 && one.0 != three.0);
    assert_ne!(value_id(double::<u8>), value_id(double::<u16>));
}

#[test]
fn a_function_called_both_ways_is_two_tasks() {
    fn numbers(n: u8) -> Vec<u8> {
        (0..n).collect()
    }

    assert_ne!(value_id::<_, u8, _>(numbers), stream_id::<_, u8, _>(numbers));
    assert_eq!(apply(numbers, 2), [0, 1]);
    assert_eq!(stream(numbers, 2, usize::MAX), [0, 1]);
}

#[test]
fn calls_are_made_as_far_as_they_may_be() {
    let run = run(value_id::<_, u64, _>(|n: u64| n + 1));
    let (args, begun) = (encoded(&(300_u64, 7_u64, 9_u64)), AtomicU32::new(0));
    let mut out = Draft::default();
    let mut bench = Bench { ends: Vec::new(), wanted: 0 };
    let mut calls = Calls::new(3, Whole::from(&args), &mut out, LIMITS, &begun);
    calls.go_on(2);
    run(&mut calls, &mut bench).unwrap();
    assert_eq!((calls.begun(), calls.is_enough()), (2, false));
    assert_eq!(begun.load(Ordering::Relaxed), 1, "counted from 0");
    calls.go_on(2);
    run(&mut calls, &mut bench).unwrap();
    assert_eq!((calls.begun(), calls.is_enough()), (3, true));
    assert_eq!(out.into_vec(), encoded(&(301_u64, 8_u64, 10_u64)));
}

#[test]
fn results_that_are_long_together_are_the_last() {
    let run = run(value_id::<_, u8, _>(|n: u8| [n; 4]));
    let (args, begun) = (encoded(&[1_u8; 5]), AtomicU32::new(0));
    let mut out = Draft::default();
    let limits = ResultLimits { each: 4, together: 7 };
    let mut calls = Calls::new(5, Whole::from(&args), &mut out, limits, &begun);
    calls.go_on(5);
    run(&mut calls, &mut Bench { ends: Vec::new(), wanted: 0 }).unwrap();
    assert_eq!((calls.begun(), calls.is_enough()), (2, true));
    assert_eq!(out.len(), 8);
}

#[test]
fn the_call_behind_one_that_panics_is_found_and_nothing_of_that_is_kept() {
    /// A number that cannot be sent if it is 7.
    #[derive(Serialize)]
    struct Picky(u8, #[serde(serialize_with = "refuse_seven")] u64);

    fn refuse_seven<S: serde::Serializer>(n: &u64, to: S) -> Result<S::Ok, S::Error> {
        if *n == 7 { panic!("seven") } else { n.serialize(to) }
    }

    impl<'de> serde::Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(_from: D) -> Result<Self, D::Error> {
            unreachable!("only sent")
        }
    }

    let run = run(value_id::<_, u64, _>(|n: u64| -> Picky {
        if n == 8 { panic!("eight") } else { Picky(1, n) }
    }));
    let (args, begun) = (encoded(&(300_u64, 7_u64, 8_u64, 9_u64)), AtomicU32::new(0));
    let mut out = Draft::default();
    let mut bench = Bench { ends: Vec::new(), wanted: 0 };
    let mut calls = Calls::new(4, Whole::from(&args), &mut out, LIMITS, &begun);
    calls.go_on(4);
    for panics in [true, true, false] {
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&mut calls, &mut bench).unwrap();
        }));
        assert_eq!(made.is_err(), panics);
        if panics {
            calls.handle_panic();
        }
    }
    assert_eq!(out.into_vec(), encoded(&((1_u8, 300_u64), (1_u8, 9_u64))));
}

#[test]
fn nothing_may_follow_the_last_arguments() {
    let run = run(value_id::<_, u8, _>(|n: u8| n));
    let (args, begun) = (Bytes::from_static(&[1, 2, 3]), AtomicU32::new(0));
    let mut out = Draft::default();
    let mut calls = Calls::new(2, Whole::from(&args), &mut out, LIMITS, &begun);
    calls.go_on(2);
    assert!(matches!(
        run(&mut calls, &mut Bench { ends: Vec::new(), wanted: 0 }),
        Err(CallFailure::Arguments(DecodeFailure::LeftOver { bytes: 1 }))
    ));
    assert_eq!((calls.begun(), out.into_vec()), (2, vec![1]));
}

#[test]
fn what_cannot_be_decoded_or_sent_is_told_apart() {
    let run = run(value_id::<_, u32, _>(|n: u32| vec![0_u8; n as usize]));
    let mut out = Draft::default();
    assert!(matches!(
        call(run, &Bytes::from_static(&[0x80]), &mut out),
        Err(CallFailure::Arguments(DecodeFailure::Malformed(_)))
    ));
    let limits = ResultLimits { each: 10, ..LIMITS };
    let (args, begun) = (Bytes::from_static(&[20, 9]), AtomicU32::new(0));
    let mut bench = Bench { ends: Vec::new(), wanted: 0 };
    let mut calls = Calls::new(2, Whole::from(&args), &mut out, limits, &begun);
    calls.go_on(2);
    assert!(matches!(
        run(&mut calls, &mut bench),
        Err(CallFailure::Result(EncodeFailure::TooLarge { size: 21, limit: 10 }))
    ));
    assert_eq!(calls.out().len(), 0);
    run(&mut calls, &mut bench).unwrap();
    assert_eq!(out.len(), 10);
}

#[test]
fn long_bytes_are_neither_copied_out_of_the_arguments_nor_into_the_result() {
    let payload = encoded(&(1_u8, Bytes::from(vec![7; KEEP_BYTES_LEAST]), 2_u8));
    let swap = |before: u8, bytes: Bytes, after: u8| (after, Some(bytes), before);
    let mut out = Draft::default();
    call(run(value_id::<_, (u8, Bytes, u8), _>(swap)), &payload, &mut out).unwrap();
    let result = Payload::from(out);
    let Payload::Pieces(pieces) = &result else { panic!("{result:?}") };
    let [before, bytes, after] = &pieces[..] else { panic!("{result:?}") };
    assert_eq!((before.len(), &after[..]), (5, &[1][..]));
    assert_eq!((bytes.len(), bytes.as_ptr()), (KEEP_BYTES_LEAST, payload[4..].as_ptr()));
}

#[test]
fn what_is_not_copied_counts_all_the_same_and_short_bytes_are_copied() {
    let long = Bytes::from(vec![7; KEEP_BYTES_LEAST]);
    let size = encoded(&long).len();
    let mut out = Draft::default();
    out.tail().push(1);
    let mut draft = |bytes: &Bytes, limit| {
        let result = codec::draft::<Sharing, _>(bytes, &mut out, limit);
        (result, out.len(), out.as_slice().is_some())
    };
    let limit = size - 1;
    let too_large = Err(EncodeFailure::TooLarge { size, limit });
    assert_eq!(draft(&long, limit), (too_large, 1, true), "nothing of it stays");
    assert_eq!(draft(&long.slice(1..), limit), (Ok(()), size, true));
    assert_eq!(draft(&long, size), (Ok(()), 2 * size, false));
}

#[test]
fn bytes_do_not_keep_a_payload_that_is_far_longer() {
    let lengths = [KEEP_BYTES_LEAST - 1, KEEP_BYTES_LEAST, 200_000, 1 << 20];
    let sent = lengths.map(|len| Bytes::from(vec![7; len]));
    let payload = encoded(&sent);
    let decoded =
        codec::decode_shared::<Sharing, [Bytes; 4]>(&payload, Whole::from(&payload)).unwrap();
    assert_eq!(decoded, sent);
    let range = payload.as_ptr_range();
    let shares = decoded.map(|bytes| range.contains(&bytes.as_ptr()));
    assert_eq!(shares, [false, false, true, true]);
}

#[test]
fn an_unknown_id_is_not_found() {
    assert!(Table::global().lookup(FnId(0)).is_none());
}

fn task(id: u64, name: &'static str) -> Task {
    Task { id: FnId(id), name, kind: Kind::TestMain }
}

#[test]
fn repetitions_collapse_and_collisions_name_both() {
    let table = Table::of(vec![task(2, "b"), task(1, "a"), task(2, "b")]).unwrap();
    assert_eq!(table.tasks.len(), 2);
    assert_eq!(table.lookup(FnId(2)).unwrap().name, "b");

    let collision = Table::of(vec![task(2, "b"), task(1, "a"), task(2, "c")]).unwrap_err();
    assert_eq!(
        collision.to_string(),
        "the tasks `b` and `c` have the same id 0x0000000000000002; rename one of them"
    );
}

#[test]
fn the_fingerprint_covers_ids_and_names_but_not_their_order() {
    let of = |tasks: &[Task]| Table::of(tasks.to_vec()).unwrap().fingerprint();
    assert_eq!(of(&[task(1, "a"), task(2, "b")]), of(&[task(2, "b"), task(1, "a")]));
    assert_ne!(of(&[task(1, "a"), task(2, "b")]), of(&[task(1, "a")]));
    assert_ne!(of(&[task(1, "a")]), of(&[task(1, "b")]));
    assert_ne!(of(&[task(1, "a")]), of(&[task(2, "a")]));
}

#[test]
fn the_table_knows_the_test_that_becomes_a_worker() {
    struct Here;

    impl TestMain for Here {
        const NAME: &'static str = "area::worker";
    }

    test_main::<Here>();
    assert_eq!(Table::global().test_main(), Some("area::worker"));
}

#[test]
fn a_future_is_made_inside_the_runtime() {
    struct Inside(Bench);

    impl Host for Inside {
        fn block_on(&mut self, future: Pin<&mut dyn Future<Output = ()>>) {
            INSIDE.set(true);
            self.0.block_on(pin!(future));
            INSIDE.set(false);
        }

        fn item(&mut self, out: &mut Draft) -> bool {
            self.0.item(out)
        }
    }

    thread_local! {
        static INSIDE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    let run = run(value_id::<_, (), _>(|| std::future::ready(INSIDE.get())));
    let (args, begun) = (Bytes::new(), AtomicU32::new(0));
    let mut out = Draft::default();
    let mut calls = Calls::new(1, Whole::from(&args), &mut out, LIMITS, &begun);
    calls.go_on(1);
    run(&mut calls, &mut Inside(Bench { ends: Vec::new(), wanted: 0 })).unwrap();
    assert_eq!(codec::decode::<bool>(&out.into_vec()), Ok(true));
}
