//! What processes say to each other.
//!
//! Which one? A [`Queue`] has any number of producers and consumers, in any mix of
//! processes and tasks, and keeps what was put until somebody takes it, whoever
//! has died meanwhile. A [`JoinableQueue`] also knows when all that was put is
//! done, and when somebody died over it.

// `store` is a queue as one process has it, `handle` what all public types do with it,
// `wait` how they wait, `travel` how they are sent; `methods` writes those down that
// several types have.
#[macro_use]
mod methods;

mod fault;
mod handle;
mod joinable;
mod queue;
mod store;
mod travel;
mod wait;

pub use self::fault::{GetError, PutError, PutErrorKind, QueueFault};
pub use self::joinable::{JoinError, JoinableQueue, JoinableQueueBuilder, QueueItem};
pub use self::queue::{Consumer, Producer, Queue, QueueBuilder};
