//! [`Timers`]: which wakers are due, and when the next one is. It converts instants to ticks.
//!
//! `Wheel` decides what is due, and is pure. The futures that register here are in `time`.
//!
//! Invariant: no waker is cloned, woken or dropped while `Timers` is borrowed. A third-party waker
//! may drop a `Sleep`, which borrows `Timers` again.

mod wheel;

use std::mem;
use std::task::Waker;
use std::time::{Duration, Instant};

pub(crate) use self::wheel::Key;
use self::wheel::Wheel;

/// The length of a tick: one millisecond, like tokio's. Coarse ticks let timers share a wake-up.
/// The precision of finer ticks would be lost to the scheduler.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How far ahead a deadline is set that no `Instant` can express: about 30 years, like tokio's.
pub(crate) const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The timers of one runtime.
pub(crate) struct Timers {
    /// The instant of tick 0.
    origin: Instant,
    wheel: Wheel<Waker>,
}

/// The state of a registered timer, for a task that polls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It will wake this task: wait.
    WakesThisTask,
    /// It would wake another task: set this one's waker with [`Timers::swap_waker`].
    WakesAnother,
    /// It has expired, and its waker was returned: complete.
    Expired,
}

impl Timers {
    /// No timers. Deadlines before `now` count as `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { origin: now, wheel: Wheel::new() }
    }

    /// Registers a timer. The first [`expire`](Self::expire) at or after the tick of the deadline
    /// returns `waker`.
    pub(crate) fn register(&mut self, deadline: Instant, waker: Waker) -> Key {
        let tick = self.tick_at_or_after(deadline);
        self.wheel.insert(tick, waker)
    }

    /// Moves a timer to another deadline, with its waker. `None` if it has expired.
    pub(crate) fn rearm(&mut self, key: Key, deadline: Instant) -> Option<Key> {
        let waker = self.wheel.remove(key)?;
        Some(self.register(deadline, waker))
    }

    /// Whether a timer has expired, and otherwise whether it would wake the task of `waker`.
    pub(crate) fn standing(&self, key: Key, waker: &Waker) -> Standing {
        match self.wheel.get(key) {
            None => Standing::Expired,
            Some(registered) if registered.will_wake(waker) => Standing::WakesThisTask,
            Some(_) => Standing::WakesAnother,
        }
    }

    /// Swaps the waker of a timer with `waker`. Drop the former one after the borrow.
    ///
    /// # Panics
    ///
    /// If the timer has expired.
    pub(crate) fn swap_waker(&mut self, key: Key, waker: &mut Waker) {
        let registered = self.wheel.get_mut(key).expect("the timer is registered");
        mem::swap(registered, waker);
    }

    /// Removes a timer and returns its waker, to be dropped after the borrow. `None` if the timer
    /// has expired.
    pub(crate) fn cancel(&mut self, key: Key) -> Option<Waker> {
        self.wheel.remove(key)
    }

    /// Appends the wakers of all timers that are due, in the order of their deadlines. Wake them
    /// after the borrow.
    pub(crate) fn expire(&mut self, now: Instant, expired: &mut Vec<Waker>) {
        let tick = self.tick_at_or_before(now);
        self.wheel.expire(tick, expired);
    }

    /// How long the driver may sleep before [`expire`](Self::expire) has to be called again. `None`
    /// if there are no timers; `now` is not called then.
    ///
    /// After a sleep of at least this long, that call makes progress. A driver with a coarser clock
    /// must round up, or it would spin for the rest.
    pub(crate) fn next_timeout(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let tick = self.wheel.next_deadline()?;
        // Computed as a `Duration`, which has a larger range than an `Instant`. A timer with a tick
        // beyond u64::MAX ms waits for ever.
        let due = Duration::from_millis(tick);
        Some(due.saturating_sub(self.since_origin(now())))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wheel.is_empty()
    }

    /// The tick of a deadline, rounded up, so that no timer fires early.
    fn tick_at_or_after(&self, deadline: Instant) -> u64 {
        let almost_a_tick = TICK - Duration::from_nanos(1);
        whole_ticks(self.since_origin(deadline).saturating_add(almost_a_tick))
    }

    /// The tick of the present, rounded down, because the next tick has not come yet.
    fn tick_at_or_before(&self, now: Instant) -> u64 {
        whole_ticks(self.since_origin(now))
    }

    fn since_origin(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.origin)
    }
}

/// How many whole ticks a duration has.
fn whole_ticks(duration: Duration) -> u64 {
    // `as_millis`, because dividing 128 bits of nanoseconds by `TICK` is slow, and this runs in
    // every turn.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `start + duration`, or `start` plus [`FAR_FUTURE`] if no `Instant` is that late.
pub(crate) fn saturating_add(start: Instant, duration: Duration) -> Instant {
    start.checked_add(duration).unwrap_or_else(|| start + FAR_FUTURE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const NANOSECOND: Duration = Duration::from_nanos(1);

    #[test]
    fn a_timer_never_fires_before_its_deadline_and_at_most_a_tick_after() {
        let origin = Instant::now();
        for nanos in [0, 1, 999_999, 1_000_000, 1_000_001, 63_999_999, 5_000_000_001] {
            let deadline = origin + Duration::from_nanos(nanos);
            let mut timers = Timers::new(origin);
            timers.register(deadline, Waker::noop().clone());
            if nanos > 0 {
                assert_eq!(expire(&mut timers, deadline - NANOSECOND), 0, "{nanos}");
            }
            assert_eq!(expire(&mut timers, deadline + TICK - NANOSECOND), 1, "{nanos}");
        }
    }

    #[test]
    fn sleeping_for_the_next_timeout_always_makes_progress() {
        let origin = Instant::now();
        for nanos in [1, 1_500_000, 64_000_001, 100_000_000, 86_400_000_000_001] {
            let mut timers = Timers::new(origin);
            timers.register(origin + Duration::from_nanos(nanos), Waker::noop().clone());
            let mut now = origin + Duration::from_micros(300);
            let mut wakeups = 0;
            while let Some(timeout) = timers.next_timeout(|| now) {
                assert!(wakeups == 0 || timeout > Duration::ZERO, "{nanos}: spins");
                now += timeout;
                expire(&mut timers, now);
                wakeups += 1;
            }
            assert!(wakeups <= 6, "{nanos}: {wakeups} wake-ups");
        }
    }

    #[test]
    fn an_overdue_timer_leaves_no_time_to_sleep() {
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        assert_eq!(timers.next_timeout(|| origin), None);
        timers.register(origin + TICK, Waker::noop().clone());
        assert_eq!(timers.next_timeout(|| origin), Some(TICK));
        assert_eq!(timers.next_timeout(|| origin + 2 * TICK), Some(Duration::ZERO));
    }

    #[test]
    fn a_deadline_before_the_origin_is_due_at_once() {
        let before = Instant::now();
        let mut timers = Timers::new(before + TICK);
        timers.register(before, Waker::noop().clone());
        assert_eq!(expire(&mut timers, before), 1);
    }

    #[test]
    fn the_farthest_deadline_saturates_and_can_be_registered() {
        let now = Instant::now();
        let deadline = saturating_add(now, Duration::MAX);
        assert_eq!(deadline, now + FAR_FUTURE);
        let mut timers = Timers::new(now);
        let key = timers.register(deadline, Waker::noop().clone());
        assert!(timers.next_timeout(|| now).is_some_and(|timeout| timeout <= FAR_FUTURE));
        assert!(timers.cancel(key).is_some());
        assert!(timers.is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "under Miri, `will_wake` often says no of a clone, as it may")]
    fn a_timer_stands_as_its_waker_and_the_time_say() {
        let origin = Instant::now();
        let (this, another) = (counting_waker().1, counting_waker().1);
        let mut timers = Timers::new(origin);
        let key = timers.register(origin + TICK, another.clone());
        assert_eq!(timers.standing(key, &this), Standing::WakesAnother);

        let mut waker = this.clone();
        timers.swap_waker(key, &mut waker);
        assert!(waker.will_wake(&another), "the former waker is handed back");
        assert_eq!(timers.standing(key, &this), Standing::WakesThisTask);

        expire(&mut timers, origin + TICK);
        assert_eq!(timers.standing(key, &this), Standing::Expired);
        assert!(timers.cancel(key).is_none());
        assert_eq!(timers.rearm(key, origin), None);
    }

    #[test]
    fn a_rearmed_timer_keeps_its_waker_and_forgets_its_former_deadline() {
        let origin = Instant::now();
        let (wakes, waker) = counting_waker();
        let mut timers = Timers::new(origin);
        let key = timers.register(origin + TICK, waker);
        let key = timers.rearm(key, origin + 5 * TICK).expect("the timer has not expired");
        assert_eq!(expire(&mut timers, origin + 4 * TICK), 0);
        assert!(timers.standing(key, Waker::noop()) != Standing::Expired);
        assert_eq!(expire(&mut timers, origin + 5 * TICK), 1);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    /// Expires timers and wakes as the runtime does. Counts the wakes.
    fn expire(timers: &mut Timers, now: Instant) -> usize {
        let mut expired = Vec::new();
        timers.expire(now, &mut expired);
        let count = expired.len();
        expired.into_iter().for_each(Waker::wake);
        count
    }

    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting_waker() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        (Arc::clone(&wakes), Waker::from(wakes))
    }
}
