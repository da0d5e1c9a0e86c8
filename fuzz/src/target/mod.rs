//! The targets. Each decodes its bytes into what it does and checks what comes
//! of it.

mod decode;
mod encode;
mod frame;
mod message;
mod peer;
mod sched;

pub use self::decode::decode;
pub use self::encode::encode;
pub use self::frame::frame;
pub use self::message::message;
pub use self::peer::peer;
pub use self::sched::sched;
