//! What `runtime/src/sync.rs` provides, built from the types of loom.

use std::collections::VecDeque;

pub(crate) use loom::sync::atomic::Ordering;
use loom::sync::atomic::{self, fence};
use loom::sync::{Condvar, Mutex};

/// loom treats sequentially consistent accesses as acquire and release. It models only fences
/// exactly. A fence after each write and none after a read is one of the two known ways to
/// implement sequentially consistent accesses. The other way would hide a write that is too weak.
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

    /// Implemented as an exchange. With a plain store, loom could order an earlier exchange of
    /// another thread after it in the modification order, although that exchange read an older
    /// value. A waker that took "asleep" of one sleep would then take it from the next sleep as
    /// well. Like a store, it acquires nothing.
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

/// Replaces `SegQueue`. The check for an empty queue takes no lock, so it orders nothing that the
/// check of `SegQueue` would not order.
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

    /// Does what `SegQueue::pop` does: a fence, a relaxed check, and only then the item.
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

/// Replaces the eventfd and the driver that watches it.
#[derive(Default)]
pub(crate) struct Eventfd {
    count: Mutex<u64>,
    written: Condvar,
}

impl Eventfd {
    /// Sleeps until the eventfd is written, also if that was before. Takes the count.
    pub(crate) fn wait(&self) -> u64 {
        let mut count = self.count.lock().expect("no model panics while it holds the lock");
        while *count == 0 {
            count = self.written.wait(count).expect("no model panics while it holds the lock");
        }
        std::mem::take(&mut count)
    }

    /// Takes the count of writes that have woken nobody yet.
    pub(crate) fn take(&self) -> u64 {
        std::mem::take(&mut *self.count.lock().expect("no model panics while it holds the lock"))
    }
}

pub(crate) fn signal(eventfd: &Eventfd) {
    *eventfd.count.lock().expect("no model panics while it holds the lock") += 1;
    eventfd.written.notify_one();
}
