// An async pool of worker processes for tokio. The README is the first part of this
// page; what only the documentation can link to follows.
#![doc = include_str!("../README.md")]
//!
//! # Tour
//!
//! - [`init`] and [`test_worker!`] make a program able to start workers.
//! - [`Pool`] has the workers and takes the calls; [`PoolBuilder`] has every
//!   option, with its default, unit and reason.
//! - One call is an [`Apply`], and once it is queued a [`TaskHandle`]. Many are
//!   a [`Map`], a [`MapHandle`] or a stream, [`Imap`]; many answers of one call
//!   are a [`TaskStream`].
//! - [`Process`] is one function in a process of its own, with a name, signals and
//!   streams; [`process`] says who is whose child, and has the fork server.
//! - [`TaskError`] says what became of a call without an answer, [`Exit`] how
//!   its worker ended, [`SpawnError`] why there is no worker.
//! - [`worker`] is for the inside of tasks: hearing of one's own cancellation, and
//!   [forwarding](worker::forward_tracing) what they tell `tracing`.
//! - [`Status`], [`Stats`] and [`WorkerInfo`] say what a pool is doing. Every
//!   call is a `tracing` span, target `procession::task`, within its caller's;
//!   workers and what they print are at `procession::worker` and
//!   `procession::output`.
//! - [`SharedBytes`] and [`SharedBytesMut`] are memory that tasks and their caller
//!   share.
//! - [`Queue`] passes items between any number of processes and tasks, with
//!   [`Producer`] and [`Consumer`] as its ends; of a [`JoinableQueue`] one hears when
//!   all is done.
//! - [`Fd`] sends sockets, files and whatever else is open.
//! - [`guide`] has what is longer: moving here from `spawn_blocking` or from Python,
//!   choosing limits, deploying.
//! - [`pipe`] and [`channel`] connect two processes for messages of any type;
//!   [`Listener`] and [`connect`] two that are strangers.
//! - [`TaskFn`] and [`StreamFn`] are the functions that can be tasks. Both are
//!   implemented for all of them and for nothing else.
//!
//! # Dropping
//!
//! One rule: **what you drop is cancelled, in the other process too.** All
//! futures and streams here are [`Send`].
//!
//! | Dropped | What happens |
//! |---|---|
//! | [`Apply`], [`Map`], [`Imap`], [`TaskStream`] before the first poll | nothing: no call was made |
//! | [`Apply`], [`TaskHandle`] | the call is cancelled: removed from the queue, or skipped by its worker, or stopped by SIGTERM and, after the [`grace_period`](PoolBuilder::grace_period), SIGKILL |
//! | [`Map`], [`MapHandle`] | no more input is pulled; what is under way is cancelled |
//! | [`Imap`], [`Indexed`], [`TaskStream`] | the same; the future of `next` can be dropped freely, no item is lost |
//! | [`Cancelling`], [`CancelHandle`] | nothing: what was cancelled stays so |
//! | [`Process`] | it is stopped by SIGTERM and, after its [`grace_period`](ProcessBuilder::grace_period), SIGKILL; unless it was detached or is no daemon, see [the table](process#how-it-ends) |
//! | the futures of [`Process::join`] and its kin | nothing |
//! | [`Connection`], [`Sender`], [`Receiver`] | the other end is told; what was sent before can still be received |
//! | the futures of [`Sender::send`] | nothing is sent, unless its first byte has left: then it is sent whole |
//! | the futures of [`Receiver::recv`], [`Listener::accept`] | nothing is lost |
//! | the futures of a [`Queue`] and its kin | nothing was put, or taken |
//! | the last [`Producer`] or [`Consumer`] of a queue, in all processes | the other side is told, once it has taken what is left |
//! | a [`QueueItem`] | it is done |
//! | the futures of [`Pool::ready`] and [`Pool::join`] | nothing |
//! | the future of [`Pool::terminate`], after its first poll | the pool ends all the same |
//! | the future of [`Pool::shutdown`], after its first poll | the pool stays closed, and nothing is stopped by force |
//! | the last clone of a [`Pool`], or its runtime | workers are killed, calls end with [`TaskError::Terminated`] |
//!
//! So whatever gives up a future gives up its work: [`tokio::time::timeout`] around a
//! call, which also counts the wait for the queue where
//! [`Apply::timeout`] does not; a branch of `select!` that loses; the handler of a
//! request whose client has hung up.
//!
//! ```standalone_crate
//! use std::time::Duration;
//!
//! fn spin() {
//!     loop {
//!         std::hint::spin_loop();
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     procession::init();
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let pool = procession::Pool::builder().workers(1).build()?;
//!         let limit = Duration::from_millis(50);
//!         assert!(tokio::time::timeout(limit, pool.apply(spin, ())).await.is_err());
//!         tokio::select! {
//!             ended = pool.apply(spin, ()) => panic!("{ended:?}"),
//!             () = tokio::time::sleep(limit) => {} // in a service: the client hangs up
//!         }
//!         // Both are stopped, and the worker is free again.
//!         assert_eq!(pool.apply(|n: u32| n + 1, 1).await?, 2);
//!         Ok(())
//!     })
//! }
//! ```
//!
//! An answer that was on its way to a dropped handle is thrown away. To stop
//! waiting without cancelling, [`detach`](TaskHandle::detach). What a forked
//! copy of the program drops is not given up, and what it calls ends with
//! [`TaskError::Terminated`]: its pools are the original's.
//!
//! # Large byte strings
//!
//! Pass and return many bytes as [`bytes::Bytes`](https://docs.rs/bytes): alone,
//! in a tuple, a field or a list. One of 32 KiB and more is sent from where it
//! is and received without being copied, at about the speed of a bare socket. A
//! `Vec<u8>` is a list of numbers to serde, encoded one by one, and takes twenty
//! times as long.
//!
//! - Until its call has ended, or been dropped, the pool holds on to an
//!   argument's memory, which it does not copy. Code that frees it
//!   ([`Bytes::from_owner`](bytes::Bytes::from_owner)) may run on any thread of
//!   the runtime, and keeps the pool waiting for as long as it takes. If it panics,
//!   that ends nothing.
//! - A received `Bytes` shares the memory of its whole answer, which is at most
//!   eight times as large; smaller parts are copies. Take a copy of what is kept
//!   for long.
//! - Buffers of large answers and arguments are used again once nobody holds
//!   them. Those that are not are given back after half a second; by a worker that
//!   runs a task then, once that has ended.
//!
//! [`SharedBytes`] are not sent at all: what goes to the worker, and comes back, is
//! a descriptor of memory that both map and nobody can change. That takes as long
//! for a gigabyte as for a kilobyte, and the same bytes may be with any number of
//! workers. To make them, fill a [`SharedBytesMut`], or copy.
//!
//! # Features
//!
//! - `tower`: `Pool::service`, a task as a `tower` service.
//! - `authkey`: a key that both ends of a connection have to know, see [`Peers`].
//! - `axum`: [`TaskError`] and [`TryApplyError`] as responses of a handler.
//! - `sandbox`: `PoolBuilder::sandbox`, what workers are kept from.
//! - `metrics`: what pools do, for the [`metrics`](https://docs.rs/metrics) facade; the
//!   module of that name lists all.
//! - `opentelemetry`: the caller's trace (of `tracing-opentelemetry`, or the current
//!   context) goes on in the worker, if that has an exporter of its own.
//! - `histograms`: wait and run time percentiles in [`Stats`], and `Pool::slowest`.
//!
//! # Panics
//!
//! A panic of a task is its caller's [`TaskError::Panicked`]; its worker lives
//! on, unless the program is built with `panic = "abort"`, where it is a
//! [`TaskError::WorkerLost`]. A panic of an input iterator continues where the
//! results are awaited. Nothing that a worker does makes the parent panic.
//! Functions that panic on wrong arguments, such as a chunk size of 0, say so;
//! wrong options are errors of [`build`](PoolBuilder::build).

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession needs Linux (pidfd, memfd, futex); other systems are not supported yet");

mod attached;
mod cast;
mod channel;
mod error;
mod exit;
pub mod fd;
pub mod guide;
mod id;
mod init;
mod integrate;
mod limits;
mod observe;
mod pipe;
mod pool;
pub mod process;
mod proto;
mod queue_state;
mod registry;
mod resource;
#[cfg_attr(
    not(feature = "sandbox"),
    expect(dead_code, unreachable_pub, reason = "a setting that nobody makes")
)]
mod sandbox;
mod sched;
mod seat;
mod shared;
mod slot_word;
mod start;
mod supervisor;
mod sys;
mod time;
mod transport;
pub mod worker;

pub use channel::{
    Consumer, GetError, JoinError, JoinableQueue, JoinableQueueBuilder, Producer, PutError,
    PutErrorKind, Queue, QueueBuilder, QueueFault, QueueItem,
};
pub use error::{
    DecodeError, EncodeError, MemoryExceeded, RemotePanic, SpawnError, TaskError, TaskInfo,
};
pub use exit::Exit;
pub use fd::Fd;
pub use id::{TaskId, WorkerId};
pub use init::init;
#[cfg(feature = "metrics")]
pub use integrate::metrics;
#[cfg(feature = "tower")]
pub use integrate::tower::TaskService;
#[cfg(feature = "histograms")]
pub use observe::Percentiles;
pub use pipe::{
    Connection, Listener, Peers, Receiver, RecvError, ReuniteError, SendError, SendErrorKind,
    Sender, blocking_connect, blocking_connect_with, channel, connect, connect_with, pipe,
};
#[cfg(feature = "histograms")]
pub use pool::SlowTask;
pub use pool::{
    Apply, CancelHandle, Cancelled, Cancelling, Imap, Indexed, InitOutcome, Map, MapHandle, Pool,
    PoolBuilder, PoolState, RunningTask, Shutdown, Stats, Status, TaskHandle, TaskStatus,
    TaskStream, TryApplyError, WorkerInfo, WorkerState,
};
pub use process::{Process, ProcessBuilder, StartMethod, Stdio};
pub use proto::peer::ProtocolError;
pub use registry::{StreamFn, TaskFn};
pub use resource::Resource;
#[cfg(feature = "sandbox")]
pub use sandbox::{Held, Sandbox, SandboxReport};
pub use shared::{SharedBytes, SharedBytesMut};

/// For this crate's macros only.
#[doc(hidden)]
pub mod __private {
    pub use crate::init::enter_test_worker;
    pub use crate::registry::TestMain;
}
