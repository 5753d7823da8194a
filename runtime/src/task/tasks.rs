//! [`Tasks`]: the ready queue and the tasks that live; how a task is spawned, polled and dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_task::Builder;
use pin_project_lite::pin_project;
use slab::Slab;

use super::budget::refill_budget;
use super::inbox::Inbox;
use super::join::{JoinError, JoinHandle};

thread_local! {
    /// The tasks of the runtime that runs on this thread: what wakes here, wakes without a lock.
    static CURRENT: RefCell<Option<Rc<Tasks>>> = const { RefCell::new(None) };
}

/// A task that is to be polled.
pub(crate) type Runnable = async_task::Runnable<Home>;

/// Where a task goes when it is woken on another thread. With the task and not with its schedule
/// function, which has nothing of its own then: async-task would count the task up and down twice
/// for each wake, to keep what it has.
pub(crate) struct Home(Arc<Inbox<Runnable>>);

/// Every task of a runtime.
pub(crate) struct Tasks {
    ready: RefCell<VecDeque<Runnable>>,
    living: RefCell<Slab<Entry>>,
    inbox: Arc<Inbox<Runnable>>,
    operations_per_poll: u32,
    /// True once the tasks are being dropped: what is spawned from then on never runs.
    closed: Cell<bool>,
}

/// What is known of a task whose future lives.
struct Entry {
    /// For aborting it, and for dropping it at the end. `None` until it was polled in vain: until
    /// then it is in the ready queue.
    waker: Option<Waker>,
    /// True once `abort` was called: the future is dropped instead of polled.
    aborted: bool,
}

impl Tasks {
    pub(crate) fn new(inbox: Arc<Inbox<Runnable>>, operations_per_poll: u32) -> Self {
        Self {
            ready: RefCell::default(),
            living: RefCell::default(),
            inbox,
            operations_per_poll,
            closed: Cell::new(false),
        }
    }

    /// Makes these the tasks of this thread until the guard is dropped.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        // While the thread ends there may be no place for it any more, and no use either.
        let outer = CURRENT.try_with(|current| current.replace(Some(Rc::clone(self))));
        Entered { outer: outer.ok().flatten() }
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox<Runnable>> {
        &self.inbox
    }

    /// How many tasks have not ended.
    pub(crate) fn living(&self) -> usize {
        self.living.borrow().len()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_count() > 0
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.borrow().len()
    }

    /// Spawns a task.
    pub(crate) fn spawn<F>(self: &Rc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let key = self.living.borrow_mut().insert(Entry { waker: None, aborted: false });
        let living = Living { tasks: Rc::clone(self), key };
        let home = Home(Arc::clone(&self.inbox));
        let guarded = Guarded { future: Some(future), living };
        let (runnable, task) = Builder::new().metadata(home).spawn_local(|_| guarded, schedule);
        if self.closed.get() {
            // Nobody would ever poll it: its handle reports that it was cancelled.
            drop(runnable);
        } else {
            self.push(runnable);
        }
        JoinHandle::new(task.fallible(), Rc::clone(self), key)
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

    /// Polls the task that has been ready longest, if any is.
    pub(crate) fn run_one(&self) {
        let runnable = self.ready.borrow_mut().pop_front();
        if let Some(runnable) = runnable {
            runnable.run();
        }
    }

    /// Has the future of a living task dropped at its next turn.
    pub(super) fn abort(&self, key: usize) {
        let waker = self.living.borrow_mut().get_mut(key).and_then(|entry| {
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

    /// A task was polled in vain, and waits for `waker`, which is its own.
    fn waits(&self, key: usize, waker: &Waker) {
        let known = &mut self.living.borrow_mut()[key].waker;
        if known.is_none() {
            *known = Some(waker.clone());
        }
    }

    /// Drops the futures of all tasks, also of those that the destructors of others spawn. Returns
    /// how many.
    pub(crate) fn drop_all(&self) -> usize {
        self.closed.set(true);
        let mut dropped = 0;
        loop {
            if self.living() == 0 {
                return dropped;
            }
            // A waker makes its task ready, wherever it waits, and a ready task can be dropped.
            let wakers: Vec<Waker> =
                self.living.borrow().iter().filter_map(|(_, entry)| entry.waker.clone()).collect();
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

/// Where a woken task goes: to the ready queue on its own thread, else to the inbox.
fn schedule(runnable: Runnable) {
    let mut runnable = Some(runnable);
    // Fails only while the thread ends, and then nothing runs on it any more.
    let _ = CURRENT.try_with(|current| {
        if let Some(tasks) = &*current.borrow()
            && let Some(runnable) =
                runnable.take_if(|task| Arc::ptr_eq(&tasks.inbox, &task.metadata().0))
        {
            tasks.push(runnable);
        }
    });
    if let Some(runnable) = runnable {
        // A share of its own: the task may have run and gone before the push is over.
        let inbox = Arc::clone(&runnable.metadata().0);
        inbox.push(runnable);
    }
}

/// Undoes a [`Tasks::enter`].
pub(crate) struct Entered {
    outer: Option<Rc<Tasks>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let outer = self.outer.take();
        // Possibly the last reference: dropped when nothing is borrowed.
        drop(CURRENT.try_with(|current| current.replace(outer)));
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
    type Output = Result<Output<F::Output>, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.living.tasks.is_aborted(this.living.key) {
            return Poll::Ready(Err(JoinError::cancelled()));
        }
        refill_budget(this.living.tasks.operations_per_poll);
        let future = this.future.as_mut().as_pin_mut().expect("async-task polls no ended task");
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll(cx)));
        let output = match polled {
            Ok(Poll::Ready(output)) => Ok(Output::new(output)),
            Ok(Poll::Pending) => {
                this.living.tasks.waits(this.living.key, cx.waker());
                return Poll::Pending;
            }
            Err(panic) => Err(JoinError::panic(panic)),
        };
        // The destructor of a future that ended runs under the same guard as its last poll.
        match catch_unwind(AssertUnwindSafe(|| this.future.set(None))) {
            Ok(()) => Poll::Ready(output),
            Err(panic) => Poll::Ready(Err(JoinError::panic(panic))),
        }
    }
}

/// What a task gave. Nobody may ever take it, and then its destructor runs inside of async-task,
/// where a panic would abort the process.
pub(super) struct Output<T> {
    /// `None` once it was taken.
    value: Option<T>,
}

impl<T> Output<T> {
    fn new(value: T) -> Self {
        Self { value: Some(value) }
    }

    pub(super) fn take(mut self) -> T {
        self.value.take().expect("it is taken once, by value")
    }
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
    }
}

/// The entry of a living future; gone when the future is.
struct Living {
    tasks: Rc<Tasks>,
    key: usize,
}

impl Drop for Living {
    fn drop(&mut self) {
        // Dropped at the end of the statement, after the borrow: it may be the last reference.
        let _entry = self.tasks.living.borrow_mut().remove(self.key);
    }
}
