//! A queue as one process has it: its file, the lock, and whom to wake. Called by the
//! public types of this folder. What is done under the lock is in `operation`.

mod operation;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use self::operation::{Operation, Sweep, lease_wait};
use super::fault::QueueFault;
use super::wait::{Attempt, Ear, Wait};
use crate::attached::Arrived;
use crate::proto::draft::Draft;
use crate::queue_state::{HEADER_BYTES, Kind, State, Terms, Wakes};
use crate::sys::bell::Bell;
use crate::sys::board::Board;
use crate::sys::claim::Claim;

/// What all handles of one queue share in this process.
#[derive(Debug)]
pub(super) struct Store {
    board: Board,
    claim: Claim,
    /// Wakes those who wait until all is done.
    pub(super) joiners: Option<Joiners>,
    /// When this process has last looked whether holders have died, by the clock of
    /// `sys`; 0 before.
    looked: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Joiners {
    pub(super) ear: Ear,
    pub(super) bell: Bell,
}

/// What makes a producer. While any process has one, consumers wait.
#[derive(Debug)]
pub(super) struct Inlet {
    /// Hears of room, and that there are no consumers; wakes those.
    pub(super) ear: Ear,
    /// Where descriptors go.
    pub(super) side: OwnedFd,
}

/// What makes a consumer.
#[derive(Debug)]
pub(super) struct Outlet {
    /// Hears of items, and that there are no producers; wakes those.
    pub(super) ear: Ear,
    /// Where descriptors come from.
    pub(super) side: OwnedFd,
}

/// The ends that a handle has, for waking whoever is at the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) inlet: Option<&'a Inlet>,
    pub(super) outlet: Option<&'a Outlet>,
}

/// An item on its way out.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) bytes: Bytes,
    pub(super) arrived: Arrived,
    /// The lease that it was taken with.
    pub(super) hold: Option<Taken>,
}

/// A lease, and which copy of the process has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    lease: usize,
    home: u64,
}

/// What became of an attempt to put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    Done,
    Closed,
    Abandoned,
}

/// What became of an attempt to get.
#[derive(Debug)]
pub(super) enum Got {
    Item(Letter),
    /// There will be none.
    Ended,
}

/// How an item is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taking {
    ForGood,
    /// Its holder is to say when it is done.
    Held,
}

/// A draft with room for what stands before an item.
pub(super) fn new_draft() -> Draft {
    let mut draft = Draft::default();
    draft.tail().extend([0; HEADER_BYTES as usize]);
    draft
}

impl Store {
    /// A queue that nobody else has.
    pub(super) fn create(terms: Terms) -> io::Result<(Store, Inlet, Outlet)> {
        let (board, file) = Board::create(terms)?;
        // As if somebody waited: no bell rings.
        board.store(State::default().wait_for_items());
        let joiners = match terms.kind {
            Kind::Plain => None,
            Kind::Joinable { .. } => {
                let (ear, bell) = Bell::pair()?;
                Some(Joiners { ear: Ear::new(ear), bell })
            }
        };
        let (producers, consumers) = Bell::pair()?;
        let (to, from) = side_pair()?;
        // Opened again: to be mapped keeps a file open, in copies of this process too.
        let store = Store {
            board,
            claim: Claim::new(file.into(), true)?,
            joiners,
            looked: AtomicU64::new(0),
        };
        let inlet = Inlet { ear: Ear::new(producers), side: to };
        Ok((store, inlet, Outlet { ear: Ear::new(consumers), side: from }))
    }

    /// One that was sent, with the two ends for those who join, if it has any.
    pub(super) fn receive(
        file: OwnedFd,
        is_fresh: bool,
        joiners: Option<[OwnedFd; 2]>,
    ) -> io::Result<Store> {
        let board = Board::open(file.as_fd())?;
        let is_joinable = board.terms().kind != Kind::Plain;
        if is_joinable != joiners.is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the queue is of another kind"));
        }
        let joiners = joiners.map(|[ear, bell]| Joiners {
            ear: Ear::new(Bell::received(ear)),
            bell: Bell::received(bell),
        });
        Ok(Store { board, claim: Claim::new(file, is_fresh)?, joiners, looked: AtomicU64::new(0) })
    }

    /// For those who join.
    pub(super) fn joiners(&self) -> &Joiners {
        self.joiners.as_ref().expect("only joinable queues are joined")
    }

    /// To be sent, opened for the receiver.
    pub(super) fn fresh_file(&self) -> io::Result<OwnedFd> {
        self.claim.fresh()
    }

    /// To be sent where nothing can be opened.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.claim.file()
    }

    pub(super) fn terms(&self) -> &Terms {
        self.board.terms()
    }

    /// As of a moment ago.
    pub(super) fn state(&self) -> State {
        self.board.load()
    }

    /// Items that were put and are not done, as of a moment ago.
    pub(super) fn unfinished(&self) -> u64 {
        let state = self.state();
        let held = state.held().iter();
        let done = held.filter(|lease| self.board.lease(*lease).is_done).count() as u64;
        state.unfinished().saturating_sub(done)
    }

    /// Begins an operation. `None` if somebody else is at one.
    fn begin<'a>(&'a self, ends: Ends<'a>) -> Result<Option<Operation<'a>>, QueueFault> {
        let Some(locked) = self.claim.try_lock(self.board.holder())? else { return Ok(None) };
        let state = self.board.load();
        state.check(self.terms())?;
        Ok(Some(Operation { store: self, ends, locked, state }))
    }

    /// Puts an item, which `draft` is, with room for its header.
    ///
    /// Whoever `may_wait` listens to the inlet's bell if told to wait.
    pub(super) fn try_put(
        &self,
        ends: Ends<'_>,
        draft: &mut Draft,
        may_wait: bool,
    ) -> Result<Attempt<Put>, QueueFault> {
        let inlet = ends.inlet.expect("only producers put");
        if ends.outlet.is_none() && inlet.ear.bell().is_deserted() {
            return Ok(Attempt::Done(Put::Abandoned));
        }
        match self.begin(ends)? {
            None => Ok(Attempt::Busy),
            Some(operation) => operation.put(inlet, draft, may_wait),
        }
    }

    /// Takes the next item.
    ///
    /// Whoever `may_wait` listens to the outlet's bell if told to wait.
    pub(super) fn try_get(
        &self,
        ends: Ends<'_>,
        taking: Taking,
        may_wait: bool,
    ) -> Result<Attempt<Got>, QueueFault> {
        let outlet = ends.outlet.expect("only consumers get");
        match self.begin(ends)? {
            None => Ok(Attempt::Busy),
            Some(operation) => operation.get(outlet, taking, may_wait),
        }
    }

    /// An item was dealt with. `false` if there was none.
    pub(super) fn try_task_done(&self, ends: Ends<'_>) -> Result<Attempt<bool>, QueueFault> {
        let Some(mut operation) = self.begin(ends)? else { return Ok(Attempt::Busy) };
        let done = operation.state.task_done();
        if let Some((next, wakes)) = done {
            operation.make(next, wakes);
        }
        Ok(Attempt::Done(done.is_some()))
    }

    /// How many items were lost, once none is unfinished.
    ///
    /// Whoever `may_wait` listens to the joiners' bell if told to wait.
    pub(super) fn try_join(
        &self,
        ends: Ends<'_>,
        may_wait: bool,
    ) -> Result<Attempt<u64>, QueueFault> {
        let joiners = self.joiners();
        let Some(mut operation) = self.begin(ends)? else { return Ok(Attempt::Busy) };
        operation.sweep(Sweep::TheDeadToo)?;
        if may_wait && operation.state.unfinished() > 0 {
            operation.make(operation.state.wait_for_end(), Wakes::default());
            joiners.ear.bell().silence();
            // Those who were done until now may not have seen that somebody waits.
            self.board.settle_stores();
            operation.sweep(Sweep::TheDone)?;
        }
        let state = &operation.state;
        Ok(match state.unfinished() {
            0 => Attempt::Done(state.lost()),
            unfinished => Attempt::Wait(Wait { sign: unfinished, again: lease_wait(state) }),
        })
    }

    /// Whoever holds an item has no more use for it. Waits for nobody.
    pub(super) fn finish(&self, ends: Ends<'_>, taken: Taken, is_spoilt: bool) {
        let Taken { lease, home } = taken;
        // A copy of the process that took it has nothing to say.
        if !self.claim.is_home() || self.claim.home() != home {
            return;
        }
        self.board.finish_lease(lease, is_spoilt);
        self.claim.unlock_lease(lease);
        // They put it into the books themselves.
        let waits = self.board.load().is_waited_on();
        if let Some(joiners) = self.joiners.as_ref().filter(|_| waits.joiners) {
            joiners.bell.ring();
        }
        if let Some(outlet) = ends.outlet.filter(|_| waits.space) {
            outlet.ear.bell().ring();
        }
    }

    /// Refuses all that is put from now on, and wakes whom it can.
    pub(super) fn try_close(&self, ends: Ends<'_>) -> Result<Attempt<()>, QueueFault> {
        let Some(_operation) = self.begin(ends)? else { return Ok(Attempt::Busy) };
        // While it is locked, nobody silences the bell before it is closed.
        self.ring_all(ends);
        self.board.close();
        Ok(Attempt::Done(()))
    }

    /// Whether this process has the queue, and is no copy of one that has.
    pub(super) fn is_ours(&self) -> bool {
        self.claim.is_home()
    }

    /// The same where the lock is not to be had. To be killed between the two
    /// would leave those asleep who wait.
    pub(super) fn close_unlocked(&self, ends: Ends<'_>) {
        self.board.close();
        self.ring_all(ends);
    }

    fn ring_all(&self, ends: Ends<'_>) {
        if let Some(inlet) = ends.inlet {
            inlet.ear.bell().ring();
        }
        if let Some(outlet) = ends.outlet {
            outlet.ear.bell().ring();
        }
    }
}

/// Ends of what descriptors go through: to, and from.
fn side_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}
