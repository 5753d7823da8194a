//! [`Timeout`], which bounds how long another future may take, and [`Elapsed`], what it answers
//! when that was too long.

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

/// Awaits `future`, but for no longer than `duration`, counted from this call.
///
/// The future is polled first: one that is ready wins, even if the time is over. A future whose
/// `poll` does not return cannot be interrupted; those of this crate that are ready without waiting
/// give way to other tasks, and to the timeout, when the task has used up the budget of its poll. A `duration` too long for an [`Instant`] waits for about
/// 30 years.
///
/// # Errors
///
/// [`Elapsed`] if the time is over before the future is ready. It converts to an [`io::Error`], so
/// that `?` takes it.
///
/// # Panics
///
/// When it is polled outside a runtime and has to wait.
///
/// # Cancellation
///
/// Dropping it drops `future`, as running into the timeout and dropping the answer does: what that
/// loses is up to `future`. To go on with it after a timeout, pass `&mut future`.
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
/// When it is polled outside a runtime and has to wait.
///
/// # Cancellation
///
/// As for [`timeout`].
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
    /// A future that bounds how long another one may take. Made by [`timeout`] and [`timeout_at`].
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the other future as well: what that loses is up to the other one.
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
    /// The future whose time is bounded.
    #[must_use]
    pub fn get_ref(&self) -> &F {
        &self.future
    }

    /// The future whose time is bounded, to be changed.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.future
    }

    /// The future, with as much time as it likes.
    #[must_use]
    pub fn into_inner(self) -> F {
        self.future
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let timeout = self.project();
        // The future first: what is ready is not thrown away, and the timer of a future that never
        // waits is never armed.
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
