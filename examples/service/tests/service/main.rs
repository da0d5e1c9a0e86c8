//! The service as a process, and its clients.

mod calls;
mod load;
mod page;
mod shutdown;
mod streams;
mod support;
