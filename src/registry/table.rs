//! The table of all tasks, filled while the program is compiled and linked.
//!
//! Every generic call of a task contains an `asm!` block that assembles to no
//! instruction but leaves one number in the section `procession_tasks`: the
//! distance from the entry to a function that describes the task. The linker
//! joins these sections and marks where they start and stop. So the table
//! holds exactly the functions that the program calls as tasks, and nothing
//! runs before `main`.
//!
//! The pool asks for ids, the worker looks them up. Nothing here starts, sends
//! or catches anything.

#![allow(unsafe_code)]

use std::any::{TypeId, type_name};
use std::arch::asm;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::OnceLock;

use serde::de::DeserializeOwned;

use super::calls::{CallFailure, Calls};
use super::task_fn::{Caller, Host, StreamFn, TaskFn};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "procession supports x86_64 and aarch64; other processors need a look at its table of tasks"
);

/// Names a task on the wire: the same in every process of one program, and
/// meaningless in any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FnId(pub(crate) u64);

impl FnId {
    #[inline]
    fn of<T: 'static>(kind: u8) -> Self {
        let mut hash = Fnv1a::new();
        TypeId::of::<T>().hash(&mut hash);
        hash.write(&[kind]);
        FnId(hash.finish())
    }
}

/// One function as the worker sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) id: FnId,
    /// For people: the path of the function. Closures of one function share it.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What calling a task means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// One result.
    Value(Run),
    /// Any number of items.
    Stream(Run),
    /// Not called: `name` is the path of the libtest test that becomes a
    /// worker.
    TestMain,
}

/// Makes calls as long as any are to be made, or until one fails: decodes the
/// arguments, calls the function, and appends what it returns.
///
/// One loop for each task, because what surrounds a call would otherwise take
/// longer than a small task itself.
pub(crate) type Run = fn(&mut Calls<'_>, &mut dyn Host) -> Result<(), CallFailure>;

/// The id of `f` as a task with one result.
///
/// The value is not used, but proves that there is one: see [`conjure`].
#[inline]
pub(crate) fn value_id<F, Args, M>(_f: F) -> FnId
where
    F: TaskFn<Args, M>,
    Args: DeserializeOwned,
{
    leave_entry::<ValueTask<F, Args, M>>();
    ValueTask::<F, Args, M>::id()
}

/// The id of `f` as a task with many items.
#[inline]
pub(crate) fn stream_id<F, Args, M>(_f: F) -> FnId
where
    F: StreamFn<Args, M>,
    Args: DeserializeOwned,
{
    leave_entry::<StreamTask<F, Args, M>>();
    StreamTask::<F, Args, M>::id()
}

/// What people call the function of type `F`.
#[inline]
pub(crate) fn name<F>() -> &'static str {
    type_name::<F>()
}

/// Says which test of a test program becomes a worker when the program is
/// started as one.
#[doc(hidden)]
pub trait TestMain: 'static {
    /// The test's path, as libtest's `--exact` wants it.
    const NAME: &'static str;
}

/// Leaves `T::NAME` in the table.
pub(crate) fn test_main<T: TestMain>() {
    leave_entry::<TestMainEntry<T>>();
}

/// All tasks of this program, sorted by id.
#[derive(Debug)]
pub(crate) struct Table {
    tasks: Vec<Task>,
}

impl Table {
    /// The table of this program.
    ///
    /// Ends the process if two functions have one id: the chance is one in
    /// billions, and to call the wrong function is not among the answers.
    pub(crate) fn global() -> &'static Table {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            Table::of(linked_tasks()).unwrap_or_else(|collision| {
                eprintln!("procession: {collision}");
                std::process::abort()
            })
        })
    }

    /// Sorts `tasks` and drops repetitions: a function called in many places
    /// has left many entries.
    fn of(mut tasks: Vec<Task>) -> Result<Table, Collision> {
        tasks.sort_unstable_by_key(|task| (task.id, task.name));
        tasks.dedup_by_key(|task| (task.id, task.name));
        match tasks.windows(2).find(|pair| pair[0].id == pair[1].id) {
            Some(pair) => Err(Collision { id: pair[0].id, names: [pair[0].name, pair[1].name] }),
            None => Ok(Table { tasks }),
        }
    }

    /// The task named `id`, if this program has it.
    pub(crate) fn lookup(&self, id: FnId) -> Option<&Task> {
        let at = self.tasks.binary_search_by_key(&id, |task| task.id).ok()?;
        Some(&self.tasks[at])
    }

    /// Stands for the whole table. Two programs that agree on it mean the same
    /// by each id.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hash = Fnv1a::new();
        for task in &self.tasks {
            (task.id, task.name).hash(&mut hash);
        }
        hash.finish()
    }

    /// The test that becomes a worker, if this is a test program that has one.
    pub(crate) fn test_main(&self) -> Option<&'static str> {
        self.tasks.iter().find(|task| matches!(task.kind, Kind::TestMain)).map(|task| task.name)
    }
}

/// Two functions with one id.
#[derive(Debug)]
struct Collision {
    id: FnId,
    names: [&'static str; 2],
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Collision { id, names: [one, other] } = self;
        write!(
            f,
            "the tasks `{one}` and `{other}` have the same id {:#018x}; rename one of them",
            id.0
        )
    }
}

/// Something that can have an entry in the table.
trait Entry {
    /// Called when the table is read.
    fn describe() -> Task;
}

struct ValueTask<F, Args, M>(PhantomData<fn(F, Args, M)>);

impl<F: TaskFn<Args, M>, Args: DeserializeOwned, M> ValueTask<F, Args, M> {
    #[inline]
    fn id() -> FnId {
        assert_captures_nothing::<F>();
        FnId::of::<F>(0)
    }

    fn run(calls: &mut Calls<'_>, host: &mut dyn Host) -> Result<(), CallFailure> {
        // SAFETY: this is reached only through the task's id, and `value_id`
        // makes that from a value of `F`.
        let f = unsafe { conjure::<F>() };
        while let Some(args) = calls.next::<Args>() {
            let output = f.call(args?, Caller(host));
            calls.append(&output)?;
        }
        Ok(())
    }
}

impl<F: TaskFn<Args, M>, Args: DeserializeOwned, M> Entry for ValueTask<F, Args, M> {
    fn describe() -> Task {
        Task { id: Self::id(), name: name::<F>(), kind: Kind::Value(Self::run) }
    }
}

struct StreamTask<F, Args, M>(PhantomData<fn(F, Args, M)>);

impl<F: StreamFn<Args, M>, Args: DeserializeOwned, M> StreamTask<F, Args, M> {
    #[inline]
    fn id() -> FnId {
        assert_captures_nothing::<F>();
        FnId::of::<F>(1)
    }

    fn run(calls: &mut Calls<'_>, host: &mut dyn Host) -> Result<(), CallFailure> {
        // SAFETY: this is reached only through the task's id, and `stream_id`
        // makes that from a value of `F`.
        let f = unsafe { conjure::<F>() };
        while let Some(args) = calls.next::<Args>() {
            for item in f.call(args?) {
                calls.append(&item)?;
                if !host.item(calls.out()) {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl<F: StreamFn<Args, M>, Args: DeserializeOwned, M> Entry for StreamTask<F, Args, M> {
    fn describe() -> Task {
        Task { id: Self::id(), name: name::<F>(), kind: Kind::Stream(Self::run) }
    }
}

struct TestMainEntry<T>(PhantomData<fn(T)>);

impl<T: TestMain> Entry for TestMainEntry<T> {
    fn describe() -> Task {
        Task { id: FnId::of::<T>(2), name: T::NAME, kind: Kind::TestMain }
    }
}

#[inline]
const fn assert_captures_nothing<F>() {
    const {
        assert!(
            size_of::<F>() == 0,
            "a task must be a function or a closure that captures nothing: pass what it needs as arguments"
        );
    }
}

/// Makes a value of a function type out of nothing.
///
/// The worker has the id of a function, never the function: it was not sent.
/// But the values of a type without size are all alike, so knowing the type is
/// as good as having one.
///
/// # Safety
///
/// A value of `F` must have existed in a process of this program. (A closure
/// may capture an uninhabited value and still have no size.)
unsafe fn conjure<F: Copy + Send + Sync + 'static>() -> F {
    assert_captures_nothing::<F>();
    // SAFETY: reading a type without size touches no memory, and any aligned
    // pointer will do. `F` is inhabited, the caller says. It is `Copy`, so one
    // more of it is nothing that its owner could not have made, and `Send`, so
    // it may appear on this thread.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Puts `E` into the table, merely by being compiled.
#[inline]
fn leave_entry<E: Entry>() {
    // An offset, not an address: it needs no relocation at load time, so the
    // section stays read-only. `R` keeps the linker from dropping an entry
    // that no code refers to.
    //
    // SAFETY: assembles to no instruction. What it adds to the section is what
    // `linked_tasks` expects there.
    unsafe {
        asm!(
            ".pushsection procession_tasks, \"aR\", @progbits",
            ".p2align 2",
            ".long {describe} - .",
            ".popsection",
            describe = sym E::describe,
            options(nomem, nostack, preserves_flags),
        );
    }
}

unsafe extern "C" {
    // Made by the linker, once any object has a section of this name.
    #[link_name = "__start_procession_tasks"]
    static START: [i32; 0];
    #[link_name = "__stop_procession_tasks"]
    static STOP: [i32; 0];
}

/// Describes what every entry in this program stands for.
fn linked_tasks() -> Vec<Task> {
    // An entry that stands for nothing, so that the section exists and its
    // bounds can be linked in a program without tasks.
    //
    // SAFETY: assembles to no instruction, and adds one number that the loop
    // below skips.
    unsafe {
        asm!(
            ".pushsection procession_tasks, \"aR\", @progbits",
            ".p2align 2",
            ".long 0",
            ".popsection",
            options(nomem, nostack, preserves_flags),
        );
    }

    // To the optimiser these are two unrelated objects, which no pointer walks
    // from one to the other. Hide where the pointers come from.
    let mut entry = black_box(&raw const START).cast::<i32>();
    let stop = black_box(&raw const STOP).cast::<i32>();
    let mut tasks = Vec::new();
    while entry != stop {
        // SAFETY: the linker puts the entries between `START` and `STOP`, each
        // an aligned `i32` with nothing between them.
        let offset = unsafe { entry.read() };
        if offset != 0 {
            let address = entry.cast::<u8>().wrapping_offset(offset as isize);
            // SAFETY: only `leave_entry` and the block above add entries, and
            // one that is not 0 is its distance to an `Entry::describe`.
            let describe = unsafe { std::mem::transmute::<*const u8, fn() -> Task>(address) };
            tasks.push(describe());
        }
        entry = entry.wrapping_add(1);
    }
    tasks
}

/// FNV-1a: the same in parent and worker, unlike std's seeded hasher, and
/// short enough to be computed while compiling.
struct Fnv1a(u64);

impl Fnv1a {
    fn new() -> Self {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
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
}
