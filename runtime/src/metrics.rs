//! [`Metrics`]: what the loop has done.

use crate::handle::LocalHandle;

/// Counts since the runtime was made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Turns of the loop.
    pub turns: u64,
    /// Calls of io_uring_enter(2), or of epoll_wait(2).
    pub enters: u64,
    /// Completions collected.
    pub completions: u64,
    /// Operations and multishot receives in flight now.
    pub in_flight: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Free buffers of the pool.
    pub free_buffers: usize,
}

impl Metrics {
    pub(crate) fn new(handle: &LocalHandle, turns: u64) -> Self {
        let driver = handle.driver();
        let counts = driver.counts();
        Self {
            turns,
            enters: counts.enters,
            completions: counts.completions,
            in_flight: counts.in_flight,
            tasks: handle.tasks().living(),
            free_buffers: handle.pool().free(),
        }
    }
}
