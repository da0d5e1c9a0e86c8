//! Ends of queues as values: what is sent of them, and what becomes of what
//! came, which can be anything.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::libc;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::handle::Handle;
use super::joinable::JoinableQueue;
use super::queue::{Consumer, Producer, Queue};
use super::store::{Inlet, Outlet, Store};
use super::wait::Ear;
use crate::attached::Passed;
use crate::sys::bell::Bell;
use crate::sys::descriptor::{self, held, take};

/// What is sent of a queue.
#[derive(Serialize, Deserialize)]
struct Parts {
    /// So that no end is taken for another.
    kind: Kind,
    /// The memory was opened for the receiver.
    is_fresh: bool,
    /// The memory; bell and side of the inlet, and of the outlet; both ends for those
    /// who join.
    descriptors: Vec<One>,
}

/// The encoder sees what is a part of something, and an element of a list is none.
#[derive(Serialize, Deserialize)]
struct One(Passed);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Kind {
    Queue,
    Producer,
    Consumer,
    Joinable,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Queue => "Queue",
            Kind::Producer => "Producer",
            Kind::Consumer => "Consumer",
            Kind::Joinable => "JoinableQueue",
        })
    }
}

/// Types of sockets: a bell's, and a side's.
const END: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET];

impl Kind {
    /// Of which types the sockets are that come behind the memory.
    fn sockets(self) -> Vec<i32> {
        match self {
            Kind::Producer | Kind::Consumer => END.to_vec(),
            Kind::Queue => [END, END].concat(),
            Kind::Joinable => [END, END, [libc::SOCK_STREAM; 2]].concat(),
        }
    }
}

/// A descriptor, wherever it is held.
struct Part<T>(Arc<T>, fn(&T) -> BorrowedFd<'_>);

impl<T> AsFd for Part<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (self.1)(&self.0)
    }
}

fn part<T: Send + Sync + 'static>(of: &Arc<T>, which: fn(&T) -> BorrowedFd<'_>) -> One {
    One(held(Arc::new(Part(Arc::clone(of), which))))
}

impl Handle {
    fn to_parts(&self, kind: Kind) -> Parts {
        let fresh = self.store.fresh_file().ok().map(|file| One(held(Arc::new(file))));
        let is_fresh = fresh.is_some();
        let memory = fresh.unwrap_or_else(|| part(&self.store, Store::file));
        let mut descriptors = vec![memory];
        if let Some(inlet) = &self.inlet {
            descriptors.push(part(inlet, |inlet| inlet.ear.bell().as_fd()));
            descriptors.push(part(inlet, |inlet| inlet.side.as_fd()));
        }
        if let Some(outlet) = &self.outlet {
            descriptors.push(part(outlet, |outlet| outlet.ear.bell().as_fd()));
            descriptors.push(part(outlet, |outlet| outlet.side.as_fd()));
        }
        if self.store.joiners.is_some() {
            descriptors.push(part(&self.store, |store| store.joiners().ear.bell().as_fd()));
            descriptors.push(part(&self.store, |store| store.joiners().bell.as_fd()));
        }
        Parts { kind, is_fresh, descriptors }
    }

    fn from_parts(parts: &Parts, kind: Kind) -> Result<Handle, String> {
        if parts.kind != kind || parts.descriptors.len() != 1 + kind.sockets().len() {
            return Err(format!("this is no {kind}, but a {}", parts.kind));
        }
        let fds: Option<Vec<_>> = parts.descriptors.iter().map(|one| take(&one.0)).collect();
        let fds = fds.ok_or("a descriptor of a queue is named twice")?;
        if let Err(error) = check(&fds, kind) {
            fds.into_iter().for_each(descriptor::discard);
            return Err(format!("this is no {kind}: {error}"));
        }
        Handle::assemble(fds, kind, parts.is_fresh)
            .map_err(|error| format!("this is no {kind}: {error}"))
    }

    /// Of what has been looked at.
    fn assemble(fds: Vec<OwnedFd>, kind: Kind, is_fresh: bool) -> io::Result<Handle> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(io::ErrorKind::InvalidData);
        let memory = next()?;
        let inlet = match kind {
            Kind::Consumer => None,
            _ => Some(Inlet { ear: Ear::new(Bell::received(next()?)), side: next()? }),
        };
        let outlet = match kind {
            Kind::Producer => None,
            _ => Some(Outlet { ear: Ear::new(Bell::received(next()?)), side: next()? }),
        };
        let joiners = match kind {
            Kind::Joinable => Some([next()?, next()?]),
            _ => None,
        };
        Ok(Handle {
            store: Arc::new(Store::receive(memory, is_fresh, joiners)?),
            inlet: inlet.map(Arc::new),
            outlet: outlet.map(Arc::new),
        })
    }
}

/// Whether these are what they should be. Of the memory `Store` finds out.
fn check(fds: &[OwnedFd], kind: Kind) -> io::Result<()> {
    for (fd, expected) in fds.iter().skip(1).zip(kind.sockets()) {
        let socket = descriptor::socket(fd.as_fd())?;
        if !socket.is_some_and(|socket| {
            socket.family == libc::AF_UNIX && socket.kind == expected && !socket.listens
        }) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an end is another descriptor"));
        }
    }
    Ok(())
}

macro_rules! travels {
    ($($name:ident: $kind:expr;)*) => {$(
        /// With procession's own messages only: in a call's arguments or result, in an
        /// item of another queue. What arrives is the same queue.
        impl<T> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.handle.to_parts($kind).serialize(serializer)
            }
        }

        impl<'de, T> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let parts = Parts::deserialize(deserializer)?;
                Handle::from_parts(&parts, $kind).map($name::of).map_err(de::Error::custom)
            }
        }
    )*};
}

travels! {
    Queue: Kind::Queue;
    Producer: Kind::Producer;
    Consumer: Kind::Consumer;
    JoinableQueue: Kind::Joinable;
}
