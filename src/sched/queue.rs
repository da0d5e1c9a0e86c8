//! All tasks of a pool, and the order of those that wait. One table holds
//! both: the queue is a list of links through it, so that a task in the middle
//! leaves as cheaply as one at the front, and leaves nothing behind.

use super::key::TaskKey;
use super::task::{Place, Task, Terms};
use crate::id::TaskId;

const NONE: u32 = u32::MAX;

#[derive(Clone, Hash, Debug)]
pub(super) struct Tasks<T> {
    entries: Vec<Entry<T>>,
    /// The free entries. A list through them would have to be read from wherever they are.
    free: Vec<u32>,
    head: u32,
    tail: u32,
    queued: usize,
    len: usize,
}

#[derive(Clone, Hash, Debug)]
struct Entry<T> {
    task: Option<Task<T>>,
    prev: u32,
    next: u32,
}

impl<T> Tasks<T> {
    pub(super) fn new() -> Self {
        Tasks { entries: Vec::new(), free: Vec::new(), head: NONE, tail: NONE, queued: 0, len: 0 }
    }

    /// Tasks that have not ended.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Tasks that no worker has been given.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Task<T>> {
        self.entries.iter().filter_map(|entry| entry.task.as_ref())
    }

    /// Adds a task at the end of the queue.
    pub(super) fn submit(&mut self, id: TaskId, data: T, terms: Terms) -> TaskKey {
        let index = self.reserve();
        self.enter(index, Task::new(id, data, terms));
        TaskKey { index, id }
    }

    /// Keeps an entry free for one task that [`enter`](Self::enter)s later.
    pub(super) fn reserve(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 tasks at once");
        assert!(index != NONE, "fewer than 2^32 - 1 tasks at once");
        self.entries.push(Entry { task: None, prev: NONE, next: NONE });
        index
    }

    /// Adds a task at the end of the queue, in the entry that was kept for it.
    pub(super) fn enter(&mut self, reserved: u32, task: Task<T>) {
        self.entries[reserved as usize].task = Some(task);
        self.len += 1;
        self.link_back(reserved);
    }

    /// Gives an entry up for which no task has come.
    pub(super) fn release(&mut self, reserved: u32) {
        self.free.push(reserved);
    }

    pub(super) fn get(&self, key: TaskKey) -> Option<&Task<T>> {
        self.entries.get(key.index as usize)?.task.as_ref().filter(|task| task.id == key.id)
    }

    pub(super) fn get_mut(&mut self, key: TaskKey) -> Option<&mut Task<T>> {
        self.entries.get_mut(key.index as usize)?.task.as_mut().filter(|task| task.id == key.id)
    }

    /// Takes the task out, whether it waits or not.
    pub(super) fn remove(&mut self, key: TaskKey) -> Option<Task<T>> {
        if self.get(key)?.place() == Place::Queued {
            self.unlink(key.index);
        }
        let task = self.entries[key.index as usize].task.take();
        self.release(key.index);
        self.len -= 1;
        task
    }

    /// The task that has waited longest.
    pub(super) fn front(&self) -> Option<TaskKey> {
        let task = self.entries.get(self.head as usize)?.task.as_ref()?;
        Some(TaskKey { index: self.head, id: task.id })
    }

    /// Takes a waiting task out of the queue and notes where it went.
    pub(super) fn send(&mut self, key: TaskKey, place: Place) {
        debug_assert!(place != Place::Queued);
        let Some(task) = self.get_mut(key) else { return };
        if task.place() == Place::Queued {
            task.set_place(place);
            self.unlink(key.index);
        }
    }

    /// Puts a sent task back at the front of the queue.
    pub(super) fn requeue(&mut self, key: TaskKey) {
        let Some(task) = self.get_mut(key) else { return };
        if task.place() != Place::Queued {
            task.set_place(Place::Queued);
            self.link_front(key.index);
        }
    }

    /// Keys of all tasks, in no particular order.
    pub(super) fn keys(&self) -> Vec<TaskKey> {
        let entries = self.entries.iter().enumerate();
        let key = |(index, entry): (usize, &Entry<T>)| {
            Some(TaskKey { index: index as u32, id: entry.task.as_ref()?.id })
        };
        entries.filter_map(key).collect()
    }

    fn link_back(&mut self, index: u32) {
        let tail = self.tail;
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next) = (tail, NONE);
        match tail {
            NONE => self.head = index,
            _ => self.entries[tail as usize].next = index,
        }
        self.tail = index;
        self.queued += 1;
    }

    fn link_front(&mut self, index: u32) {
        let head = self.head;
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next) = (NONE, head);
        match head {
            NONE => self.tail = index,
            _ => self.entries[head as usize].prev = index,
        }
        self.head = index;
        self.queued += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, .. } = self.entries[index as usize];
        match prev {
            NONE => self.head = next,
            _ => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            _ => self.entries[next as usize].prev = prev,
        }
        self.queued -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::super::key::WorkerKey;
    use super::*;
    use crate::id::WorkerId;

    const SENT: Place = Place::Sent { worker: WorkerKey { seat: 0, id: WorkerId(1) }, seq: 1 };

    #[derive(Clone, Debug)]
    enum Op {
        Submit,
        Send,
        Requeue(usize),
        Remove(usize),
        Reserve,
        Enter(usize),
        Release(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        prop::collection::vec(
            prop_oneof![
                3 => Just(Op::Submit),
                2 => Just(Op::Send),
                1 => any::<usize>().prop_map(Op::Requeue),
                2 => any::<usize>().prop_map(Op::Remove),
                2 => Just(Op::Reserve),
                2 => any::<usize>().prop_map(Op::Enter),
                1 => any::<usize>().prop_map(Op::Release),
            ],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn behaves_like_a_deque_and_a_set(ops in ops()) {
            let mut tasks = Tasks::new();
            let mut waiting: VecDeque<TaskKey> = VecDeque::new();
            let mut sent: Vec<TaskKey> = Vec::new();
            let mut reserved: Vec<u32> = Vec::new();
            for (id, op) in (1..).map(TaskId).zip(ops) {
                match op {
                    Op::Submit => waiting.push_back(tasks.submit(id, (), Terms::default())),
                    Op::Reserve => reserved.push(tasks.reserve()),
                    Op::Enter(n) if !reserved.is_empty() => {
                        let index = reserved.swap_remove(n % reserved.len());
                        tasks.enter(index, Task::new(id, (), Terms::default()));
                        waiting.push_back(TaskKey { index, id });
                    }
                    Op::Release(n) if !reserved.is_empty() => {
                        tasks.release(reserved.swap_remove(n % reserved.len()));
                    }
                    Op::Send => if let Some(key) = tasks.front() {
                        tasks.send(key, SENT);
                        prop_assert_eq!(waiting.pop_front(), Some(key));
                        sent.push(key);
                    },
                    Op::Requeue(n) if !sent.is_empty() => {
                        let key = sent.swap_remove(n % sent.len());
                        tasks.requeue(key);
                        waiting.push_front(key);
                    }
                    Op::Remove(n) if !waiting.is_empty() || !sent.is_empty() => {
                        let n = n % (waiting.len() + sent.len());
                        let key = match waiting.len() {
                            queued if n < queued => waiting.remove(n).unwrap(),
                            queued => sent.swap_remove(n - queued),
                        };
                        prop_assert!(tasks.remove(key).is_some());
                        prop_assert!(tasks.remove(key).is_none());
                    }
                    _ => {}
                }
                prop_assert_eq!(tasks.queued(), waiting.len());
                prop_assert_eq!(tasks.len(), waiting.len() + sent.len());
                prop_assert_eq!(tasks.front(), waiting.front().copied());
                prop_assert_eq!(tasks.keys().len(), tasks.len());
            }
        }
    }
}
