//! A place for a `static` that is set once in each process: read without a lock, and
//! set again in a copy of the process that has one for itself.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

#[derive(Debug)]
pub(crate) struct Latest<T: 'static>(AtomicPtr<Entry<T>>);

#[derive(Debug)]
struct Entry<T: 'static> {
    value: Option<T>,
    /// There may be references to its value.
    _before: *mut Entry<T>,
}

// SAFETY: shared references to values are all that is ever given out, and values come
// in by `set`; the pointer to the entry before is not followed.
unsafe impl<T: Send + Sync> Sync for Latest<T> {}

impl<T> Latest<T> {
    pub(crate) const fn new() -> Self {
        Latest(AtomicPtr::new(ptr::null_mut()))
    }

    /// What was set last.
    pub(crate) fn get(&self) -> Option<&'static T> {
        let entry = self.0.load(Ordering::Acquire);
        // SAFETY: null, or from `put`, which gives its entries away for good.
        unsafe { entry.as_ref() }?.value.as_ref()
    }

    /// Sets it. What was there before stays where it is, for those who have it.
    pub(crate) fn set(&self, value: T) {
        self.put(Some(value));
    }

    /// As at the beginning.
    pub(crate) fn forget(&self) {
        self.put(None);
    }

    fn put(&self, value: Option<T>) {
        let before = self.0.load(Ordering::Acquire);
        let entry = Box::into_raw(Box::new(Entry { value, _before: before }));
        self.0.store(entry, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_counts_and_the_others_stay() {
        static PLACE: Latest<String> = Latest::new();
        assert_eq!(PLACE.get(), None);
        PLACE.set("first".into());
        let first = PLACE.get();
        PLACE.forget();
        assert_eq!(PLACE.get(), None);
        PLACE.set("second".into());
        assert_eq!(PLACE.get().map(String::as_str), Some("second"));
        assert_eq!(first.map(String::as_str), Some("first"));
    }
}
