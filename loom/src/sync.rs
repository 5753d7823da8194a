//! What `runtime/src/sync.rs` gives, made of loom's parts.

use std::collections::VecDeque;

pub(crate) use loom::sync::atomic::Ordering;
use loom::sync::atomic::{self, fence};
use loom::sync::{Condvar, Mutex};

/// Loom treats sequentially consistent accesses as acquire and release, and only its fences as what
/// they are. A fence after each write, none after a read, is one of the two known ways to make the
/// one of the other; the other way would hide a write that is too weak.
fn after_write(ordering: Ordering) {
    if ordering == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
}

#[derive(Debug)]
pub(crate) struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(atomic::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, ordering: Ordering) -> bool {
        self.0.load(ordering)
    }

    /// An exchange. After a plain store, loom lets an exchange of another thread that came before
    /// it be the last one in the order of modification, though it follows what it has read: the
    /// waker that took "asleep" away from one sleep would take it away from the next one as well.
    /// It acquires nothing, as a store.
    pub(crate) fn store(&self, value: bool, ordering: Ordering) {
        let release = match ordering {
            Ordering::SeqCst => Ordering::Release,
            weaker => weaker,
        };
        self.0.swap(value, release);
        after_write(ordering);
    }

    pub(crate) fn swap(&self, value: bool, ordering: Ordering) -> bool {
        let old = self.0.swap(value, ordering);
        after_write(ordering);
        old
    }
}

#[derive(Debug, Default)]
pub(crate) struct AtomicUsize(atomic::AtomicUsize);

impl AtomicUsize {
    pub(crate) fn load(&self, ordering: Ordering) -> usize {
        self.0.load(ordering)
    }

    pub(crate) fn fetch_add(&self, value: usize, ordering: Ordering) -> usize {
        let old = self.0.fetch_add(value, ordering);
        after_write(ordering);
        old
    }

    pub(crate) fn fetch_sub(&self, value: usize, ordering: Ordering) -> usize {
        let old = self.0.fetch_sub(value, ordering);
        after_write(ordering);
        old
    }
}

/// For `SegQueue`. A look whether it is empty takes no lock, so that it orders nothing that the
/// look of `SegQueue` would not.
pub(crate) struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    len: AtomicUsize,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { items: Mutex::new(VecDeque::new()), len: AtomicUsize::default() }
    }

    pub(crate) fn push(&self, item: T) {
        let mut items = self.items.lock().expect("no model panics while it holds the lock");
        items.push_back(item);
        self.len.fetch_add(1, Ordering::SeqCst);
    }

    /// As `SegQueue::pop`: a fence, a relaxed look, and only then the item.
    pub(crate) fn pop(&self) -> Option<T> {
        fence(Ordering::SeqCst);
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut items = self.items.lock().expect("no model panics while it holds the lock");
        let item = items.pop_front()?;
        self.len.fetch_sub(1, Ordering::SeqCst);
        Some(item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::SeqCst) == 0
    }
}

/// For the eventfd and the driver that watches it.
#[derive(Default)]
pub(crate) struct Eventfd {
    count: Mutex<u64>,
    written: Condvar,
}

impl Eventfd {
    /// Sleeps until it is written, also if that was before; takes the count.
    pub(crate) fn wait(&self) -> u64 {
        let mut count = self.count.lock().expect("no model panics while it holds the lock");
        while *count == 0 {
            count = self.written.wait(count).expect("no model panics while it holds the lock");
        }
        std::mem::take(&mut count)
    }

    /// What was written and has woken nobody yet.
    pub(crate) fn take(&self) -> u64 {
        std::mem::take(&mut *self.count.lock().expect("no model panics while it holds the lock"))
    }
}

pub(crate) fn signal(eventfd: &Eventfd) {
    *eventfd.count.lock().expect("no model panics while it holds the lock") += 1;
    eventfd.written.notify_one();
}
