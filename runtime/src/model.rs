//! What a kernel in memory has to provide, and how a runtime runs on one. For the tests of this
//! workspace (`model/`), with `--cfg ebbtide_model`. Not part of the public API.
//!
//! The interface is as low as safe code allows. The model gets the entries that the ring pushes,
//! and provides the completions that the ring takes. So everything above `driver/ring/queues.rs`
//! runs on it, too.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use io_uring::squeue;

/// The submission queue, the completion queue and the registered buffers of one ring.
pub trait ModelQueues {
    /// Registers the ring of buffers: its address, and how many entries it has. Called first.
    fn register_buffers(&mut self, address: u64, entries: u16);

    /// Unregisters the ring of buffers. Called last.
    fn unregister_buffers(&self);

    /// Queues an entry. Returns `false` if the queue is full.
    fn push(&mut self, entry: &squeue::Entry) -> bool;

    /// How many entries are queued.
    fn queued(&self) -> usize;

    /// `io_uring_enter(2)` with `IORING_ENTER_GETEVENTS`: submits `queued` entries, posts what is
    /// ready, and waits until `least` completions are posted or `time` is over.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn enter(&mut self, queued: usize, least: usize, time: Option<Duration>) -> io::Result<usize>;

    /// Passes each posted completion to `take`: user data, result, flags.
    fn take_completions(&mut self, take: &mut dyn FnMut(u64, i32, u32));

    /// `IORING_REGISTER_SYNC_CANCEL`: cancels the request with this user data. Returns `false` if
    /// there is none.
    fn cancel_now(&mut self, user_data: u64) -> bool;

    /// How many completions were lost because the kernel was out of memory. Wraps.
    fn lost(&self) -> u32;

    /// How many completions are posted.
    fn posted(&self) -> usize;

    /// `IORING_SQ_CQ_OVERFLOW`.
    fn has_overflowed(&self) -> bool;

    /// `IORING_SQ_TASKRUN`.
    fn has_task_work(&self) -> bool;
}

thread_local! {
    static TIME: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets the clock of the runtimes of this thread, which then stands still. `None` returns to the
/// system clock.
pub fn set_time(time: Option<Instant>) {
    TIME.set(time);
}

/// The time on the clock of the runtimes of this thread.
pub fn time() -> Instant {
    TIME.get().unwrap_or_else(Instant::now)
}

/// Waits by moving the clock, if the model has set it.
pub(crate) fn pause(duration: Duration) {
    match TIME.get() {
        Some(time) => TIME.set(Some(time + duration)),
        None => std::thread::sleep(duration),
    }
}
