//! [`Interval`], which ticks at a fixed period, and [`MissedTickBehavior`], for ticks that come too
//! late.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::Sleep;
use crate::clock;
use crate::timers::saturating_add;

/// How late a tick may be before it counts as missed. Less is due to the resolution of timers and
/// the load of the thread, and does not change the schedule. The value is tokio's.
const TOLERANCE: Duration = Duration::from_millis(5);

/// Returns an interval that ticks every `period`. The first tick is at once.
///
/// The schedule does not drift: each tick is due one `period` after the previous tick was *due*.
/// [`Interval::set_missed_tick_behavior`] sets what happens when ticks are missed.
///
/// # Panics
///
/// If `period` is zero.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use ebbtide::time::interval;
///
/// ebbtide::run(async {
///     let start = Instant::now();
///     let mut interval = interval(Duration::from_millis(5));
///     interval.tick().await; // at once
///     interval.tick().await;
///     interval.tick().await;
///     assert!(start.elapsed() >= Duration::from_millis(10));
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[track_caller]
#[must_use]
pub fn interval(period: Duration) -> Interval {
    interval_at(clock::now(), period)
}

/// Returns an interval that ticks every `period`. The first tick is at `start`. See [`interval`].
///
/// # Panics
///
/// If `period` is zero.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use ebbtide::time::interval_at;
///
/// ebbtide::run(async {
///     let start = Instant::now() + Duration::from_millis(5);
///     let mut interval = interval_at(start, Duration::from_millis(10));
///     assert_eq!(interval.tick().await, start);
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[track_caller]
#[must_use]
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "the period of an interval must not be zero");
    Interval {
        next: Sleep::tick(start),
        period,
        missed_tick_behavior: MissedTickBehavior::default(),
    }
}

/// Ticks at a fixed period. Returned by [`interval`] and [`interval_at`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use ebbtide::time::{MissedTickBehavior, interval};
///
/// ebbtide::run(async {
///     let mut interval = interval(Duration::from_millis(2));
///     interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
///     for _ in 0..3 {
///         interval.tick().await;
///     }
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Interval {
    /// Completes at the next tick.
    next: Sleep,
    /// Never zero.
    period: Duration,
    missed_tick_behavior: MissedTickBehavior,
}

impl Interval {
    /// Waits for the next tick, and returns the instant at which it was due.
    ///
    /// If the tick is due, it returns at once, unless the task has used up the budget of its poll;
    /// then other tasks run first. See [`sleep`](super::sleep).
    ///
    /// # Panics
    ///
    /// If it has to wait and is polled outside a runtime.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no tick: the next call returns it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// use ebbtide::time::interval_at;
    ///
    /// ebbtide::run(async {
    ///     let start = Instant::now();
    ///     let period = Duration::from_millis(5);
    ///     let mut interval = interval_at(start, period);
    ///     assert_eq!(interval.tick().await, start);
    ///     assert_eq!(interval.tick().await, start + period);
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Polls for the next tick. Like [`tick`](Self::tick), for use in a `poll` function.
    ///
    /// If it returns `Pending`, the task of `cx` is woken when the tick is due. If it returns
    /// `Ready`, the value is the instant at which the tick was due, and the next call is for the
    /// tick after it.
    ///
    /// # Panics
    ///
    /// If it has to wait and is called outside a runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::time::Duration;
    ///
    /// use ebbtide::time::interval;
    ///
    /// ebbtide::run(async {
    ///     let mut interval = interval(Duration::from_millis(5));
    ///     poll_fn(|cx| interval.poll_tick(cx)).await;
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        ready!(Pin::new(&mut self.next).poll(cx));
        let due = self.next.deadline();
        let next = self.missed_tick_behavior.next_tick(due, clock::now(), self.period);
        Pin::new(&mut self.next).reset(next);
        Poll::Ready(due)
    }

    /// Restarts the schedule: the next tick is one period from now.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// use ebbtide::time::interval;
    ///
    /// ebbtide::run(async {
    ///     let mut interval = interval(Duration::from_millis(5));
    ///     let before = Instant::now();
    ///     interval.reset(); // the first tick is not at once any more
    ///     assert!(interval.tick().await >= before + interval.period());
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn reset(&mut self) {
        let next = saturating_add(clock::now(), self.period);
        Pin::new(&mut self.next).reset(next);
    }

    /// The time between two ticks.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// What happens when ticks are missed.
    #[must_use]
    pub fn missed_tick_behavior(&self) -> MissedTickBehavior {
        self.missed_tick_behavior
    }

    /// Sets what happens when ticks are missed. The default is
    /// [`Burst`](MissedTickBehavior::Burst).
    pub fn set_missed_tick_behavior(&mut self, behavior: MissedTickBehavior) {
        self.missed_tick_behavior = behavior;
    }
}

/// What an [`Interval`] does when a tick is taken more than 5 ms after it was due.
///
/// An example with a period of 50 ms, where the program is busy when the second tick is due:
///
/// ```text
/// due     0    50   100   150   200   250   300
/// Burst   |     -------------||| |     |     |      the missed ones at once, then as planned
/// Delay   |     -------------|     |     |     |    one, and a period from there
/// Skip    |     -------------|   |     |     |      one, and then as planned
/// ```
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use ebbtide::time::{MissedTickBehavior, interval};
///
/// let mut interval = interval(Duration::from_secs(1));
/// assert_eq!(interval.missed_tick_behavior(), MissedTickBehavior::Burst);
/// interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTickBehavior {
    /// Ticks as fast as possible until it has caught up. The number of ticks is right in the end.
    #[default]
    Burst,
    /// Restarts the schedule at the late tick. Two ticks are never closer than the period less 5
    /// ms.
    Delay,
    /// Skips the missed ticks. Every tick is due at a multiple of the period from the start.
    Skip,
}

impl MissedTickBehavior {
    /// When the next tick is due, if one that was due at `due` was taken at `now`.
    fn next_tick(self, due: Instant, now: Instant, period: Duration) -> Instant {
        let late = now.saturating_duration_since(due);
        if late <= TOLERANCE {
            return saturating_add(due, period);
        }
        match self {
            Self::Burst => saturating_add(due, period),
            Self::Delay => saturating_add(now, period),
            Self::Skip => {
                let into_period = remainder(late, period);
                saturating_add(now, period - into_period)
            }
        }
    }
}

/// `duration % period`, which std does not provide. `Duration::from_nanos_u128` needs Rust 1.93.
fn remainder(duration: Duration, period: Duration) -> Duration {
    const SECOND: u128 = Duration::from_secs(1).as_nanos();
    let nanos = duration.as_nanos() % period.as_nanos();
    let part = |number| u64::try_from(number).expect("a Duration has room for it");
    Duration::from_secs(part(nanos / SECOND)) + Duration::from_nanos(part(nanos % SECOND))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::MissedTickBehavior::{Burst, Delay, Skip};
    use super::*;

    const PERIOD: Duration = Duration::from_millis(50);
    const EACH: [MissedTickBehavior; 3] = [Burst, Delay, Skip];

    #[test]
    fn a_tick_taken_in_time_keeps_to_the_schedule() {
        let due = Instant::now();
        for behavior in EACH {
            for late in [Duration::ZERO, Duration::from_millis(3), TOLERANCE] {
                let next = behavior.next_tick(due, due + late, PERIOD);
                assert_eq!(next, due + PERIOD, "{behavior:?}, {late:?} late");
            }
        }
    }

    /// Longer than the 584 years that fit into a u64 of nanoseconds, too.
    #[test]
    fn the_remainder_is_exact_for_every_duration() {
        let nano = Duration::from_nanos(1);
        for (duration, period, expected) in [
            (Duration::new(7, 3), Duration::from_secs(2), Duration::new(1, 3)),
            (Duration::MAX, Duration::MAX - nano, nano),
            (Duration::MAX - nano, Duration::MAX, Duration::MAX - nano),
        ] {
            assert_eq!(remainder(duration, period), expected);
        }
    }

    #[test]
    fn a_missed_tick_bursts_delays_or_skips() {
        for (behavior, late_millis, next_millis) in [
            (Burst, 6, 50),
            (Burst, 130, 50),
            (Delay, 6, 56),
            (Delay, 130, 180),
            (Skip, 6, 50),
            (Skip, 50, 100),
            (Skip, 130, 150),
        ] {
            let due = Instant::now();
            let now = due + Duration::from_millis(late_millis);
            let next = behavior.next_tick(due, now, PERIOD) - due;
            let expected = Duration::from_millis(next_millis);
            assert_eq!(next, expected, "{behavior:?}, {late_millis} ms late");
        }
    }

    #[test]
    fn a_burst_answers_every_missed_tick_with_the_time_at_which_it_was_due() {
        let start = Instant::now() - 3 * PERIOD;
        let mut interval = interval_at(start, PERIOD);
        for tick in 0..=3 {
            assert_eq!(poll_tick(&mut interval), Poll::Ready(start + tick * PERIOD));
        }
    }

    #[test]
    fn a_skipping_interval_answers_one_late_tick_and_stays_on_schedule() {
        let start = Instant::now() - 20 * PERIOD;
        let mut interval = interval_at(start, PERIOD);
        interval.set_missed_tick_behavior(Skip);
        assert_eq!(poll_tick(&mut interval), Poll::Ready(start));
        let planned = interval.next.deadline() - start;
        assert!(planned > 20 * PERIOD);
        assert_eq!(remainder(planned, PERIOD), Duration::ZERO);
    }

    #[test]
    fn the_first_tick_is_at_once_and_needs_no_runtime() {
        let before = Instant::now();
        let mut interval = interval(PERIOD);
        let Poll::Ready(first) = poll_tick(&mut interval) else {
            panic!("the first tick is due");
        };
        assert!(first >= before);
        assert_eq!(interval.next.deadline(), first + PERIOD);
    }

    #[test]
    fn a_reset_interval_ticks_a_period_from_now() {
        let mut interval = interval_at(Instant::now() - 9 * PERIOD, PERIOD);
        let before = Instant::now();
        interval.reset();
        assert!(interval.next.deadline() >= before + PERIOD);
    }

    #[test]
    fn a_period_beyond_every_instant_ticks_once() {
        for behavior in EACH {
            let due = Instant::now();
            let next = behavior.next_tick(due, due + 2 * TOLERANCE, Duration::MAX);
            assert!(next >= due + crate::timers::FAR_FUTURE, "{behavior:?}");
        }
    }

    #[test]
    #[should_panic(expected = "must not be zero")]
    fn a_period_of_zero_is_refused() {
        drop(interval(Duration::ZERO));
    }

    fn poll_tick(interval: &mut Interval) -> Poll<Instant> {
        interval.poll_tick(&mut Context::from_waker(Waker::noop()))
    }
}
