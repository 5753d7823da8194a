//! [`Sleep`]: the future that completes at a deadline. It is the only one that registers a timer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::LocalHandle;
use crate::clock;
use crate::task::{GiveWay, TaskId};
use crate::timers::{Key, Standing, saturating_add};

/// Waits until `duration` has passed since this call. The first poll may come later.
///
/// The resolution is one millisecond, rounded up; it never completes early. If `duration` is too
/// long for an [`Instant`], it waits for about 30 years. If `duration` is zero, it completes at
/// once, unless the task has used up the budget of its poll ([`Builder::operations_per_poll`]);
/// then other tasks run first.
///
/// [`Builder::operations_per_poll`]: crate::Builder::operations_per_poll
///
/// # Panics
///
/// If it has to wait and is polled outside a runtime.
///
/// # Cancellation
///
/// Dropping the future loses nothing. Its timer is removed from the runtime.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use ebbtide::time::sleep;
///
/// ebbtide::run(async {
///     let start = Instant::now();
///     sleep(Duration::from_millis(5)).await;
///     assert!(start.elapsed() >= Duration::from_millis(5));
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(saturating_add(clock::now(), duration))
}

/// Waits until `deadline`.
///
/// The resolution is one millisecond, rounded up; it never completes early. If `deadline` has
/// passed, it completes at once, unless the task has used up the budget of its poll: see [`sleep`].
///
/// # Panics
///
/// If it has to wait and is polled outside a runtime.
///
/// # Cancellation
///
/// Dropping the future loses nothing. Its timer is removed from the runtime.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use ebbtide::time::sleep_until;
///
/// ebbtide::run(async {
///     let deadline = Instant::now() + Duration::from_millis(5);
///     sleep_until(deadline).await;
///     assert!(Instant::now() >= deadline);
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep::new(deadline, Purpose::Work)
}

/// A future that completes at a deadline. Returned by [`sleep`] and [`sleep_until`].
///
/// It can be polled again after it has completed. It is ready then, until [`reset`](Sleep::reset)
/// sets another deadline.
///
/// # Panics
///
/// If it has to wait and is polled outside a runtime.
///
/// # Cancellation
///
/// Dropping the future loses nothing. Its timer is removed from the runtime. It can be dropped at
/// any time, also after the runtime has been shut down.
///
/// # Examples
///
/// One timer, awaited twice:
///
/// ```
/// use std::time::Duration;
///
/// use ebbtide::time::{sleep, timeout};
///
/// ebbtide::run(async {
///     let mut long = sleep(Duration::from_millis(20));
///     if timeout(Duration::from_millis(1), &mut long).await.is_err() {
///         println!("a moment, please");
///     }
///     long.await;
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    deadline: Instant,
    purpose: Purpose,
    /// `None` until the first poll that has to wait, and again after a poll has seen that the timer
    /// expired.
    armed: Option<Armed>,
    /// For a deadline that had passed at the first poll.
    way: GiveWay,
}

/// What a timer is for: the drain treats the three differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// A task goes on when it expires. The exit may wait for it.
    Work,
    /// It ticks for ever. The exit waits for one tick at most.
    Tick,
    /// It is the time limit of another future. The exit does not wait for it.
    Bound,
}

impl Sleep {
    fn new(deadline: Instant, purpose: Purpose) -> Self {
        Self { deadline, purpose, armed: None, way: GiveWay::default() }
    }

    /// A timer that ticks for ever.
    pub(crate) fn tick(deadline: Instant) -> Self {
        Self::new(deadline, Purpose::Tick)
    }

    /// A timer that is the time limit of another future.
    pub(crate) fn bound(deadline: Instant) -> Self {
        Self::new(deadline, Purpose::Bound)
    }

    /// The instant at which the future completes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use ebbtide::time::sleep_until;
    ///
    /// let deadline = Instant::now();
    /// assert_eq!(sleep_until(deadline).deadline(), deadline);
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the deadline has passed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ebbtide::time::sleep;
    ///
    /// assert!(sleep(Duration::ZERO).is_elapsed());
    /// assert!(!sleep(Duration::MAX).is_elapsed());
    /// ```
    #[must_use]
    pub fn is_elapsed(&self) -> bool {
        clock::now() >= self.deadline
    }

    /// Sets another deadline, earlier or later, whether or not the future has completed.
    ///
    /// A task that waits for the future need not poll it again: it is woken at the new deadline. If
    /// the future has completed, the next poll waits for the new deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::pin::pin;
    /// use std::time::{Duration, Instant};
    ///
    /// use ebbtide::time::sleep;
    ///
    /// ebbtide::run(async {
    ///     let mut idle = pin!(sleep(Duration::from_secs(3600)));
    ///     idle.as_mut().reset(Instant::now() + Duration::from_millis(5));
    ///     idle.await;
    ///     std::io::Result::Ok(())
    /// })?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn reset(self: Pin<&mut Self>, deadline: Instant) {
        let sleep = self.get_mut();
        sleep.deadline = deadline;
        if let Some(armed) = &mut sleep.armed {
            let moved = armed.handle.timers().borrow_mut().rearm(armed.key, deadline);
            match moved {
                Some(key) => armed.key = key,
                // The timer has expired, so the task was woken and will poll. That poll registers
                // it again.
                None => sleep.armed = None,
            }
        }
    }
}

impl Sleep {
    /// Polls it on the runtime that `handle` returns. `handle` is called only if it has to wait.
    pub(crate) fn poll_on(
        &mut self,
        handle: impl FnOnce() -> LocalHandle,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(armed) = &self.armed else {
            if self.is_elapsed() {
                // Only a deadline that never had to wait: the loop has run since a timer was armed.
                return self.way.poll(cx);
            }
            self.armed = Some(Armed::new(handle(), self.deadline, self.purpose, cx));
            return Poll::Pending;
        };
        // From the second poll on, the wheel knows whether it expired. The clock need not be read.
        let polled = armed.poll_expired(cx);
        if polled.is_ready() {
            self.armed = None;
        }
        polled
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_on(LocalHandle::current, cx)
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// A timer in the wheel of a runtime. Dropping it removes the timer.
///
/// Each borrow of the timers ends with its statement. Wakers are cloned before and dropped after
/// it.
struct Armed {
    /// Keeps the timers alive, also after the runtime has been shut down.
    handle: LocalHandle,
    key: Key,
    purpose: Purpose,
    /// The task whose sleep or tick it counts as. `None` for a time limit.
    sleeper: Option<TaskId>,
}

impl Armed {
    fn new(handle: LocalHandle, deadline: Instant, purpose: Purpose, cx: &Context<'_>) -> Self {
        let waker = cx.waker().clone();
        let key = handle.timers().borrow_mut().register(deadline, waker);
        let sleeper = match purpose {
            Purpose::Work => Some(handle.tasks().sleep_begins(deadline)),
            Purpose::Tick => Some(handle.tasks().tick_begins()),
            Purpose::Bound => None,
        };
        Self { handle, key, purpose, sleeper }
    }

    /// Ready if the timer has expired. Otherwise it will wake the task that polls.
    fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        let timers = self.handle.timers();
        let standing = timers.borrow().standing(self.key, cx.waker());
        match standing {
            Standing::Expired => Poll::Ready(()),
            Standing::WakesThisTask => Poll::Pending,
            Standing::WakesAnother => {
                let mut waker = cx.waker().clone();
                timers.borrow_mut().swap_waker(self.key, &mut waker);
                // `will_wake` is not asked again: it may return false even for a clone.
                Poll::Pending
            }
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let waker = self.handle.timers().borrow_mut().cancel(self.key);
        drop(waker);
        match (self.purpose, self.sleeper) {
            (Purpose::Work, Some(task)) => self.handle.tasks().sleep_ends(task),
            (Purpose::Tick, Some(task)) => self.handle.tasks().tick_ends(task),
            (Purpose::Bound, _) | (_, None) => {}
        }
    }
}

#[cfg(all(test, not(miri)))] // A runtime needs system calls that Miri does not know.
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::io;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::timers::TICK;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_sleep_completes_at_its_deadline_and_not_before() {
        in_runtime(async {
            for millis in [0, 1, 3, 70] {
                let deadline = Instant::now() + Duration::from_millis(millis);
                sleep_until(deadline).await;
                assert!(Instant::now() >= deadline);
            }
        });
    }

    #[test]
    fn a_completed_sleep_stays_completed_until_it_is_reset() {
        in_runtime(async {
            let mut sleep = sleep(Duration::from_millis(2));
            (&mut sleep).await;
            (&mut sleep).await;
            assert!(sleep.is_elapsed());
            Pin::new(&mut sleep).reset(Instant::now() + HOUR);
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
        });
    }

    #[test]
    fn a_sleep_registers_when_it_first_has_to_wait_and_is_taken_out_by_drop() {
        in_runtime(async {
            let mut sleep = sleep(HOUR);
            assert!(no_timers());
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
            assert!(!no_timers());
            drop(sleep);
            assert!(no_timers());
        });
    }

    #[test]
    fn a_sleep_whose_deadline_has_passed_never_registers() {
        in_runtime(async {
            let mut sleep = sleep(Duration::ZERO);
            assert!(poll(&mut sleep, Waker::noop()).is_ready());
            assert!(no_timers());
        });
    }

    #[test]
    fn the_task_that_polled_last_is_the_one_that_is_woken() {
        in_runtime(async {
            let (former, latter) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
            let mut sleep = sleep(HOUR);
            assert!(poll(&mut sleep, &Waker::from(former.clone())).is_pending());
            assert!(poll(&mut sleep, &Waker::from(latter.clone())).is_pending());
            assert_eq!(Arc::strong_count(&former), 1, "the former waker is dropped");
            expire(sleep.deadline());
            assert_eq!((former.count(), latter.count()), (0, 1));
            assert!(poll(&mut sleep, Waker::noop()).is_ready());
        });
    }

    #[test]
    fn a_waiting_task_is_woken_at_the_deadline_of_a_reset_without_polling_again() {
        in_runtime(async {
            let wakes = Arc::new(Wakes::default());
            let mut sleep = sleep(HOUR);
            assert!(poll(&mut sleep, &Waker::from(wakes.clone())).is_pending());
            let deadline = sleep.deadline();
            Pin::new(&mut sleep).reset(deadline + HOUR);
            expire(deadline);
            assert_eq!(wakes.count(), 0);
            expire(deadline + HOUR);
            assert_eq!(wakes.count(), 1);
            assert!(poll(&mut sleep, Waker::noop()).is_ready());
        });
    }

    #[test]
    fn a_sleep_that_was_reset_while_it_waits_is_still_taken_out_by_drop() {
        in_runtime(async {
            let mut sleep = sleep(HOUR);
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
            Pin::new(&mut sleep).reset(Instant::now() + 2 * HOUR);
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
            drop(sleep);
            assert!(no_timers());
        });
    }

    #[test]
    fn a_sleep_that_was_reset_after_it_expired_waits_anew() {
        in_runtime(async {
            let mut sleep = sleep(HOUR);
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
            let deadline = sleep.deadline();
            expire(deadline);
            Pin::new(&mut sleep).reset(deadline + HOUR);
            assert!(poll(&mut sleep, Waker::noop()).is_pending());
            assert!(!no_timers());
        });
    }

    // Fails when a waker is dropped while the timers are borrowed: dropping this one drops another
    // `Sleep`.
    #[test]
    fn a_waker_that_owns_a_sleep_can_be_replaced_and_dropped() {
        in_runtime(async {
            for replaced in [true, false] {
                let mut owned = sleep(HOUR);
                assert!(poll(&mut owned, Waker::noop()).is_pending());
                let mut sleep = sleep(HOUR);
                {
                    let waker = waker_that_owns(owned);
                    assert!(poll(&mut sleep, &waker).is_pending());
                }
                if replaced {
                    assert!(poll(&mut sleep, Waker::noop()).is_pending());
                }
                drop(sleep);
                assert!(no_timers());
            }
        });
    }

    #[test]
    fn a_sleep_outlives_its_runtime() {
        let kept = Rc::new(RefCell::new(sleep(HOUR)));
        let polled = Rc::clone(&kept);
        in_runtime(poll_fn(move |cx| {
            assert!(Pin::new(&mut *polled.borrow_mut()).poll(cx).is_pending());
            Poll::Ready(())
        }));
        let mut kept = Rc::into_inner(kept).expect("the future is gone").into_inner();
        Pin::new(&mut kept).reset(Instant::now() + HOUR);
        drop(kept);
    }

    fn in_runtime(future: impl Future<Output = ()>) {
        let done = crate::run(async {
            future.await;
            io::Result::Ok(())
        });
        done.expect("the runtime starts and ends");
    }

    fn poll(sleep: &mut Sleep, waker: &Waker) -> Poll<()> {
        Pin::new(sleep).poll(&mut Context::from_waker(waker))
    }

    fn no_timers() -> bool {
        LocalHandle::current().timers().borrow().is_empty()
    }

    /// Moves the wheel to the tick of `deadline`, ahead of the clock, and wakes as the runtime
    /// does.
    fn expire(deadline: Instant) {
        let mut expired = Vec::new();
        let handle = LocalHandle::current();
        handle.timers().borrow_mut().expire(deadline + TICK, &mut expired);
        expired.into_iter().for_each(Waker::wake);
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    thread_local! {
        /// What the wakers of `waker_that_owns` own: a `Sleep` is not `Send`, so a waker cannot own
        /// it.
        static OWNED: Cell<Option<Sleep>> = const { Cell::new(None) };
    }

    /// A waker that drops `sleep` when its last clone is dropped.
    fn waker_that_owns(sleep: Sleep) -> Waker {
        struct Owner;

        impl Wake for Owner {
            fn wake(self: Arc<Self>) {}
        }

        impl Drop for Owner {
            fn drop(&mut self) {
                drop(OWNED.take());
            }
        }

        OWNED.set(Some(sleep));
        Waker::from(Arc::new(Owner))
    }
}
