//! How processes come to be where nobody says it, and the fork server.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Cause, Side, SpawnError, TaskError};
use crate::limits::FRAME_BYTES_MAX_MOST;
use crate::proto::codec;
use crate::registry::{TaskFn, value_id};
use crate::start::fork_server::{self, Preload};
use crate::start::{StartMethod, method};

/// Sets how processes and pools' workers come to be, unless their builders say so.
/// Once, and before the first of them is started: for the program's `main`. Those that
/// are started have their own default, which is the method by which they came to be.
///
/// # Errors
///
/// Gives back the method that was set, or used, before.
pub fn set_start_method(method: StartMethod) -> Result<(), StartMethod> {
    method::set_default(method)
}

/// As [`set_start_method`], whatever was set or used before: Python's
/// `set_start_method(…, force=True)`. What is started already stays as it is, and a pool
/// goes on as it was built.
pub fn force_start_method(method: StartMethod) {
    method::force_default(method);
}

/// How processes come to be where nobody says it: what was [set](set_start_method), or
/// else the method by which this process [came to be](crate::process::CurrentProcess::start_method)
/// itself; [`StartMethod::Spawn`] in the main one. Asking for it settles it, as in Python.
pub fn start_method() -> StartMethod {
    method::default()
}

/// The fork server of this process, see [`StartMethod::ForkServer`].
///
/// It is this program, started once more, and ends with this process. It is started
/// when it is first needed, and again if it has ended. The processes that it has made
/// are this process's children, and live on without it.
pub fn fork_server() -> ForkServer {
    ForkServer(())
}

/// A way to reach the fork server, made by [`fork_server`].
pub struct ForkServer(());

impl ForkServer {
    /// Calls `f(args)` once in the server, before it makes its first process: to load
    /// what all of them will have in memory already, and share until one of them
    /// writes to it. What it returns is dropped; leave it in a `static`. The first start
    /// waits for it. The heap that it is in asks for huge pages, so that a copy of the
    /// server is made as fast as that of an empty one.
    ///
    /// It must leave no thread behind, as a thread is not copied, and what it had
    /// locked would stay locked. Generators of random numbers that it has used are
    /// copied as they are.
    ///
    /// # Errors
    ///
    /// If there is a server already, or the arguments cannot be encoded. A panic of `f`
    /// is an error of whatever is to be started.
    pub fn preload<F, Args, M>(&self, f: F, args: Args) -> Result<(), SpawnError>
    where
        F: TaskFn<Args, M>,
        Args: Serialize + DeserializeOwned,
    {
        let mut encoded = Vec::new();
        codec::encode_into(&args, &mut encoded, FRAME_BYTES_MAX_MOST).map_err(|failure| {
            let error = TaskError::from_encode(failure, Side::Arguments);
            SpawnError::new(Cause::Arguments(Box::new(error)))
        })?;
        let preload = Preload { function: value_id(f).0, args: encoded };
        fork_server::set_preload(preload).map_err(|_| {
            let problem = "the fork server is there already".to_owned();
            SpawnError::new(Cause::Setting { option: "preload", problem })
        })
    }

    /// Its pid, while there is one.
    pub fn pid(&self) -> Option<u32> {
        fork_server::pid()
    }

    /// Ends it, to let go of its memory or to preload something else. The processes
    /// that it has made live on; another one is started when it is needed.
    pub fn stop(&self) {
        fork_server::stop();
    }
}

impl fmt::Debug for ForkServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkServer").field("pid", &self.pid()).finish()
    }
}
