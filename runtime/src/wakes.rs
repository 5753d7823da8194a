//! [`Wakes`]: what is woken or dropped when no part of the runtime is borrowed.

use std::any::Any;
use std::fmt;
use std::task::Waker;

use crate::panics::contain;

/// What has to be woken or dropped when the driver is no longer borrowed. Wakers, destructors and
/// user code never run under a borrow.
#[derive(Default)]
pub struct Wakes {
    wakers: Vec<Waker>,
    retired: Vec<Box<dyn Any>>,
}

impl Wakes {
    /// Adds wakers, to be woken later.
    #[inline]
    pub fn wake(&mut self, waker: impl IntoIterator<Item = Waker>) {
        for waker in waker {
            self.wakers.push(waker);
        }
    }

    /// Adds `value`, to be dropped later.
    pub fn retire(&mut self, value: Box<dyn Any>) {
        self.retired.push(value);
    }

    /// The wakers to be woken later.
    pub(crate) fn wakers(&mut self) -> &mut Vec<Waker> {
        &mut self.wakers
    }

    /// Wakes and drops all of it. Nothing may be borrowed.
    pub fn run(&mut self) {
        for waker in self.wakers.drain(..) {
            // A third-party waker that panics must not prevent the other wakes.
            contain(|| waker.wake());
        }
        for retired in self.retired.drain(..) {
            contain(|| drop(retired));
        }
    }
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakes")
            .field("wakers", &self.wakers.len())
            .field("retired", &self.retired.len())
            .finish_non_exhaustive()
    }
}
