//! [`Current`]: what a thread is in, as a thread-local that is set for a time.

use std::cell::RefCell;
use std::mem::{self, ManuallyDrop};
use std::thread::LocalKey;

/// The current value of a thread. It is never dropped, so that it is there until the thread is gone:
/// a runtime may end with its thread, and its tasks spawn and wait as before.
pub(crate) struct Current<T>(RefCell<ManuallyDrop<Option<T>>>);

impl<T: Clone> Current<T> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(ManuallyDrop::new(None)))
    }

    pub(crate) fn get(&self) -> Option<T> {
        Option::clone(&self.0.borrow())
    }

    /// Calls `body` with the current value, which must not change it.
    #[inline]
    pub(crate) fn with<R>(&self, body: impl FnOnce(Option<&T>) -> R) -> R {
        body((**self.0.borrow()).as_ref())
    }

    /// Makes `value` the current one of this thread until the guard is dropped.
    pub(crate) fn enter(key: &'static LocalKey<Self>, value: T) -> EnterGuard<T> {
        EnterGuard { key, outer: replace(key, Some(value)) }
    }
}

fn replace<T>(key: &'static LocalKey<Current<T>>, value: Option<T>) -> Option<T> {
    key.with(|current| mem::replace(&mut **current.0.borrow_mut(), value))
}

/// Undoes a [`Current::enter`].
pub(crate) struct EnterGuard<T: 'static> {
    key: &'static LocalKey<Current<T>>,
    outer: Option<T>,
}

impl<T> EnterGuard<T> {
    /// What was current before.
    pub(crate) fn outer(&self) -> Option<&T> {
        self.outer.as_ref()
    }
}

impl<T> Drop for EnterGuard<T> {
    fn drop(&mut self) {
        let outer = self.outer.take();
        // Possibly the last reference to a runtime: dropped when nothing is borrowed.
        drop(replace(self.key, outer));
    }
}
