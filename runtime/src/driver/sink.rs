//! Where a multishot receive delivers: straight into the socket, with no future, no task and no
//! waker per datagram.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::Waker;

use super::message::Batch;
use crate::buffer::Layout;
use crate::panics::contain;

/// The receiving end of a socket, as the driver sees it.
pub trait Sink: 'static {
    /// The socket to receive from. Always the same one, open as long as the sink lives.
    fn socket(&self) -> BorrowedFd<'_>;

    /// How much room to reserve in front of each payload.
    fn layout(&self) -> Layout;

    /// Takes all messages of a batch, and answers what the driver must do next.
    ///
    /// This and [`end`](Self::end) are called while the driver is borrowed: they must not call back
    /// into the driver, and leave what is to be woken in `wakes`.
    fn receive(&self, batch: Batch<'_>, armed: Armed, wakes: &mut Wakes) -> Verdict;

    /// A completion without a message: why there is none, or `None` where the kernel ended the
    /// receive without saying so.
    fn end(&self, error: Option<io::Error>, armed: Armed, wakes: &mut Wakes) -> Verdict;
}

/// Whether a multishot goes on after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// The kernel will post more completions.
    Still,
    /// That was the final completion: the socket is deaf until it is armed again.
    NoMore,
}

/// What the driver must do after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Cancel the receive; completions go on until the final one.
    Cancel,
    /// Arm it again.
    Rearm,
    /// Arm it again when buffers have come back to the pool.
    RearmWhenBuffersReturn,
}

/// What must be woken or dropped once the driver is no longer borrowed: wakers, destructors and
/// user code never run under a borrow.
#[derive(Default)]
pub struct Wakes {
    wakers: Vec<Waker>,
    retired: Vec<Box<dyn Any>>,
    sinks: Vec<Rc<dyn Sink>>,
}

impl Wakes {
    /// Wakes whoever is to be woken later.
    #[inline]
    pub fn wake(&mut self, waker: impl IntoIterator<Item = Waker>) {
        for waker in waker {
            self.wakers.push(waker);
        }
    }

    /// Drops `value` later.
    pub fn retire(&mut self, value: Box<dyn Any>) {
        self.retired.push(value);
    }

    pub(crate) fn retire_sink(&mut self, sink: Option<Rc<dyn Sink>>) {
        self.sinks.extend(sink);
    }

    /// Adds wakers that are to be woken later.
    pub(crate) fn wakers(&mut self) -> &mut Vec<Waker> {
        &mut self.wakers
    }

    /// Does all of it now. Call with nothing borrowed.
    pub fn run(&mut self) {
        for waker in self.wakers.drain(..) {
            // A third-party waker that panics must not take the wakes of others with it.
            contain(|| waker.wake());
        }
        for retired in self.retired.drain(..) {
            contain(|| drop(retired));
        }
        self.sinks.clear();
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
