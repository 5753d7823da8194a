//! Timers: [`sleep`], [`timeout`] and [`interval`], with tokio's names and meanings.
//!
//! Deadlines are [`std::time::Instant`]s. They are kept in ticks of one millisecond, rounded up: a
//! timer never fires early, and fires within about a millisecond of its deadline if the runtime's
//! thread is free to run it.
//!
//! A timer costs nothing until it is polled and has to wait. From then on it is an entry in the
//! runtime's wheel; dropping the future takes the entry out, so a timeout that is not needed leaves
//! no trace. A timer that only waits does not hold up the exit of the runtime.
//!
//! `Sleep` is the only future that registers a timer: the others are made of it. The timers
//! themselves are kept in `timers`.

mod interval;
mod sleep;
mod timeout;

pub use self::interval::{Interval, MissedTickBehavior, interval, interval_at};
pub use self::sleep::{Sleep, sleep, sleep_until};
pub use self::timeout::{Elapsed, Timeout, timeout, timeout_at};
