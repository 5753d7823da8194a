//! [`Metrics`]: what the loop has done.

use crate::driver::TaskRun;
use crate::handle::Handle;

/// Counts since the runtime was made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Turns of the loop.
    pub turns: u64,
    /// Calls of io_uring_enter(2).
    pub enters: u64,
    /// Completions collected.
    pub completions: u64,
    /// Operations and multishot receives in flight now.
    pub in_flight: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Free buffers of the pool.
    pub free_buffers: usize,
    /// Entries of the completion queue, which may be fewer than asked for where locked memory is
    /// short.
    pub completion_entries: u32,
    /// How the kernel runs the ring's work.
    pub task_run: TaskRun,
}

impl Metrics {
    pub(crate) fn new(handle: &Handle, turns: u64) -> Self {
        let driver = handle.driver();
        let counts = driver.counts();
        Self {
            turns,
            enters: counts.enters,
            completions: counts.completions,
            in_flight: counts.in_flight,
            tasks: handle.tasks().living(),
            free_buffers: handle.pool().free(),
            completion_entries: driver.completion_entries(),
            task_run: driver.task_run(),
        }
    }
}
