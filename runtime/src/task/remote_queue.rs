//! What other threads send, and how they wake the runtime when it sleeps.
//!
//! There are two handshakes. In each, both sides write their own flag and then read the other's, in
//! sequentially consistent order, so at least one sees the other:
//!
//! - One side pushes, then looks whether the owner sleeps. The owner says "asleep", then looks
//!   whether the queue is empty.
//! - One side pushes, then looks whether the queue is closed. The owner closes it, then empties it.
//!
//! There is one write to the eventfd per sleep, not per wake: the first waker clears "asleep".
//! `loom/` tries all interleavings of this file.

use std::sync::Arc;

use crate::sync::{AtomicBool, Eventfd, Ordering, Queue, signal};

pub(crate) struct RemoteQueue<T> {
    queue: Queue<T>,
    /// True exactly while the owner sleeps, or is about to, and nobody has woken it yet.
    asleep: AtomicBool,
    /// True after the owner has ended: nothing will be taken out.
    closed: AtomicBool,
    eventfd: Arc<Eventfd>,
}

/// Whether the owner may go to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Sleep,
    /// Something has arrived meanwhile.
    StayAwake,
}

impl<T> RemoteQueue<T> {
    pub(crate) fn new(eventfd: Arc<Eventfd>) -> Self {
        Self {
            queue: Queue::new(),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            eventfd,
        }
    }

    /// Passes `item` to the owner, and wakes the owner if it sleeps. After the end, drops `item`.
    pub(crate) fn push(&self, item: T) {
        self.queue.push(item);
        if self.closed.load(Ordering::SeqCst) {
            self.empty();
            return;
        }
        self.wake();
    }

    /// Wakes the owner if it sleeps.
    pub(crate) fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            signal(&self.eventfd);
        }
    }

    pub(crate) fn eventfd(&self) -> &Eventfd {
        &self.eventfd
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// The owner is about to sleep. It calls `awake` next, whatever this returns.
    pub(crate) fn fall_asleep(&self) -> Permission {
        self.asleep.store(true, Ordering::SeqCst);
        if self.queue.is_empty() { Permission::Sleep } else { Permission::StayAwake }
    }

    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// The owner ends. What is in the queue, and what is pushed from now on, is dropped.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.empty();
    }

    fn empty(&self) {
        while self.queue.pop().is_some() {}
    }
}
