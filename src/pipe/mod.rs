//! Values between two processes, one message at a time: a pair of connected ends, of
//! which either goes to another process as an argument.

// `socket` waits for a socket in any runtime and without one, `timer` for a moment;
// `sender` and `receiver`
// are a direction each, `connection` is both, `fault` what can go wrong; `listener` is
// for processes that are strangers, `peers` for who they may be.
mod connection;
mod fault;
mod listener;
mod peers;
mod receiver;
mod sender;
mod socket;
mod timer;

pub use self::connection::{Connection, ReuniteError, channel, pipe};
pub use self::fault::{RecvError, SendError, SendErrorKind};
pub use self::listener::{
    Listener, blocking_connect, blocking_connect_with, connect, connect_with,
};
pub use self::peers::Peers;
pub use self::receiver::Receiver;
pub use self::sender::Sender;
