//! A queue as one process has it: each operation under the lock, as a change of
//! the state that others see whole or not at all. Called by the public types of
//! this folder. Decides nothing that `queue_state` can.
//!
//! The order within an operation is what makes it safe to be killed anywhere:
//!
//! ```text
//! put    STATE, if it needs memory │ bytes into the ring │ descriptors │ ring the bell │ STATE
//! get    bytes out of the ring │ descriptors │ ring the bell │ STATE │ memory back
//! wait                                                         STATE │ silence the bell
//! ```
//!
//! Whoever is killed before the state has done nothing but to wake others for
//! nothing; whoever is killed after it has left a bell that rings, or memory that
//! the next one gives back.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nix::sys::uio::{pwrite, pwritev};

use super::fault::QueueFault;
use super::wait::{Attempt, Ear, Wait};
use crate::attached::{Arrived, Passed};
use crate::limits::{
    ATTACHED_MAX, QUEUE_LEASE_WAIT, QUEUE_LOCK_WAIT_MOST, QUEUE_READ_BYTES, QUEUE_TRUSTED_BYTES,
    WRITE_AGAIN_WAIT,
};
use crate::proto::draft::Draft;
use crate::queue_state::{
    Corrupt, Front, HEADER_BYTES, Header, Kind, Lease, NotPut, Outcome, QUEUE_LEASES, State, Terms,
    Wakes,
};
use crate::sys::bell::Bell;
use crate::sys::board::{self, Board};
use crate::sys::claim::{Claim, Locked};
use crate::sys::{clock, descriptor, fd};

/// What all handles of one queue share in this process.
#[derive(Debug)]
pub(super) struct Store {
    board: Board,
    claim: Claim,
    /// Wakes those who wait until all is done.
    pub(super) joiners: Option<Joiners>,
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
        let store = Store { board, claim: Claim::of_receiver(file.into(), true)?, joiners };
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
        Ok(Store { board, claim: Claim::of_receiver(file, is_fresh)?, joiners })
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

/// When whoever waits looks for holders that have died.
fn lease_wait(state: &State) -> Option<Duration> {
    (!state.held().is_empty()).then_some(QUEUE_LEASE_WAIT)
}

/// The lock is ours, and this is what we have found.
struct Operation<'a> {
    store: &'a Store,
    ends: Ends<'a>,
    locked: Locked<'a>,
    state: State,
}

/// What to look for among the items that are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sweep {
    TheDone,
    TheDeadToo,
}

impl Operation<'_> {
    /// Makes a state the one that counts.
    fn make(&mut self, next: State, wakes: Wakes) {
        if let Some(inlet) = self.ends.inlet.filter(|_| wakes.items) {
            inlet.ear.bell().ring();
        }
        if let Some(outlet) = self.ends.outlet.filter(|_| wakes.space) {
            outlet.ear.bell().ring();
        }
        if let Some(joiners) = self.store.joiners.as_ref().filter(|_| wakes.joiners) {
            joiners.bell.ring();
        }
        self.store.board.store(next);
        self.state = next;
    }

    fn put(
        mut self,
        inlet: &Inlet,
        draft: &mut Draft,
        may_wait: bool,
    ) -> Result<Attempt<Put>, QueueFault> {
        let terms = *self.store.terms();
        let record = draft.len() as u64;
        let mut put = self.state.put(&terms, record);
        if put == Err(NotPut::Full) && !self.state.held().is_empty() {
            self.sweep(Sweep::TheDeadToo)?;
            put = self.state.put(&terms, record);
        }
        let (next, place) = match put {
            Ok(put) => put,
            Err(NotPut::Closed) => return Ok(Attempt::Done(Put::Closed)),
            Err(NotPut::Full) => return Ok(self.wait_for_space(inlet, record, may_wait)),
        };
        let attached = draft.attached_count();
        let header = Header {
            len: (record - HEADER_BYTES) as u32,
            // No draft has more than 64.
            memory: attached.memory as u16,
            others: attached.descriptors as u16,
            number: place.number,
            mark: if attached.all() > 0 { new_mark() } else { 0 },
        };
        draft.head_mut(HEADER_BYTES as usize).copy_from_slice(&header.to_bytes());
        if let Some(reaching) = self.state.reaching(&next) {
            self.make(reaching, Wakes::default());
        }
        write_ring(self.locked.file(), &terms, place.at, draft)?;
        if attached.all() > 0 {
            let label = label(&header);
            let slices = [IoSlice::new(&label)];
            match descriptor::send_now(inlet.side.as_fd(), &slices, draft.attached()) {
                Err(error) if fd::is_passing(&error) => {
                    // Not what the state tells of: whoever waits looks by itself.
                    let sign = self.state.put_and_taken().1;
                    return Ok(Attempt::Wait(Wait { sign, again: Some(WRITE_AGAIN_WAIT) }));
                }
                sent => sent?,
            };
        }
        self.make(next, Wakes { items: place.wakes, ..Wakes::default() });
        Ok(Attempt::Done(Put::Done))
    }

    fn wait_for_space(mut self, inlet: &Inlet, record: u64, may_wait: bool) -> Attempt<Put> {
        let bell = inlet.ear.bell();
        // What a dead holder has is in the way, if it may be put back.
        let mut again = lease_wait(&self.state);
        if may_wait {
            let (next, may_silence) = self.state.wait_for_space(self.store.terms(), record);
            if next != self.state {
                self.make(next, Wakes::default());
            }
            if may_silence {
                bell.silence();
            } else {
                // Others are to come, who may have died on the way.
                again = Some(QUEUE_LOCK_WAIT_MOST);
            }
            // Whoever closes it may not have had the lock.
            if self.store.state().is_closed() {
                return Attempt::Done(Put::Closed);
            }
        }
        Attempt::Wait(Wait { sign: self.state.put_and_taken().1, again })
    }

    fn get(
        mut self,
        outlet: &Outlet,
        taking: Taking,
        may_wait: bool,
    ) -> Result<Attempt<Got>, QueueFault> {
        let terms = *self.store.terms();
        self.sweep(Sweep::TheDone)?;
        let mut was_swept = false;
        let mut spoilt = 0;
        loop {
            if spoilt == SPOILT_MAX {
                return Ok(Attempt::Busy);
            }
            let store = self.store;
            let front = self.state.front(&|lease| store.board.lease(lease).number);
            let taken = match front {
                Some(front) => self.take(outlet, front, taking)?,
                None => Came::Nothing,
            };
            match taken {
                Came::Letter(letter) => {
                    self.give_memory_back();
                    return Ok(Attempt::Done(Got::Item(letter)));
                }
                Came::Spoilt => {
                    spoilt += 1;
                    continue;
                }
                Came::Nothing => {}
            }
            if !self.state.held().is_empty() && !was_swept {
                was_swept = true;
                self.sweep(Sweep::TheDeadToo)?;
                continue;
            }
            let again =
                (front.is_some() || self.state.may_return(&terms)).then_some(QUEUE_LEASE_WAIT);
            // Nobody can have put anything since the lock was taken.
            let is_over = |state: &State| state.is_closed() || outlet.ear.bell().is_deserted();
            if again.is_none() && is_over(&self.state) {
                return Ok(Attempt::Done(Got::Ended));
            }
            // Items that cannot be held now are there for others, who are to hear of them.
            if may_wait && front.is_none() {
                self.make(self.state.wait_for_items(), Wakes::default());
                outlet.ear.bell().silence();
                // Whoever closes it may not have had the lock.
                if again.is_none() && self.store.state().is_closed() {
                    return Ok(Attempt::Done(Got::Ended));
                }
            }
            return Ok(Attempt::Wait(Wait { sign: self.state.put_and_taken().0, again }));
        }
    }

    /// Takes what comes next.
    fn take(&mut self, outlet: &Outlet, front: Front, taking: Taking) -> Result<Came, QueueFault> {
        let (at, number, most) = match front {
            Front::Queued { at, number, most } => (at, number, most),
            Front::Returned { lease } => {
                let lease = self.store.board.lease(lease);
                (lease.at, lease.number, self.state.most_at(lease.at)?.min(lease.record))
            }
        };
        let lease = match taking {
            Taking::ForGood => None,
            Taking::Held => match self.lease_for(front)? {
                None => return Ok(Came::Nothing),
                lease => lease,
            },
        };
        // Given up again if anything is wrong.
        let held = Held { store: self.store, lease };
        let (header, record) = self.read(at, number, most)?;
        let is_laden = header.attached() > 0;
        let arrived = match is_laden {
            false => Some(Arrived::default()),
            true => receive_attached(outlet.side.as_fd(), &header)?,
        };
        if let Some(lease) = lease {
            let record = header.record_bytes();
            let (is_done, is_spoilt) = (false, false);
            let written = Lease { is_done, is_spoilt, is_laden, at, number, record };
            self.store.board.set_lease(lease, written);
        }
        let lease = lease.filter(|_| arrived.is_some());
        let (store, terms) = (self.store, *self.store.terms());
        let positions = |lease| store.board.lease(lease).at;
        let (mut next, mut wakes) = match front {
            Front::Queued { .. } => {
                self.state.take(&terms, header.record_bytes(), lease, &positions)?
            }
            Front::Returned { lease: old } => {
                self.state.take_returned(&terms, old, lease.is_some(), &positions)?
            }
        };
        let Some(arrived) = arrived else {
            // Whoever took it before was killed with its descriptors.
            let (written_off, more) = next.write_off();
            next = written_off;
            wakes.joiners |= more.joiners;
            self.make(next, wakes);
            return Ok(Came::Spoilt);
        };
        self.make(next, wakes);
        std::mem::forget(held);
        let hold = lease.map(|lease| Taken { lease, home: self.store.claim.home() });
        Ok(Came::Letter(Letter { bytes: record.slice(HEADER_BYTES as usize..), arrived, hold }))
    }

    /// A lease for what comes next. `None` if all are taken.
    fn lease_for(&self, front: Front) -> Result<Option<usize>, QueueFault> {
        if let Front::Returned { lease } = front {
            return Ok(self.locked.try_lease(lease)?.then_some(lease));
        }
        for lease in (0..QUEUE_LEASES).filter(|lease| self.state.is_free(*lease)) {
            if self.locked.try_lease(lease)? {
                return Ok(Some(lease));
            }
        }
        Ok(None)
    }

    /// Reads an item that is no longer than `most`, and looks whether it is one.
    fn read(&self, at: u64, number: u64, most: u64) -> Result<(Header, Bytes), QueueFault> {
        let (terms, file) = (self.store.terms(), self.locked.file());
        let first = most.min(QUEUE_READ_BYTES as u64) as usize;
        let mut buffer = BytesMut::with_capacity(first);
        board::read_ring(file, terms, at, first, &mut buffer)?;
        let Some(head) = buffer.first_chunk() else {
            return Err(Corrupt("an item is shorter than it can be").into());
        };
        let header = Header::from_bytes(head);
        if header.number != number || header.record_bytes() > most {
            return Err(Corrupt("an item is not the one that it should be").into());
        }
        if header.attached() > ATTACHED_MAX {
            return Err(Corrupt("an item has too many descriptors").into());
        }
        let record = header.record_bytes() as usize;
        if record > first {
            if record > QUEUE_TRUSTED_BYTES && board::memory_bytes(file)? < record as u64 {
                return Err(Corrupt("there is no memory behind an item").into());
            }
            let mut whole = BytesMut::with_capacity(record);
            whole.extend_from_slice(&buffer);
            buffer = whole;
            board::read_ring(file, terms, at + first as u64, record - first, &mut buffer)?;
        }
        buffer.truncate(record);
        Ok((header, buffer.freeze()))
    }

    /// Puts into the books what holders have done, or that they have died.
    fn sweep(&mut self, what: Sweep) -> Result<(), QueueFault> {
        let (store, terms) = (self.store, *self.store.terms());
        let positions = |lease| store.board.lease(lease).at;
        let (mut next, mut wakes) = (self.state, Wakes::default());
        for lease in self.state.held().iter() {
            let Some(outcome) = self.outcome(lease, what)? else { continue };
            let (after, more) = next.settle_lease(&terms, lease, outcome, &positions)?;
            next = after;
            wakes = wakes.and(more);
        }
        if next != self.state {
            self.make(next, wakes);
        }
        Ok(())
    }

    /// What became of an item that is held, if it is not held any more.
    fn outcome(&self, lease: usize, what: Sweep) -> Result<Option<Outcome>, QueueFault> {
        let look = || {
            let lease = self.store.board.lease(lease);
            let outcome = if lease.is_spoilt { Outcome::Lost } else { Outcome::Done };
            lease.is_done.then_some(outcome)
        };
        let done = look();
        if done.is_some() || what == Sweep::TheDone || self.locked.is_leased(lease)? {
            return Ok(done);
        }
        // A holder says that it is done before it lets go.
        Ok(look().or_else(|| {
            let is_laden = self.store.board.lease(lease).is_laden;
            Some(if is_laden { Outcome::Lost } else { Outcome::PutBack })
        }))
    }

    /// Gives memory back that is not needed, if it is much.
    fn give_memory_back(&mut self) {
        let Some(spare) = self.state.spare() else { return };
        if board::punch_ring(self.locked.file(), self.store.terms(), &spare).is_ok() {
            self.store.board.store(self.state.without(&spare));
        }
    }
}

/// So many items that are of no use to anybody are passed by at a time. There is
/// one for each consumer that was killed, or somebody means to keep us at it.
const SPOILT_MAX: u32 = 64;

/// What came of taking.
enum Came {
    Letter(Letter),
    /// It was of no use to anybody, and is gone.
    Spoilt,
    Nothing,
}

/// A lease that is given up when it is dropped.
struct Held<'a> {
    store: &'a Store,
    lease: Option<usize>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease {
            self.store.claim.unlock_lease(lease);
        }
    }
}

/// Writes a whole item.
fn write_ring(file: BorrowedFd<'_>, terms: &Terms, at: u64, draft: &Draft) -> io::Result<()> {
    let mut written = 0;
    while written < draft.len() {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let count = draft.slices(written, &mut slices);
        let slices = &slices[..count];
        let (offset, room) = board::ring_offset(terms, at + written as u64);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let done = if len <= room {
            pwritev(file, slices, offset)
        } else {
            // Where the ring begins anew, piece by piece.
            pwrite(file, &slices[0][..slices[0].len().min(room)], offset)
        };
        match done {
            Err(Errno::EINTR) => {}
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            done => written += done?,
        }
    }
    Ok(())
}

/// Pieces of an item that are written at once.
const WRITE_SLICES: usize = 16;

/// What recognises the descriptors of one item among those that were sent for
/// others, by producers that were killed before the item was put.
fn new_mark() -> u64 {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Copies of a process have the same seed, and the same count.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let known = (std::process::id(), count, clock::monotonic_nanos());
    SEED.get_or_init(RandomState::new).hash_one(known)
}

/// What goes with the descriptors of an item: its number, and its mark.
fn label(header: &Header) -> [u8; LABEL_BYTES] {
    let mut label = [0; LABEL_BYTES];
    label[..8].copy_from_slice(&header.number.to_le_bytes());
    label[8..].copy_from_slice(&header.mark.to_le_bytes());
    label
}

const LABEL_BYTES: usize = 16;

/// Takes the descriptors of an item. `None` if they are not there.
fn receive_attached(side: BorrowedFd<'_>, header: &Header) -> io::Result<Option<Arrived>> {
    let expected = label(header);
    loop {
        // Without their descriptors at first: they may be those of an item that is
        // yet to come.
        let mut next = [0; LABEL_BYTES];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(side.as_raw_fd(), &mut next, flags) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) | Ok(0) => return Ok(None),
            peeked => peeked?,
        };
        let (number, _) = next.split_at(8);
        if u64::from_le_bytes(number.try_into().expect("these are eight bytes")) > header.number {
            return Ok(None);
        }
        let mut room = BytesMut::with_capacity(LABEL_BYTES);
        let received = match fd::receive_now(side, &mut room, usize::MAX) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            received => received?,
        };
        let (mut came, _) = descriptor::receive(received.fds, None);
        // Of a producer that was killed before the item was put.
        if room[..] != expected {
            continue;
        }
        let is_short = received.cut_short || came.len() < header.attached();
        let others = came.split_off(came.len().min(header.memory.into()));
        let memory = came.iter().filter_map(Passed::to_memory).collect();
        return Ok(Some(Arrived::new(memory, others, is_short)));
    }
}

/// Ends of what descriptors go through: to, and from.
fn side_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}
