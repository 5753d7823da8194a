//! [`Timeout`]: limits how long another future may take. [`Elapsed`]: its error.

use std::error::Error;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use super::Sleep;
use crate::clock;
use crate::timers::saturating_add;

/// Awaits `future`, but no longer than `duration`, counted from this call.
///
/// The future is polled first. If it is ready, its output is returned, even if the time is over. A
/// `duration` too long for an [`Instant`] waits for about 30 years.
///
/// A future whose `poll` does not return cannot be interrupted. Futures of this crate return when
/// the task has used up the budget of its poll, so that other tasks and the timeout run.
///
/// # Errors
///
/// [`Elapsed`] if the time is over before the future is ready. It converts into [`io::Error`], so
/// `?` works in functions that return one.
///
/// # Panics
///
/// If it has to wait and is polled outside a runtime.
///
/// # Cancellation
///
/// Dropping it drops `future`, and so does the timeout when the result is dropped. What is lost
/// then depends on `future`. To continue with it after a timeout, pass `&mut future`.
///
/// # Examples
///
/// ```
/// use std::future;
/// use std::time::Duration;
///
/// use ebbtide::time::timeout;
///
/// ebbtide::run(async {
///     let answer = timeout(Duration::from_secs(1), async { 42 }).await?;
///     assert_eq!(answer, 42);
///
///     let never = timeout(Duration::from_millis(5), future::pending::<()>()).await;
///     assert!(never.is_err());
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn timeout<F: IntoFuture>(duration: Duration, future: F) -> Timeout<F::IntoFuture> {
    timeout_at(saturating_add(clock::now(), duration), future)
}

/// Awaits `future`, but not past `deadline`. See [`timeout`].
///
/// # Errors
///
/// [`Elapsed`] if the deadline passes before the future is ready.
///
/// # Panics
///
/// If it has to wait and is polled outside a runtime.
///
/// # Cancellation
///
/// Dropping it drops `future`. What is lost then depends on `future`. To continue with it after a
/// timeout, pass `&mut future`.
///
/// # Examples
///
/// One deadline for several steps:
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use ebbtide::time::{sleep, timeout_at};
///
/// ebbtide::run(async {
///     let deadline = Instant::now() + Duration::from_millis(50);
///     timeout_at(deadline, sleep(Duration::from_millis(1))).await?;
///     assert!(timeout_at(deadline, sleep(Duration::MAX)).await.is_err());
///     std::io::Result::Ok(())
/// })?;
/// # std::io::Result::Ok(())
/// ```
pub fn timeout_at<F: IntoFuture>(deadline: Instant, future: F) -> Timeout<F::IntoFuture> {
    Timeout { future: future.into_future(), sleep: Sleep::bound(deadline) }
}

pin_project! {
    /// A future that limits how long another one may take. Returned by [`timeout`] and
    /// [`timeout_at`].
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the other future. What is lost then depends on that future.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ebbtide::time::{Timeout, timeout};
    ///
    /// let bounded: Timeout<_> = timeout(Duration::from_secs(1), std::future::ready(42));
    /// assert_eq!(bounded.into_inner().into_inner(), 42);
    /// ```
    #[derive(Debug)]
    #[must_use = "a future does nothing unless it is awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F> Timeout<F> {
    /// Returns a reference to the future.
    #[must_use]
    pub fn get_ref(&self) -> &F {
        &self.future
    }

    /// Returns a mutable reference to the future.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.future
    }

    /// Returns the future, without the time limit.
    #[must_use]
    pub fn into_inner(self) -> F {
        self.future
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let timeout = self.project();
        // The future is polled first: an output that is ready is not discarded, and a future that
        // never waits never arms the timer.
        if let Poll::Ready(output) = timeout.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(timeout.sleep).poll(cx).map(|()| Err(Elapsed(())))
    }
}

/// The error of [`timeout`] and [`timeout_at`]: the time was over before the future was ready.
///
/// As an [`io::Error`], its kind is [`TimedOut`](io::ErrorKind::TimedOut).
///
/// # Examples
///
/// ```
/// use std::future;
/// use std::io;
/// use std::time::Duration;
///
/// use ebbtide::time::timeout;
///
/// let outcome = ebbtide::run(async {
///     timeout(Duration::from_millis(1), future::pending::<()>()).await?;
///     io::Result::Ok(())
/// });
/// assert!(outcome.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadline has elapsed")
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(io::ErrorKind::TimedOut, elapsed)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_future_that_is_ready_wins_over_a_deadline_that_has_passed() {
        assert_eq!(poll_once(timeout_at(Instant::now(), ready(7))), Poll::Ready(Ok(7)));
    }

    #[test]
    fn a_future_that_is_ready_needs_neither_a_timer_nor_a_runtime() {
        assert_eq!(poll_once(timeout(Duration::MAX, ready(7))), Poll::Ready(Ok(7)));
    }

    #[test]
    fn a_pending_future_ends_at_a_deadline_that_has_passed() {
        let answer = poll_once(timeout(Duration::ZERO, pending::<()>()));
        assert_eq!(answer, Poll::Ready(Err(Elapsed(()))));
    }

    #[test]
    fn elapsed_becomes_an_io_error_that_says_so() {
        let error = io::Error::from(Elapsed(()));
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "deadline has elapsed");
    }

    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }
}
