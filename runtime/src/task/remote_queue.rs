//! What other threads send, and how they wake the runtime when it sleeps.
//!
//! Two handshakes, each of the form "write mine, then read yours" on both sides, in sequentially
//! consistent order, so that at least one side sees the other:
//!
//! * push, then look whether the owner sleeps | say "asleep", then look whether the inbox is empty
//! * push, then look whether the inbox is closed | close it, then empty it
//!
//! One write to the eventfd per sleep, not per wake: the first waker takes the "asleep" away.
//! `loom/` tries all interleavings of this file.

use std::sync::Arc;

use crate::sync::{AtomicBool, Eventfd, Ordering, Queue, signal};

pub(crate) struct RemoteQueue<T> {
    queue: Queue<T>,
    /// True exactly while the owner sleeps, or is about to, and nobody has woken it yet.
    asleep: AtomicBool,
    /// True once nothing will be taken out any more.
    closed: AtomicBool,
    eventfd: Arc<Eventfd>,
}

/// Whether the owner may go to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Sleep,
    /// Something arrived in the meantime.
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

    /// Hands `item` to the owner and wakes it if it sleeps. After the end, drops it.
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

    /// The owner is about to sleep. To be followed by `awake`, whatever the answer.
    pub(crate) fn fall_asleep(&self) -> Permission {
        self.asleep.store(true, Ordering::SeqCst);
        if self.queue.is_empty() { Permission::Sleep } else { Permission::StayAwake }
    }

    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// The owner ends: what is in the inbox, and what is pushed from now on, is dropped.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.empty();
    }

    fn empty(&self) {
        while self.queue.pop().is_some() {}
    }
}
