//! [`TaskId`]: which task this thread is polling now.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<TaskId> = const { Cell::new(TaskId::NONE) };
    /// Makes two tasks of this thread differ, also where one takes the place of the other.
    static NEXT_SERIAL: Cell<u32> = const { Cell::new(1) };
}

/// Names a task for as long as the process lives: its place among the tasks of its runtime, and a
/// serial number that the next task in that place does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    place: u32,
    serial: u32,
}

impl TaskId {
    /// What is polled by no runtime of this thread.
    pub const NONE: Self = Self { place: 0, serial: 0 };

    /// The place of the future that `block_on` runs, which is no task among others.
    const ROOT: u32 = u32::MAX;

    /// The task that this thread is polling now; [`NONE`](Self::NONE) outside of a runtime.
    #[inline]
    #[must_use]
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// A new task in the place `key`.
    pub(super) fn new(key: usize) -> Self {
        let place = u32::try_from(key).expect("there are fewer than 2^32 tasks");
        let serial = NEXT_SERIAL.get();
        // 0 is that of no task.
        NEXT_SERIAL.set(serial.checked_add(1).unwrap_or(1));
        Self { place, serial }
    }

    /// A new future of `block_on`.
    pub(super) fn root() -> Self {
        Self { place: Self::ROOT, ..Self::new(0) }
    }

    /// Its place among the tasks. `None`: it is the future of `block_on`, or no task.
    pub(super) fn key(self) -> Option<usize> {
        (self.serial != 0 && self.place != Self::ROOT).then_some(self.place as usize)
    }

    /// Makes it the task that this thread is polling, until the guard is dropped.
    pub(super) fn poll(self) -> Polling {
        Polling { outer: CURRENT.replace(self) }
    }
}

/// Undoes a [`TaskId::poll`].
pub(crate) struct Polling {
    outer: TaskId,
}

impl Drop for Polling {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}
