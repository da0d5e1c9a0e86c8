//! Which functions can be tasks: one impl per number of arguments and kind.
//! `pool` and `process` bound their arguments by these traits, `table` calls
//! through them. Decides nothing about ids, bytes or processes.

use std::fmt;
use std::pin::{Pin, pin};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proto::draft::Draft;

/// A function that a worker can run.
///
/// Implemented for every plain `fn`, `async fn` and closure that captures
/// nothing, if it takes at most eight arguments and if each of them, and the
/// result, is `Serialize + DeserializeOwned`. There is nothing to register and
/// no way to implement it by hand.
///
/// `Args` is what a caller passes: `()` for no arguments, one argument as it
/// is, several as a tuple. `Marker` tells the implementations apart and is
/// always inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in a worker process with arguments `{Args}`",
    label = "not a task for these arguments",
    note = "a task is a plain `fn`, an `async fn`, or a closure that captures nothing and names its argument types",
    note = "its arguments and its result must be `Serialize + DeserializeOwned`: owned values, no references",
    note = "a task takes up to 8 arguments; pass one as it is, several as a tuple: `pool.apply(add, (1, 2))`",
    note = "a closure that never returns must name a result type all the same, as in `|| -> u32`"
)]
pub trait TaskFn<Args, Marker>: Copy + Send + Sync + 'static {
    /// What the function returns, or the `async fn` resolves to.
    type Output: Serialize + DeserializeOwned;

    #[doc(hidden)]
    fn call(self, args: Args, caller: Caller<'_>) -> Self::Output;
}

/// A function that a worker can run and whose result is an iterator: the
/// items travel one by one, as the caller takes them.
///
/// Implemented for the same functions as [`TaskFn`], as long as they are not
/// `async` and return something iterable. The iterator itself stays in the
/// worker, so only its items must be `Serialize + DeserializeOwned`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot stream from a worker process with arguments `{Args}`",
    label = "not a streaming task for these arguments",
    note = "a streaming task is a plain `fn`, or a closure that captures nothing and names its argument types, \
            and returns an iterator",
    note = "its arguments and its items must be `Serialize + DeserializeOwned`: owned values, no references",
    note = "a task takes up to 8 arguments; pass one as it is, several as a tuple: `pool.stream(range, (1, 2))`"
)]
pub trait StreamFn<Args, Marker>: Copy + Send + Sync + 'static {
    /// What the stream yields.
    type Item: Serialize + DeserializeOwned;

    #[doc(hidden)]
    type Iter: Iterator<Item = Self::Item>;

    #[doc(hidden)]
    fn call(self, args: Args) -> Self::Iter;
}

/// What a call needs from the worker around it.
pub(crate) trait Host {
    /// Runs `future` to its end.
    fn block_on(&mut self, future: Pin<&mut dyn Future<Output = ()>>);

    /// Sends the item just appended to `out`, which it empties, and waits until
    /// the next one is wanted. `false` if none is.
    fn item(&mut self, out: &mut Draft) -> bool;
}

/// The host as [`TaskFn::call`] sees it. Public in name only: nobody outside
/// can name or make one, which seals the trait.
pub struct Caller<'a>(pub(super) &'a mut dyn Host);

impl Caller<'_> {
    /// Runs `future` on the host, which cannot be generic over its output.
    fn resolve<Fut: Future>(self, future: Fut) -> Fut::Output {
        let mut output = None;
        self.0.block_on(pin!(async { output = Some(future.await) }));
        output.expect("the host returned before the future was ready")
    }
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

/// Marks functions that return their result.
#[derive(Debug)]
pub struct Returns;

/// Marks functions that return a future of their result.
#[derive(Debug)]
pub struct Resolves;

macro_rules! arity {
    ($pattern:pat => $args:ty; $($arg:ident: $Arg:ident),*) => {
        impl<F, R, $($Arg),*> TaskFn<$args, (Returns, fn($($Arg),*) -> R)> for F
        where
            F: Fn($($Arg),*) -> R + Copy + Send + Sync + 'static,
            R: Serialize + DeserializeOwned,
            $($Arg: Serialize + DeserializeOwned,)*
        {
            type Output = R;

            #[inline]
            fn call(self, $pattern: $args, _caller: Caller<'_>) -> R {
                self($($arg),*)
            }
        }

        impl<F, Fut, $($Arg),*> TaskFn<$args, (Resolves, fn($($Arg),*) -> Fut)> for F
        where
            F: Fn($($Arg),*) -> Fut + Copy + Send + Sync + 'static,
            Fut: Future,
            Fut::Output: Serialize + DeserializeOwned,
            $($Arg: Serialize + DeserializeOwned,)*
        {
            type Output = Fut::Output;

            fn call(self, $pattern: $args, caller: Caller<'_>) -> Fut::Output {
                // The function is called inside: what it does before it
                // returns its future may need the runtime, too.
                caller.resolve(async move { self($($arg),*).await })
            }
        }

        impl<F, I, $($Arg),*> StreamFn<$args, fn($($Arg),*) -> I> for F
        where
            F: Fn($($Arg),*) -> I + Copy + Send + Sync + 'static,
            I: IntoIterator,
            I::Item: Serialize + DeserializeOwned,
            $($Arg: Serialize + DeserializeOwned,)*
        {
            type Item = I::Item;
            type Iter = I::IntoIter;

            #[inline]
            fn call(self, $pattern: $args) -> I::IntoIter {
                self($($arg),*).into_iter()
            }
        }
    };
}

arity!(() => (););
arity!(a => A; a: A);
arity!((a, b) => (A, B); a: A, b: B);
arity!((a, b, c) => (A, B, C); a: A, b: B, c: C);
arity!((a, b, c, d) => (A, B, C, D); a: A, b: B, c: C, d: D);
arity!((a, b, c, d, e) => (A, B, C, D, E); a: A, b: B, c: C, d: D, e: E);
arity!((a, b, c, d, e, f) => (A, B, C, D, E, G); a: A, b: B, c: C, d: D, e: E, f: G);
arity!((a, b, c, d, e, f, g) => (A, B, C, D, E, G, H); a: A, b: B, c: C, d: D, e: E, f: G, g: H);
arity!((a, b, c, d, e, f, g, h) => (A, B, C, D, E, G, H, J); a: A, b: B, c: C, d: D, e: E, f: G, g: H, h: J);
