//! [`Quiescence`]: who waits for the runtime to have nothing left to do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use super::sockets::{Drainable, Receivers};
use crate::driver::Wakes;

/// Who waits for the runtime to be quiescent, and how often it was.
#[derive(Default)]
pub(crate) struct Quiescence {
    waiters: RefCell<Vec<Waker>>,
    /// How often the runtime was found quiescent while somebody waited for it.
    count: Cell<u64>,
    /// How many drains are being waited for; each has a timer of its own.
    drains: Cell<usize>,
}

impl Quiescence {
    /// Wakes `waker` when the runtime is quiescent.
    pub(crate) fn wait(&self, waker: &Waker) {
        let known = self.waiters.borrow().iter().any(|waiting| waiting.will_wake(waker));
        if !known {
            // Cloned before the borrow: wakers are third-party code.
            let waker = waker.clone();
            self.waiters.borrow_mut().push(waker);
        }
    }

    /// Whether the receivers have done what there is to do. Where it is uncertain that any will,
    /// they are waited for as long as `timers` are pending, for which a task may wait.
    pub(crate) fn is_delivered(
        &self,
        sockets: &[Rc<dyn Drainable>],
        timers: usize,
        wakes: &mut Wakes,
    ) -> bool {
        let others_pending = timers > self.drains.get();
        sockets.iter().all(|socket| match socket.receivers(wakes) {
            Receivers::Served => true,
            Receivers::Expected => false,
            Receivers::Uncertain => !others_pending,
        })
    }

    pub(crate) fn drain_started(&self) {
        self.drains.set(self.drains.get() + 1);
    }

    pub(crate) fn drain_ended(&self) {
        self.drains.set(self.drains.get() - 1);
    }

    /// Whether anybody waits for the runtime to be quiescent.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiters.borrow().is_empty()
    }

    /// How often the runtime was found quiescent while somebody waited for it.
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// The runtime is quiescent: those who wait for it are woken.
    pub(crate) fn reached(&self, wakes: &mut Wakes) {
        self.count.set(self.count.get() + 1);
        wakes.wakers().append(&mut self.waiters.borrow_mut());
    }
}
