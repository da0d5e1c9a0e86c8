//! What the library's `start` has that is pure, where that looks for itself.

#[path = "../../src/start/identity.rs"]
pub(crate) mod identity;
#[path = "../../src/start/message.rs"]
pub(crate) mod message;
#[path = "../../src/start/order.rs"]
pub(crate) mod order;
