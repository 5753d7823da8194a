//! Timers: [`sleep`], [`timeout`] and [`interval`], with tokio's names and meanings.
//!
//! Deadlines are [`std::time::Instant`]s, rounded up to ticks of one millisecond. A timer never
//! fires early. It fires within about a millisecond of its deadline, if the thread of the runtime
//! is free.
//!
//! A timer costs nothing until it is polled and has to wait. Then it is an entry in the timer wheel
//! of the runtime. Dropping the future removes the entry. The exit of the runtime does not wait for
//! a future that is only a timeout; see [`drain`](crate::drain()) for sleeps and ticks.
//!
//! [`Sleep`] is the only future that registers a timer; the others consist of it.

mod interval;
mod sleep;
mod timeout;

pub use self::interval::{Interval, MissedTickBehavior, interval, interval_at};
pub use self::sleep::{Sleep, sleep, sleep_until};
pub use self::timeout::{Elapsed, Timeout, timeout, timeout_at};
