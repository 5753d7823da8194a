//! Where a multishot receive delivers: straight into the socket, with no future, no task and no
//! waker per datagram.

use std::io;
use std::os::fd::BorrowedFd;

use super::batch::Batch;
use super::layout::Layout;
use crate::wakes::Wakes;

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
