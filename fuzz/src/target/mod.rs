//! The targets. Each decodes its bytes into what it does and checks what comes
//! of it.

mod boot;
mod decode;
mod encode;
mod frame;
mod message;
mod order;
mod peer;
mod queue;
mod sched;

pub use self::boot::boot;
pub use self::decode::decode;
pub use self::encode::encode;
pub use self::frame::frame;
pub use self::message::message;
pub use self::order::order;
pub use self::peer::peer;
pub use self::queue::queue;
pub use self::sched::sched;
