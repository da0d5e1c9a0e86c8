//! Each operation on a queue, under the lock, as a change of the state that others
//! see whole or not at all. Decides nothing that `queue_state` can.
//!
//! The order within an operation is what makes it safe to be killed anywhere:
//!
//! ```text
//! put    STATE, if it needs memory │ bytes into the ring │ ring the bell │ STATE
//! get    bytes out of the ring │ descriptors │ ring the bell │ STATE │ memory back
//! wait                                                         STATE │ silence the bell
//! ```
//!
//! Whoever is killed before the state has done nothing but to wake others for
//! nothing; whoever is killed after it has left a bell that rings, or memory that
//! the next one gives back.
//!
//! An item with descriptors is put in another order, so that those of one that was
//! not put after all are found, by whoever wakes:
//!
//! ```text
//! put    STATE: there may be strays │ bytes │ ring the bell │ descriptors │ STATE
//! get    … if nothing is queued: receive what strays │ STATE
//! ```

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::uio::{pwrite, pwritev};

use super::{Ends, Got, Inlet, Letter, Outlet, Put, Store, Taken, Taking};
use crate::attached::{Arrived, Attached, Passed};
use crate::channel::fault::QueueFault;
use crate::channel::wait::{Attempt, Wait};
use crate::limits::{
    ATTACHED_MAX, FRAME_ATTACHED_MAX, QUEUE_LEASE_WAIT, QUEUE_LOCK_WAIT_MOST, QUEUE_READ_BYTES,
    QUEUE_TRUSTED_BYTES, WRITE_AGAIN_WAIT,
};
use crate::proto::draft::Draft;
use crate::queue_state::{
    Corrupt, Front, HEADER_BYTES, Header, Lease, NotPut, Outcome, QUEUE_LEASES, State, Terms, Wakes,
};
use crate::sys::board;
use crate::sys::claim::Locked;
use crate::sys::{clock, descriptor, fd};

/// When whoever waits looks for holders that have died.
pub(super) fn lease_wait(state: &State) -> Option<Duration> {
    (!state.held().is_empty()).then_some(QUEUE_LEASE_WAIT)
}

/// The lock is ours, and this is what we have found.
pub(super) struct Operation<'a> {
    pub(super) store: &'a Store,
    pub(super) ends: Ends<'a>,
    pub(super) locked: Locked<'a>,
    pub(super) state: State,
}

/// What to look for among the items that are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sweep {
    TheDone,
    TheDeadToo,
}

impl Operation<'_> {
    /// Makes a state the one that counts.
    pub(super) fn make(&mut self, next: State, wakes: Wakes) {
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

    pub(super) fn put(
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
            // No draft has more than 1024.
            memory: attached.memory as u16,
            others: attached.descriptors as u16,
            number: place.number,
            mark: if attached.all() > 0 { new_mark() } else { 0 },
        };
        draft.head_mut(HEADER_BYTES as usize).copy_from_slice(&header.to_bytes());
        let is_laden = attached.all() > 0;
        if let Some(reaching) = self.state.reaching(&next, is_laden) {
            self.make(reaching, Wakes::default());
        }
        write_ring(self.locked.file(), &terms, place.at, draft)?;
        if is_laden {
            if place.wakes {
                inlet.ear.bell().ring();
            }
            match send_attached(inlet.side.as_fd(), &header, draft.attached()) {
                Err(error) if fd::is_passing(&error) => {
                    // Not what the state tells of: whoever waits looks by itself.
                    let sign = self.state.put_and_taken().1;
                    return Ok(Attempt::Wait(Wait { sign, again: Some(WRITE_AGAIN_WAIT) }));
                }
                // The last consumer has died since its bell was asked.
                Err(error) if fd::has_no_reader(&error) => {
                    return Ok(Attempt::Done(Put::Abandoned));
                }
                sent => sent?,
            }
        }
        self.make(next, Wakes { items: place.wakes && !is_laden, ..Wakes::default() });
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

    pub(super) fn get(
        mut self,
        outlet: &Outlet,
        taking: Taking,
        may_wait: bool,
    ) -> Result<Attempt<Got>, QueueFault> {
        let terms = *self.store.terms();
        // What the dead held goes before all that is queued, however much that is.
        let mut was_swept = self.may_look_for_the_dead();
        self.sweep(if was_swept { Sweep::TheDeadToo } else { Sweep::TheDone })?;
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
            // Nobody else is about to put anything.
            if self.state.has_only_strays() && close_strays(outlet.side.as_fd()) {
                self.make(self.state.without_strays(), Wakes::default());
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

    /// Whether there are holders, and this process has not looked for a while whether
    /// they have died: that is a system call for each.
    fn may_look_for_the_dead(&self) -> bool {
        if self.state.held().is_empty() {
            return false;
        }
        let (now, last) = (clock::monotonic_nanos(), self.store.looked.load(Ordering::Relaxed));
        let is_due = now.saturating_sub(last) >= QUEUE_LEASE_WAIT.as_nanos() as u64;
        if is_due {
            self.store.looked.store(now, Ordering::Relaxed);
        }
        is_due
    }

    /// Puts into the books what holders have done, or that they have died.
    pub(super) fn sweep(&mut self, what: Sweep) -> Result<(), QueueFault> {
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

/// Sends the descriptors of an item, all of them or none.
fn send_attached(side: BorrowedFd<'_>, header: &Header, attached: &[Attached]) -> io::Result<()> {
    let label = label(header);
    let slices = [IoSlice::new(&label)];
    let send = || {
        if attached.len() <= FRAME_ATTACHED_MAX {
            return descriptor::send_now(side, &slices, attached, 0..attached.len());
        }
        let parcel = descriptor::pack(attached)?;
        fd::send_with_fds_now(side, &slices, &[parcel.as_fd()])
    };
    match send() {
        // Until it is taken, all of it is on its way.
        Err(error) if fd::is_too_many(&error) && attached.len() > fd::descriptors_max() => {
            let text = format!(
                "the item has {} descriptors, and {} may be on their way (`ulimit -n`)",
                attached.len(),
                fd::descriptors_max()
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
        sent => sent.map(drop),
    }
}

/// Receives and closes what belongs to no item. Returns whether that was all.
fn close_strays(side: BorrowedFd<'_>) -> bool {
    for _ in 0..STRAYS_MAX {
        let mut room = BytesMut::with_capacity(LABEL_BYTES);
        match fd::receive_now(side, &mut room, usize::MAX) {
            Ok(received) if received.len > 0 => drop(descriptor::receive(received.fds, None)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return false,
            _ => return true,
        }
    }
    false
}

/// There is one message for each producer that was killed, or somebody means to keep
/// us at it.
const STRAYS_MAX: u32 = 256;

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
        let mut is_short = received.cut_short;
        if header.attached() > FRAME_ATTACHED_MAX {
            let most = header.attached();
            let unpacked = came.first().map(|parcel| descriptor::unpack(parcel, most));
            (came, is_short) = unpacked.transpose()?.unwrap_or((Vec::new(), is_short));
        }
        is_short |= came.len() < header.attached();
        let others = came.split_off(came.len().min(header.memory.into()));
        let memory = came.iter().filter_map(Passed::to_memory).collect();
        return Ok(Some(Arrived::new(memory, others, is_short)));
    }
}
