//! What an operation is: data, with two ways to be carried out.
//!
//! An [`Operation`] says what to ask the kernel ([`request`](Operation::request)), how to do
//! it by hand ([`attempt`](Operation::attempt)), and what the caller gets
//! ([`finish`](Operation::finish)). It is handed to the driver whole; the driver keeps it until the
//! kernel is done with it, so dropping the future that waits for it frees nothing early.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::descriptor::{Interest, poll_now};

/// One thing that the kernel is asked to do once.
pub trait Operation: 'static {
    /// What the caller gets.
    type Output;

    /// Whether the exit waits for it.
    const ACTIVITY: Activity;

    /// What to ask of the kernel. Called while the driver is borrowed: it must not call back into
    /// it.
    fn request(&mut self) -> Request<'_>;

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
    /// Only waits for something that may never come: the drain does not.
    Passive,
}

impl Activity {
    /// What it adds to the number of operations that hold up the exit.
    fn count(self) -> usize {
        usize::from(self == Self::Active)
    }
}

/// How many operations hold up the exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActiveOperations {
    /// In flight.
    pub(crate) in_flight: usize,
    /// Completed, with a result that the future has not taken. Its task was woken; if it does not
    /// poll the future then, it may never do.
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

    /// The result was taken, or its future is gone.
    pub(super) fn claimed(&mut self, activity: Activity) {
        self.unclaimed -= activity.count();
    }

    /// Completed, after its future had gone.
    pub(super) fn retired(&mut self, activity: Activity) {
        self.in_flight -= activity.count();
    }
}

/// What the kernel is asked to do. Borrows from its operation: what it names lives as long as the
/// driver keeps the operation, which is until the final completion.
///
/// There is no sending here yet: a lone send costs less by the plain call, and a datagram that
/// found no room must not be left to the kernel to send again (see `ebbtide-net`,
/// `operation/room.rs`).
#[derive(Debug)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Wait until the descriptor is ready, once: poll(2). A driver that waits for readiness waits
    /// for this, and attempts the operation then.
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

/// An operation without its type, as the table holds it.
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
