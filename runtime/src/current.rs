//! [`Current`]: a thread-local value that is set for a time.

use std::cell::RefCell;
use std::mem::{self, ManuallyDrop};
use std::thread::LocalKey;

/// The current value of a thread. It is never dropped, so it is available until the thread is gone:
/// a runtime may end with its thread, and its tasks still spawn and wait then.
pub(crate) struct Current<T>(RefCell<ManuallyDrop<Option<T>>>);

impl<T: Clone> Current<T> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(ManuallyDrop::new(None)))
    }

    pub(crate) fn get(&self) -> Option<T> {
        Option::clone(&self.0.borrow())
    }

    /// Calls `body` with the current value, which `body` must not change.
    #[inline]
    pub(crate) fn with<R>(&self, body: impl FnOnce(Option<&T>) -> R) -> R {
        body((**self.0.borrow()).as_ref())
    }

    /// Makes `value` the current value of this thread until the guard is dropped.
    pub(crate) fn enter(key: &'static LocalKey<Self>, value: T) -> EnterGuard<T> {
        EnterGuard { key, outer: replace(key, Some(value)) }
    }
}

fn replace<T>(key: &'static LocalKey<Current<T>>, value: Option<T>) -> Option<T> {
    key.with(|current| mem::replace(&mut **current.0.borrow_mut(), value))
}

/// Undoes [`Current::enter`] when it is dropped.
pub(crate) struct EnterGuard<T: 'static> {
    key: &'static LocalKey<Current<T>>,
    outer: Option<T>,
}

impl<T> EnterGuard<T> {
    /// The value that was current before.
    pub(crate) fn outer(&self) -> Option<&T> {
        self.outer.as_ref()
    }
}

impl<T> Drop for EnterGuard<T> {
    fn drop(&mut self) {
        let outer = self.outer.take();
        // It may be the last reference to a runtime: dropped when nothing is borrowed.
        drop(replace(self.key, outer));
    }
}
