//! Tasks: cells of `async-task`, one ready queue, and one remote queue for wakes of other threads.
//!
//! ```text
//! wake on this thread    -> ready queue -> run
//! wake on another thread -> remote queue, at most one eventfd write a sleep -> ready queue -> run
//! ```
//!
//! A future is made, polled and dropped on the thread of its runtime; `async-task` checks this.
//! This module knows neither the driver nor the runtime.

/// Evaluates an expression that moves a future. A large future is boxed first, so that only its
/// pointer is moved from then on. See `LARGE_FUTURE_BYTES`. For functions that users call:
/// otherwise each function below them would have the future on its stack.
macro_rules! by_pointer_if_large {
    ($future:ident => $body:expr) => {{
        #[cfg(debug_assertions)]
        {
            let $future = Box::pin($future);
            $body
        }
        #[cfg(not(debug_assertions))]
        if size_of_val(&$future) > crate::limits::LARGE_FUTURE_BYTES {
            let $future = Box::pin($future);
            $body
        } else {
            $body
        }
    }};
}
pub(crate) use by_pointer_if_large;

mod activity;
mod budget;
mod current;
mod join;
mod remote_queue;
#[cfg(test)]
mod remote_queue_tests;
mod root;
mod tasks;
mod yield_now;

pub use self::activity::Answer;
pub(crate) use self::activity::Cause;
pub use self::budget::{GiveWay, poll_receive_budget, poll_send_budget};
pub(crate) use self::budget::{OuterBudget, refill_budget, set_budget_aside};
pub use self::current::TaskId;
pub use self::join::{JoinError, JoinHandle};
pub(crate) use self::remote_queue::{Permission, RemoteQueue};
pub(crate) use self::root::Root;
pub(crate) use self::tasks::{ReceiverTask, Runnable, Survey, Tasks};
pub use self::yield_now::{YieldNow, yield_now};
