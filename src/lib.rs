//! An async pool of worker processes for tokio.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession needs Linux (pidfd, memfd, futex); other systems are not supported yet");

mod error;
mod exit;
mod id;
mod init;
mod limits;
mod observe;
mod pool;
mod proto;
mod registry;
mod resource;
mod sched;
mod slot_word;
mod start;
mod supervisor;
mod sys;
mod time;
mod transport;
pub mod worker;

pub use error::{DecodeError, EncodeError, RemotePanic, SpawnError, TaskError, TaskInfo};
pub use exit::Exit;
pub use id::{TaskId, WorkerId};
pub use init::init;
pub use pool::{
    Apply, CancelHandle, Cancelled, Cancelling, Imap, Indexed, InitOutcome, Map, MapHandle, Pool,
    PoolBuilder, PoolState, RunningTask, Shutdown, StartMethod, Stats, Status, Stdio, TaskHandle,
    TaskStatus, TaskStream, TryApplyError, WorkerInfo, WorkerState,
};
pub use proto::peer::ProtocolError;
pub use registry::{StreamFn, TaskFn};
pub use resource::Resource;

/// For this crate's macros only.
#[doc(hidden)]
pub mod __private {
    pub use crate::init::enter_test_worker;
    pub use crate::registry::TestMain;
}
