//! What an operation is: data, with two ways to be carried out.
//!
//! An [`Operation`] says how to ask the ring ([`submission`](Operation::submission)), how to do it
//! by hand ([`attempt`](Operation::attempt)), and what the caller gets
//! ([`finish`](Operation::finish)). It is handed to the driver whole; the driver keeps it until the
//! kernel is done with it, so dropping the future that waits for it frees nothing early.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::descriptor::{Interest, poll_now};
use super::message::OutgoingMessage;

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
        poll_now(self.descriptor.as_fd(), self.interest)
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
