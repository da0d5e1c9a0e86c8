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
mod tests;
