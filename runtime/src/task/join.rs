//! [`JoinHandle`] and [`JoinError`], with the semantics of tokio's.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use async_task::FallibleTask;
use sync_wrapper::SyncWrapper;

use super::budget::GiveWay;
use super::tasks::{Home, Output, Tasks};
use crate::panics::{Contained, Payload};

/// A handle to a task, which waits for its result and can abort it.
///
/// Dropping the handle detaches the task, which goes on.
///
/// # Cancellation
///
/// Awaiting `&mut handle` and dropping that loses nothing: the result stays until it is taken.
///
/// ```
/// ebbtide::run(async {
///     let task = ebbtide::spawn(async { 6 * 7 });
///     assert_eq!(task.await?, 42);
///     std::io::Result::Ok(())
/// })
/// # .unwrap();
/// ```
pub struct JoinHandle<T> {
    /// `None` once the result was taken.
    task: Option<FallibleTask<Result<Output<T>, JoinError>, Home>>,
    tasks: Rc<Tasks>,
    /// The task's key among the living tasks, as long as it lives.
    key: usize,
    abort: Abort,
    way: GiveWay,
}

/// What `abort` does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Abort {
    Cancels,
    /// Nothing: the work is done on another thread.
    IsIgnored,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(
        task: FallibleTask<Result<Output<T>, JoinError>, Home>,
        tasks: Rc<Tasks>,
        key: usize,
    ) -> Self {
        Self { task: Some(task), tasks, key, abort: Abort::Cancels, way: GiveWay::default() }
    }

    /// A handle to work that cannot be stopped.
    pub(crate) fn unstoppable(mut self) -> Self {
        self.abort = Abort::IsIgnored;
        self
    }

    /// Cancels the task. Its future is dropped instead of being polled the next time; if it is
    /// being polled now, as soon as it returns `Pending`.
    ///
    /// Awaiting the handle then returns a [`JoinError`] for which
    /// [`is_cancelled`](JoinError::is_cancelled) is true. A task that has ended, or ends in this
    /// poll, keeps its result. A call of `spawn_blocking` cannot be stopped: this does nothing to
    /// it.
    pub fn abort(&self) {
        // The key of a task that has ended may belong to another task by now.
        if self.abort == Abort::Cancels && !self.is_finished() {
            self.tasks.abort(self.key);
        }
    }

    /// Whether the task has ended: it returned, panicked or was cancelled.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let task = this.task.as_mut().expect("a JoinHandle was polled after its completion");
        if task.is_finished() {
            ready!(this.way.poll(cx));
        }
        // async-task aborts the process if a waker panics.
        let waker = match this.tasks.is_own(cx.waker()) {
            true => Cow::Borrowed(cx.waker()),
            false => Cow::Owned(Contained::waker(cx.waker())),
        };
        let Poll::Ready(output) = Pin::new(task).poll(&mut Context::from_waker(&waker)) else {
            this.tasks.awaits(this.key);
            return Poll::Pending;
        };
        self.task = None;
        Poll::Ready(match output {
            Some(output) => output.map(Output::take),
            None => Err(JoinError::cancelled()),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

/// Why a task has no result: it panicked, or it was cancelled.
///
/// It converts into [`io::Error`], so `handle.await??` works in functions that return one.
pub struct JoinError {
    reason: Reason,
}

enum Reason {
    Cancelled,
    Panic {
        message: Option<String>,
        /// Wrapped to be `Sync`, which errors have to be. Only the owner of the error takes it out.
        payload: SyncWrapper<Payload>,
    },
}

impl JoinError {
    pub(super) fn cancelled() -> Self {
        Self { reason: Reason::Cancelled }
    }

    pub(super) fn panic(payload: Payload) -> Self {
        let message = payload.message().map(str::to_owned);
        Self { reason: Reason::Panic { message, payload: SyncWrapper::new(payload) } }
    }

    /// Whether the task was aborted, or dropped with its runtime.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.reason, Reason::Cancelled)
    }

    /// Whether the task panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.reason, Reason::Panic { .. })
    }

    /// Returns the value that the task panicked with, for
    /// [`resume_unwind`](std::panic::resume_unwind).
    ///
    /// # Panics
    ///
    /// If the task was cancelled.
    #[must_use]
    pub fn into_panic(self) -> Box<dyn Any + Send> {
        self.try_into_panic().expect("the task was cancelled, it did not panic")
    }

    /// Returns the value that the task panicked with.
    ///
    /// # Errors
    ///
    /// This error, if the task was cancelled.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send>, Self> {
        match self.reason {
            Reason::Panic { payload, .. } => Ok(payload.into_inner().into_inner()),
            Reason::Cancelled => Err(self),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Cancelled => f.write_str("the task was cancelled"),
            Reason::Panic { message: Some(message), .. } => {
                write!(f, "the task panicked: {message}")
            }
            Reason::Panic { message: None, .. } => f.write_str("the task panicked"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        Self::other(error)
    }
}
