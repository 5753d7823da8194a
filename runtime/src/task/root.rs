//! [`Root`]: the waker of the future of `block_on`, which is in no queue.

use std::sync::Arc;
use std::task::Wake;

use super::remote_queue::{Permission, RemoteQueue};
use crate::sync::{AtomicBool, Ordering};

/// The third handshake of the [remote queue](super::remote_queue). The waker says "woken", then
/// looks whether the owner sleeps. The owner says "asleep", then looks whether the root was woken.
pub(crate) struct Root<T> {
    /// True exactly when the future has to be polled.
    woken: AtomicBool,
    remote_queue: Arc<RemoteQueue<T>>,
}

impl<T> Root<T> {
    /// It is woken from the start, because the future has to be polled once.
    pub(crate) fn new(remote_queue: Arc<RemoteQueue<T>>) -> Self {
        Self { woken: AtomicBool::new(true), remote_queue }
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// Whether the future has to be polled. The caller polls it next.
    pub(crate) fn take_wake(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// The owner is about to sleep. It calls `awake` of the queue next, whatever this returns.
    pub(crate) fn fall_asleep(&self) -> Permission {
        match self.remote_queue.fall_asleep() {
            Permission::Sleep if !self.is_woken() => Permission::Sleep,
            _ => Permission::StayAwake,
        }
    }
}

impl<T: Send> Wake for Root<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.remote_queue.wake();
    }
}
