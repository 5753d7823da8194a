//! The budget of one poll: how many operations a task may finish before it must let others run.
//!
//! A receiver with a full inbox, or a sender whose sends all go through, would otherwise never
//! return to the loop, and timers and other sockets would wait for ever.

use std::cell::Cell;
use std::task::{Context, Poll};

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// Starts the poll of a task.
pub(crate) fn refill_budget(operations: u32) {
    LEFT.set(operations);
}

/// Takes `operations` from the budget of the task being polled, or what is left of it. When nothing
/// is left, wakes the task, so that it goes to the end of the ready queue, and answers `Pending`.
pub fn poll_budget(cx: &Context<'_>, operations: usize) -> Poll<()> {
    match LEFT.get() {
        0 => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        left => {
            LEFT.set(left.saturating_sub(u32::try_from(operations).unwrap_or(u32::MAX)));
            Poll::Ready(())
        }
    }
}
