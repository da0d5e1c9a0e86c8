//! Chunks on their way, and what of them has been told. `feed` sends them, and
//! takes in what they come to.

use std::sync::Arc;

use crate::attached::Arrived;
use crate::error::{TaskError, TaskInfo};
use crate::proto::answers;
use crate::proto::draft::{Payload, Reply};
use crate::sched::TaskKey;
use crate::sys::layout::Tallied;

/// Consecutive items that go to a worker together.
pub(super) struct Chunk {
    /// Position of its first item in the input.
    pub(super) first: usize,
    pub(super) args: Payload,
    /// Where the arguments of each item but the last end in `args`, counted from
    /// where those of the first began when the chunk was made.
    pub(super) ends: Vec<u32>,
    /// Where `args` begins, counted likewise.
    pub(super) start: u32,
}

impl Chunk {
    pub(super) fn count(&self) -> usize {
        self.ends.len() + 1
    }

    /// Cuts off all but the first `count` items, which are some and not all, and
    /// returns the rest.
    pub(super) fn split_off(&mut self, count: usize) -> Chunk {
        let ends = self.ends.split_off(count);
        let start = self.ends.pop().expect("cut behind an item");
        let args = self.args.split_off((start - self.start) as usize);
        Chunk { first: self.first + count, args, ends, start }
    }
}

/// What became of consecutive items.
pub(super) enum Fed {
    /// They could not be sent.
    Unsent { index: usize, error: TaskError },
    /// All have this answer. The first `given` of them have been told before.
    Answered {
        first: usize,
        count: usize,
        given: usize,
        payload: Reply,
        form: Form,
        task: TaskInfo,
    },
    /// None has an answer. The error's index counts from `first`.
    Lost { first: usize, count: usize, error: TaskError },
}

/// How answers lie in what came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// There is one.
    Single,
    /// Those of a chunk.
    Row,
    /// Those of a chunk, with their lengths.
    Sized,
}

/// A chunk on its way.
pub(super) struct Flight {
    pub(super) task: TaskKey,
    pub(super) chunk: Chunk,
    pub(super) form: Form,
    /// Its answers that were given before it has come back.
    pub(super) given: usize,
    /// Somebody has waited for it for a while.
    pub(super) is_old: bool,
}

impl Flight {
    /// Whether there may be something of it before it comes back.
    pub(super) fn is_divisible(&self) -> bool {
        self.chunk.count() - self.given > 1
    }

    /// What is there of it, beyond what was given. It counts as given then.
    pub(super) fn give(&mut self, tallied: &Tallied, task: TaskInfo) -> Option<Fed> {
        let count = (tallied.answered as usize).min(self.chunk.count());
        let given = self.given;
        if count <= given {
            return None;
        }
        self.given = count;
        let payload = answers::of_values(count as u32, &tallied.answers);
        let payload = Reply::detach(payload[..].into(), 0, Arrived::NOTHING);
        let first = self.chunk.first;
        Some(Fed::Answered { first, count, given, payload, form: Form::Sized, task })
    }
}

/// Chunks on their way, by a number that is used again once they have landed.
#[derive(Default)]
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<u32>,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns its number.
    pub(super) fn insert(&mut self, flight: Flight) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = Some(flight);
                number
            }
            None => {
                self.slots.push(Some(flight));
                self.slots.len() as u32 - 1
            }
        }
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut Flight {
        self.slots[number as usize].as_mut().expect("it has not landed")
    }

    pub(super) fn remove(&mut self, number: u32) -> Flight {
        self.free.push(number);
        self.slots[number as usize].take().expect("each lands once")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.slots.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        self.slots.iter_mut().flatten()
    }
}

/// The chunk in reports.
pub(super) fn info(task: TaskKey, name: &'static str, label: &Option<Arc<str>>) -> TaskInfo {
    TaskInfo { id: task.id, name, label: label.clone(), index: None }
}
