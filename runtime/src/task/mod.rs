//! Tasks: cells of `async-task`, one ready queue, one inbox for what other threads wake.
//!
//! ```text
//! wake on this thread   -> ready queue  -> run
//! wake on another thread -> inbox + at most one eventfd write per sleep -> ready queue -> run
//! ```
//!
//! A task's future is made, polled and dropped on the thread of its runtime; `async-task` checks it.

mod budget;
mod inbox;
mod join;
mod yield_now;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_task::Runnable;
use pin_project_lite::pin_project;
use slab::Slab;

pub use self::budget::poll_budget;
pub(crate) use self::budget::refill_budget;
pub(crate) use self::inbox::{Inbox, Permission};
pub use self::join::{JoinError, JoinHandle};
pub use self::yield_now::{YieldNow, yield_now};
use crate::handle::{self, Handle};

/// Every task of a runtime.
pub(crate) struct Tasks {
    ready: RefCell<VecDeque<Runnable>>,
    living: RefCell<Slab<Entry>>,
    inbox: Arc<Inbox<Runnable>>,
}

/// What is known of a task whose future lives.
struct Entry {
    /// For aborting it, and for dropping it at the end.
    waker: Waker,
    /// True once `abort` was called: the future is dropped instead of polled.
    aborted: bool,
}

impl Tasks {
    pub(crate) fn new(inbox: Arc<Inbox<Runnable>>) -> Self {
        Self { ready: RefCell::default(), living: RefCell::default(), inbox }
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox<Runnable>> {
        &self.inbox
    }

    /// How many tasks have not ended.
    pub(crate) fn living(&self) -> usize {
        self.living.borrow().len()
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Puts a task at the end of the ready queue.
    pub(crate) fn push(&self, runnable: Runnable) {
        self.ready.borrow_mut().push_back(runnable);
    }

    /// Moves what other threads woke into the ready queue.
    pub(crate) fn take_inbox(&self) {
        while let Some(runnable) = self.inbox.pop() {
            self.push(runnable);
        }
    }

    /// Polls the task that has been ready longest. `None`: none is ready.
    pub(crate) fn run_one(&self) -> Option<()> {
        let runnable = self.ready.borrow_mut().pop_front()?;
        runnable.run();
        Some(())
    }

    /// Has the future of a living task dropped at its next turn.
    fn abort(&self, key: usize) {
        let waker = self.living.borrow_mut().get_mut(key).map(|entry| {
            entry.aborted = true;
            entry.waker.clone()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_aborted(&self, key: usize) -> bool {
        self.living.borrow()[key].aborted
    }

    /// Drops the futures of all tasks, also of those that the destructors of others spawn. Returns
    /// how many.
    pub(crate) fn drop_all(&self) -> usize {
        let mut dropped = 0;
        loop {
            // A waker makes its task ready, wherever it waits, and a ready task can be dropped.
            let wakers: Vec<Waker> =
                self.living.borrow().iter().map(|(_, entry)| entry.waker.clone()).collect();
            if wakers.is_empty() {
                return dropped;
            }
            for waker in wakers {
                waker.wake();
            }
            self.take_inbox();
            loop {
                let runnable = self.ready.borrow_mut().pop_front();
                let Some(runnable) = runnable else { break };
                drop(runnable);
                dropped += 1;
            }
            // What is still living is on its way to the inbox, in the hands of another thread.
            std::thread::yield_now();
        }
    }
}

/// Spawns `future` onto the runtime of `handle`.
pub(crate) fn spawn<F>(handle: &Handle, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let tasks = handle.tasks();
    let entry = Entry { waker: Waker::noop().clone(), aborted: false };
    let key = tasks.living.borrow_mut().insert(entry);
    let guarded = Guarded { future: Some(future), living: Living { handle: handle.clone(), key } };
    let inbox = Arc::clone(&tasks.inbox);
    let schedule = move |runnable| schedule(&inbox, runnable);
    let (runnable, task) = async_task::spawn_local(guarded, schedule);
    tasks.living.borrow_mut()[key].waker = runnable.waker();
    if handle.has_ended() {
        // Nobody would ever poll it: its handle reports that it was cancelled.
        drop(runnable);
    } else {
        tasks.push(runnable);
    }
    JoinHandle::new(task.fallible(), handle.clone(), key)
}

/// Where a woken task goes: to the ready queue on its own thread, else to the inbox.
fn schedule(inbox: &Arc<Inbox<Runnable>>, runnable: Runnable) {
    let mut runnable = Some(runnable);
    handle::with_current(|current| {
        if let Some(handle) = current
            && Arc::ptr_eq(handle.tasks().inbox(), inbox)
        {
            handle.tasks().ready.borrow_mut().extend(runnable.take());
        }
    });
    if let Some(runnable) = runnable {
        inbox.push(runnable);
    }
}

pin_project! {
    /// A future whose panics, in `poll` as in its destructor, stop at the task.
    struct Guarded<F: Future> {
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
        living: Living,
    }

    impl<F: Future> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // A destructor that panics must take neither the runtime nor other tasks with it;
            // the panic hook has told the user.
            let _ = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
        }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.living.handle.tasks().is_aborted(this.living.key) {
            return Poll::Ready(Err(JoinError::cancelled()));
        }
        refill_budget(this.living.handle.limits().operations_per_poll);
        let future = this.future.as_mut().as_pin_mut().expect("async-task polls no ended task");
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll(cx)));
        let output = match polled {
            Ok(polled) => Ok(ready!(polled)),
            Err(panic) => Err(JoinError::panic(panic)),
        };
        // The destructor of a future that ended runs under the same guard as its last poll.
        match catch_unwind(AssertUnwindSafe(|| this.future.set(None))) {
            Ok(()) => Poll::Ready(output),
            Err(panic) => Poll::Ready(Err(JoinError::panic(panic))),
        }
    }
}

/// The entry of a living future; gone when the future is.
struct Living {
    handle: Handle,
    key: usize,
}

impl Drop for Living {
    fn drop(&mut self) {
        // Dropped at the end of the statement, after the borrow: it may be the last reference.
        let _entry = self.handle.tasks().living.borrow_mut().remove(self.key);
    }
}
