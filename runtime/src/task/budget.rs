//! The budget of one poll: how much a task may receive and send before it must let others run.
//!
//! A receiver with a full inbox, or a sender whose sends all succeed, would otherwise never return
//! to the loop. Timers and other sockets would wait for ever.
//!
//! There are three budgets, so that no activity starves another in the same task: for receives, for
//! sends, and for everything else that is ready without waiting, such as passed deadlines and tasks
//! that have ended.

use std::cell::Cell;
use std::task::{Context, Poll};

use crate::limits::SEND_BUDGET_BYTES;

thread_local! {
    static RECEIVES: Cell<Budget> = const { Cell::new(Budget::Unlimited) };
    static SENDS: Cell<Budget> = const { Cell::new(Budget::Unlimited) };
    static EVENTS: Cell<Budget> = const { Cell::new(Budget::Unlimited) };
}

#[derive(Clone, Copy)]
enum Budget {
    /// No runtime polls: there is no loop to return to, and nothing refills the budget.
    Unlimited,
    Left(u32),
}

/// Refills the budget, at the start of the poll of a task.
pub(crate) fn refill_budget(operations: u32) {
    RECEIVES.set(Budget::Left(operations));
    SENDS.set(Budget::Left(operations));
    EVENTS.set(Budget::Left(operations));
}

/// Sets the budget aside when a runtime begins to poll on this thread, perhaps within a task of
/// another runtime. It is restored when the guard is dropped.
pub(crate) fn set_budget_aside() -> OuterBudget {
    OuterBudget {
        receives: RECEIVES.replace(Budget::Unlimited),
        sends: SENDS.replace(Budget::Unlimited),
        events: EVENTS.replace(Budget::Unlimited),
    }
}

/// Undoes [`set_budget_aside`] when it is dropped.
pub(crate) struct OuterBudget {
    receives: Budget,
    sends: Budget,
    events: Budget,
}

impl Drop for OuterBudget {
    fn drop(&mut self) {
        RECEIVES.set(self.receives);
        SENDS.set(self.sends);
        EVENTS.set(self.events);
    }
}

/// Takes one receive from the budget of the task that is being polled. If the budget is used up, it
/// wakes the task, which then goes to the end of the ready queue, and returns `Pending`.
#[inline]
pub fn poll_receive_budget(cx: &Context<'_>) -> Poll<()> {
    RECEIVES.set(match RECEIVES.get() {
        Budget::Left(0) => return yield_to_others(cx),
        Budget::Left(left) => Budget::Left(left - 1),
        Budget::Unlimited => Budget::Unlimited,
    });
    Poll::Ready(())
}

/// Takes one send of `bytes` from the budget of the task that is being polled, or what is left of
/// it. If the budget is used up, it wakes the task and returns `Pending`.
pub fn poll_send_budget(cx: &Context<'_>, bytes: usize) -> Poll<()> {
    let cost = u32::try_from(1 + bytes / SEND_BUDGET_BYTES).unwrap_or(u32::MAX);
    SENDS.set(match SENDS.get() {
        Budget::Left(0) => return yield_to_others(cx),
        Budget::Left(left) => Budget::Left(left.saturating_sub(cost)),
        Budget::Unlimited => Budget::Unlimited,
    });
    Poll::Ready(())
}

/// Part of a future that can be ready without waiting. It lets other tasks run if a task loops over
/// such futures. Poll it when the future is ready, before its result is taken.
#[derive(Debug, Default)]
pub struct GiveWay {
    /// True after it has returned `Pending`, which it does once. A future that is always polled
    /// after others have used up the budget would otherwise never complete.
    has_given_way: bool,
}

impl GiveWay {
    /// Takes one event from the budget of the task that is being polled. If the budget is used up,
    /// it wakes the task, which then goes to the end of the ready queue, and returns `Pending`. It
    /// never returns `Pending` twice in a row.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.has_given_way {
            EVENTS.set(match EVENTS.get() {
                Budget::Left(0) => {
                    self.has_given_way = true;
                    return yield_to_others(cx);
                }
                Budget::Left(left) => Budget::Left(left - 1),
                Budget::Unlimited => Budget::Unlimited,
            });
        }
        self.has_given_way = false;
        Poll::Ready(())
    }
}

fn yield_to_others(cx: &Context<'_>) -> Poll<()> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Fails when the cost of a send does not depend on its length.
    #[test]
    fn a_long_send_takes_more_of_the_budget() {
        let cx = Context::from_waker(Waker::noop());
        let _outer = set_budget_aside();
        refill_budget(4);
        assert!(poll_send_budget(&cx, 0).is_ready());
        assert!(poll_send_budget(&cx, 2 * SEND_BUDGET_BYTES).is_ready());
        assert!(poll_send_budget(&cx, 0).is_pending());
        assert!(poll_receive_budget(&cx).is_ready(), "receives have a separate budget");
    }

    /// Fails when what is ready takes nothing from the budget, or never completes after it is used
    /// up.
    #[test]
    fn what_is_ready_gives_way_once_when_the_budget_is_used_up() {
        let cx = Context::from_waker(Waker::noop());
        let _outer = set_budget_aside();
        refill_budget(2);
        let mut way = GiveWay::default();
        let polls: Vec<_> = (0..6).map(|_| way.poll(&cx).is_ready()).collect();
        assert_eq!(polls, [true, true, false, true, false, true]);
    }

    /// Fails when an inner runtime lifts the budget of the task that it runs in, or counts against
    /// it.
    #[test]
    fn the_budget_of_an_outer_task_is_as_before_when_an_inner_runtime_has_run() {
        let cx = Context::from_waker(Waker::noop());
        let _outermost = set_budget_aside();
        refill_budget(1);
        let is_left = || {
            let receives = poll_receive_budget(&cx).is_ready();
            [receives, poll_send_budget(&cx, 0).is_ready(), GiveWay::default().poll(&cx).is_ready()]
        };
        let outer = set_budget_aside();
        assert_eq!(is_left(), [true; 3]);
        refill_budget(0);
        assert_eq!(is_left(), [false; 3]);
        drop(outer);
        assert_eq!(is_left(), [true; 3]);
        assert_eq!(is_left(), [false; 3]);
    }
}
