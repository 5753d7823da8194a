//! [`Registration`]: what a socket sees of its runtime. For crates that bring kinds of sockets.
//!
//! Every call is short, and what it must drop or wake happens after its borrow.

use std::cell::RefMut;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::buffer::Pool;
use crate::drain::{DrainKey, Drainable, membarrier, seal_sockets};
use crate::driver::{Cancelled, Operation, Pace, ReceiveKey, Scratch, Sink, Wait};
use crate::handle::{LocalHandle, Phase};
use crate::in_flight::InFlight;
use crate::retry::Retry;
use crate::task::{TaskId, Told};
use crate::turn_end::AtTurnEnd;
use crate::wakes::Wakes;

/// A socket's way into its runtime: the driver, the pool, and the list of those to be drained.
#[derive(Clone, Debug)]
pub struct Registration {
    handle: LocalHandle,
}

impl Registration {
    /// The port of the runtime that runs on this thread.
    ///
    /// # Errors
    ///
    /// Outside a runtime.
    pub fn current() -> io::Result<Self> {
        LocalHandle::try_current().map(|handle| Self { handle })
    }

    /// Whether the runtime was made before this process was forked. Nothing can be asked of it then,
    /// and what belongs to it is the parent's.
    #[inline]
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.handle.is_inherited()
    }

    /// Refuses a runtime that was made before this process was forked.
    ///
    /// # Errors
    ///
    /// That it was, in a sentence.
    #[inline]
    pub fn check_process(&self) -> io::Result<()> {
        self.handle.check_process()
    }

    /// The buffers that datagrams arrive in.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        self.handle.pool()
    }

    /// Memory for reading past the driver.
    #[must_use]
    pub fn scratch(&self) -> RefMut<'_, Scratch> {
        self.handle.scratch()
    }

    /// Largest payload that a buffer of the pool takes, in bytes.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.handle.limits().buffer_size
    }

    /// A descriptor that is not a socket, to put in the place of one that has to go.
    #[must_use]
    pub fn placeholder(&self) -> BorrowedFd<'_> {
        self.handle.tasks().inbox().eventfd().as_fd()
    }

    /// Hands `operation` to the driver and returns the future of its result.
    pub fn submit<O: Operation>(&self, operation: O) -> InFlight<O> {
        self.handle.submit(operation)
    }

    /// Takes in a sink, whose receive is not armed yet. To be undone by
    /// [`remove_sink`](Self::remove_sink).
    pub fn add_sink(&self, sink: Rc<dyn Sink>) -> ReceiveKey {
        self.handle.driver().register(sink)
    }

    /// Arms the receive of a sink, unless it is armed; if no buffer is free, as soon as one is.
    pub fn arm(&self, key: ReceiveKey) {
        self.handle.driver().arm(key);
    }

    /// Asks for the end of a receive; completions go on until the final one.
    #[must_use]
    pub fn cancel(&self, key: ReceiveKey) -> Cancelled {
        self.handle.driver().cancel(key)
    }

    /// Whether the kernel has nothing of the sink.
    #[must_use]
    pub fn is_reaped(&self, key: ReceiveKey) -> bool {
        self.handle.driver().is_reaped(key)
    }

    /// Cancels the receive of a sink and waits for its final completion. Short by nature: a receive
    /// waits for a poll, and cancelling that never blocks.
    pub fn reap(&self, key: ReceiveKey) {
        let mut wakes = Wakes::default();
        self.handle.driver().cancel(key);
        self.handle.collect_until(|| self.is_reaped(key), &mut wakes);
        self.handle.wake_from_outside(wakes);
    }

    /// Lets a sink go whose receive was reaped.
    pub fn remove_sink(&self, key: ReceiveKey) {
        let receive = self.handle.driver().deregister(key);
        drop(receive);
    }

    /// Calls `socket` when the tasks that are ready now have run, and before the thread sleeps.
    pub fn at_turn_end(&self, socket: Weak<dyn AtTurnEnd>) {
        self.handle.turn_ends().ask(socket);
    }

    /// Those that are called at the end of the turn are called once more before the thread sleeps.
    pub fn no_sleep_before_turn_end(&self) {
        self.handle.turn_ends().forbid_sleep();
    }

    /// Waits for `time`, for something that is to be tried again. Holds up the exit meanwhile.
    #[must_use]
    pub fn retry_after(&self, time: Duration) -> Retry {
        Retry::after(time, self.handle.clone())
    }

    /// Enters the kernel without waiting and takes in what it has: for those who want to know what
    /// is queued now.
    pub fn collect_now(&self) {
        let mut wakes = Wakes::default();
        {
            let mut driver = self.handle.driver();
            driver.resume_starved(Pace::AboutToSleep);
            driver.submit_and_wait(Wait::No);
            driver.collect(&mut wakes);
        }
        self.handle.wake_from_outside(wakes);
    }

    /// Waits until what other CPUs were carrying to sockets has been queued: about 40 ms of the whole
    /// thread. What lies in their backlogs is not waited for: it meets what was put in its way before.
    pub fn wait_for_deliveries(&self) {
        // Where the kernel has no such call, the caller looks whether something still comes.
        let _ = membarrier();
    }

    /// Enters a socket into the list of the open ones, so that the drain finds it.
    ///
    /// # Errors
    ///
    /// When the final drain has sealed the last sockets: one opened now could not be drained any more.
    pub fn open_drainable(&self, socket: Rc<dyn Drainable>) -> io::Result<DrainKey> {
        if self.handle.phase() > Phase::ShuttingDown {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the ebbtide runtime is shutting down: no socket can be opened any more",
            ));
        }
        Ok(self.handle.sockets().enter(socket))
    }

    /// The task that is being polled was told this by a socket that it receives from. Returns how many
    /// datagrams the sockets of the runtime have handed out, this one included.
    #[inline]
    #[must_use]
    pub fn told(&self, told: Told) -> u32 {
        self.handle.tasks().told(told)
    }

    /// Whether a task of the runtime has not ended.
    #[must_use]
    pub fn is_alive(&self, task: TaskId) -> bool {
        self.handle.tasks().is_alive(task)
    }

    /// Takes a closed socket out of the list, which keeps its counts.
    pub fn close_drainable(&self, key: DrainKey) {
        self.handle.sockets().leave(key);
    }

    /// Steps 1 to 4 of the drain for one socket.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to seal it: it is read as far as a bound allows all the same. If it
    /// could not be read: it may be sealed again.
    pub fn seal_socket(&self, socket: &Rc<dyn Drainable>) -> io::Result<()> {
        let sealed = seal_sockets(&self.handle, &[Rc::clone(socket)], None);
        if sealed.not_reaped > 0 || socket.is_given_up() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the socket could not be read to the end of its queue: the kernel does not give its \
                 receive back, for want of memory, or reading it only fails; drain it again",
            ));
        }
        if sealed.unsealed > 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the socket cannot be sealed (its filter is locked, or is a BPF program): \
                 it was read, but datagrams may still arrive",
            ));
        }
        Ok(())
    }
}
