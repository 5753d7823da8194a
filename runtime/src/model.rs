//! What a kernel in memory has to bring, and how a runtime is put on one. For this workspace's
//! tests (`model/`), behind `--cfg ebbtide_model`; not part of the interface of this crate.
//!
//! The seam lies as low as safe code allows: the model is given the entries that the ring pushes
//! and brings the completions that the ring takes, so that all of `ring.rs` runs on it, too.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use io_uring::squeue;

use crate::builder::Builder;
use crate::runtime::Runtime;

/// The submission queue, the completion queue and the registered buffers of one ring.
pub trait ModelQueues {
    /// Is shown the ring of buffers: where it lies, and how many entries it has. Called first.
    fn register_buffers(&mut self, address: u64, entries: u16);

    /// The ring of buffers is no longer the kernel's. Called last.
    fn unregister_buffers(&self);

    /// Queues an entry. False: the queue is full.
    fn push(&mut self, entry: &squeue::Entry) -> bool;

    /// How many entries are queued.
    fn queued(&self) -> usize;

    /// `io_uring_enter(2)` with `IORING_ENTER_GETEVENTS`: submits `queued` entries, posts what is
    /// ready, and waits until `least` completions are posted, or `time` is over.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    fn enter(&mut self, queued: usize, least: usize, time: Option<Duration>) -> io::Result<usize>;

    /// Hands over each posted completion: user data, result, flags.
    fn take_completions(&mut self, take: &mut dyn FnMut(u64, i32, u32));

    /// `IORING_REGISTER_SYNC_CANCEL`: cancels what has this user data. False: nothing has.
    fn cancel_now(&mut self, user_data: u64) -> bool;

    /// How many completions were lost for want of memory. Wraps.
    fn lost(&self) -> u32;

    /// How many completions are posted.
    fn posted(&self) -> usize;

    /// `IORING_SQ_CQ_OVERFLOW`.
    fn has_overflowed(&self) -> bool;

    /// `IORING_SQ_TASKRUN`.
    fn has_task_work(&self) -> bool;
}

impl Builder {
    /// Makes a runtime on a kernel in memory, whose queues are as large as this builder asks for.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a limit out of range.
    #[doc(hidden)]
    pub fn build_on(self, queues: Box<dyn ModelQueues>) -> io::Result<Runtime> {
        self.limits.validate()?;
        Runtime::start_on(queues, self.limits, self.drain)
    }
}

thread_local! {
    static TIME: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets the clock of the runtimes of this thread, which stands still from then on; `None` lets it
/// go with the world's again.
pub fn set_time(time: Option<Instant>) {
    TIME.set(time);
}

/// What the clock of the runtimes of this thread shows.
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
