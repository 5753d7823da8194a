//! The budget of one poll: how much a task may receive and send before it must let others run.
//!
//! A receiver with a full inbox, or a sender whose sends all go through, would otherwise never
//! return to the loop, and timers and other sockets would wait for ever. Receiving and sending have
//! a budget each: where both happen in one task, the one must not starve the other.

use std::cell::Cell;
use std::task::{Context, Poll};

use crate::limits::SEND_BUDGET_BYTES;

thread_local! {
    static RECEIVES: Cell<Budget> = const { Cell::new(Budget::Unlimited) };
    static SENDS: Cell<Budget> = const { Cell::new(Budget::Unlimited) };
    /// Datagrams sent since they were last asked for.
    static SENT: Cell<u64> = const { Cell::new(0) };
}

#[derive(Clone, Copy)]
enum Budget {
    /// No runtime polls: there is no loop to return to, and nobody to refill it.
    Unlimited,
    Left(u32),
}

/// Starts the poll of a task.
pub(crate) fn refill_budget(operations: u32) {
    RECEIVES.set(Budget::Left(operations));
    SENDS.set(Budget::Left(operations));
}

/// The runtime stops polling on this thread.
pub(crate) fn lift_budget() {
    RECEIVES.set(Budget::Unlimited);
    SENDS.set(Budget::Unlimited);
}

/// Takes one receive from the budget of the task being polled. When it is used up, wakes the task,
/// so that it goes to the end of the ready queue, and answers `Pending`.
#[inline]
pub fn poll_receive_budget(cx: &Context<'_>) -> Poll<()> {
    RECEIVES.set(match RECEIVES.get() {
        Budget::Left(0) => return yield_to_others(cx),
        Budget::Left(left) => Budget::Left(left - 1),
        Budget::Unlimited => Budget::Unlimited,
    });
    Poll::Ready(())
}

/// Takes one send of `bytes`, or what is left, from the budget of the task being polled. Otherwise
/// as [`poll_receive_budget`].
pub fn poll_send_budget(cx: &Context<'_>, bytes: usize) -> Poll<()> {
    let cost = u32::try_from(1 + bytes / SEND_BUDGET_BYTES).unwrap_or(u32::MAX);
    SENDS.set(match SENDS.get() {
        Budget::Left(0) => return yield_to_others(cx),
        Budget::Left(left) => Budget::Left(left.saturating_sub(cost)),
        Budget::Unlimited => Budget::Unlimited,
    });
    Poll::Ready(())
}

/// Datagrams were sent by this thread: receivers on it may have as many to take in.
pub fn note_sent(datagrams: usize) {
    SENT.set(SENT.get().saturating_add(datagrams as u64));
}

/// How many datagrams this thread has sent since it was last asked.
pub(crate) fn take_sent() -> u64 {
    SENT.replace(0)
}

fn yield_to_others(cx: &Context<'_>) -> Poll<()> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Fails when a send costs the same whatever its length.
    #[test]
    fn a_long_send_takes_more_of_the_budget() {
        let cx = Context::from_waker(Waker::noop());
        refill_budget(4);
        assert!(poll_send_budget(&cx, 0).is_ready());
        assert!(poll_send_budget(&cx, 2 * SEND_BUDGET_BYTES).is_ready());
        assert!(poll_send_budget(&cx, 0).is_pending());
        assert!(poll_receive_budget(&cx).is_ready(), "receives have a budget of their own");
        lift_budget();
    }
}
