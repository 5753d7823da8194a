//! What an operation is: data, with two ways to be carried out.
//!
//! An [`Operation`] says how to ask the ring ([`submission`](Operation::submission)), how to do it
//! by hand ([`attempt`](Operation::attempt)), and what the caller gets
//! ([`finish`](Operation::finish)). It is handed to the driver whole; the driver keeps it until the
//! kernel is done with it, so dropping the future that waits for it frees nothing early.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::message::OutgoingMessage;
use super::sink::Wakes;
use super::table::Id;
use crate::handle::Handle;

/// One thing that the kernel is asked to do once.
pub trait Operation: 'static {
    /// What the caller gets.
    type Output;

    /// Whether the exit waits for it.
    const ACTIVITY: Activity;

    /// How to ask the ring. What the submission borrows stays untouched, at its place, until the
    /// kernel has answered finally.
    fn submission(&mut self) -> Submission<'_>;

    /// How to do it now, without waiting; `WouldBlock` if that is not possible. For drivers that
    /// wait for readiness.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn attempt(&mut self) -> io::Result<u32>;

    /// Makes the caller's result of the kernel's.
    fn finish(self, result: io::Result<u32>) -> Self::Output;
}

/// Whether an operation holds up the end of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Does something for the program (a send): the drain waits for it.
    Active,
    /// Only waits for something that may never come (a signal): the drain does not.
    Passive,
}

impl Activity {
    /// What it adds to the number of operations that hold up the exit.
    pub(crate) fn count(self) -> usize {
        usize::from(self == Self::Active)
    }
}

/// What the ring is asked to do. Borrows from its operation, which proves that the memory lives as
/// long as the driver keeps the operation.
#[derive(Debug)]
pub enum Submission<'a> {
    /// sendmsg(2).
    Send {
        /// Where to.
        socket: BorrowedFd<'a>,
        /// What.
        message: &'a OutgoingMessage,
    },
    /// Wait until the descriptor is ready, once: poll(2).
    Ready {
        /// What to wait for.
        descriptor: BorrowedFd<'a>,
        /// For which of the two.
        interest: Interest,
    },
}

/// Which readiness to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// There is something to read, or an error, or the end.
    Readable,
    /// There is room to write, or an error.
    Writable,
}

impl Interest {
    pub(crate) fn poll_events(self) -> i16 {
        match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        }
    }
}

/// Waits until a descriptor is ready for reading or writing.
#[derive(Debug)]
pub struct Readiness<F> {
    descriptor: F,
    interest: Interest,
}

impl<F: AsFd + 'static> Readiness<F> {
    /// An operation that waits for `interest` on `descriptor`.
    pub fn new(descriptor: F, interest: Interest) -> Self {
        Self { descriptor, interest }
    }
}

impl<F: AsFd + 'static> Operation for Readiness<F> {
    type Output = io::Result<()>;
    const ACTIVITY: Activity = Activity::Passive;

    fn submission(&mut self) -> Submission<'_> {
        Submission::Ready { descriptor: self.descriptor.as_fd(), interest: self.interest }
    }

    fn attempt(&mut self) -> io::Result<u32> {
        super::descriptor::poll_now(self.descriptor.as_fd(), self.interest)
    }

    fn finish(self, result: io::Result<u32>) -> Self::Output {
        result.map(drop)
    }
}

/// An operation without its type, as the table holds it.
pub(crate) trait AnyOperation: std::any::Any {
    fn submission(&mut self) -> Submission<'_>;
    fn activity(&self) -> Activity;
}

impl<O: Operation> AnyOperation for O {
    fn submission(&mut self) -> Submission<'_> {
        Operation::submission(self)
    }

    fn activity(&self) -> Activity {
        O::ACTIVITY
    }
}

impl fmt::Debug for dyn AnyOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyOperation").field("activity", &self.activity()).finish()
    }
}

/// The future of an operation in flight.
///
/// # Cancellation
///
/// Dropping it asks the kernel to cancel the operation and forgets the result. The operation itself
/// stays with the driver until the kernel is done with its memory; it takes effect whole or not at
/// all.
pub struct InFlight<O: Operation> {
    handle: Handle,
    /// `None` once the result was taken.
    id: Option<Id>,
    operation: PhantomData<fn() -> O>,
}

impl Handle {
    /// Hands `operation` to the driver and returns the future of its result.
    pub(crate) fn submit<O: Operation>(&self, operation: O) -> InFlight<O> {
        let id = self.driver().submit(Box::new(operation));
        InFlight { handle: self.clone(), id: Some(id), operation: PhantomData }
    }
}

impl<O: Operation> Future for InFlight<O> {
    type Output = O::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let id = self.id.expect("polled after completion");
        // Cloned before and dropped after the borrow: wakers are foreign code.
        let waker = cx.waker().clone();
        let polled = self.handle.driver().poll(id, waker);
        match polled {
            super::table::Poll::Pending(_replaced) => Poll::Pending,
            super::table::Poll::Ready(operation, result) => {
                self.id = None;
                let operation: Box<dyn std::any::Any> = operation;
                let operation = operation.downcast::<O>().expect("ids are never mixed up");
                let result = u32::try_from(result)
                    .map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()));
                Poll::Ready(operation.finish(result))
            }
        }
    }
}

impl<O: Operation> Drop for InFlight<O> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let mut wakes = Wakes::default();
            self.handle.driver().orphan(id, &mut wakes);
            wakes.run();
        }
    }
}

impl<O: Operation> fmt::Debug for InFlight<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("id", &self.id.map(Id::to_user_data)).finish()
    }
}
