//! [`Registration`]: what a socket sees of its runtime. For crates that implement kinds of sockets.
//!
//! Every call is short. What it has to drop or wake is dropped or woken after its borrow.

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
use crate::task::{Answer, TaskId};
use crate::turn_end::AtTurnEnd;
use crate::wakes::Wakes;

/// A socket's access to its runtime: the driver, the pool, and the list of sockets to be drained.
#[derive(Clone, Debug)]
pub struct Registration {
    handle: LocalHandle,
}

impl Registration {
    /// Returns a registration with the runtime of this thread.
    ///
    /// # Errors
    ///
    /// Outside a runtime.
    pub fn current() -> io::Result<Self> {
        LocalHandle::try_current().map(|handle| Self { handle })
    }

    /// Whether the runtime was made before this process was forked. It cannot be used then: what
    /// belongs to it is the parent's.
    #[inline]
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.handle.is_inherited()
    }

    /// Returns an error if the runtime was made before this process was forked.
    ///
    /// # Errors
    ///
    /// If the runtime was made before the fork. The message says so.
    #[inline]
    pub fn check_process(&self) -> io::Result<()> {
        self.handle.check_process()
    }

    /// The buffers that datagrams are received into.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        self.handle.pool()
    }

    /// Memory for reads that bypass the driver.
    #[must_use]
    pub fn scratch(&self) -> RefMut<'_, Scratch> {
        self.handle.scratch()
    }

    /// The largest payload that a buffer of the pool takes, in bytes.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.handle.limits().buffer_size
    }

    /// A descriptor that is not a socket, to replace one that has to be closed.
    #[must_use]
    pub fn placeholder(&self) -> BorrowedFd<'_> {
        self.handle.tasks().remote_queue().eventfd().as_fd()
    }

    /// Passes `operation` to the driver and returns the future of its result.
    pub fn submit<O: Operation>(&self, operation: O) -> InFlight<O> {
        self.handle.submit(operation)
    }

    /// Adds a sink. Its receive is not armed yet. [`remove_sink`](Self::remove_sink) removes it.
    pub fn add_sink(&self, sink: Rc<dyn Sink>) -> ReceiveKey {
        self.handle.driver().register(sink)
    }

    /// Arms the receive of a sink, unless it is armed. If no buffer is free, it is armed as soon as
    /// one is.
    pub fn arm(&self, key: ReceiveKey) {
        self.handle.driver().arm(key);
    }

    /// Cancels a receive. Completions may follow, up to the final one.
    #[must_use]
    pub fn cancel(&self, key: ReceiveKey) -> Cancelled {
        self.handle.driver().cancel(key)
    }

    /// Cancels the receive of a sink and waits for its final completion. This is short: a receive
    /// waits in a poll, and cancelling a poll never blocks.
    pub fn reap(&self, key: ReceiveKey) {
        let mut wakes = Wakes::default();
        self.handle.driver().cancel(key);
        self.handle.collect_until(|| self.handle.driver().is_reaped(key), &mut wakes);
        self.handle.wake_from_outside(wakes);
    }

    /// Removes a sink whose receive was reaped.
    pub fn remove_sink(&self, key: ReceiveKey) {
        let receive = self.handle.driver().deregister(key);
        drop(receive);
    }

    /// Calls `socket` when the tasks that are ready now have run, and before the thread sleeps.
    pub fn at_turn_end(&self, socket: Weak<dyn AtTurnEnd>) {
        self.handle.turn_ends().ask(socket);
    }

    /// Requires that the sockets that are called at the end of a turn are called once more before
    /// the thread sleeps.
    pub fn no_sleep_before_turn_end(&self) {
        self.handle.turn_ends().forbid_sleep();
    }

    /// Waits for `time`, before something is tried again. The exit waits for the future.
    #[must_use]
    pub fn retry_after(&self, time: Duration) -> Retry {
        Retry::after(time, self.handle.clone())
    }

    /// Enters the kernel without waiting and collects its completions. For callers that need to
    /// know what is queued now.
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

    /// Waits until datagrams that other CPUs are delivering to sockets have been queued. It blocks
    /// the thread for about 40 ms. It does not wait for the backlogs of the CPUs (docs/kernel.md,
    /// K-CPU-2); what comes out of them meets the seal.
    pub fn wait_for_deliveries(&self) {
        // If the kernel has no such call, the caller looks whether more datagrams come.
        let _ = membarrier();
    }

    /// Adds a socket to the list of open ones, so that the drain finds it.
    ///
    /// # Errors
    ///
    /// `NotConnected` after the final drain has sealed the last sockets: the socket could not be
    /// drained any more.
    pub fn open_drainable(&self, socket: Rc<dyn Drainable>) -> io::Result<DrainKey> {
        if self.handle.phase() > Phase::ShuttingDown {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the ebbtide runtime is shutting down: no socket can be opened any more",
            ));
        }
        Ok(self.handle.sockets().enter(socket))
    }

    /// Records what a socket has reported to the task that is being polled. Returns how many
    /// datagrams the sockets of the runtime have handed out, including this one.
    #[inline]
    #[must_use]
    pub fn note_answer(&self, answer: Answer) -> u32 {
        self.handle.tasks().note_answer(answer)
    }

    /// Records that the socket has sent datagrams. Receivers of this runtime may have as many to
    /// take.
    #[inline]
    pub fn note_sent(&self, datagrams: usize) {
        self.handle.note_sent(datagrams as u64);
    }

    /// Whether a task of the runtime has not ended.
    #[must_use]
    pub fn is_alive(&self, task: TaskId) -> bool {
        self.handle.tasks().is_alive(task)
    }

    /// Removes a closed socket from the list, which keeps its counts.
    pub fn close_drainable(&self, key: DrainKey) {
        self.handle.sockets().leave(key);
    }

    /// Runs steps 1 to 4 of the drain for one socket.
    ///
    /// # Errors
    ///
    /// - `TimedOut` if the socket could not be read to the end of its queue. It can be drained
    ///   again.
    /// - `PermissionDenied` if the kernel refused to seal it. It was read up to a bound.
    pub fn seal_socket(&self, socket: &Rc<dyn Drainable>) -> io::Result<()> {
        let sealed = seal_sockets(&self.handle, &[Rc::clone(socket)], None);
        if sealed.not_reaped > 0 || socket.is_given_up() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the socket could not be read to the end of its queue: the kernel has no memory to \
                 end its receive, or reading it only fails; drain it again",
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
