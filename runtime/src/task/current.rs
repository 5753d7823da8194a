//! [`TaskId`]: which task this thread is polling.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<TaskId> = const { Cell::new(TaskId::NONE) };
    /// Distinguishes two tasks of this thread, even if one uses the key of the other.
    static NEXT_SERIAL: Cell<u32> = const { Cell::new(1) };
}

/// Identifies a task for the life of the process. It consists of the task's key in its runtime, and
/// of a serial number, which the next task with that key does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    place: u32,
    serial: u32,
}

impl TaskId {
    /// Not a task of a runtime on this thread.
    pub const NONE: Self = Self { place: 0, serial: 0 };

    /// The place of the future of `block_on`, which is not in the table of tasks.
    const ROOT: u32 = u32::MAX;

    /// The task that this thread is polling. [`NONE`](Self::NONE) outside a runtime.
    #[inline]
    #[must_use]
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// The id of a new task with this key.
    pub(super) fn new(key: usize) -> Self {
        let place = u32::try_from(key).expect("there are fewer than 2^32 tasks");
        let serial = NEXT_SERIAL.get();
        // The serial number 0 is that of `NONE`.
        NEXT_SERIAL.set(serial.checked_add(1).unwrap_or(1));
        Self { place, serial }
    }

    /// The id of a new future of `block_on`.
    pub(super) fn root() -> Self {
        Self { place: Self::ROOT, ..Self::new(0) }
    }

    /// The key of the task. `None` for the future of `block_on`, and for `NONE`.
    pub(super) fn key(self) -> Option<usize> {
        (self.serial != 0 && self.place != Self::ROOT).then_some(self.place as usize)
    }

    /// Makes it the task that this thread is polling, until the guard is dropped.
    pub(super) fn poll(self) -> Polling {
        Polling { outer: CURRENT.replace(self) }
    }
}

/// Undoes [`TaskId::poll`] when it is dropped.
pub(crate) struct Polling {
    outer: TaskId,
}

impl Drop for Polling {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}
