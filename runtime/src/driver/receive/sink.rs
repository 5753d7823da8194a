//! [`Sink`]: where a receive delivers. Datagrams go directly into the socket, without a future, a
//! task or a waker for each.

use std::io;
use std::os::fd::BorrowedFd;

use super::batch::Batch;
use super::layout::Layout;
use crate::wakes::Wakes;

/// The receiving end of a socket, as the driver sees it.
pub trait Sink: 'static {
    /// The socket to receive from. It is always the same, and open as long as the sink lives.
    fn socket(&self) -> BorrowedFd<'_>;

    /// The bytes to reserve before each payload.
    fn layout(&self) -> Layout;

    /// Takes all messages of a batch, and returns what the driver must do next.
    ///
    /// The driver is borrowed during this and [`end`](Self::end). They must not call the driver,
    /// and they put what has to be woken into `wakes`.
    fn receive(&self, batch: Batch<'_>, armed: Armed, wakes: &mut Wakes) -> Verdict;

    /// Takes a completion without a message. `error` is the reason, or `None` if the kernel ended
    /// the receive without one.
    fn end(&self, error: Option<io::Error>, armed: Armed, wakes: &mut Wakes) -> Verdict;
}

/// Whether a receive goes on after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// The kernel will post more completions.
    Still,
    /// That was the final completion. The socket receives nothing until it is armed again.
    NoMore,
}

/// What the driver must do after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Cancel the receive. Completions may follow, up to the final one.
    Cancel,
    /// Arm the receive again.
    Rearm,
    /// Arm the receive again when buffers have returned to the pool.
    RearmWhenBuffersReturn,
}
