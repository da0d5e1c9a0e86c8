//! Safe wrappers around the system calls that std and nix lack, or that need
//! a promise of ours to be safe. With `registry/table.rs` and `shared/raw.rs`
//! this is all the `unsafe` there is.
//!
//! What every wrapper promises: descriptors it makes are close-on-exec from
//! birth, an interrupted call is either repeated or documented as a spurious
//! return, and nothing here decides anything.
//!
//! - `page`: the status page that a worker shares with its parent
//! - `layout`: what lies in it, and the order in which both look at it
//! - `atomic`: the atomics that this takes
//! - `board`: what processes that share a queue look at together
//! - `claim`: who may change it
//! - `apart`: files that copies of this process open for themselves
//! - `bell`: who is to be woken
//! - `memfd`: memory in files that can be sealed and sent
//! - `descriptor`: what is open, sent to another process, and what came from one
//! - `futex`: sleeping on a word, across processes
//! - `clock`: the clock that both sides read
//! - `fd`: descriptors in messages, and the standard ones
//! - `environment`: exchanged in a process that has one thread
//! - `exit`: what is called when the program ends
//! - `fork`: copies of this process, and whether it is one
//! - `crew`: our own threads, kept at rest meanwhile
//! - `sentry`: a thread that only ever waits
//! - `latest`: what is set once in each process
//! - `signal`: groups, dispositions, the parent's death
//! - `wait`: pidfds and how a process ended
//! - `limits`: what a worker sets on itself
//! - `threads`: what it sets on each of its threads
//! - `sandbox`: what it refuses itself, `syscalls` of that
//! - `memory`: how much memory a process holds
//! - `cast`: whether a type is another, such as `Bytes`
#![allow(unsafe_code, reason = "the one place for system calls; see above")]

pub(crate) mod apart;
pub(crate) mod atomic;
pub(crate) mod bell;
pub(crate) mod board;
pub(crate) mod cast;
pub(crate) mod claim;
pub(crate) mod clock;
pub(crate) mod crew;
pub(crate) mod descriptor;
pub(crate) mod environment;
pub(crate) mod exit;
pub(crate) mod fd;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod latest;
pub(crate) mod layout;
pub(crate) mod limits;
pub(crate) mod memfd;
pub(crate) mod memory;
pub(crate) mod page;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox;
pub(crate) mod sentry;
pub(crate) mod signal;
#[cfg(feature = "sandbox")]
mod syscalls;
pub(crate) mod threads;
pub(crate) mod wait;
