//! Operations: data, with two ways to carry them out.
//!
//! An [`Operation`] says what to ask of the kernel ([`request`](Operation::request)), how to do it
//! directly ([`attempt`](Operation::attempt)), and what the caller gets
//! ([`finish`](Operation::finish)). The driver owns it until the kernel is done with it. Dropping
//! the future that waits for it frees nothing early.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::descriptor::{Interest, poll_now};

/// A request to the kernel that is carried out once.
pub trait Operation: 'static {
    /// The output of the future.
    type Output;

    /// Whether the exit waits for it.
    const ACTIVITY: Activity;

    /// Returns what to ask of the kernel. The driver is borrowed during the call: it must not call
    /// the driver.
    fn request(&mut self) -> Request<'_>;

    /// Does it now, without waiting. For drivers that wait for readiness.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it would have to wait. Otherwise those of the system call.
    fn attempt(&mut self) -> io::Result<u32>;

    /// Converts the kernel's result into the caller's.
    fn finish(self, result: io::Result<u32>) -> Self::Output;
}

/// Whether the exit of the program waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It does something for the program, such as a send. The drain waits for it.
    Active,
    /// It only waits for something that may never happen. The drain does not wait for it.
    Passive,
}

impl Activity {
    /// How many operations it adds to those that the exit waits for.
    fn count(self) -> usize {
        usize::from(self == Self::Active)
    }
}

/// How many operations the exit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActiveOperations {
    /// In flight.
    pub(crate) in_flight: usize,
    /// Completed, with a result that the future has not taken. Its task was woken. If that does not
    /// poll the future, it may never do so.
    pub(crate) unclaimed: usize,
}

impl ActiveOperations {
    pub(super) fn submitted(&mut self, activity: Activity) {
        self.in_flight += activity.count();
    }

    pub(super) fn completed(&mut self, activity: Activity) {
        self.in_flight -= activity.count();
        self.unclaimed += activity.count();
    }

    /// The result was taken, or its future was dropped.
    pub(super) fn claimed(&mut self, activity: Activity) {
        self.unclaimed -= activity.count();
    }

    /// The operation completed after its future was dropped.
    pub(super) fn retired(&mut self, activity: Activity) {
        self.in_flight -= activity.count();
    }
}

/// What to ask of the kernel. It borrows from its operation, which the driver owns until the final
/// completion. So what it names lives as long.
///
/// There is no send. A single send is cheaper as a plain call, and the kernel must not retry a send
/// that found no buffer space (docs/kernel.md, K-SEND-1).
#[derive(Debug)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Wait until the descriptor is ready, once: poll(2). A driver that waits for readiness waits
    /// for this, and then attempts the operation.
    Ready {
        /// The descriptor.
        descriptor: BorrowedFd<'a>,
        /// Which readiness.
        interest: Interest,
    },
}

/// Waits until a descriptor is readable or writable.
#[derive(Debug)]
pub struct Readiness<F> {
    descriptor: F,
    interest: Interest,
}

impl<F: AsFd + 'static> Readiness<F> {
    /// Makes an operation that waits for `interest` on `descriptor`.
    pub fn new(descriptor: F, interest: Interest) -> Self {
        Self { descriptor, interest }
    }
}

impl<F: AsFd + 'static> Operation for Readiness<F> {
    type Output = io::Result<()>;
    const ACTIVITY: Activity = Activity::Passive;

    fn request(&mut self) -> Request<'_> {
        Request::Ready { descriptor: self.descriptor.as_fd(), interest: self.interest }
    }

    fn attempt(&mut self) -> io::Result<u32> {
        poll_now(self.descriptor.as_fd(), self.interest)
    }

    fn finish(self, result: io::Result<u32>) -> Self::Output {
        result.map(drop)
    }
}

/// An operation without its type, as the table stores it.
pub(crate) trait AnyOperation: std::any::Any {
    fn request(&mut self) -> Request<'_>;
    fn attempt(&mut self) -> io::Result<u32>;
    fn activity(&self) -> Activity;
}

impl<O: Operation> AnyOperation for O {
    fn request(&mut self) -> Request<'_> {
        Operation::request(self)
    }

    fn attempt(&mut self) -> io::Result<u32> {
        Operation::attempt(self)
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
