//! What other threads send, and how they wake the runtime when it sleeps.
//!
//! Two handshakes, each of the form "write mine, then read yours" on both sides, in sequentially
//! consistent order, so that at least one side sees the other:
//!
//! * push, then look whether the owner sleeps | say "asleep", then look whether the inbox is empty
//! * push, then look whether the inbox is closed | close it, then empty it
//!
//! One write to the eventfd per sleep, not per wake: the first waker takes the "asleep" away.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::SegQueue;

pub(crate) struct Inbox<T> {
    queue: SegQueue<T>,
    /// True exactly while the owner sleeps, or is about to, and nobody has woken it yet.
    asleep: AtomicBool,
    /// True once nothing will be taken out any more.
    closed: AtomicBool,
    eventfd: Arc<File>,
}

/// Whether the owner may go to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Sleep,
    /// Something arrived in the meantime.
    StayAwake,
}

impl<T> Inbox<T> {
    pub(crate) fn new(eventfd: Arc<File>) -> Self {
        Self {
            queue: SegQueue::new(),
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
            // Fails only when the counter is full, and then the owner has been woken.
            let _ = (&*self.eventfd).write(&1u64.to_ne_bytes());
        }
    }

    pub(crate) fn eventfd(&self) -> &File {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> (Arc<Inbox<u32>>, Arc<File>) {
        let eventfd = Arc::new(crate::driver::descriptor::eventfd().unwrap());
        (Arc::new(Inbox::new(Arc::clone(&eventfd))), eventfd)
    }

    fn writes(eventfd: &File) -> u64 {
        let mut bytes = [0; 8];
        match std::io::Read::read(&mut &*eventfd, &mut bytes) {
            Ok(_) => u64::from_ne_bytes(bytes),
            Err(_) => 0,
        }
    }

    #[test]
    fn many_wakes_in_one_sleep_write_once() {
        let (inbox, eventfd) = inbox();
        assert_eq!(inbox.fall_asleep(), Permission::Sleep);
        for item in 0..100 {
            inbox.push(item);
        }
        assert_eq!(writes(&eventfd), 1);
    }

    #[test]
    fn wakes_while_awake_write_nothing() {
        let (inbox, eventfd) = inbox();
        inbox.push(1);
        assert_eq!(writes(&eventfd), 0);
        assert_eq!(inbox.fall_asleep(), Permission::StayAwake);
    }

    #[test]
    fn what_is_pushed_after_the_end_is_dropped() {
        let eventfd = Arc::new(crate::driver::descriptor::eventfd().unwrap());
        let inbox = Inbox::new(eventfd);
        let item = Arc::new(());
        inbox.push(Arc::clone(&item));
        inbox.close();
        assert_eq!(Arc::strong_count(&item), 1);
        inbox.push(Arc::clone(&item));
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
